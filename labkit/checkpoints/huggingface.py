"""Hugging Face folders of GPT-2 and Llama models: ``config.json``, safetensors or ``.bin``, whole or in parts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, TokenizerError
from ..layers.rotary import LinearScaling, Llama3Scaling, Scaling
from ..models.gpt2 import GPT2Config
from ..models.llama import LlamaConfig
from ..tokenizers.base import Tokenizer
from ..tokenizers.bpe import END_OF_TEXT, GPT2_VOCAB_SIZE, GPT2Tokenizer, TableTokenizer
from ..tokenizers.hf import HFTokenizer
from .base import (
    Checkpoint,
    CheckpointFacts,
    ModelFile,
    brief,
    dtype_words,
    ids_in,
    make_config,
    meta_model,
    odd_weights,
    read_json,
    refuse_options,
)
from .labcore import TABLE as GPT2_TABLE  # LabCore names its tensors as GPT-2 does
from .rename import Fused, Table, check_layers, same, tensors_in, to_canonical

CONV1D = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")  # kept as (in, out)
# What older versions of transformers saved besides the weights: causal masks and rotary tables.
BUFFERS = re.compile(r"h\.\d+\.attn\.(masked_)?bias|layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Switches of the config that change the numbers, and the only value that these families have for each.
FIXED: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    "llama": {"partial_rotary_factor": 1.0},
}


def llama_table(config: LlamaConfig) -> Table:
    """Canonical names -> Hugging Face's; q, k and v are separate there."""
    sizes = [config.n_head * config.head_dim, config.n_kv_head * config.head_dim, config.n_kv_head * config.head_dim]
    table: dict[str, str | Fused] = {
        "embed.weight": "embed_tokens.weight",
        "blocks.{i}.norm_1.weight": "layers.{i}.input_layernorm.weight",
        "blocks.{i}.norm_2.weight": "layers.{i}.post_attention_layernorm.weight",
        "norm_f.weight": "norm.weight",
        "lm_head.weight": "lm_head.weight",
    }
    for kind in ("weight", "bias"):
        attn = "layers.{i}.self_attn."
        table[f"blocks.{{i}}.attn.qkv_proj.{kind}"] = Fused([f"{attn}{x}_proj.{kind}" for x in "qkv"], sizes)
        table[f"blocks.{{i}}.attn.o_proj.{kind}"] = f"{attn}o_proj.{kind}"
        for name in ("gate_proj", "up_proj", "down_proj"):
            table[f"blocks.{{i}}.mlp.{name}.{kind}"] = f"layers.{{i}}.mlp.{name}.{kind}"
    return table


def recognises(file: ModelFile) -> bool:
    """Tensors with a config.json of model_type gpt2 or llama beside them."""
    return file.config.get("model_type") in ("gpt2", "llama") and isinstance(file.payload, dict)


def read(file: ModelFile, meta: Path | None, options: Mapping[str, Any]) -> Checkpoint:
    """Read it strictly: every tensor is accounted for, and config, embedding and tokenizer agree."""
    family, path = file.config["model_type"], file.path
    refuse_options("Hugging Face", options, known=())
    config_path = path.with_name("config.json")
    native = {
        name: tensor
        for name, tensor in without_root(tensors_in(file.payload, str(path)), family).items()
        if not BUFFERS.fullmatch(name)
    }
    notes: list[str] = []
    refuse_switches(family, file.config, config_path)
    if family == "gpt2":
        native = transposed(native)
        config: Any = gpt2_config(file.config, config_path)
        table, layers, embedding = GPT2_TABLE, "h.", "wte.weight"
    else:
        config = llama_config(file.config, config_path)
        table, layers, embedding = llama_table(config), "layers.", "embed_tokens.weight"
    if config.tied and embedding in native:
        head = native.setdefault("lm_head.weight", native[embedding])
        if not same(head, native[embedding]):
            notes.append("The config ties lm_head to the embedding, but the file holds two matrices; both are used.")
            config = replace(config, tied=False)
    check_layers(native, layers, config.n_layer, str(path))
    weights = to_canonical(native, table, meta_model(family, config), str(path))
    stop_ids = ids_in((file.beside("generation_config.json") or {}).get("eos_token_id"), config.vocab_size)
    stop_ids = stop_ids or ids_in(file.config.get("eos_token_id"), config.vocab_size)
    tokenizer = find_tokenizer(path.parent, config.vocab_size, stop_ids, notes)
    facts = CheckpointFacts(
        family=family,
        format=f"Hugging Face {'GPT-2' if family == 'gpt2' else 'Llama'} folder",
        path=path,
        dtype=dtype_words(weights),
        notes=(*notes, *odd_weights(weights)),
        stop_ids=stop_ids,
        chat_template=find_chat_template(file),
    )
    return Checkpoint(facts, config, weights, tokenizer)


def without_root(native: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """Names without the ``transformer.`` (``model.``) of a model with its head on."""
    root = "transformer." if family == "gpt2" else "model."
    return {name.removeprefix(root): tensor for name, tensor in native.items()}


def transposed(native: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's four matrices of a block the other way round: (in, out) <-> (out, in)."""
    return {
        name: tensor.t().contiguous() if CONV1D.fullmatch(name) and tensor.ndim == 2 else tensor
        for name, tensor in native.items()
    }


def refuse_switches(family: str, described: Mapping[str, Any], where: Path) -> None:
    for name, only in FIXED[family].items():
        if described.get(name, only) != only:
            raise CheckpointError(f"{where}: {name} is {brief(described[name])}; labkit's {family} knows {only!r} only")


def gpt2_config(described: Mapping[str, Any], where: Path) -> GPT2Config:
    """config.json -> config; transformers' own defaults where it is silent."""
    fields = required(described, ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd"), where)
    return make_config(
        GPT2Config,
        {
            "vocab_size": fields["vocab_size"],
            "block_size": fields["n_positions"],
            "n_layer": fields["n_layer"],
            "n_head": fields["n_head"],
            "n_embd": fields["n_embd"],
            "n_hidden": described.get("n_inner") or 4 * fields["n_embd"],
            "activation": activation(described.get("activation_function", "gelu_new"), where),
            "norm_eps": described.get("layer_norm_epsilon", 1e-5),
            "tied": described.get("tie_word_embeddings", True),
            "dropout": described.get("resid_pdrop", 0.1),
        },
        where,
    )


def llama_config(described: Mapping[str, Any], where: Path) -> LlamaConfig:
    """config.json, of transformers before and since version 5 -> config."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    fields = required(described, (*names, "max_position_embeddings"), where)
    rope = described.get("rope_parameters") or described.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError(f"{where}: rope_scaling is {brief(rope)}; it must be an object")
    heads = fields["num_attention_heads"]
    return make_config(
        LlamaConfig,
        {
            "vocab_size": fields["vocab_size"],
            "block_size": fields["max_position_embeddings"],
            "n_layer": fields["num_hidden_layers"],
            "n_head": heads,
            "n_kv_head": described.get("num_key_value_heads") or heads,
            "head_dim": described.get("head_dim") or fields["hidden_size"] // max(1, heads),
            "n_embd": fields["hidden_size"],
            "n_hidden": fields["intermediate_size"],
            "activation": activation(described.get("hidden_act", "silu"), where),
            "norm_eps": described.get("rms_norm_eps", 1e-6),
            "rope_base": rope.get("rope_theta", described.get("rope_theta", 10000.0)),
            "rope_scaling": rope_scaling(rope, where),
            "attn_bias": described.get("attention_bias", False),
            "mlp_bias": described.get("mlp_bias", False),
            "tied": described.get("tie_word_embeddings", False),
        },
        where,
    )


def required(described: Mapping[str, Any], names: Sequence[str], where: Path) -> dict[str, int]:
    """Fields that must be there and be whole numbers."""
    if missing := [name for name in names if name not in described]:
        raise CheckpointError(f"{where}: lacks {', '.join(missing)}")
    for name in names:
        if type(described[name]) is not int:
            raise CheckpointError(f"{where}: {name} is {brief(described[name])}; it must be a whole number")
    return {name: described[name] for name in names}


def activation(name: Any, where: Path) -> str:
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise CheckpointError(f"{where}: activation {brief(name)}; labkit knows {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def rope_scaling(rope: Mapping[str, Any], where: Path) -> Scaling | None:
    """{"rope_type": "llama3", "factor": 8.0, …} -> a scaling; the key was "type" before."""
    kind = str(rope.get("rope_type", rope.get("type", "default")))
    if kind == "default":
        return None
    names = {
        "linear": {"factor": "factor"},
        "llama3": {
            "factor": "factor",
            "low_freq_factor": "low_freq_factor",
            "high_freq_factor": "high_freq_factor",
            "original_positions": "original_max_position_embeddings",
        },
    }.get(kind)
    if names is None:
        raise CheckpointError(f"{where}: rope scaling {brief(kind)}; labkit knows default, linear and llama3")
    if missing := [name for name in names.values() if name not in rope]:
        raise CheckpointError(f"{where}: rope scaling {kind} lacks {', '.join(missing)}")
    scaling = LinearScaling if kind == "linear" else Llama3Scaling
    return make_config(scaling, {ours: rope[theirs] for ours, theirs in names.items()}, where)


def find_tokenizer(folder: Path, vocab_size: int, stop_ids: Sequence[int], notes: list[str]) -> Tokenizer | None:
    """tokenizer.json, else vocab.json and merges.txt, else GPT-2's where the vocabulary has its size."""
    eos_id = stop_ids[0] if stop_ids else None
    try:
        if (folder / "tokenizer.json").is_file():
            text = (folder / "tokenizer.json").read_text(encoding="utf-8")
            return HFTokenizer(text, vocab_size=vocab_size, eos_id=eos_id)
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return table_in(folder, vocab_size, eos_id)
    except (TokenizerError, CheckpointError, OSError, ValueError, TypeError) as error:
        notes.append(f"The tokenizer beside the model cannot be used ({error}): ids work, text does not.")
        return None
    if vocab_size == GPT2_VOCAB_SIZE:
        notes.append("No tokenizer beside the model; GPT-2's is presumed for this vocabulary of 50257.")
        return GPT2Tokenizer()
    also = " (tokenizer.model alone is not read)" if (folder / "tokenizer.model").is_file() else ""
    notes.append(f"No tokenizer.json beside the model{also}: ids work, text does not.")
    return None


def table_in(folder: Path, vocab_size: int, eos_id: int | None) -> TableTokenizer:
    """GPT-2's older layout: vocab.json, merges.txt, and perhaps added_tokens.json."""
    vocab = read_json(folder / "vocab.json")
    added = read_json(folder / "added_tokens.json") if (folder / "added_tokens.json").is_file() else {}
    ids = {**added, **vocab}
    tokens = sorted(ids, key=ids.__getitem__)
    if sorted(ids.values()) != list(range(len(ids))) or len(ids) > vocab_size:
        raise TokenizerError(f"vocab.json does not number {vocab_size} or fewer tokens from 0")
    merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    return TableTokenizer(
        tokens,
        [line for line in merges if line and not line.startswith("#version")],
        "gpt-2",
        special_ids={name: i for i, name in enumerate(tokens) if name == END_OF_TEXT or name in added},
        vocab_size=vocab_size,
        eos_id=eos_id,
    )


def find_chat_template(file: ModelFile) -> str | None:
    """The template in tokenizer_config.json (of several, the one called default), or chat_template.jinja."""
    beside = file.path.with_name("chat_template.jinja")
    if beside.is_file():
        return beside.read_text(encoding="utf-8", errors="replace")
    template = (file.beside("tokenizer_config.json") or {}).get("chat_template")
    if isinstance(template, list):
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
