"""Numbers as pictures in a page: one pixel a number, a PNG of our own making inside the HTML."""

import base64
import functools
import struct
import zlib
from typing import Any

from .colours import palette

SHADES = 32  # few enough that a picture stays small, many enough that the eye sees no steps
POWER = 0.5  # weights are mostly small: their square root is what is shown


def shades(weights: Any) -> Any:
    """Weights in 0 … 1, any shape -> uint8 of that shape: which colour of the palette each has."""
    import numpy as np

    return np.rint(np.clip(np.asarray(weights, dtype=np.float32), 0, 1) ** POWER * (SHADES - 1)).astype(np.uint8)


def data_uri(pixels: Any) -> str:
    """A PNG of palette indices, uint8 (h, w), as a data: address. The first colour is the page's own."""
    import numpy as np

    height, width = pixels.shape
    lines = np.zeros((height, width + 1), dtype=np.uint8)  # every line begins with its filter: none
    lines[:, 1:] = pixels
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, indexed
    body = zlib.compress(lines.tobytes(), 6)
    parts = _chunk(b"IHDR", header) + _colours() + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


@functools.cache
def _colours() -> bytes:
    colours = bytes(round(255 * channel) for colour in palette(SHADES) for channel in colour)
    return _chunk(b"PLTE", colours) + _chunk(b"tRNS", b"\x00")  # of the first, nothing is seen


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
