"""Native checkpoint formats: one reader a file. READERS is the only list of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from . import labcore, nanochat
from .base import Checkpoint, CheckpointFacts, ModelFile, Reader

READERS: tuple[Reader, ...] = (labcore, nanochat)
MODEL_SUFFIXES = (".pt", ".pth", ".bin")


def read(path: Path, meta: Path | None = None, options: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint file, or a folder that holds exactly one.

    Raises:
        CheckpointError: missing, damaged, unsafe, of no known format, or one of several in the folder.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file or folder")
    file = ModelFile(model_in(path) if path.is_dir() else path)
    for reader in READERS:
        if reader.recognises(file):
            return reader.read(file, meta, options or {})
    raise CheckpointError(f"{file.path}: {describe_unrecognised(file.payload)}")


def model_in(folder: Path) -> Path:
    """The one model file directly in a folder; nanochat's optimizer files do not count."""
    files = model_files(folder)
    if len(files) == 1:
        return files[0]
    if files:
        raise CheckpointError(f"{folder} holds several checkpoints ({', '.join(f.name for f in files)}): name one of them")
    below = sorted({found.parent for found in folder.rglob("*") if found in model_files(found.parent)})[:20]
    if below:
        names = ", ".join(str(found.relative_to(folder)) for found in below)
        raise CheckpointError(f"{folder} holds several checkpoints ({names}): name one of them")
    raise CheckpointError(f"{folder}: no checkpoint in this folder (looked for {', '.join(MODEL_SUFFIXES)} files)")


def model_files(folder: Path) -> list[Path]:
    """Files of a folder that may hold a model, in order of name."""
    return sorted(
        found
        for found in folder.iterdir()
        if found.suffix in MODEL_SUFFIXES and found.is_file() and not found.name.startswith("optim_")
    )


def describe_unrecognised(payload: Any) -> str:
    """What the file holds instead of a checkpoint."""
    if isinstance(payload, dict):
        names = ", ".join(str(key) for key in list(payload)[:4])
        return f"a torch.save file, but of no format that labkit knows; it holds {names}{', …' * (len(payload) > 4)}"
    return f"a torch.save file, but it holds a {type(payload).__name__} instead of a checkpoint"


__all__ = ["READERS", "Checkpoint", "CheckpointFacts", "model_files", "read"]
