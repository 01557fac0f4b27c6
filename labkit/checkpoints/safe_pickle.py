"""Reading ``torch.save`` files without running anything in them."""

import pickle
import re
import threading
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError

ZIP_MAGIC = b"PK\x03\x04"


class Record:
    """What a pickled config object becomes: its attributes (``vars(record)``), and nothing that runs."""

    def __new__(cls, *_: Any) -> "Record":
        return super().__new__(cls)

    def __init__(self, *_: Any):
        pass


class Float8Record(torch.Tensor):
    """What torchao's float8 optimizer state becomes: codes, scale and block_size, and no operation at all."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise TypeError(f"an inert record of a float8 tensor does not compute {func}")


# Classes that known systems pickle beside their weights -> the inert stand-in built in their place. Nothing else.
STAND_INS: Mapping[str, type] = {
    # gpt2seed: the folder's name is part of the module path, unless training was started inside the folder.
    "generative-pretrained-transformer-2.src.config.model_config.GPT2Config": Record,
    "src.config.model_config.GPT2Config": Record,
    # SWA-MLA: the trainer's arguments, and the states of torchao's AdamWFp8.
    "argparse.Namespace": Record,
    "torchao.optim.subclass_fp8.OptimStateFp8": Float8Record,
}
_one_at_a_time = threading.Lock()  # torch keeps the names that are allowed in a global


def load_torch(path: Path) -> Any:
    """The object in a ``torch.save`` file: tensors, containers, numbers, strings and inert records, nothing else.

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
        allowed: list[Any] = [(stand_in, name) for name, stand_in in STAND_INS.items()]
        with _one_at_a_time, torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on pickle protocols are not for people who open a model
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


def unwrapped(state: Any, where: str) -> Any:
    """A state dict with plain tensors in the place of float8 records."""
    if not isinstance(state, Mapping):
        return state
    return {name: plain(value, where) if isinstance(value, Float8Record) else value for name, value in state.items()}


def plain(record: Float8Record, where: str) -> torch.Tensor:
    """codes, times the scale of the block they are in."""
    parts = vars(record)
    try:
        codes, scale = parts["codes"], parts["scale"]
        return (codes.float().view(-1, parts["block_size"]) * scale.float().view(-1, 1)).view(codes.shape)
    except (KeyError, AttributeError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"{where}: a float8 tensor whose codes and scale do not fit together ({error})") from None
