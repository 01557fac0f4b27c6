"""GGUF files: the header is read here, every length checked against the file; the ``gguf`` package dequantises.

(The package's own GGUFReader believes the lengths it finds: a 49-byte file keeps it busy for ever.)
"""

import math
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError

GGUF_MAGIC = b"GGUF"
STRING, ARRAY = 8, 9
# Value type -> format of one value; strings and arrays have lengths of their own.
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
SMALLEST_ENTRY = 8 + 4 + 1  # key length, type, one byte of value
SMALLEST_TENSOR = 8 + 4 + 4 + 8  # name length, number of dimensions, type, offset


Announced = tuple[str, tuple[int, ...], int, int]  # name, shape, type, offset


class TensorInfo(NamedTuple):
    shape: tuple[int, ...]  # as torch has it, slowest dimension first
    type: int
    start: int
    n_bytes: int


@dataclass(frozen=True)
class GGUF:
    """The header of a GGUF file, and its tensors on request.

    Attributes:
        values: metadata by key; strings as str, arrays as lists.
        infos: where each tensor lies.
    """

    path: Path
    values: Mapping[str, Any]
    infos: Mapping[str, TensorInfo]

    def type_name(self, name: str) -> str:
        return quantisation(self.infos[name].type).name

    def tensor(self, name: str) -> Tensor:
        """A tensor in float16, bfloat16 or float32 as it is, a quantised one in float32."""
        from gguf.quants import dequantize

        info, kind = self.infos[name], self.type_name(name)
        raw = np.fromfile(self.path, dtype=np.uint8, count=info.n_bytes, offset=info.start)
        if kind in ("F32", "F16", "BF16"):
            dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
            return torch.from_numpy(raw).view(dtype).reshape(info.shape)
        try:
            values = dequantize(raw.reshape(*info.shape[:-1], -1), quantisation(info.type))
        except NotImplementedError:
            raise CheckpointError(f"{self.path}: {name} is quantised as {kind}, which cannot be read") from None
        return torch.from_numpy(values).reshape(info.shape)


def quantisation(number: int) -> Any:
    """The gguf package's name for a tensor type."""
    from gguf.constants import GGMLQuantizationType

    return GGMLQuantizationType(number)


class Cursor:
    """Reads values one after the other, never past the end."""

    def __init__(self, data: mmap.mmap, path: Path):
        self.data, self.path, self.at = data, path, 0

    def take(self, n: int) -> int:
        """Skip n bytes; returns where they begin."""
        if n > len(self.data) - self.at:
            raise CheckpointError(f"{self.path}: cut short or damaged ({n:,} bytes announced at byte {self.at:,})")
        self.at += n
        return self.at - n

    def number(self, kind: str) -> Any:
        return struct.unpack_from(kind, self.data, self.take(struct.calcsize(kind)))[0]

    def count(self, smallest: int) -> int:
        """A number of things to come, each of at least ``smallest`` bytes."""
        n = self.number("<Q")
        if n * smallest > len(self.data) - self.at:
            raise CheckpointError(f"{self.path}: cut short or damaged ({n:,} entries announced at byte {self.at:,})")
        return n

    def string(self) -> str:
        n = self.number("<Q")
        start = self.take(n)
        return self.data[start : start + n].decode("utf-8")

    def value(self) -> Any:
        kind = self.number("<I")
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise CheckpointError(f"{self.path}: damaged (value type {kind} at byte {self.at:,})")
        element = self.number("<I")
        if element == STRING:
            return [self.string() for _ in range(self.count(8))]
        if element not in SCALARS:
            raise CheckpointError(f"{self.path}: damaged, or an array of arrays (type {element} at byte {self.at:,})")
        width = struct.calcsize(SCALARS[element])
        n = self.count(width)
        return np.frombuffer(self.data, np.dtype(SCALARS[element]), n, self.take(n * width)).tolist()


def read_gguf(path: Path) -> GGUF:
    """Read and check the header.

    Raises:
        CheckpointError: no GGUF, damaged, or announcing more than the file holds.
    """
    with path.open("rb") as file:
        if file.read(4) != GGUF_MAGIC:
            raise CheckpointError(f"{path}: no GGUF file, or a damaged one (it must begin with GGUF)")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return parse(Cursor(data, path))
            except UnicodeDecodeError:
                raise CheckpointError(f"{path}: damaged (a name or a text in its header is no UTF-8)") from None


def parse(cursor: Cursor) -> GGUF:
    path = cursor.path
    cursor.take(4)
    version = cursor.number("<I")
    if version not in (2, 3):
        raise CheckpointError(f"{path}: GGUF version {version}; labkit reads 2 and 3, little-endian")
    n_tensors = cursor.count(SMALLEST_TENSOR)
    n_values = cursor.count(SMALLEST_ENTRY)
    values: dict[str, Any] = {}
    for _ in range(n_values):
        key = cursor.string()
        if key in values:
            raise CheckpointError(f"{path}: damaged ({key} occurs twice)")
        values[key] = cursor.value()
    found: list[Announced] = []
    for _ in range(n_tensors):
        name, n_dims = cursor.string(), cursor.number("<I")
        if not 1 <= n_dims <= 4:
            raise CheckpointError(f"{path}: damaged ({name} has {n_dims} dimensions)")
        shape = tuple(cursor.number("<Q") for _ in range(n_dims))[::-1]
        found.append((name, shape, cursor.number("<I"), cursor.number("<Q")))
    alignment = values.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1:
        raise CheckpointError(f"{path}: damaged (alignment {alignment!r})")
    base = -(-cursor.at // alignment) * alignment
    return GGUF(path, values, place(found, base, len(cursor.data), path))


def place(found: Sequence[Announced], base: int, size: int, path: Path) -> dict[str, TensorInfo]:
    """Where each tensor lies; all within the file, no name twice, and no two over one another."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    known = set(GGMLQuantizationType)
    infos: dict[str, TensorInfo] = {}
    for name, shape, kind, offset in found:
        if name in infos:
            raise CheckpointError(f"{path}: damaged ({name} occurs twice)")
        if kind not in known:
            raise CheckpointError(f"{path}: {name} is of tensor type {kind}, which the gguf package does not know")
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        if shape[-1] % block or 0 in shape:
            raise CheckpointError(f"{path}: damaged ({name} is {shape}, which is no multiple of a block of {block})")
        n_bytes = math.prod(shape) // block * block_bytes
        end = base + offset + n_bytes
        if end > size:
            raise CheckpointError(f"{path}: cut short or damaged ({name} would end at byte {end:,} of {size:,})")
        infos[name] = TensorInfo(shape, kind, base + offset, n_bytes)
    end = base
    for info in sorted(infos.values(), key=lambda info: info.start):
        if info.start < end:
            raise CheckpointError(f"{path}: damaged (two tensors lie over one another at byte {info.start:,})")
        end = info.start + info.n_bytes
    return infos
