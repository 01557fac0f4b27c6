"""nanochat's native checkpoint: ``model_NNNNNN.pt`` with ``meta_NNNNNN.json``, in a ``step_NNNNNN/`` or ``dN/`` folder."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError, TokenizerError
from ..files import atomic_write
from ..models import CausalLM
from ..models.nanochat import NanochatConfig
from ..tokenizers.base import Tokenizer
from ..tokenizers.char import CharTokenizer
from .base import (
    Checkpoint,
    CheckpointFacts,
    ModelFile,
    dtype_words,
    make_config,
    meta_model,
    odd_weights,
    read_json,
    refuse_options,
)
from .rename import Fused, Table, check_layers, strip_prefixes, to_canonical, to_native

# The arithmetic experiment's own characters, presumed for a vocabulary of 32 without a tokenizer_config.json.
EXPERIMENT_CHARACTERS = "0123456789+-HBL.\n"
EXPERIMENT_VOCAB_SIZE = 32
BOS = "<|bos|>"

META_FIELDS = tuple(NanochatConfig.__dataclass_fields__)[:6]  # model_config of a meta file


def table(config: NanochatConfig) -> Table:
    """Canonical names -> nanochat's; q, k and v are separate there."""
    head = config.n_embd // config.n_head
    sizes = [config.n_head * head, config.n_kv_head * head, config.n_kv_head * head]
    attn = "transformer.h.{i}.attn."
    return {
        "embed.weight": "transformer.wte.weight",
        "blocks.{i}.attn.qkv_proj.weight": Fused([f"{attn}c_{x}.weight" for x in "qkv"], sizes),
        "blocks.{i}.attn.o_proj.weight": f"{attn}c_proj.weight",
        "blocks.{i}.mlp.up_proj.weight": "transformer.h.{i}.mlp.c_fc.weight",
        "blocks.{i}.mlp.down_proj.weight": "transformer.h.{i}.mlp.c_proj.weight",
        "lm_head.weight": "lm_head.weight",
    }


def recognises(file: ModelFile) -> bool:
    """A bare state dict with nanochat's names."""
    payload = file.payload
    return isinstance(payload, dict) and any(
        isinstance(name, str) and name.endswith("transformer.h.0.attn.c_q.weight") for name in payload
    )


def read(file: ModelFile, meta: Path | None, options: Mapping[str, Any]) -> Checkpoint:
    """Read model and meta file strictly. Option ``softcap``: 15 (default) or 20, which no file reveals."""
    refuse_options("nanochat", options, known=("softcap",))
    path = file.path
    meta_path = meta or path.with_name(path.name.replace("model_", "meta_")).with_suffix(".json")
    if meta_path == path or not meta_path.exists():
        raise CheckpointError(
            f"{path}: its {meta_path.name} is missing; head counts cannot be told from the tensors. Put it beside the model"
        )
    described = read_json(meta_path)
    if not isinstance(described, dict) or not isinstance(described.get("model_config"), dict):
        raise CheckpointError(f"{meta_path}: no model_config in it; head counts cannot be told from the tensors")
    native = strip_prefixes(file.payload)
    config = read_config(meta_path, described["model_config"], native, options)
    check_layers(native, "transformer.h.", config.n_layer, str(path))
    weights = to_canonical(native, table(config), meta_model("nanochat", config), str(path))
    notes: list[str] = []
    tokenizer = find_tokenizer(path.parent, config.vocab_size, notes)
    check_step(path, described.get("step"), notes)
    facts = CheckpointFacts(
        family="nanochat",
        format="nanochat checkpoint",
        path=path,
        dtype=dtype_words(weights),
        step=described.get("step"),
        losses={
            name.removeprefix("val_").replace("loss", "val"): described[name]
            for name in ("val_loss", "val_bpb")
            if isinstance(described.get(name), int | float)
        },
        notes=(*notes, *odd_weights(weights)),
    )
    return Checkpoint(facts, config, weights, tokenizer)


def read_config(
    meta_path: Path, fields: Mapping[str, Any], native: Mapping[str, Any], options: Mapping[str, Any]
) -> NanochatConfig:
    """The six fields of model_config; padded rows come from the embedding."""
    known = set(META_FIELDS)
    if missing := sorted(known - fields.keys()):
        raise CheckpointError(f"{meta_path}: model_config lacks {', '.join(missing)}")
    if unknown := sorted(fields.keys() - known):
        raise CheckpointError(
            f"{meta_path}: model_config has {', '.join(unknown)}, which the nanochat of 2025 does not know; "
            "this version of labkit reads the layout from before 11 January 2026"
        )
    embedding = native.get("transformer.wte.weight")
    if embedding is None:
        raise CheckpointError(f"{meta_path.parent}: transformer.wte.weight is missing from the model file")
    softcap = options.get("softcap", 15)
    if softcap not in (15, 20):
        raise ConfigError(f"option softcap is {softcap!r}; nanochat used 15 or 20")
    rows = embedding.shape[0]
    if rows < fields["vocab_size"]:
        raise CheckpointError(f"{meta_path}: vocab_size {fields['vocab_size']} exceeds the {rows} rows of the embedding")
    return make_config(NanochatConfig, {**fields, "padded_vocab_size": rows, "softcap": float(softcap)}, meta_path)


def check_step(path: Path, step: Any, notes: list[str]) -> None:
    """Folder, file name and meta each name a step; say so when they differ."""
    named = {
        "folder": re.fullmatch(r"step_(\d+)", path.parent.name),
        "file": re.fullmatch(r"model_(\d+)", path.stem),
    }
    found = {what: int(match[1]) for what, match in named.items() if match} | ({"meta": step} if step is not None else {})
    if len(set(found.values())) > 1:
        notes.append(f"The step differs: {', '.join(f'{what} {number}' for what, number in found.items())}.")


def find_tokenizer(folder: Path, vocab_size: int, notes: list[str]) -> Tokenizer | None:
    """The folder's tokenizer_config.json, else the experiment's 17 characters where the vocabulary is 32."""
    path = folder / "tokenizer_config.json"
    if path.exists():
        described = read_json(path)
        try:
            tokenizer = CharTokenizer(
                described["vocab_chars"],
                specials=described["special_tokens"],
                vocab_size=described["vocab_size"],
                bos=BOS if BOS in described["special_tokens"] else None,
                on_unknown="drop",
            )
        except (KeyError, TypeError, TokenizerError) as error:
            raise CheckpointError(f"{path}: no character tokenizer is described in it ({error!r})") from None
        if tokenizer.vocab_size != vocab_size:
            raise CheckpointError(f"{path}: vocab_size {tokenizer.vocab_size}, but the model's is {vocab_size}")
        return tokenizer
    if vocab_size == EXPERIMENT_VOCAB_SIZE:
        notes.append("No tokenizer_config.json; the 17 characters of the arithmetic experiment are presumed.")
        return CharTokenizer(
            EXPERIMENT_CHARACTERS, specials=[BOS], vocab_size=EXPERIMENT_VOCAB_SIZE, bos=BOS, on_unknown="drop"
        )
    notes.append(f"No tokenizer in the file for this vocabulary of {vocab_size}: ids work, text does not.")
    return None


def write(folder: Path, model: CausalLM, *, step: int, meta: dict[str, Any]) -> None:
    """Write ``model_NNNNNN.pt`` and ``meta_NNNNNN.json`` into ``folder``, without optimizer state."""
    config = model.config
    native = to_native(model.state_dict(), table(config), config.n_layer)
    weights = {name: w.detach().clone() for name, w in native.items()}
    meta = {"step": step, "model_config": {name: getattr(config, name) for name in META_FIELDS}} | meta
    atomic_write(folder / f"model_{step:06d}.pt", lambda file: torch.save(weights, file))
    atomic_write(folder / f"meta_{step:06d}.json", lambda file: file.write(json.dumps(meta, indent=2).encode() + b"\n"))
