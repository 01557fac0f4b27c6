"""GGUF files of llama.cpp with a Llama-family model in them, quantised or not, and the tokenizer they hold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import CheckpointError, TokenizerError
from ..layers.rotary import LinearScaling, PairScaling, Scaling
from ..models.llama import LlamaConfig
from ..tokenizers.base import Tokenizer
from ..tokenizers.bpe import TableTokenizer
from ..tokenizers.hf import HFTokenizer
from .base import Checkpoint, CheckpointFacts, ModelFile, make_config, meta_model, odd_weights, refuse_options
from .gguf_file import GGUF
from .rename import Fused, Table, check_layers, to_canonical
from .tokenizer_json import sentencepiece_json

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # token types
ROPE_FACTORS = "rope_freqs.weight"
BOS_BY_DEFAULT = frozenset({"llama-bpe"})  # ways of cutting whose models expect a BOS though the file is silent


def table(config: LlamaConfig) -> Table:
    """Canonical names -> llama.cpp's; q, k and v are separate there."""
    sizes = [config.n_head * config.head_dim, config.n_kv_head * config.head_dim, config.n_kv_head * config.head_dim]
    out: dict[str, str | Fused] = {
        "embed.weight": "token_embd.weight",
        "blocks.{i}.norm_1.weight": "blk.{i}.attn_norm.weight",
        "blocks.{i}.norm_2.weight": "blk.{i}.ffn_norm.weight",
        "norm_f.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    for kind in ("weight", "bias"):
        out[f"blocks.{{i}}.attn.qkv_proj.{kind}"] = Fused([f"blk.{{i}}.attn_{x}.{kind}" for x in "qkv"], sizes)
        out[f"blocks.{{i}}.attn.o_proj.{kind}"] = f"blk.{{i}}.attn_output.{kind}"
        for name in ("gate", "up", "down"):
            out[f"blocks.{{i}}.mlp.{name}_proj.{kind}"] = f"blk.{{i}}.ffn_{name}.{kind}"
    return out


def recognises(file: ModelFile) -> bool:
    """The magic number of GGUF."""
    return file.kind == "gguf"


def read(file: ModelFile, meta: Path | None, options: Mapping[str, Any]) -> Checkpoint:
    """Read it strictly: every tensor is accounted for, and metadata, embedding and tokenizer agree."""
    refuse_options("GGUF", options, known=())
    path, gguf = file.path, file.payload
    architecture = gguf.values.get("general.architecture")
    if architecture != "llama":
        raise CheckpointError(f"{path}: a GGUF file of architecture {architecture!r}; labkit reads llama")
    config = read_config(gguf)
    check_layers(gguf.infos, "blk.", config.n_layer, str(path))
    native = {name: gguf.tensor(name) for name in gguf.infos if name != ROPE_FACTORS}
    if config.tied and "token_embd.weight" in native:
        native["output.weight"] = native["token_embd.weight"]
    weights = to_canonical(with_halves(native, config), table(config), meta_model("llama", config), str(path))
    stop_ids = tuple(
        i
        for key in ("eos_token_id", "eot_token_id", "eom_token_id")
        if type(i := gguf.values.get(f"tokenizer.ggml.{key}")) is int and 0 <= i < config.vocab_size
    )
    template = gguf.values.get("tokenizer.chat_template")
    notes: list[str] = []
    tokenizer = find_tokenizer(gguf, config.vocab_size, stop_ids, notes)
    facts = CheckpointFacts(
        family="llama",
        format="GGUF file",
        path=path,
        dtype=" and ".join(sorted({gguf.type_name(name) for name in gguf.infos})),
        notes=(*notes, *odd_weights(weights)),
        stop_ids=stop_ids,
        chat_template=template if isinstance(template, str) else None,
    )
    return Checkpoint(facts, config, weights, tokenizer)


def read_config(gguf: GGUF) -> LlamaConfig:
    """``llama.*`` and the shapes of tensors -> config."""
    path, infos = gguf.path, gguf.infos
    fields = {key.removeprefix("llama."): value for key, value in gguf.values.items() if key.startswith("llama.")}
    names = ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count")
    if missing := [name for name in names if name not in fields]:
        raise CheckpointError(f"{path}: lacks llama.{', llama.'.join(missing)}")
    if odd := [name for name in names if type(fields[name]) is not int or fields[name] < 1]:
        raise CheckpointError(f"{path}: llama.{odd[0]} is {fields[odd[0]]!r}; labkit reads whole numbers from 1")
    if "token_embd.weight" not in infos:
        raise CheckpointError(f"{path}: 1 tensor missing (token_embd.weight)")
    n_head = fields["attention.head_count"]
    head_dim = fields.get("attention.key_length", fields["embedding_length"] // n_head)
    for name in ("attention.value_length", "rope.dimension_count"):
        if fields.get(name, head_dim) != head_dim:
            raise CheckpointError(
                f"{path}: llama.{name} is {fields[name]!r}; labkit knows a head's size only, {head_dim}"
            )
    return make_config(
        LlamaConfig,
        {
            "vocab_size": infos["token_embd.weight"].shape[0],
            "block_size": fields["context_length"],
            "n_layer": fields["block_count"],
            "n_head": n_head,
            "n_kv_head": fields.get("attention.head_count_kv", n_head),
            "head_dim": head_dim,
            "n_embd": fields["embedding_length"],
            "n_hidden": fields["feed_forward_length"],
            "norm_eps": shortest(fields.get("attention.layer_norm_rms_epsilon", 1e-5)),
            "rope_base": shortest(fields.get("rope.freq_base", 10000.0)),
            "rope_scaling": rope_scaling(gguf, fields),
            "attn_bias": "blk.0.attn_q.bias" in infos,
            "mlp_bias": "blk.0.ffn_up.bias" in infos,
            "tied": "output.weight" not in infos,
        },
        path,
    )


def shortest(value: Any) -> Any:
    """A float32 as the number that was meant: 9.999999747378752e-06 -> 1e-05."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def rope_scaling(gguf: GGUF, fields: Mapping[str, Any]) -> Scaling | None:
    """Llama 3's factors come as a tensor; linear scaling as a number."""
    if ROPE_FACTORS in gguf.infos:
        return PairScaling(tuple(gguf.tensor(ROPE_FACTORS).flatten().tolist()))
    kind, factor = fields.get("rope.scaling.type", "none"), fields.get("rope.scaling.factor")
    if kind == "none" and "rope.scale_linear" in fields:
        kind, factor = "linear", fields["rope.scale_linear"]
    if kind == "none" or factor in (0, 1):
        return None
    if kind != "linear" or not isinstance(factor, float):
        raise CheckpointError(f"{gguf.path}: rope scaling {kind!r} by {factor!r}; labkit knows none and linear")
    return LinearScaling(shortest(factor))


def with_halves(native: Mapping[str, Tensor], config: LlamaConfig) -> dict[str, Tensor]:
    """llama.cpp turns neighbouring dimensions and has sorted the rows of q and k for that: put the halves back."""
    heads = {"attn_q": config.n_head, "attn_k": config.n_kv_head}
    out = dict(native)
    for name, tensor in native.items():
        n = heads.get(name.split(".")[-2]) if name.startswith("blk.") else None
        if n is not None and tensor.shape[0] == n * config.head_dim:
            paired = tensor.unflatten(0, (n, config.head_dim // 2, 2))  # (H, D/2, 2, ...)
            out[name] = paired.transpose(1, 2).flatten(0, 2)  # (H D, ...)
    return out


def find_tokenizer(gguf: GGUF, vocab_size: int, stop_ids: Sequence[int], notes: list[str]) -> Tokenizer | None:
    """The file's own; None with a note where it is of a kind that labkit would have to guess."""
    values = {key.removeprefix("tokenizer.ggml."): value for key, value in gguf.values.items()}
    tokens, types = values.get("tokens"), values.get("token_type")
    try:
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise TokenizerError("it holds no table of tokens")
        if len(tokens) > vocab_size:
            raise TokenizerError(f"it has {len(tokens)} tokens, the embedding {vocab_size} rows")
        types = [NORMAL] * len(tokens) if types is None else types
        if len(types) != len(tokens):
            raise TokenizerError(f"it has {len(tokens)} tokens, but {len(types)} token types")
        eos_id = stop_ids[0] if stop_ids else None
        if values.get("model") == "gpt2":
            return byte_level(values, tokens, types, vocab_size, eos_id)
        if values.get("model") == "llama":
            return sentencepiece(values, tokens, types, vocab_size, eos_id)
        raise TokenizerError(f"it is of kind {values.get('model')!r}; labkit knows gpt2 and llama")
    except (TokenizerError, TypeError, ValueError) as error:
        notes.append(f"The tokenizer in the file cannot be used ({error}): ids work, text does not.")
        return None


def byte_level(
    values: Mapping[str, Any], tokens: list[str], types: Sequence[int], vocab_size: int, eos_id: int | None
) -> TableTokenizer:
    pre = values.get("pre", "none given")
    return TableTokenizer(
        tokens,
        values.get("merges", []),
        pre,
        special_ids={tokens[i]: i for i, kind in enumerate(types) if kind in (UNKNOWN, CONTROL)},
        matched={tokens[i]: i for i, kind in enumerate(types) if kind == USER_DEFINED},
        vocab_size=vocab_size,
        bos_id=bos(values, pre in BOS_BY_DEFAULT, vocab_size),
        eos_id=eos_id,
    )


def sentencepiece(
    values: Mapping[str, Any], tokens: list[str], types: Sequence[int], vocab_size: int, eos_id: int | None
) -> HFTokenizer:
    scores = values.get("scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise TokenizerError("it has no score for every token")
    bos_id = bos(values, True, len(tokens))
    text = sentencepiece_json(
        tokens, scores, types, add_space=bool(values.get("add_space_prefix", True)), bos_id=bos_id
    )
    return HFTokenizer(text, vocab_size=vocab_size, bos_id=bos_id, eos_id=eos_id)


def bos(values: Mapping[str, Any], by_default: bool, vocab_size: int) -> int | None:
    """The token that goes in front, where the model wants one."""
    token_id = values.get("bos_token_id")
    wanted = values.get("add_bos_token", by_default) and type(token_id) is int and 0 <= token_id < vocab_size
    return token_id if wanted else None
