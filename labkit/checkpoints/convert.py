"""Export: labkit's own format, a weights-only copy in the native one, or a Hugging Face folder. Whole or not at all."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..files import atomic_write
from ..models import CausalLM
from ..tokenizers.base import Tokenizer
from . import huggingface_export, labkit_format, read
from .base import Checkpoint, CheckpointFacts, ModelFile
from .labkit_format import save_safetensors, write_text
from .rename import tensors_in
from .safe_pickle import Record

Format = Literal["labkit", "native", "huggingface"]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Where formats keep their weights, and what they keep for training alone.
STATE = ("model_state_dict", "model")
TRAINING = re.compile(r".*(optimizer|scheduler|scaler|rng_state).*")
# What may lie beside a model and belongs to it.
COMPANIONS = (
    "meta.json", "meta.pkl", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
    "chat_template.jinja",
)  # fmt: skip


class Loaded(Protocol):
    """What ``labkit.load`` returns."""

    @property
    def model(self) -> CausalLM: ...
    @property
    def config(self) -> Any: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def checkpoint(self) -> CheckpointFacts: ...


@dataclass(frozen=True)
class Conversion:
    """What was written: the folder, its format, and notes on what could not be."""

    path: Path
    format: Format
    notes: tuple[str, ...]


def convert(
    source: Checkpoint | Loaded | str | Path,
    dst: str | Path,
    format: Format = "labkit",
    dtype: str | torch.dtype | None = None,
) -> Conversion:
    """Write a checkpoint anew, read it back, compare every weight, and only then give it its name.

    Args:
        source: a file or folder, keeping the dtypes in it; a Checkpoint; or a LanguageModel, as it is in memory.
        dst: a folder that does not exist yet, or is empty.
        format: "labkit" keeps every family; "native" is the source's file without its training state; "huggingface"
            is a GPT-2 or Llama folder.
        dtype: of all weights; None: those of the source.

    Raises:
        CheckpointError: the source cannot be read, the format cannot express it, or dst is taken.
    """
    dst, dtype = Path(dst), resolve(dtype)
    if dst.exists() and not (dst.is_dir() and not any(dst.iterdir())):
        raise CheckpointError(f"{dst}: exists already; name a folder that does not")
    checkpoint = as_checkpoint(source)
    if format == "native":
        checkpoint = read(checkpoint.facts.path)
    if dtype is not None:
        checkpoint = replace(checkpoint, weights={name: w.to(dtype) for name, w in checkpoint.weights.items()})
    part = dst.with_name(f".{dst.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    notes: tuple[str, ...] = ()
    try:
        if format == "labkit":
            labkit_format.write(part, checkpoint)
        elif format == "huggingface":
            checkpoint = huggingface_export.expressed(checkpoint)
            notes = huggingface_export.write(part, checkpoint)
        elif format == "native":
            notes = write_native(checkpoint.facts.path, part, dtype)
        else:
            raise ConfigError(f'format {format!r} is unknown; "labkit", "native" or "huggingface"')
        compare(checkpoint, read(part), same_config=format != "native")
        if dst.exists():
            dst.rmdir()
        os.replace(part, dst)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Conversion(dst, format, notes)


def resolve(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if isinstance(dtype, str) and dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown; {', '.join(DTYPES)}")
    return DTYPES[dtype] if isinstance(dtype, str) else dtype


def as_checkpoint(source: Checkpoint | Loaded | str | Path) -> Checkpoint:
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, str | Path):
        return read(Path(source))
    return Checkpoint(source.checkpoint, source.config, source.model.state_dict(), source.tokenizer)


def compare(written: Checkpoint, back: Checkpoint, *, same_config: bool) -> None:
    """Weights equal to the last bit (NaN too), and a config that was written anew equal: then the logits are."""
    different = [
        name
        for name, w in written.weights.items()
        if name not in back.weights or not torch.equal(raw(w), raw(back.weights[name]))
    ]
    if different or same_config and back.config != written.config:
        what = f"{len(different)} tensors ({', '.join(different[:3])})" if different else "the config"
        raise CheckpointError(f"{back.facts.path}: reading it back gave something else for {what}; nothing was written")


def raw(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def write_native(path: Path, folder: Path, dtype: torch.dtype | None) -> tuple[str, ...]:
    """The source's own file and what lies beside it, without the state of optimizers, schedulers and scalers."""
    file = ModelFile(path)
    if file.kind == "gguf":
        raise CheckpointError(f'{path}: a GGUF file cannot be rewritten; use the "labkit" or "huggingface" format')
    for name in (*COMPANIONS, path.name.replace("model_", "meta_").replace(path.suffix, ".json")):
        if path.with_name(name).is_file() and name != path.name:
            shutil.copyfile(path.with_name(name), folder / name)
    if file.kind == "torch":
        payload = inference_only(file.payload, dtype)
        atomic_write(folder / path.name, lambda out: torch.save(payload, out))
    elif path.name.startswith("pytorch_model."):
        weights = cast(file.payload, dtype)
        atomic_write(folder / "pytorch_model.bin", lambda out: torch.save(weights, out))
    else:
        save_safetensors(folder / "model.safetensors", cast(file.payload, dtype))
    if dtype is not None and {"torch_dtype", "dtype"} & file.config.keys():
        named = {name: str(dtype).removeprefix("torch.") for name in ("torch_dtype", "dtype") if name in file.config}
        write_text(folder / "config.json", json.dumps({**file.config, **named}, indent=2, ensure_ascii=False) + "\n")
    pickled = file.kind == "torch" and any(isinstance(value, Record) for value in file.payload.values())
    return ("The pickled config is a plain dict now; the program that wrote it may ask for its own class.",) * pickled


def inference_only(payload: Mapping[str, Any], dtype: torch.dtype | None) -> dict[str, Any]:
    """A torch.save payload without training state; a pickled config object becomes a dict."""
    if not any(key in payload for key in STATE):
        return cast(payload, dtype)
    kept = {key: value for key, value in payload.items() if not TRAINING.fullmatch(str(key))}
    return {key: cast(value, dtype) if key in STATE else plain(value) for key, value in kept.items()}


def cast(state: Any, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """All floating-point tensors in one dtype, without what their storages hold besides; tied ones stay one."""
    done: dict[tuple[int, torch.Size], Tensor] = {}
    out = {}
    for name, w in tensors_in(state, "state dict").items():
        key = (w.data_ptr(), w.shape)
        if key not in done:
            wanted = dtype if dtype is not None and w.is_floating_point() else w.dtype
            done[key] = w.to(wanted, copy=True).contiguous()
        out[name] = done[key]
    return out


def plain(value: Any) -> Any:
    """Inert records as dicts, all the way down."""
    if isinstance(value, Record):
        return {name: plain(each) for name, each in vars(value).items()}
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return type(value)(map(plain, value)) if type(value) in (list, tuple) else value
