"""Reading ``torch.save`` files without running anything in them."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"


def load_torch(path: Path) -> Any:
    """The object in a ``torch.save`` file: tensors, containers, numbers and strings, nothing else.

    Raises:
        CheckpointError: the file is empty, cut short, damaged (its CRCs are checked), no ``torch.save`` file, or asks
            for any code. No option turns the refusal off.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if not head:
        raise CheckpointError(f"{path}: the file is empty; copy it again")
    if head == ZIP_MAGIC:
        check_zip(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {reason(error)}") from None
    except Exception as error:  # torch.load lets out whatever a malformed file provokes
        raise CheckpointError(f"{path}: no readable torch.save file ({type(error).__name__}); copy it again") from None


def check_zip(path: Path) -> None:
    """Compare every entry with its CRC; an entry with CRC 0 was written without one."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(f"{path}: entry {entry.filename} is compressed; torch.save never does that")
                if entry.CRC:
                    with archive.open(entry) as data:
                        while data.read(1 << 20):
                            pass
    except CheckpointError:
        raise
    except Exception as error:  # BadZipFile, EOFError, OSError, struct.error, NotImplementedError …
        raise CheckpointError(f"{path}: cut short or damaged ({error}); copy it again") from None


def reason(error: pickle.UnpicklingError) -> str:
    """Say which name the pickle asked for, without repeating torch's advice to load it unsafely."""
    wanted = re.search(r"(?:GLOBAL|Unsupported class) ([\w.\-]+)", str(error))
    if wanted:
        return (
            f"refused, because its pickle asks for {wanted[1]}, which is code and not data. Nothing was run. "
            "Ask its author for a weights-only or safetensors copy."
        )
    return "no torch.save file, or a pickle with more than data in it; nothing was run"
