"""safetensors files, whole or in shards with an index."""

import re
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from ..errors import CheckpointError
from .json_file import read_json
from .safe_pickle import load_torch

INDEX_SUFFIX = ".index.json"
SHARD = re.compile(r"(.*)-\d+-of-\d+(\.\w+)")
MOST_TENSORS = 100_000  # a header may name millions of empty ones


def looks_like_safetensors(head: bytes) -> bool:
    """The first nine bytes: the length of a JSON object, at most 100 MB, and its brace."""
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors by name. The format holds no code, and the library checks every size against the file's."""
    if not path.stat().st_size:
        raise CheckpointError(f"{path}: the file is empty; copy it again")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if len(names) <= MOST_TENSORS:
                return {name: file.get_tensor(name) for name in names}
    except Exception as error:  # SafetensorError, or what an unknown dtype provokes
        raise CheckpointError(
            f"{path}: no readable safetensors file ({str(error).splitlines()[0]}); copy it again"
        ) from None
    raise CheckpointError(f"{path}: {len(names):,} tensors in one file; no model has so many")


def load_shards(index: Path) -> dict[str, Tensor]:
    """All tensors of the files that an index (``model.safetensors.index.json``) names; they lie beside it."""
    described = read_json(index)
    weight_map = described.get("weight_map") if isinstance(described, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: no weight_map in it; it does not say which file holds which tensor")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if not re.fullmatch(r"[\w-][\w.-]*", name):
            raise CheckpointError(f"{index}: refused, because it names {name!r}, which is no plain file name beside it")
        shard = index.with_name(name)
        if not shard.is_file():
            raise CheckpointError(f"{index}: the part {name} is missing; copy it again")
        part = load_safetensors(shard) if shard.suffix == ".safetensors" else load_torch(shard)
        if not isinstance(part, dict) or part.keys() & tensors.keys():
            raise CheckpointError(f"{shard}: no part of this checkpoint, or one that repeats tensors of another part")
        tensors.update(part)
    if absent := sorted(set(weight_map) - tensors.keys()):
        raise CheckpointError(f"{index}: {len(absent)} tensors are in none of its parts ({', '.join(absent[:3])} …)")
    return tensors


def index_of(path: Path) -> Path:
    """For one shard of several, the index beside it; any other path as it is."""
    match = SHARD.fullmatch(path.name)
    index = path.with_name(f"{match[1]}{match[2]}{INDEX_SUFFIX}") if match else path
    return index if index.is_file() else path
