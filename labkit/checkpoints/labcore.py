"""LabCore's native checkpoint: ``ckpt_last.pt`` / ``ckpt_best.pt`` with ``meta.json`` beside it; and its hub export."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, TokenizerError
from ..files import atomic_write
from ..models import CausalLM
from ..models.labcore import LabCoreConfig
from ..tokenizers.base import Tokenizer
from ..tokenizers.bpe import GPT2Tokenizer
from ..tokenizers.char import CharTokenizer
from .base import (
    Checkpoint,
    CheckpointFacts,
    ModelFile,
    dtype_words,
    make_config,
    meta_model,
    numbers_in,
    odd_weights,
    read_json,
    refuse_options,
    whole_number,
)
from .rename import Table, check_layers, tensors_in, tie, to_canonical, to_native

TABLE: Table = {
    "embed.weight": "wte.weight",
    "pos_embed.weight": "wpe.weight",
    "blocks.{i}.norm_1.weight": "h.{i}.ln_1.weight",
    "blocks.{i}.norm_1.bias": "h.{i}.ln_1.bias",
    "blocks.{i}.attn.qkv_proj.weight": "h.{i}.attn.c_attn.weight",
    "blocks.{i}.attn.qkv_proj.bias": "h.{i}.attn.c_attn.bias",
    "blocks.{i}.attn.o_proj.weight": "h.{i}.attn.c_proj.weight",
    "blocks.{i}.attn.o_proj.bias": "h.{i}.attn.c_proj.bias",
    "blocks.{i}.norm_2.weight": "h.{i}.ln_2.weight",
    "blocks.{i}.norm_2.bias": "h.{i}.ln_2.bias",
    "blocks.{i}.mlp.up_proj.weight": "h.{i}.mlp.c_fc.weight",
    "blocks.{i}.mlp.up_proj.bias": "h.{i}.mlp.c_fc.bias",
    "blocks.{i}.mlp.down_proj.weight": "h.{i}.mlp.c_proj.weight",
    "blocks.{i}.mlp.down_proj.bias": "h.{i}.mlp.c_proj.bias",
    "norm_f.weight": "ln_f.weight",
    "norm_f.bias": "ln_f.bias",
    "lm_head.weight": "lm_head.weight",
}

CONFIG_FIELDS = tuple(LabCoreConfig.__dataclass_fields__)[:9]  # those that LabCore itself writes

HUB_MODEL_TYPE = "labcore_gpt"
REQUIRED = ("vocab_size", "n_layer", "n_head", "n_embd")


def recognises(file: ModelFile) -> bool:
    """A dict with a state dict that has ``wte`` and ``h.0.ln_1`` at its root, or the keys LabCore's trainer writes."""
    if is_hub_export(file):
        return True
    payload = file.payload
    if not isinstance(payload, dict) or file.kind != "torch":
        return False
    state = payload.get("model_state_dict", payload)
    if not isinstance(state, Mapping):
        return False
    names = {name.removeprefix("module.").removeprefix("_orig_mod.") for name in state if isinstance(name, str)}
    return "h.0.ln_1.weight" in names or {"model_config", "trainer_config"} <= payload.keys()


def is_hub_export(file: ModelFile) -> bool:
    return file.kind == "safetensors" and file.config.get("model_type") == HUB_MODEL_TYPE


def hub_payload(file: ModelFile) -> dict[str, Any]:
    """A hub export's three files as a checkpoint; its tokenizer.json is LabCore's own, not the tokenizers library's."""
    if "block_size" not in file.config:
        raise CheckpointError(f"{file.path.with_name('config.json')}: lacks block_size")
    model_config = {name: value for name, value in file.config.items() if name in CONFIG_FIELDS}
    return {
        "model_config": model_config,
        "model_state_dict": file.payload,
        "tokenizer": file.beside("tokenizer.json"),
    }


def read(file: ModelFile, meta: Path | None, options: Mapping[str, Any]) -> Checkpoint:
    """Read it strictly: every tensor is accounted for, and config, embedding, meta and tokenizer agree."""
    refuse_options("labcore", options, known=())
    hub = is_hub_export(file)
    path, payload = file.path, hub_payload(file) if hub else file.payload
    for key in ("model_config", "model_state_dict"):
        if key not in payload:
            raise CheckpointError(
                f"{path}: a LabCore checkpoint without {key!r}; "
                "head count and positions cannot be told from the tensors, so it cannot be loaded"
            )
    notes: list[str] = []
    native = tensors_in(payload["model_state_dict"], str(path))
    tie(native, "wte.weight", "lm_head.weight", notes)
    config = read_config(path, payload["model_config"], native, notes)
    check_layers(native, "h.", config.n_layer, str(path))
    weights = to_canonical(native, TABLE, meta_model("labcore", config), str(path))
    tokenizer = find_tokenizer(path, meta, payload.get("tokenizer"), config.vocab_size, notes)
    facts = CheckpointFacts(
        family="labcore",
        format="LabCore hub export" if hub else "LabCore checkpoint",
        path=path,
        dtype=dtype_words(weights),
        step=whole_number(payload.get("step")),
        losses=numbers_in(payload.get("losses")),
        notes=(*notes, *odd_weights(weights)),
    )
    return Checkpoint(facts, config, weights, tokenizer)


def read_config(path: Path, model_config: Any, native: Mapping[str, Tensor], notes: list[str]) -> LabCoreConfig:
    """The nine fields; what LabCore's own default would fill in is taken from the tensors or noted."""
    if not isinstance(model_config, dict):
        raise CheckpointError(f"{path}: model_config is a {type(model_config).__name__}; it must be a dict")
    fields = dict(model_config)
    if missing := [name for name in REQUIRED if name not in fields]:
        raise CheckpointError(f"{path}: model_config lacks {', '.join(missing)}")
    if "block_size" not in fields:
        if "wpe.weight" in native:
            fields["block_size"] = native["wpe.weight"].shape[0]
            notes.append(f"model_config has no block_size; {fields['block_size']} is the length of the position table.")
        else:
            notes.append("model_config has no block_size; LabCore's default 128 is assumed.")
    unknown = sorted(fields.keys() - set(CONFIG_FIELDS))
    if unknown:
        raise CheckpointError(f"{path}: model_config has keys that LabCore does not know: {', '.join(unknown)}")
    return make_config(LabCoreConfig, fields, path)


def find_tokenizer(path: Path, meta: Path | None, own: Any, vocab_size: int, notes: list[str]) -> Tokenizer | None:
    """The meta file's tokenizer, else the checkpoint's own. A meta file given by the user must fit; one that merely
    lies beside the model and does not fit is passed over with a note."""
    if meta is not None:
        return make_tokenizer(read_meta(meta).get("tokenizer"), vocab_size, str(meta))
    beside = path.parent / "meta.json"
    if beside.exists():
        try:
            return make_tokenizer(read_meta(beside).get("tokenizer"), vocab_size, beside.name)
        except CheckpointError as error:
            notes.append(f"{error}; passed over.")
    try:
        tokenizer = make_tokenizer(own, vocab_size, path.name)
    except CheckpointError as error:
        notes.append(f"{error}: ids work, text does not. Pass meta= (--meta) with the meta.json of this run.")
        return None
    if beside.exists():
        notes.append("The tokenizer in the checkpoint itself is used.")
    return tokenizer


def read_meta(path: Path) -> dict[str, Any]:
    """A meta.json, which must be an object."""
    meta = read_json(path)
    if not isinstance(meta, dict):
        raise CheckpointError(f"{path.name}: no JSON object")
    return meta


def make_tokenizer(described: Any, vocab_size: int, where: str) -> Tokenizer:
    """{"type": "char", "vocab": […]} or {"type": "bpe", "encoding_name": "gpt2"} -> a tokenizer that fits."""
    if not isinstance(described, dict):
        raise CheckpointError(f"{where}: no tokenizer is described")
    kind = described.get("type")
    if kind == "bpe" and described.get("encoding_name", "gpt2") == "gpt2":
        tokenizer: Tokenizer = GPT2Tokenizer(on_special="refuse")
    elif kind == "char" and isinstance(described.get("vocab"), list):
        try:
            tokenizer = CharTokenizer(described["vocab"])
        except TokenizerError as error:
            raise CheckpointError(f"{where}: {error}") from None
    elif kind == "char":
        raise CheckpointError(f"{where}: a character tokenizer without its vocab")
    else:
        name = described.get("encoding_name", kind) if kind == "bpe" else kind
        raise CheckpointError(f"{where}: tokenizer {name!r} is not one that LabCore writes (char, bpe with gpt2)")
    if tokenizer.vocab_size != vocab_size:
        raise CheckpointError(
            f"{where}: its vocabulary has {tokenizer.vocab_size} entries, the embedding {vocab_size} rows; "
            "they belong to different runs"
        )
    return tokenizer


def write(
    path: Path,
    model: CausalLM,
    *,
    step: int,
    losses: dict[str, float],
    tokenizer: dict[str, Any],
    trainer_config: dict[str, Any],
) -> None:
    """Write LabCore's own layout, without optimizer state. ``tokenizer``: its meta.json object."""
    weights = {name: w.detach().clone() for name, w in to_native(model.state_dict(), TABLE, len(model.blocks)).items()}
    weights["lm_head.weight"] = weights["wte.weight"]  # one storage under both names, as LabCore saves it
    payload = {
        "step": step,
        "model_config": {name: value for name, value in asdict(model.config).items() if name in CONFIG_FIELDS},
        "model_state_dict": weights,
        "trainer_config": trainer_config,
        "losses": losses,
        "tokenizer": tokenizer,
    }
    atomic_write(path, lambda file: torch.save(payload, file))


def write_meta(path: Path, vocab: list[str], dataset: str) -> None:
    """The meta.json that LabCore's prepare step writes for a text in characters."""
    meta = {
        "dataset": dataset,
        "vocab_size": len(vocab),
        "tokenizer": {"type": "char", "vocab": vocab},
        "dtype": "uint16",
        "output_format": "txt",
        "train_text_file": "train.txt",
        "val_text_file": "val.txt",
    }
    atomic_write(path, lambda file: file.write(json.dumps(meta, indent=2).encode()))
