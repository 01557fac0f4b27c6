"""Recorded noise: numbers that belong to (seed, stream, step, token id). No generator, no state, on any device."""

import torch
from torch import Tensor

MASK_64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
COIN = -1  # the place of the coin, which no token id has


def gumbel_noise(seed: int, stream: int, step: int, ids: Tensor) -> Tensor:
    """Standard Gumbel noise for each id (n,), float64 (n,)."""
    return uniform_noise(seed, stream, step, ids).log_().neg_().log_().neg_()


def coin(seed: int, stream: int, step: int) -> float:
    """A number in (0, 1) of this step itself, for what is decided once for all tokens."""
    return float(uniform_noise(seed, stream, step, torch.tensor([COIN])))


def uniform_noise(seed: int, stream: int, step: int, ids: Tensor) -> Tensor:
    """Uniform noise in (0, 1), never an end, for each id (n,), float64 (n,)."""
    key = 0
    for part in (seed, stream, step):
        key = splitmix((key ^ (part & MASK_64)) + GOLDEN)
    # SplitMix64 (Steele, Lea and Flood 2014) started at key, read at place `id`: a counter, so no order of calls.
    bits = _splitmix_tensor(key, ids)
    return ((bits >> 12) & ((1 << 52) - 1)).double().add_(0.5).mul_(2.0**-52)


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
