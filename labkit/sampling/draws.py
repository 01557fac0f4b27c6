"""Draws: from the logits that the stages left to one id per row."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .stages import StepContext

MASK_64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


class Draw(Protocol):
    """How one token is chosen from what is left."""

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor: ...


@dataclass(frozen=True)
class Greedy:
    """The largest logit; of equal ones the smallest id."""

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        """logits (B, V) -> ids (B,)"""
        return logits.argmax(dim=-1)


@dataclass(frozen=True)
class Gumbel:
    """The recorded draw: argmax(logits + noise), which draws from softmax(logits) exactly (Gumbel 1954).

    The noise belongs to (seed, stream, step, token id). So a stage changes the pick only if it removed the winner, and
    the same seed gives the same ids in any batch, with or without cache, on any device.
    """

    seed: int

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        """logits (B, V) -> ids (B,)"""
        return torch.stack(
            [self._pick(row, stream, context.step) for row, stream in zip(logits, context.stream, strict=True)]
        )

    def _pick(self, logits: Tensor, stream: int, step: int) -> Tensor:
        kept = torch.isfinite(logits).nonzero().squeeze(-1)  # (n,): noise is only made for tokens still there
        return kept[(logits[kept].double() + gumbel_noise(self.seed, stream, step, kept)).argmax()]


def gumbel_noise(seed: int, stream: int, step: int, ids: Tensor) -> Tensor:
    """Standard Gumbel noise for each id (n,), float64 (n,). A pure function: no generator, no state."""
    key = 0
    for part in (seed, stream, step):
        key = splitmix((key ^ (part & MASK_64)) + GOLDEN)
    # SplitMix64 (Steele, Lea and Flood 2014) started at key, read at place `id`: a counter, so no order of calls.
    bits = _splitmix_tensor(key, ids)
    uniform = ((bits >> 12) & ((1 << 52) - 1)).double().add_(0.5).mul_(2.0**-52)  # in (0, 1), never an end
    return uniform.log_().neg_().log_().neg_()


def splitmix(z: int) -> int:
    """The finaliser of SplitMix64 on Python integers."""
    z &= MASK_64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK_64
    return z ^ (z >> 31)


def _splitmix_tensor(key: int, ids: Tensor) -> Tensor:
    """splitmix(key + (id + 1) * GOLDEN) for each id, in int64: products wrap as unsigned ones do."""
    z = (ids + 1) * _signed(GOLDEN) + _signed(key)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, n: int) -> Tensor:
    """Logical shift right; torch's is arithmetic."""
    return (z >> n) & ((1 << (64 - n)) - 1)


def _signed(z: int) -> int:
    return z - (1 << 64) if z >= 1 << 63 else z
