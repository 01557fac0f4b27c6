"""Where the recorded numbers of the reference systems are: the whole set where it exists, else tests/reference/."""

import atexit
import functools
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "tests" / "reference"


@functools.cache
def fixtures_root() -> Path:
    """Folder with labcore/, nanochat/ …: LABKIT_FIXTURES, else ../shared/fixtures, else the compact copy, unpacked."""
    whole = Path(os.environ.get("LABKIT_FIXTURES") or ROOT.parent / "shared" / "fixtures")
    if whole.is_dir():
        return whole
    unpacked = Path(tempfile.mkdtemp(prefix="labkit-reference-"))
    atexit.register(shutil.rmtree, unpacked, ignore_errors=True)
    for packed in sorted(REFERENCE.glob("*.tar.xz")):
        with tarfile.open(packed) as tar:  # our own archive; Python 3.11.0 to 3.11.3 have no filters yet
            tar.extractall(unpacked, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return unpacked


def is_whole() -> bool:
    """Whether this is the whole set, with the cases that are too large for the compact copy."""
    return not fixtures_root().name.startswith("labkit-reference-")


def read_json(*parts: str) -> Any:
    """A JSON file of the set, by its path in it."""
    return json.loads(fixtures_root().joinpath(*parts).read_text(encoding="utf-8"))


def read_arrays(*parts: str) -> dict[str, np.ndarray]:
    """An .npz file of the set, by its path in it."""
    with np.load(fixtures_root().joinpath(*parts)) as arrays:
        return {name: arrays[name] for name in arrays.files}


def model_cases(system: str) -> list[str]:
    """Names of a system's cases that hold a model with recorded logits."""
    found = fixtures_root().joinpath(system).glob("*/expected.npz")
    return sorted(path.parent.name for path in found if "filters" not in path.parts)
