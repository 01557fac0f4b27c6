"""Files as SWA-MLA's trainer and its Hub uploads lay them out, from labkit's own tiny models."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints.rename import to_native
from labkit.checkpoints.swa_mla import table
from labkit.language_model import LanguageModel

OUR_OWN = {
    "norm", "depth_scale_first", "depth_scale_last", "mlp_ratio", "norm_eps", "latent_norm_eps", "latent_rope_base",
    "window", "query_positions",
}  # fmt: skip
TRAINER = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
NOT_IN_THE_TRAINER = ("vocab_size", "n_layer", "n_head", "n_embd", "bias", "ratio_kv")


def state_dict(lm: LanguageModel, prefix: str = "", own_names: bool = True, masks: bool = True) -> dict[str, Tensor]:
    """The original's names, its mask buffers and its bias that is never applied; ``own_names``: attn_norm and ffn."""
    config = lm.config
    latent = [i for i in range(config.n_layer) if config.is_latent(i)]
    marks = {f"transformer.h.{i}.attn_norm.": torch.empty(0) for i in latent if own_names}
    native = to_native(lm.model.state_dict(), table(config, marks), config.n_layer)
    out = {}
    for name, w in native.items():
        if name.endswith(" (up)"):
            gate = native[name.replace(" (up)", " (gate)")]
            out[name.removesuffix(" (up)")] = torch.cat((w, gate))
        elif not name.endswith(" (gate)"):
            out[name] = w
    for i in range(config.n_layer):
        if i in latent and config.bias:
            out[f"transformer.h.{i}.attn.wkv_b.bias"] = torch.ones(len(out[f"transformer.h.{i}.attn.wkv_b.weight"]))
        elif i not in latent and masks:
            size = config.block_size
            out[f"transformer.h.{i}.attn.mask"] = torch.full((size, size), float("-inf")).triu(1)
    return {prefix + name: w.clone() for name, w in out.items()}


def model_config(lm: LanguageModel) -> dict[str, Any]:
    """The original's own config, all of its sizes in it."""
    fields = {name: value for name, value in asdict(lm.config).items() if name not in OUR_OWN}
    return fields | {"use_dyt": lm.config.norm == "dynamic_tanh", "attn_impl": "absorb", "label_smoothing": 0.0}


def trainer_config(lm: LanguageModel, **changes: Any) -> dict[str, Any]:
    """What the trainer writes: its arguments, none of which says how large the model is."""
    fields = {name: value for name, value in model_config(lm).items() if name not in NOT_IN_THE_TRAINER}
    fields = {f"mla_{name}" if name in TRAINER else name: value for name, value in fields.items()}
    return fields | {"size": "small", "max_iters": 10, "use_fp8": False, "hf_repo_id": None, "compile": True} | changes


def save(path: Path, lm: LanguageModel, config: Any = None, **changes: Any) -> Path:
    """``checkpoint_<step>.pt``; ``changes`` are arguments of ``state_dict``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    config = trainer_config(lm) if config is None else config
    torch.save({"model": state_dict(lm, **changes), "optimizer": {"state": {}}, "step": 7, "config": config}, path)
    return path


def namespace(lm: LanguageModel) -> argparse.Namespace:
    return argparse.Namespace(**trainer_config(lm))


def upload(root: Path, lm: LanguageModel, tokens: str, loss: float, config_inside: bool = True) -> Path:
    """``checkpoint_tokens_<N>k_loss_<x>/`` with pytorch_model.bin and config.json."""
    folder = root / f"checkpoint_tokens_{tokens}_loss_{loss:.4f}"
    folder.mkdir(parents=True)
    payload = {
        "model_state_dict": state_dict(lm, prefix="_orig_mod."),
        "total_tokens": int(tokens[:-1]) * {"k": 10**3, "M": 10**6}[tokens[-1]],
        "val_loss": loss,
    }
    config = trainer_config(lm)
    torch.save(payload | ({"config": config} if config_inside else {}), folder / "pytorch_model.bin")
    described = {"model_type": "swa_mla", "val_loss": loss, "training_config": config}
    folder.joinpath("config.json").write_text(json.dumps(described))
    return folder
