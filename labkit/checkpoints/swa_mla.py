"""SWA-MLA's checkpoints: the trainer's ``checkpoint_<step>.pt``, its Hub uploads, and the flat Hub layout.

The trainer's config does not say how large the model is; what it lacks is told from the tensors. Where the two
contradict each other the file is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..models.swa_mla import SwaMlaConfig
from ..tokenizers.base import Tokenizer
from ..tokenizers.bpe import GPT2Tokenizer
from . import huggingface
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
from .safe_pickle import Record, unwrapped

OPTIONS = {"window": ("executed", "configured"), "query_positions": ("head", "token")}
BLOCK = re.compile(r"transformer\.h\.(\d+)\.(.+)")
OF_LATENT_ATTENTION = re.compile(r"attn\.(wq|wq_a|wq_b|q_norm|wkv_a|kv_norm|wkv_b|wo)\..+")
GATE_UP = re.compile(r"(mlp|ffn)\.gate_up_proj\.(weight|bias)")
HEADS_OF_SIZE = {"small": 16, "base": 16, "large": 16, "xl": 32}  # the presets of the trainer's --size
PADDED_GPT2_VOCAB_SIZE = 50304
DEFAULT_BLOCK_SIZE = 4096

# What a config says about the model. The trainer writes some names with "mla_" in front.
MODEL_KEYS = """
    vocab_size block_size n_layer n_head n_embd dropout bias ratio_kv
    swa_layers_per_cycle mla_layers_per_cycle swa_window swa_sink_size rope_theta
    q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim
    logit_scale_base logit_scale_window logit_scale_offset logit_scale_min logit_scale_max
"""
# What else is in a config: it does not change what the model computes when it is used, or shows in the tensors.
OTHER_KEYS = """
    size batch_size max_iters learning_rate min_lr weight_decay beta1 beta2 warmup_iters grad_clip optimizer_type
    gradient_accumulation_steps gradient_checkpointing use_gradient_checkpointing use_fp8 fp8_mla_params fp8_tile_size
    enable_tf32 disable_tf32 tokenizer_name num_workers output_dir log_interval eval_interval save_interval
    wandb_project wandb_run_name hf_repo_id resume_from_hf compile use_tensorboard attention_backend
    use_dyt dyt_alpha_init apply_logit_scale_during_training label_smoothing attn_impl world_size
    rope_scaling rope_factor mscale use_mla_selective selection_head_idx model_type total_tokens val_loss
"""
KNOWN_KEYS = frozenset(MODEL_KEYS.split()) | frozenset(OTHER_KEYS.split())


def recognises(file: ModelFile) -> bool:
    """A state dict with SWA-MLA's blocks, or a config with its cycle of layers."""
    if not isinstance(file.payload, dict):
        return False
    state = state_in(file.payload)
    names = [name for name in state if isinstance(name, str)] if isinstance(state, Mapping) else []
    return any(re.search(r"transformer\.h\.\d+\.(attn\.wkv_a|(mlp|ffn)\.gate_up_proj)\.weight$", n) for n in names) or (
        "swa_layers_per_cycle" in described(file)
    )


def state_in(payload: Mapping[str, Any]) -> Any:
    """The state dict: the trainer's, its Hub upload's, or the payload itself."""
    return payload.get("model", payload.get("model_state_dict", payload))


def described(file: ModelFile) -> dict[str, Any]:
    """The config in the file, a dict or a pickled argparse.Namespace, else the one beside it."""
    found = file.payload.get("config")
    if isinstance(found, Record):
        found = vars(found)
    if not isinstance(found, Mapping):
        found = file.config.get("training_config", file.config)
    if not isinstance(found, Mapping):
        return {}
    return {
        re.sub(r"^mla_(?!layers_per_cycle)", "", str(name)): value
        for name, value in found.items()
        if not isinstance(value, Tensor)
    }


def read(file: ModelFile, meta: Path | None, options: Mapping[str, Any]) -> Checkpoint:
    """Read it strictly: every tensor is accounted for, and config and tensors agree.

    Options ``window`` and ``query_positions`` are fields of SwaMlaConfig; the defaults are what the original executes.
    """
    refuse_options("SWA-MLA", options, known=tuple(OPTIONS))
    for name, value in options.items():
        if value not in OPTIONS[name]:
            raise ConfigError(f"option {name} is {value!r}; it must be {' or '.join(map(repr, OPTIONS[name]))}")
    path, payload = file.path, file.payload
    state = state_in(payload)
    if state is payload and "config" in payload:
        raise CheckpointError(f"{path}: an SWA-MLA checkpoint without weights (neither 'model' nor 'model_state_dict')")
    notes: list[str] = []
    native = tensors_in(unwrapped(state, str(path)), str(path))
    tie(native, "transformer.wte.weight", "lm_head.weight", notes)
    config = read_config(path, described(file), native, options, notes)
    names = table(config, native)
    weights = to_canonical(prepared(native, config), names, meta_model("swa_mla", config), str(path))
    tokenizer = find_tokenizer(path.parent, config.vocab_size, notes)
    tokens = whole_number(payload.get("total_tokens"))
    facts = CheckpointFacts(
        family="swa_mla",
        format="SWA-MLA checkpoint" if tokens is None else f"SWA-MLA checkpoint ({tokens:,} tokens)",
        path=path,
        dtype=dtype_words(weights),
        step=whole_number(payload.get("step")),
        losses=finite_loss(payload.get("val_loss")),
        notes=(*notes, *interpretation(config), *odd_weights(weights)),
    )
    return Checkpoint(facts, config, weights, tokenizer)


def read_config(
    path: Path, given: Mapping[str, Any], native: Mapping[str, Tensor], options: Mapping[str, Any], notes: list[str]
) -> SwaMlaConfig:
    """What the config says, else what the tensors show, else the original's defaults."""
    if unknown := sorted(given.keys() - KNOWN_KEYS):
        notes.append(f"The config has keys that labkit does not know and passes over: {', '.join(unknown)}.")
    said = {name: value for name, value in given.items() if name in MODEL_KEYS.split() and value is not None}
    for name, least in (("swa_window", 0), ("swa_sink_size", 0), ("logit_scale_window", 1)):
        if isinstance(said.get(name), int):
            said[name] = max(least, said[name])
    if isinstance(given.get("use_dyt"), bool):
        said["norm"] = "dynamic_tanh" if given["use_dyt"] else "rms"
    if isinstance(base := said.get("logit_scale_base"), int | float) and base <= 1:
        del said["logit_scale_base"]  # the original's way to switch it off
    if not said:
        notes.append("No config; sizes are told from the tensors, the rest are the original's defaults.")
    embedding = native.get("transformer.wte.weight")
    if embedding is None or embedding.ndim != 2:
        raise CheckpointError(f"{path}: transformer.wte.weight is missing, or is no matrix")
    fields = seen_in(native) | said | block_size(native, said, path, notes)
    for name, n in zip(("vocab_size", "n_embd"), embedding.shape, strict=True):
        if fields.setdefault(name, n) != n:
            raise CheckpointError(f"{path}: the config says {name} {fields[name]}, the embedding has {n}")
    if "n_head" not in fields:
        fields["n_head"] = HEADS_OF_SIZE.get(str(given.get("size")))
        if fields["n_head"] is None:
            raise CheckpointError(f"{path}: its config has no n_head, and the tensors do not show it")
        notes.append(f"{fields['n_head']} heads are presumed, as in the preset {given['size']!r}; no tensor shows it.")
    config = make_config(SwaMlaConfig, fields | dict(options), path)
    check_layers(native, "transformer.h.", config.n_layer, str(path))
    check_pattern(config, native, path)
    return with_ranks(config, native, path, notes)


def seen_in(native: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the tensors show of a config."""
    latent, layers = latent_layers(native), {int(match[1]) for match in map(BLOCK.fullmatch, native) if match}
    n_layer = next(i for i in range(len(layers) + 1) if i not in layers)
    kinds = [i in latent for i in range(n_layer)]
    n_window = kinds.index(True) if True in kinds else len(kinds)
    n_latent = (kinds[n_window:] + [False]).index(False)
    fields = {
        "n_layer": n_layer,
        "swa_layers_per_cycle": n_window,
        "mla_layers_per_cycle": n_latent,
        "bias": any(name.endswith("down_proj.bias") for name in native),
        "norm": "dynamic_tanh" if "transformer.ln_f.alpha" in native else "rms",
    }
    for i in sorted(latent):
        if sizes := latent_sizes(native, f"transformer.h.{i}.attn."):
            fields |= sizes
            break
    rows = {name: len(tensor) for name, tensor in native.items() if tensor.ndim == 2}
    for name, n in rows.items():
        if name.endswith("attn.k_proj.weight") and 0 < n <= rows.get(name.replace("k_proj", "q_proj"), 0):
            fields["ratio_kv"] = rows[name.replace("k_proj", "q_proj")] // n
    return fields


def latent_sizes(native: Mapping[str, Tensor], attn: str) -> dict[str, int]:
    """The sizes of a block with latent attention from its four matrices; nothing where they do not fit together.

    With H heads, wq has H (N + D) rows, wkv_b H (N + E) rows, wo H E columns, and wkv_a R + D rows.
    """
    names = ["wq_b" if f"{attn}wq_b.weight" in native else "wq", "wkv_a", "wkv_b", "wo"]
    shapes = [native[f"{attn}{name}.weight"].shape for name in names if f"{attn}{name}.weight" in native]
    if len(shapes) < 4 or any(len(shape) != 2 for shape in shapes):
        return {}
    (queries, q_rank), (kv_a, _), (kv_b, rank), (_, values) = shapes
    rope = kv_a - rank
    n_head, rest = divmod(queries - kv_b + values, rope) if rope > 0 else (0, 0)
    if n_head <= 0 or rest or values % n_head or kv_b % n_head:
        return {}
    return {
        "n_head": n_head,
        "q_lora_rank": q_rank if names[0] == "wq_b" else 0,
        "kv_lora_rank": rank,
        "qk_nope_head_dim": (kv_b - values) // n_head,
        "qk_rope_head_dim": rope,
        "v_head_dim": values // n_head,
    }


def latent_layers(native: Mapping[str, Tensor]) -> set[int]:
    return {int(m[1]) for name in native if (m := BLOCK.fullmatch(name)) and OF_LATENT_ATTENTION.fullmatch(m[2])}


def block_size(native: Mapping[str, Tensor], said: Mapping[str, Any], path: Path, notes: list[str]) -> dict[str, Any]:
    """Side of the mask buffers. The buffers are not used otherwise: attention is causal whatever they hold."""
    shapes = {tuple(tensor.shape) for name, tensor in native.items() if is_mask(name)}
    sides = {shape[0] for shape in shapes if len(shape) == 2 and shape[0] == shape[1]}
    if not shapes:
        return {"block_size": said.get("block_size", DEFAULT_BLOCK_SIZE)}
    if len(shapes) > 1 or not sides:
        raise CheckpointError(f"{path}: attn.mask is {' and '.join(map(str, sorted(shapes)))}; it must be one square")
    side = sides.pop()
    if said.get("block_size", side) != side:
        notes.append(f"The config says block_size {said['block_size']}, the masks are for {side}, which is used.")
    return {"block_size": side}


def is_mask(name: str) -> bool:
    return BLOCK.fullmatch(name) is not None and name.endswith(".attn.mask")


def check_pattern(config: SwaMlaConfig, native: Mapping[str, Tensor], path: Path) -> None:
    """Compare the cycle of layers with what the file holds."""
    latent = latent_layers(native)
    for i in range(config.n_layer):
        if config.is_latent(i) != (i in latent):
            held = "latent" if i in latent else "window"
            raise CheckpointError(
                f"{path}: layer {i} has {held} attention, which is not in the config's cycle "
                f"of {config.swa_layers_per_cycle} SWA, then {config.mla_layers_per_cycle} MLA layers"
            )


def with_ranks(config: SwaMlaConfig, native: Mapping[str, Tensor], path: Path, notes: list[str]) -> SwaMlaConfig:
    """The config with ranks that grow with depth, if the file's do; other differences are a contradiction."""
    matrices = {i: native.get(f"transformer.h.{i}.attn.wkv_b.weight") for i in latent_layers(native)}
    ranks = {i: matrix.shape[1] for i, matrix in sorted(matrices.items()) if matrix is not None and matrix.ndim == 2}
    growing = replace(config, depth_scale_first=0.5, depth_scale_last=2.0)
    if all(rank == config.kv_rank_at(i) for i, rank in ranks.items()):
        return config
    if all(rank == growing.kv_rank_at(i) for i, rank in ranks.items()):
        notes.append("Ranks grow with depth from 0.5 to 2 times kv_lora_rank, and so do windows (since November 2025).")
        return growing
    listed = ", ".join(f"{rank} in layer {i}" for i, rank in ranks.items())
    raise CheckpointError(f"{path}: kv_lora_rank {config.kv_lora_rank} does not fit the tensors: {listed}")


def prepared(native: Mapping[str, Tensor], config: SwaMlaConfig) -> dict[str, Tensor]:
    """Without what is never used (masks; the bias of wkv_b), and gate_up_proj cut in its halves: values, then gate."""
    out: dict[str, Tensor] = {}
    for name, tensor in native.items():
        match = BLOCK.fullmatch(name)
        part = match[2] if match else name
        is_unused_bias = part == "attn.wkv_b.bias" and config.bias and tensor.ndim == 1
        if GATE_UP.fullmatch(part) and tensor.ndim and tensor.shape[0] % 2 == 0:
            out[f"{name} (up)"], out[f"{name} (gate)"] = tensor.chunk(2)
        elif not is_mask(name) and not is_unused_bias:
            out[name] = tensor
    return out


def table(config: SwaMlaConfig, native: Mapping[str, Tensor]) -> Table:
    """Canonical names -> the original's, after ``prepared``."""
    n_kv = config.n_embd // config.ratio_kv
    out: dict[str, str | Fused] = {"embed.weight": "transformer.wte.weight", "lm_head.weight": "lm_head.weight"}
    for kind in ("weight", "bias", "alpha"):
        out[f"norm_f.{kind}"] = f"transformer.ln_f.{kind}"
    for i in range(config.n_layer):
        ours, theirs = f"blocks.{i}.", f"transformer.h.{i}."
        has_own_names = any(name.startswith((f"{theirs}attn_norm.", f"{theirs}ffn")) for name in native)
        norm_1, norm_2, mlp = ("attn_norm", "ffn_norm", "ffn") if has_own_names else ("norm1", "norm2", "mlp")
        for kind in ("weight", "bias", "alpha"):
            out[f"{ours}norm_1.{kind}"] = f"{theirs}{norm_1}.{kind}"
            out[f"{ours}norm_2.{kind}"] = f"{theirs}{norm_2}.{kind}"
            out[f"{ours}mlp.up_proj.{kind}"] = f"{theirs}{mlp}.gate_up_proj.{kind} (up)"
            out[f"{ours}mlp.gate_proj.{kind}"] = f"{theirs}{mlp}.gate_up_proj.{kind} (gate)"
            out[f"{ours}mlp.down_proj.{kind}"] = f"{theirs}{mlp}.down_proj.{kind}"
            for name, native_name in LATENT_NAMES.items():
                out[f"{ours}attn.{name}.{kind}"] = f"{theirs}attn.{native_name}.{kind}"
            if not config.is_latent(i):
                parts = [f"{theirs}attn.{x}_proj.{kind}" for x in "qkv"]
                out[f"{ours}attn.qkv_proj.{kind}"] = Fused(parts, [config.n_embd, n_kv, n_kv])
                out[f"{ours}attn.o_proj.{kind}"] = f"{theirs}attn.o_proj.{kind}"
    return out


LATENT_NAMES = {
    "q_proj": "wq",
    "q_a_proj": "wq_a",
    "q_norm": "q_norm",
    "q_b_proj": "wq_b",
    "kv_a_proj": "wkv_a",
    "kv_norm": "kv_norm",
    "kv_b_proj": "wkv_b",
    "o_proj": "wo",
}


def interpretation(config: SwaMlaConfig) -> list[str]:
    """What a file cannot say, and how it is read."""
    kinds = [config.is_latent(i) for i in range(config.n_layer)]
    notes = []
    if not all(kinds) and config.swa_window:
        window = f"the window of {config.swa_window} positions and {config.swa_sink_size} sinks in the config"
        notes.append(
            f"Plain causal attention, as the original runs: {window} never reaches its kernel. "
            'options={"window": "configured"} applies it.'
            if config.window == "executed"
            else f"With {window}, which the original itself never applies."
        )
    if any(kinds):
        notes.append(
            "Queries of latent attention are rotated by the number of their head, as the original does until December "
            '2025. options={"query_positions": "token"} rotates them by position.'
            if config.query_positions == "head"
            else "Queries of latent attention are rotated by position, as the original does since December 2025."
        )
    return notes


def find_tokenizer(folder: Path, vocab_size: int, notes: list[str]) -> Tokenizer | None:
    """The one beside the model, else GPT-2's, which the trainer uses, where the vocabulary has its size."""
    if vocab_size == PADDED_GPT2_VOCAB_SIZE and not (folder / "tokenizer.json").is_file():
        notes.append("No tokenizer beside the model; GPT-2's is presumed, with 47 padding ids at the end.")
        return GPT2Tokenizer(vocab_size=vocab_size)
    return huggingface.find_tokenizer(folder, vocab_size, (), notes)
