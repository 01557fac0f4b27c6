"""Every rule of labkit and of the other systems, one after the other: see ``oracle``."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from oracle_noise import mt19937, uniform

Vector = np.ndarray
EXACT = 1e-9  # how near to its line a token may be before float64 may decide either way
SINGLE = 1e-5  # the same for float32, relative
SINGLE_MASS = 1e-6  # the same for a sum of probabilities in float32


class History(NamedTuple):
    """What was said before, and which step, continuation and seed this is."""

    prompt: Sequence[int] = ()
    generated: Sequence[int] = ()
    step: int = 0
    stream: int = 0
    seed: int = 0

    def seen(self, scope: str) -> list[int]:
        return {
            "all": [*self.prompt, *self.generated], "prompt": list(self.prompt), "generated": list(self.generated)
        }[scope]  # fmt: skip


class Expected(NamedTuple):
    """Logits after a stage (removed: -inf), and the tokens of which rounding may decide whether they stay."""

    logits: Vector
    undecided: Vector


Rule = Callable[[Vector, Any, Mapping[str, Any], History], Expected]


def sure(logits: Vector) -> Expected:
    return Expected(logits.astype(np.float32), np.zeros(len(logits), dtype=bool))


def cut(logits: Vector, kept: Vector, undecided: Vector) -> Expected:
    """Only the kept stay; what is removed already is not in doubt."""
    there = np.isfinite(logits)
    return Expected(np.where(kept, logits, -np.inf).astype(np.float32), undecided & there)


def softmax(logits: Vector) -> Vector:
    weights = np.exp(logits.astype(np.longdouble) - logits.max())
    return weights / weights.sum()


def log_softmax(logits: Vector) -> Vector:
    shifted = logits.astype(np.longdouble) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def entropy(logits: Vector) -> Any:
    log_p = log_softmax(logits)[np.isfinite(logits)]
    return -(np.exp(log_p) * log_p).sum()


def largest_first(logits: Vector) -> Vector:
    """Ids; of equal logits the smaller id first."""
    return np.argsort(-logits, kind="stable")


def mass_before(probabilities: Vector, order: Vector) -> Vector:
    """By id: the mass of all that come before it in an order."""
    out = np.empty_like(probabilities)
    out[order] = np.concatenate([[0], np.cumsum(probabilities[order])[:-1]])
    return out


# --- what looks at ids


def seen(settings: Mapping[str, Any], history: History) -> list[int]:
    ids = history.seen(settings["scope"])
    return ids[-settings["last"] :] if settings.get("last") else ids


def sign_aware_penalty(x: Vector, penalty: float, settings: Mapping[str, Any], history: History) -> Expected:
    out = x.copy()
    for i in set(seen(settings, history)):
        out[i] = x[i] / np.float32(penalty) if x[i] > 0 else x[i] * np.float32(penalty)
    return sure(out)


def divide_once(x: Vector, penalty: float, settings: Mapping[str, Any], history: History) -> Expected:
    out = x.copy()
    for i in set(seen(settings, history)):
        out[i] = x[i] / np.float32(penalty)
    return sure(out)


def divide_each_time(x: Vector, penalty: float, settings: Mapping[str, Any], history: History) -> Expected:
    out = x.copy()
    for i in seen(settings, history):
        out[i] = out[i] / np.float32(penalty)
    return sure(out)


def frequency(x: Vector, penalty: float, settings: Mapping[str, Any], history: History) -> Expected:
    out = x.copy()
    for i, n in Counter(seen(settings, history)).items():
        out[i] = x[i] - np.float32(penalty * n)
    return sure(out)


def presence(x: Vector, penalty: float, settings: Mapping[str, Any], history: History) -> Expected:
    out = x.copy()
    for i in set(seen(settings, history)):
        out[i] = x[i] - np.float32(penalty)
    return sure(out)


def dry(x: Vector, multiplier: float, settings: Mapping[str, Any], history: History) -> Expected:
    ids, out = history.seen(settings["scope"]), x.copy()
    base, allowed = settings.get("dry_base", 1.75), settings.get("dry_allowed_length", 2)
    longest: dict[int, int] = {}
    for end in range(len(ids) - 1):
        n = 0
        while n <= end and ids[end - n] == ids[-1 - n]:
            n += 1
        if n >= allowed:
            longest[ids[end + 1]] = max(n, longest.get(ids[end + 1], 0))
    for i, n in longest.items():
        growth = min((n - allowed) * math.log(base), 80.0)  # there it stops growing, before float32 does
        out[i] = x[i] - np.float32(multiplier * math.exp(growth))
    return sure(out)


def no_repeat_ngram(x: Vector, n: int, settings: Mapping[str, Any], history: History) -> Expected:
    ids, out = history.seen(settings["scope"]), x.copy()
    grams = {tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)}
    if len(ids) >= n:
        for token in range(len(x)):
            if (*ids[len(ids) - n + 1 :], token) in grams:
                out[token] = -np.inf
    return sure(out)


def logit_bias(x: Vector, bias: Mapping[int, float], settings: Mapping[str, Any], history: History) -> Expected:
    out = x.copy()
    for i, b in bias.items():
        out[i] = x[i] + np.float32(b)
    return sure(out)


def allowed_ids(x: Vector, ids: Sequence[int], settings: Mapping[str, Any], history: History) -> Expected:
    return sure(np.array([v if i in set(ids) else -np.inf for i, v in enumerate(x)], dtype=np.float32))


def forbidden_ids(x: Vector, ids: Sequence[int], settings: Mapping[str, Any], history: History) -> Expected:
    return sure(np.array([-np.inf if i in set(ids) else v for i, v in enumerate(x)], dtype=np.float32))


# --- temperature


def only_the_first_largest(x: Vector) -> Vector:
    out = np.full_like(x, -np.inf)
    out[x.argmax()] = x.max()
    return out


def temperature(x: Vector, t: float, settings: Mapping[str, Any], history: History) -> Expected:
    return sure(x / np.float32(t) if t > 0 else only_the_first_largest(x))


def clamped_temperature(x: Vector, t: float, settings: Mapping[str, Any], history: History) -> Expected:
    return sure(x / np.float32(max(t, 1e-6)))


def unchecked_temperature(x: Vector, t: float, settings: Mapping[str, Any], history: History) -> Expected:
    return sure(x / np.float32(t))


def positive_temperature(x: Vector, t: float, settings: Mapping[str, Any], history: History) -> Expected:
    return sure(x / np.float32(t) if t > 0 else x)


# --- what removes by size


def top_n_sigma(edge: float) -> Rule:
    def rule(x: Vector, n: float, settings: Mapping[str, Any], history: History) -> Expected:
        there = x[np.isfinite(x)].astype(np.longdouble)
        line = there.max() - n * np.sqrt(((there - there.mean()) ** 2).mean())
        near = np.abs(x - line) < edge * max(1.0, float(np.abs(there).max()))
        return cut(x, x >= line, near & (x < there.max()))

    return rule


def top_k(x: Vector, k: int, settings: Mapping[str, Any], history: History) -> Expected:
    line = np.sort(x)[::-1][min(k, len(x)) - 1]
    return cut(x, x >= line, np.zeros(len(x), dtype=bool))


def exactly_top_k(x: Vector, k: int, settings: Mapping[str, Any], history: History) -> Expected:
    kept = np.zeros(len(x), dtype=bool)
    kept[largest_first(x)[:k]] = True
    return cut(x, kept, np.zeros(len(x), dtype=bool))


def top_p(goes: Callable[[Any, Any], Any], edge: float, including_itself: bool = False) -> Rule:
    """A token goes if ``goes(mass before it, p)``; the first never does."""

    def rule(x: Vector, p: float, settings: Mapping[str, Any], history: History) -> Expected:
        probabilities, order = softmax(x), largest_first(x)
        mass = mass_before(probabilities, order) + (probabilities if including_itself else 0)
        kept, near = ~goes(mass, p), np.abs(mass - p) < edge
        kept[order[0]], near[order[0]] = True, False
        return cut(x, kept, near)

    return rule


def hf_top_p(x: Vector, p: float, settings: Mapping[str, Any], history: History) -> Expected:
    probabilities, order = softmax(x), np.argsort(x, kind="stable")  # the smallest first
    mass = mass_before(probabilities, order) + probabilities
    kept, near = mass > 1 - p, np.abs(mass - (1 - p)) < SINGLE_MASS
    kept[order[-1]], near[order[-1]] = True, False
    return cut(x, kept, near)


def min_p(edge: float) -> Rule:
    def rule(x: Vector, p: float, settings: Mapping[str, Any], history: History) -> Expected:
        share = np.exp(x.astype(np.longdouble) - x.max())
        return cut(x, share >= p, (np.abs(share - p) < edge * p) & (x < x.max()))

    return rule


def distances(x: Vector) -> Vector:
    """Of the surprisal from the entropy; of removed tokens inf."""
    return np.abs(-log_softmax(x) - entropy(x))


def not_clear(distance: Vector, x: Vector, kept: Vector, edge: float) -> Vector:
    """Tokens that went though they are as near as the last one that stayed, and have another logit."""
    there = np.isfinite(x)
    farthest = distance[kept & there].max()
    reach = edge * (1 + farthest)
    last = x[kept & there & (distance > farthest - reach)]
    return ~kept & there & (distance < farthest + reach) & ~np.isin(x, last)


def typical(goes: Callable[[Any, Any], Any], edge: float, mass_edge: float) -> Rule:
    def rule(x: Vector, p: float, settings: Mapping[str, Any], history: History) -> Expected:
        distance = distances(x)
        order = np.argsort(distance, kind="stable")
        mass = mass_before(softmax(x), order)
        kept, near = ~goes(mass, p), np.abs(mass - p) < mass_edge
        kept[order[0]], near[order[0]] = True, False
        return cut(x, kept, near | not_clear(distance, x, kept, edge))

    return rule


def hf_typical(x: Vector, p: float, settings: Mapping[str, Any], history: History) -> Expected:
    distance = distances(x)
    order = np.argsort(distance, kind="stable")
    running = np.cumsum(softmax(x)[order])
    last = min(int((running < p).sum()), len(x) - 1)
    kept = distance <= distance[order[last]]
    near = np.full(len(x), bool((np.abs(running - p) < SINGLE_MASS).any()))
    return cut(x, kept, near | not_clear(distance, x, kept, SINGLE))


def at_least(x: Vector, line: Any, edge: float) -> Expected:
    p = softmax(x)
    return cut(x, (p >= line) | (x == x.max()), (np.abs(p - line) < edge * line) & (x < x.max()))


def epsilon(edge: float) -> Rule:
    return lambda x, cutoff, settings, history: at_least(x, cutoff, edge)


def eta(edge: float) -> Rule:
    def rule(x: Vector, cutoff: float, settings: Mapping[str, Any], history: History) -> Expected:
        return at_least(x, min(cutoff, math.sqrt(cutoff) * np.exp(-entropy(x))), edge)

    return rule


def xtc(x: Vector, probability: float, settings: Mapping[str, Any], history: History) -> Expected:
    threshold, p = settings.get("xtc_threshold", 0.1), softmax(x)
    above = p >= threshold
    if uniform(history.seed, history.stream, history.step, -1) >= probability:
        return sure(x)
    least = p[above].min() if above.any() else np.inf
    return cut(x, ~above | (p == least), np.abs(p - threshold) < EXACT)


def llama_cpp_xtc(x: Vector, probability: float, settings: Mapping[str, Any], history: History) -> Expected:
    threshold, p, order = settings.get("xtc_threshold", 0.1), softmax(x), largest_first(x)
    numbers = mt19937(history.seed + history.stream)[: history.step + 1]
    if threshold > 0.5 or np.float32(numbers[-1] / 2**32) > np.float32(probability):
        return sure(x)
    kept = np.ones(len(x), dtype=bool)
    kept[order[: max(0, int((p >= threshold).sum()) - 1)]] = False
    return cut(x, kept, np.abs(p - threshold) < SINGLE)


def mirostat(x: Vector, tau: float, settings: Mapping[str, Any], history: History) -> Expected:
    """Its first step: μ = 2τ."""
    bits = -log_softmax(x) / math.log(2)
    near = (np.abs(bits - 2 * tau) < EXACT) | (bits - bits.min() < EXACT)
    return cut(x, (bits <= 2 * tau) | (x == x.max()), near & (x < x.max()))
