"""nanochat's checkpoint: ``model_NNNNNN.pt`` with ``meta_NNNNNN.json``, in a ``step_NNNNNN/`` or ``dN/`` folder."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

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
    finite_loss,
    make_config,
    meta_model,
    odd_weights,
    read_json,
    refuse_options,
    whole_number,
)
from .rename import Fused, Table, check_layers, tensors_in, to_canonical, to_native

# The arithmetic experiment's own characters, presumed for a vocabulary of 32 without a tokenizer_config.json.
EXPERIMENT_CHARACTERS = "0123456789+-HBL.\n"
EXPERIMENT_VOCAB_SIZE = 32
BOS = "<|bos|>"

META_FIELDS = tuple(NanochatConfig.__dataclass_fields__)[:6]  # model_config of every meta file


class Version(NamedTuple):
    """When a nanochat was in use and what it had, in words; its fields of the config; its short window."""

    words: str
    fields: Mapping[str, Any]
    short_window: Callable[[int], int]


def half(sequence_len: int) -> int:
    return max(1, sequence_len // 2)


def third(sequence_len: int) -> int:
    return math.ceil(sequence_len / (3 * 128)) * 128


def quarter(sequence_len: int) -> int:
    return math.ceil(sequence_len / (4 * 128)) * 128


VALUES = {"lambdas": True, "value_gate_channels": 32, "value_gate_scale": 2.0}
MARCH = {"lambdas": True, "value_gate_channels": 12, "value_gate_scale": 3.0, "rope_base": 1e5, "rope_dtype": "float32"}
VERSIONS = {
    "plain": Version("before 11 January 2026", {}, half),
    "lambdas": Version("11 to 16 January 2026, with lambdas", {"lambdas": True}, half),
    "values": Version("16 January to 9 March 2026, with value embeddings", VALUES, half),
    "march": Version("9 to 14 March 2026, with value embeddings", MARCH | {"qk_scale": 1.15}, third),
    "newest": Version("since 14 March 2026, with smear", MARCH | {"qk_scale": 1.2, "smear_channels": 24}, quarter),
}


def table(config: NanochatConfig) -> Table:
    """Canonical names -> nanochat's; q, k and v are separate there, and value embeddings outside the layers."""
    head = config.n_embd // config.n_head
    sizes = [config.n_head * head, config.n_kv_head * head, config.n_kv_head * head]
    attn = "transformer.h.{i}.attn."
    values: dict[str, str] = {}
    for i in filter(config.has_value_embedding, range(config.n_layer)):
        values[f"blocks.{i}.attn.value_residual.embed.weight"] = f"value_embeds.{i}.weight"
        values[f"blocks.{i}.attn.value_residual.gate.weight"] = f"transformer.h.{i}.attn.ve_gate.weight"
    return values | {
        "embed.weight": "transformer.wte.weight",
        "blocks.{i}.attn.qkv_proj.weight": Fused([f"{attn}c_{x}.weight" for x in "qkv"], sizes),
        "blocks.{i}.attn.o_proj.weight": f"{attn}c_proj.weight",
        "blocks.{i}.mlp.up_proj.weight": "transformer.h.{i}.mlp.c_fc.weight",
        "blocks.{i}.mlp.down_proj.weight": "transformer.h.{i}.mlp.c_proj.weight",
        "lm_head.weight": "lm_head.weight",
        "mix.residual": "resid_lambdas",
        "mix.embedding": "x0_lambdas",
        "smear.gate.weight": "smear_gate.weight",
        "smear.amount": "smear_lambda",
        "backout": "backout_lambda",
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
            f"{path}: its {meta_path.name} is missing; head counts cannot be told from the tensors. "
            "Put it beside the model"
        )
    described = read_json(meta_path)
    if not isinstance(described, dict) or not isinstance(described.get("model_config"), dict):
        raise CheckpointError(f"{meta_path}: no model_config in it; head counts cannot be told from the tensors")
    native = tensors_in(file.payload, str(path))
    notes: list[str] = []
    config, version = read_config(meta_path, described["model_config"], native, options, notes)
    check_layers(native, "transformer.h.", config.n_layer, str(path))
    weights = to_canonical(native, table(config), meta_model("nanochat", config), str(path))
    tokenizer = find_tokenizer(path.parent, config.vocab_size, notes)
    step = whole_number(described.get("step"))
    check_step(path, step, notes)
    facts = CheckpointFacts(
        family="nanochat",
        format=f"nanochat checkpoint ({version})",
        path=path,
        dtype=dtype_words(weights),
        step=step,
        losses={
            name.removeprefix("val_").replace("loss", "val"): described[name]
            for name in ("val_loss", "val_bpb")
            if finite_loss(described.get(name))
        },
        notes=(*notes, *odd_weights(weights)),
    )
    return Checkpoint(facts, config, weights, tokenizer)


def read_config(
    meta_path: Path,
    fields: Mapping[str, Any],
    native: Mapping[str, Tensor],
    options: Mapping[str, Any],
    notes: list[str],
) -> tuple[NanochatConfig, str]:
    """The six fields of model_config, padded rows from the embedding, the rest from the version; and its name."""
    known = set(META_FIELDS)
    if missing := sorted(known - fields.keys()):
        raise CheckpointError(f"{meta_path}: model_config lacks {', '.join(missing)}")
    if unknown := sorted(fields.keys() - known - {"window_pattern"}):
        raise CheckpointError(
            f"{meta_path}: model_config has {', '.join(unknown)}, which no nanochat up to July 2026 knows; "
            "a newer one changed the model, and labkit cannot tell how"
        )
    embedding = native.get("transformer.wte.weight")
    if embedding is None or embedding.ndim != 2:
        raise CheckpointError(f"{meta_path.parent}: transformer.wte.weight is missing from the model, or is no matrix")
    softcap = options.get("softcap", 15)
    if softcap not in (15, 20):
        raise ConfigError(f"option softcap is {softcap!r}; nanochat used 15 or 20")
    rows, width = embedding.shape
    basic = {name: fields[name] for name in META_FIELDS} | {"padded_vocab_size": rows, "softcap": float(softcap)}
    make_config(NanochatConfig, basic, meta_path)  # what follows counts on sound numbers
    if width != fields["n_embd"]:
        raise CheckpointError(f"{meta_path}: n_embd {fields['n_embd']}, but the embedding has {width} columns")
    if rows < fields["vocab_size"]:
        raise CheckpointError(f"{meta_path}: vocab_size {fields['vocab_size']}, but the embedding has {rows} rows")
    version = find_version(native, meta_path.parent)
    special = version_fields(version, fields.get("window_pattern"), basic, options, notes)
    return make_config(NanochatConfig, basic | special, meta_path), VERSIONS[version].words


def find_version(native: Mapping[str, Tensor], where: Path) -> str:
    """Key into VERSIONS, by the tensors that only some versions have."""
    if bigrams := sorted(name for name in native if name.startswith("bigram_")):
        raise CheckpointError(
            f"{where}: holds {', '.join(bigrams)}, which nanochat had on 27 and 28 January 2026 only; "
            "labkit does not compute them"
        )
    gates = {tuple(tensor.shape[1:]) for name, tensor in native.items() if name.endswith(".attn.ve_gate.weight")}
    if "smear_lambda" in native:
        return "newest"
    if gates:
        return "march" if gates == {(12,)} else "values"
    return "lambdas" if "resid_lambdas" in native else "plain"


def version_fields(
    version: str, pattern: Any, fields: Mapping[str, Any], options: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    """What a version adds to the config."""
    special = dict(VERSIONS[version].fields)
    if version == "plain":
        if pattern is not None:
            notes.append(
                f"The meta file has window_pattern {pattern!r}, but the tensors are those of a nanochat without "
                f"windows ({VERSIONS[version].words}); it is passed over."
            )
        return special
    if version == "values" and "softcap" not in options:
        notes.append('Softcap 15 is presumed. nanochat had 20 from 3 to 9 March 2026: then options={"softcap": 20}.')
    if version == "values" and options.get("softcap") == 20:
        special["rope_dtype"] = "float32"
        notes.append("Softcap 20 means March 2026; the rotary tables are in float32, as the code had them by then.")
    if version == "newest":
        special["backout_layer"] = fields["n_layer"] // 2
    if pattern is None and version != "lambdas":
        pattern = "L"
        notes.append("The meta file has no window_pattern; L is presumed: every layer sees sequence_len positions.")
    if pattern is not None:
        special["window_pattern"] = str(pattern).upper()
        special["short_window"] = VERSIONS[version].short_window(fields["sequence_len"])
    return special


def check_step(path: Path, step: int | None, notes: list[str]) -> None:
    """Folder, file name and meta each name a step; say so when they differ."""
    named = {
        "folder": re.fullmatch(r"step_(\d+)", path.parent.name),
        "file": re.fullmatch(r"model_(\d+)", path.stem),
    }
    found = {what: int(match[1]) for what, match in named.items() if match}
    found |= {"meta": step} if step is not None else {}
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
    fields = {name: getattr(config, name) for name in META_FIELDS}
    if config.window_pattern is not None:
        fields["window_pattern"] = config.window_pattern
    meta = {"step": step, "model_config": fields} | meta
    atomic_write(folder / f"model_{step:06d}.pt", lambda file: torch.save(weights, file))
    atomic_write(folder / f"meta_{step:06d}.json", lambda file: file.write(json.dumps(meta, indent=2).encode() + b"\n"))
