"""A model as a Hugging Face folder that transformers opens with the same logits, where its family allows it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, TokenizerError
from ..layers.rotary import LinearScaling, Llama3Scaling, Scaling
from ..models.gpt2 import GPT2Config
from ..models.labcore import LabCoreConfig
from ..models.llama import LlamaConfig
from ..tokenizers.base import Tokenizer
from .base import Checkpoint, meta_model
from .huggingface import GPT2_TABLE, llama_table, transposed
from .labkit_format import save_safetensors, write_text
from .rename import to_native
from .tokenizer_json import json_of

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "silu": "silu"}


def expressed(checkpoint: Checkpoint) -> Checkpoint:
    """The same model as one that transformers has: all weights in one dtype, biases that were left out as zeros.

    Raises:
        CheckpointError: the family cannot be expressed, and why.
    """
    config, weights = checkpoint.config, dict(checkpoint.weights)
    if isinstance(config, LabCoreConfig) and not config.use_rope:
        config = gpt2_of(config)
    if isinstance(config, LlamaConfig):
        family = "llama"
        scaling_words(config.rope_scaling)
    elif isinstance(config, GPT2Config):
        family, config = "gpt2", replace(config, bias=True, norm_bias=True)
    else:
        raise CheckpointError(
            f"a {checkpoint.facts.family} model like this has no counterpart in transformers; "
            "GPT-2, Llama and LabCore models with learned positions have. Use the labkit format"
        )
    widest = max((w.dtype for w in weights.values()), key=lambda dtype: torch.finfo(dtype).bits)
    widest = widest if torch.finfo(widest).bits >= 16 else torch.float32
    shapes = {name: w.shape for name, w in meta_model(family, config).state_dict().items()}
    weights = {name: weights[name].to(widest) if name in weights else zeros(s, widest) for name, s in shapes.items()}
    return Checkpoint(replace(checkpoint.facts, family=family), config, weights, checkpoint.tokenizer)


def zeros(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def gpt2_of(config: LabCoreConfig) -> GPT2Config:
    """LabCore with learned positions is GPT-2 with exact GELU."""
    return GPT2Config(
        vocab_size=config.vocab_size,
        block_size=config.block_size,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        n_hidden=4 * config.n_embd,
        activation="gelu",
        norm_eps=config.norm_eps,
        dropout=config.dropout,
    )


def write(folder: Path, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Write what ``expressed`` returned; the notes say what could not be written."""
    config, facts, tokenizer = checkpoint.config, checkpoint.facts, checkpoint.tokenizer
    if isinstance(config, GPT2Config):
        described, root = gpt2_json(config), "transformer."
        native = transposed(to_native(checkpoint.weights, GPT2_TABLE, config.n_layer))
    else:
        described, root = llama_json(config), "model."
        native = to_native(checkpoint.weights, llama_table(config), config.n_layer)
    if config.tied:
        del native["lm_head.weight"]
    eos_ids = list(facts.stop_ids) or ([] if tokenizer is None or tokenizer.eos_id is None else [tokenizer.eos_id])
    described |= {
        "bos_token_id": None if tokenizer is None else tokenizer.bos_id,
        "eos_token_id": eos_ids[0] if len(eos_ids) == 1 else eos_ids or None,
        "tie_word_embeddings": config.tied,
        "torch_dtype": str(next(iter(native.values())).dtype).removeprefix("torch."),
    }
    save_safetensors(
        folder / "model.safetensors",
        {name if name == "lm_head.weight" else root + name: w for name, w in native.items()},
    )
    notes = write_tokenizer(folder, tokenizer, facts.chat_template)
    write_json(folder / "config.json", described)
    return notes


def gpt2_json(config: GPT2Config) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": config.n_hidden,
        "activation_function": ACTIVATIONS[config.activation],
        "layer_norm_epsilon": config.norm_eps,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), config.dropout),
    }


def llama_json(config: LlamaConfig) -> dict[str, Any]:
    scaling = scaling_words(config.rope_scaling)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.block_size,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_dim,
        "hidden_size": config.n_embd,
        "intermediate_size": config.n_hidden,
        "hidden_act": ACTIVATIONS[config.activation],
        "rms_norm_eps": config.norm_eps,
        # before transformers 5, and since
        "rope_theta": config.rope_base,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_type": "default", **(scaling or {}), "rope_theta": config.rope_base},
        "attention_bias": config.attn_bias,
        "mlp_bias": config.mlp_bias,
    }


def scaling_words(scaling: Scaling | None) -> dict[str, Any] | None:
    match scaling:
        case None:
            return None
        case LinearScaling(factor):
            return {"rope_type": "linear", "factor": factor}
        case Llama3Scaling(factor, low, high, positions):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": positions,
            }
    raise CheckpointError(
        "its rotation is slowed down pair by pair, by numbers out of a GGUF file, which a Hugging Face folder "
        "cannot say. Use the labkit format"
    )


def write_tokenizer(folder: Path, tokenizer: Tokenizer | None, chat_template: str | None) -> tuple[str, ...]:
    """tokenizer.json, and the few words about it that transformers asks for."""
    if tokenizer is None:
        return ("There is no tokenizer to write.",)
    try:
        text = json_of(tokenizer)
    except TokenizerError as error:
        return (f"No tokenizer was written: {error}.",)
    names = {i: name for name, i in tokenizer.special_ids.items()}
    known = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names.get(-1 if tokenizer.bos_id is None else tokenizer.bos_id),
        "eos_token": names.get(-1 if tokenizer.eos_id is None else tokenizer.eos_id),
        "clean_up_tokenization_spaces": False,
        "chat_template": chat_template,
    }
    write_text(folder / "tokenizer.json", text)
    write_json(folder / "tokenizer_config.json", {name: value for name, value in known.items() if value is not None})
    return ()


def write_json(path: Path, described: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
