"""How labkit writes a file: whole or not at all."""

import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .errors import LabkitError


def check_writable(path: Path) -> None:
    """Raises OSError if there can be no file beside ``path``; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def atomic_write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call ``write(file)`` on a file beside ``path``, flush to disk, then rename it over: old or new, never half.

    Raises:
        LabkitError: ``path`` is a folder, a device or a pipe, which renaming would replace.
    """
    if path.exists() and not path.is_file():
        raise LabkitError(f"{path} is not a file; name one to write to")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
