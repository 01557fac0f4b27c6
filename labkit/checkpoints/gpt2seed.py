"""The GPT-2-from-scratch seed's native checkpoint: ``*.pth`` with its config as a pickled dataclass.

That system trains on labels that are not shifted, so its real checkpoints have learned to repeat the current token.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..models.gpt2 import GPT2Config
from ..tokenizers.base import Tokenizer
from ..tokenizers.bpe import GPT2_VOCAB_SIZE, GPT2Tokenizer
from .base import (
    Checkpoint,
    CheckpointFacts,
    ModelFile,
    dtype_words,
    finite_loss,
    make_config,
    meta_model,
    odd_weights,
    refuse_options,
    whole_number,
)
from .rename import Fused, Table, check_layers, tensors_in, tie, to_canonical
from .safe_pickle import Record

# Our field -> the seed's. Without these nothing can be loaded; head counts cannot be told from the tensors.
SIZES = {
    "vocab_size": "vocab_size",
    "block_size": "context_length",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_embd": "d_model",
    "n_hidden": "d_ff",
}
# The others, with the defaults of the seed's own class.
DEFAULTS = {"layer_norm_epsilon": 1e-5, "use_bias": True, "dropout": 0.1}
TRAINING_ONLY = {"attention_dropout", "residual_dropout", "initializer_range"}


def table(config: GPT2Config) -> Table:
    """Canonical names -> the seed's; q, k and v are separate there."""
    block, names = "decoder_blocks.{i}.", ("query", "key", "value")
    out: dict[str, str | Fused] = {
        "embed.weight": "token_embedding.weight",
        "pos_embed.weight": "position_embedding.weight",
        "lm_head.weight": "lm_head.weight",
    }
    for kind in ("weight", "bias"):
        fused = [f"{block}attention.{name}_projection.{kind}" for name in names]
        out[f"blocks.{{i}}.norm_1.{kind}"] = f"{block}layer_norm1.{kind}"
        out[f"blocks.{{i}}.attn.qkv_proj.{kind}"] = Fused(fused, [config.n_embd] * 3)
        out[f"blocks.{{i}}.attn.o_proj.{kind}"] = f"{block}attention.output_projection.{kind}"
        out[f"blocks.{{i}}.norm_2.{kind}"] = f"{block}layer_norm2.{kind}"
        out[f"blocks.{{i}}.mlp.up_proj.{kind}"] = f"{block}feedforward.linear1.{kind}"
        out[f"blocks.{{i}}.mlp.down_proj.{kind}"] = f"{block}feedforward.linear2.{kind}"
        out[f"norm_f.{kind}"] = f"final_layer_norm.{kind}"
    return out


def recognises(file: ModelFile) -> bool:
    """A dict whose state dict has the seed's names, or whose config is the seed's class."""
    payload = file.payload
    if not isinstance(payload, dict):
        return False
    state = payload.get("model_state_dict", payload)
    names = [name for name in state if isinstance(name, str)] if isinstance(state, Mapping) else []
    own_names = any(name.endswith("decoder_blocks.0.layer_norm1.weight") for name in names)
    return own_names or "d_model" in described(payload)


def described(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config, which is pickled as an object, or kept as a dict in converted files."""
    config = payload.get("config")
    return vars(config) if isinstance(config, Record) else config if isinstance(config, dict) else {}


def read(file: ModelFile, meta: Path | None, options: Mapping[str, Any]) -> Checkpoint:
    """Read it strictly: every tensor is accounted for, and config and embedding agree."""
    refuse_options("gpt2seed", options, known=())
    path, payload = file.path, file.payload
    for key in ("model_state_dict", "config"):
        if key not in payload:
            raise CheckpointError(
                f"{path}: a gpt2seed checkpoint without {key!r}; "
                "the head count cannot be told from the tensors, so it cannot be loaded"
            )
    notes: list[str] = []
    native = tensors_in(payload["model_state_dict"], str(path))
    tie(native, "token_embedding.weight", "lm_head.weight", notes)
    config = read_config(described(payload), path, notes)
    check_layers(native, "decoder_blocks.", config.n_layer, str(path))
    weights = to_canonical(native, table(config), meta_model("gpt2", config), str(path))
    tokenizer = find_tokenizer(config.vocab_size, notes)
    facts = CheckpointFacts(
        family="gpt2",
        format="GPT-2-from-scratch (gpt2seed) checkpoint",
        path=path,
        dtype=dtype_words(weights),
        step=whole_number(payload.get("global_step")),
        losses=finite_loss(payload.get("best_val_loss")),  # the original never updates its first value, infinity
        notes=(*notes, *odd_weights(weights)),
    )
    return Checkpoint(facts, config, weights, tokenizer)


def read_config(fields: Mapping[str, Any], path: Path, notes: list[str]) -> GPT2Config:
    """The twelve fields of the seed's config; three of them matter to training alone."""
    if missing := sorted(set(SIZES.values()) - fields.keys()):
        raise CheckpointError(f"{path}: its config lacks {', '.join(missing)}")
    if unknown := sorted(map(str, fields.keys() - {*SIZES.values(), *DEFAULTS, *TRAINING_ONLY})):
        raise CheckpointError(f"{path}: its config has fields that the seed does not know: {', '.join(unknown)}")
    if assumed := [name for name in DEFAULTS if name not in fields]:
        notes.append(f"The config has no {', '.join(assumed)}; the seed's defaults are assumed.")
    rest = {**DEFAULTS, **fields}
    return make_config(
        GPT2Config,
        {
            **{ours: fields[theirs] for ours, theirs in SIZES.items()},
            "activation": "gelu",
            "norm_eps": rest["layer_norm_epsilon"],
            "bias": rest["use_bias"],
            "dropout": rest["dropout"],
        },
        path,
    )


def find_tokenizer(vocab_size: int, notes: list[str]) -> Tokenizer | None:
    """The files hold none; the seed always used GPT-2's."""
    if vocab_size == GPT2_VOCAB_SIZE:
        return GPT2Tokenizer(on_special="parse")
    notes.append(f"No tokenizer: GPT-2's does not fit this vocabulary of {vocab_size}; ids work, text does not.")
    return None
