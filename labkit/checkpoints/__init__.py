"""Native checkpoint formats: one reader a file. READERS is the only list of them."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from . import gguf, gpt2seed, huggingface, labcore, labkit_format, nanochat, nanogpt, swa_mla
from .base import Checkpoint, CheckpointFacts, ModelFile, Reader
from .hub import tokens_of
from .tensor_files import INDEX_SUFFIX, SHARD, index_of

READERS: tuple[Reader, ...] = (
    labkit_format,
    huggingface,
    gguf,
    gpt2seed,
    nanogpt,
    labcore,
    nanochat,
    swa_mla,
)
MODEL_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".gguf")
# What trainers leave beside a model: optimizers, schedulers, random states, their own arguments.
NO_MODEL = re.compile(r"optim(izer)?[_.].*|scheduler\..*|scaler\..*|rng_state.*|training_args\.bin|\..*")


def read(path: Path, meta: Path | None = None, options: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint file, or a folder that holds exactly one; of SWA-MLA's uploads the one with most tokens.

    Raises:
        CheckpointError: missing, damaged, unsafe, of no known format, or one of several in the folder.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    file = ModelFile(model_in(path) if path.is_dir() else index_of(path))
    for reader in READERS:
        if reader.recognises(file):
            checkpoint = reader.read(file, meta, options or {})
            facts = replace(checkpoint.facts, recognised_by=(reader.recognises.__doc__ or "").strip())
            if path.is_dir() and file.path.parent != path:
                note = f"{file.path.parent.name} has most tokens of the checkpoints in {path.name}."
                facts = replace(facts, notes=(note, *facts.notes))
            return replace(checkpoint, facts=facts)
    raise CheckpointError(f"{file.path}: {describe_unrecognised(file)}")


def model_in(folder: Path) -> Path:
    """The one model file directly in a folder; where there are only SWA-MLA's uploads below, that with most tokens."""
    files = model_files(folder)
    if len(files) == 1:
        return files[0]
    if files and all(SHARD.fullmatch(file.name) for file in files):
        raise CheckpointError(f"{folder} holds {len(files)} parts of a model; their {INDEX_SUFFIX} file is missing")
    if files:
        names = ", ".join(file.name for file in files)
        raise CheckpointError(f"{folder} holds several checkpoints ({names}): name one of them")
    below = sorted({found.parent for found in folder.rglob("*") if found in model_files(found.parent)})
    if below and all(tokens_of(found.name) is not None for found in below):
        return model_in(max(below, key=lambda found: tokens_of(found.name) or 0))
    if below:
        names = ", ".join(str(found.relative_to(folder)) for found in below[:20])
        raise CheckpointError(f"{folder} holds several checkpoints ({names}): name one of them")
    raise CheckpointError(f"{folder}: no checkpoint in this folder (looked for {', '.join(MODEL_SUFFIXES)} files)")


def model_files(folder: Path) -> list[Path]:
    """Files of a folder that may hold a model, in order of name: of a model in parts its index, of the same model as
    safetensors and as .bin the former."""
    files = sorted(
        found
        for found in folder.iterdir()
        if (found.suffix in MODEL_SUFFIXES or found.name.endswith(tuple(s + INDEX_SUFFIX for s in MODEL_SUFFIXES)))
        and found.is_file()
        and not NO_MODEL.fullmatch(found.name)
    )
    if any(file.name.endswith(INDEX_SUFFIX) for file in files):
        files = [file for file in files if not SHARD.fullmatch(file.name)]
    if any(file.name.startswith("model.safetensors") for file in files):
        files = [file for file in files if not file.name.startswith("pytorch_model.")]
    return files


def describe_unrecognised(file: ModelFile) -> str:
    """What the file holds instead of a checkpoint."""
    payload = file.payload
    if not isinstance(payload, dict):
        return f"a torch.save file, but it holds a {type(payload).__name__} instead of a checkpoint"
    names = ", ".join(str(key) for key in list(payload)[:4]) + ", …" * (len(payload) > 4)
    if file.kind == "torch" and not file.config:
        return f"a torch.save file, but of no format that labkit knows; it holds {names}"
    config = file.path.with_name("config.json").name
    told = file.config.get("model_type", file.config.get("format"))
    says = f"says {told!r}, which labkit does not know" if told else "is missing, or does not say what the model is"
    return f"holds {names}, but the {config} beside it {says}"


__all__ = ["READERS", "Checkpoint", "CheckpointFacts", "model_files", "read"]
