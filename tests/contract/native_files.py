"""Tiny checkpoints in every native format, whose tensors a test may change before they are written."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import swamla_files
import tiny
import torch
from torch import Tensor

from labkit.checkpoints import (
    Checkpoint,
    gguf,
    gpt2seed,
    huggingface,
    huggingface_export,
    labcore,
    labkit_format,
    nanochat,
    nanogpt,
    swa_mla,
)
from labkit.checkpoints.rename import to_native
from labkit.language_model import LanguageModel
from labkit.models.gpt2 import GPT2Config

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Native:
    """One native format.

    Attributes:
        lm: a tiny model that the format can hold.
        tensors: its weights under the format's own names.
        save: (folder, tensors) -> the model file, with what lies beside it.
    """

    lm: LanguageModel
    tensors: Callable[[], Tensors]
    save: Callable[[Path, Tensors], Path]


def weights(lm: LanguageModel) -> Tensors:
    return {name: w.clone() for name, w in lm.model.state_dict().items()}


def native_names(lm: LanguageModel, table: Any, prefix: str = "") -> Tensors:
    found = to_native(weights(lm), table, lm.config.n_layer)
    return {prefix + name: w.clone() for name, w in found.items()}


def saved(path: Path, payload: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(payload, path)
    return path


def of_labcore() -> Native:
    lm = tiny.tiny("labcore", "learned")
    config = {name: value for name, value in asdict(lm.config).items() if name in labcore.CONFIG_FIELDS}

    def save(folder: Path, tensors: Tensors) -> Path:
        payload = {
            "step": 7,
            "model_config": config,
            "model_state_dict": tensors,
            "trainer_config": {"batch_size": 4},
            "losses": {"train": 1.5, "val": 1.75},
            "tokenizer": {"type": "char", "vocab": list(tiny.CHARACTERS)},
        }
        return saved(folder / "ckpt_last.pt", payload)

    return Native(lm, lambda: native_names(lm, labcore.TABLE), save)


def of_nanochat() -> Native:
    lm = tiny.language_model("nanochat", nanochat_config(), tiny.characters())
    config = {name: getattr(lm.config, name) for name in nanochat.META_FIELDS}

    def save(folder: Path, tensors: Tensors) -> Path:
        path = saved(folder / "model_000007.pt", tensors)
        meta = {"step": 7, "val_loss": 1.75, "model_config": config, "user_config": {}}
        folder.joinpath("meta_000007.json").write_text(json.dumps(meta))
        described = {"vocab_chars": list(tiny.CHARACTERS), "special_tokens": [], "vocab_size": tiny.V}
        folder.joinpath("tokenizer_config.json").write_text(json.dumps(described))
        return path

    return Native(lm, lambda: native_names(lm, nanochat.table(lm.config)), save)


def nanochat_config() -> Any:
    """The files say nothing of the length of the rotary tables; it is always ten times sequence_len."""
    return replace(tiny.TINY["nanochat"]["grouped"], rope_positions_per_sequence=10)


def of_swa_mla() -> Native:
    lm = tiny.language_model("swa_mla", tiny.TINY["swa_mla"]["executed"])

    def save(folder: Path, tensors: Tensors) -> Path:
        payload = {"model": tensors, "optimizer": {"state": {}}, "step": 7, "config": swamla_files.trainer_config(lm)}
        return saved(folder / "checkpoint_7.pt", payload)

    return Native(lm, lambda: swamla_files.state_dict(lm), save)


def of_gpt2seed() -> Native:
    config = GPT2Config(tiny.V, tiny.CONTEXT, 2, 2, 16, 24, activation="gelu")
    lm = tiny.language_model("gpt2", config)
    described = {theirs: getattr(config, ours) for ours, theirs in gpt2seed.SIZES.items()} | gpt2seed.DEFAULTS

    def save(folder: Path, tensors: Tensors) -> Path:
        payload = {"epoch": 1, "global_step": 7, "model_state_dict": tensors, "best_val_loss": float("inf")}
        return saved(folder / "best_model.pth", payload | {"config": described})

    return Native(lm, lambda: native_names(lm, gpt2seed.table(config)), save)


def of_nanogpt() -> Native:
    config = GPT2Config(tiny.V, tiny.CONTEXT, 2, 2, 16, 64, activation="gelu", dropout=0.0)
    lm = tiny.language_model("gpt2", config)
    names = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "bias", "dropout")

    def save(folder: Path, tensors: Tensors) -> Path:
        payload = {
            "model": tensors,
            "model_args": {name: getattr(config, name) for name in names},
            "iter_num": 7,
            "best_val_loss": 1.75,
            "config": {"dataset": "somewhere"},
        }
        return saved(folder / "ckpt.pt", payload)

    def tensors() -> Tensors:
        return {
            name if name == "lm_head.weight" else f"transformer.{name}": w
            for name, w in native_names(lm, labcore.TABLE).items()
        }

    return Native(lm, tensors, save)


def as_checkpoint(lm: LanguageModel) -> Checkpoint:
    return Checkpoint(lm.checkpoint, lm.config, weights(lm), lm.tokenizer)


def of_labkit() -> Native:
    lm = tiny.tiny("gpt2", "untied_nobias")

    def save(folder: Path, tensors: Tensors) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        labkit_format.write(folder, as_checkpoint(lm))
        safetensors.torch.save_file(tensors, folder / "model.safetensors")
        return folder / "model.safetensors"

    return Native(lm, lambda: weights(lm), save)


def of_huggingface() -> Native:
    lm = tiny.tiny("llama", "biased")

    def save(folder: Path, tensors: Tensors) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        huggingface_export.write(folder, as_checkpoint(lm))
        safetensors.torch.save_file(tensors, folder / "model.safetensors")
        return folder / "model.safetensors"

    def tensors() -> Tensors:
        return {
            name if name == "lm_head.weight" else f"model.{name}": w
            for name, w in native_names(lm, huggingface.llama_table(lm.config)).items()
        }

    return Native(lm, tensors, save)


NATIVE: dict[ModuleType, Callable[[], Native]] = {
    labcore: of_labcore,
    nanochat: of_nanochat,
    swa_mla: of_swa_mla,
    gpt2seed: of_gpt2seed,
    nanogpt: of_nanogpt,
    labkit_format: of_labkit,
    huggingface: of_huggingface,
}
# Written by the gguf package and tested in test_gguf.py.
ELSEWHERE = {gguf}
