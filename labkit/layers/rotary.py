"""Rotary position embedding (Su et al. 2021, RoFormer), and the ways to stretch it over longer contexts."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Layout = Literal["interleaved", "half"]
Rotation = tuple[Tensor, Tensor]
MOST_ENTRIES = 1 << 27  # a million positions of heads of 128; a checkpoint that asks for more is damaged

MOST_POSITIONS = 1 << 21  # the tables have a row for each; a file that asks for more is damaged


@dataclass(frozen=True)
class LinearScaling:
    """All pairs turn ``factor`` times slower (Chen et al. 2023, position interpolation)."""

    factor: float

    def __call__(self, frequencies: Tensor) -> Tensor:
        return frequencies / self.factor


@dataclass(frozen=True)
class Llama3Scaling:
    """Slow pairs turn ``factor`` times slower, fast ones as before, those between go over smoothly (Llama 3.1).

    A pair is slow if it turns less than ``low_freq_factor`` times within ``original_positions``, fast if more than
    ``high_freq_factor`` times.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int

    def __call__(self, frequencies: Tensor) -> Tensor:
        turns = self.original_positions / (2 * math.pi / frequencies)  # (D/2,)
        smooth = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        smooth = smooth.clamp(0, 1)
        return (1 - smooth) * frequencies / self.factor + smooth * frequencies


@dataclass(frozen=True)
class PairScaling:
    """Pair j turns ``factors[j]`` times slower: how a GGUF file writes down Llama 3's rule."""

    factors: tuple[float, ...]

    def __call__(self, frequencies: Tensor) -> Tensor:
        return frequencies / torch.tensor(self.factors, device=frequencies.device)


Scaling = LinearScaling | Llama3Scaling | PairScaling


class Rotary(nn.Module):
    """Tables of cos and sin for every position; called once per forward, shared by all layers.

    Angle of pair j at position p: ``direction * p * base ** (-2 j / dim)``. ``direction=-1`` and a bfloat16 table are
    nanochat's, ``scaling`` is Llama's; all change the numbers, so they belong to the checkpoint.

    Args:
        dim: size of one head; even.
        n_positions: rows of the tables, positions 0 .. n_positions - 1.
        base: 10000 in all five reference systems.
        direction: +1 as in the paper, -1 turns the other way.
        table_dtype: the tables are rounded to this dtype once, then used in float32.
        scaling: slows pairs down, so that the angles of a longer context stay those seen in training; None: none.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        dim: int,
        n_positions: int,
        base: float = 10000.0,
        direction: int = 1,
        table_dtype: torch.dtype = torch.float32,
        scaling: Scaling | None = None,
    ):
        super().__init__()
        if n_positions * dim > MOST_ENTRIES:
            raise ValueError(f"{n_positions:,} positions of heads of {dim} are too many for rotary tables")
        self.n_positions = n_positions
        # On the CPU whatever the default device is: a model built on "meta" still has real tables.
        # 1 / base ** x and not base ** -x: the last bit is that of the systems that trained the weights.
        frequencies = 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)  # (D/2,)
        if scaling is not None:
            frequencies = scaling(frequencies)
        angles = torch.outer(torch.arange(n_positions, dtype=torch.float32, device="cpu"), frequencies)  # (P, D/2)
        self.register_buffer("cos", angles.cos().to(table_dtype).float(), persistent=False)
        self.register_buffer("sin", (direction * angles.sin()).to(table_dtype).float(), persistent=False)

    def forward(self, positions: Tensor) -> Rotation:
        """positions (B, T) -> cos, sin (B, 1, T, D/2). Position -1 (an empty slot) reads the last row, unused."""
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)


def rotate(x: Tensor, rotation: Rotation, layout: Layout) -> Tensor:
    """Turn the pairs of ``x`` (B, H, T, D): neighbours (2j, 2j+1), or halves (j, j + D/2)."""
    cos, sin = (table.to(x.dtype) for table in rotation)
    if layout == "interleaved":
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)  # (B, H, T, D/2) each
        return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)  # (B, H, T, D)
    a, b = x.chunk(2, dim=-1)  # (B, H, T, D/2) each
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)  # (B, H, T, D)
