"""The random numbers of labkit (SplitMix64 read at a place) and of llama.cpp (std::mt19937), written anew."""

import math

WORD = (1 << 64) - 1


def splitmix(z: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def uniform(seed: int, stream: int, step: int, place: int) -> float:
    """labkit's recorded noise in (0, 1): 52 bits of SplitMix64 at a place, keyed by seed, stream and step."""
    key = 0
    for part in (seed, stream, step):
        key = splitmix(((key ^ (part & WORD)) + 0x9E3779B97F4A7C15) & WORD)
    return ((splitmix((key + (place + 1) * 0x9E3779B97F4A7C15) & WORD) >> 12) + 0.5) / 2.0**52


def gumbel(seed: int, stream: int, step: int, place: int) -> float:
    return -math.log(-math.log(uniform(seed, stream, step, place)))


def mt19937(seed: int, n: int = 64) -> list[int]:
    """The first numbers of std::mt19937 (Matsumoto and Nishimura 1998)."""
    state = [seed & 0xFFFFFFFF]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ (state[-1] >> 30)) + i) & 0xFFFFFFFF)
    out = []
    for i in range(n):
        # Word i of the next generation is made of three of this one, which are still there.
        y = (state[i] & 0x80000000) | (state[i + 1] & 0x7FFFFFFF)
        y = state[i + 397] ^ (y >> 1) ^ (0x9908B0DF if y & 1 else 0)
        state.append(y)
        y ^= y >> 11
        y ^= (y << 7) & 0x9D2C5680
        y ^= (y << 15) & 0xEFC60000
        out.append(y ^ (y >> 18))
    return out
