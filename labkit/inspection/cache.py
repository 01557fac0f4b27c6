"""What the KV cache holds, layer by layer; and an audit: does it say what a run without it says?"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..cache import KVCache
from ..errors import ConfigError
from ..generation import stream, visible_from
from ..generation.steps import decode_step, prefill
from ..language_model import LanguageModel
from ..layers.latent_attention import LatentAttention
from ..settings import Settings
from .hooks import apart, capture
from .progress import Progress, steps

TOLERANCE = 1e-4  # of logits in float32


@dataclass(frozen=True)
class LayerCache:
    """One layer's store after a text.

    Attributes:
        kind: "full", "window 256 + 4 sinks" or "latent of 64".
        kept: positions that are held.
        evicted: positions that were there and are gone.
        nbytes: of what is held.
        nbytes_full: what keys and values of every head for every token would have cost.
        key_norms, value_norms: per position, mean over the heads, of every token when it was new.
    """

    layer: int
    kind: str
    kept: tuple[int, ...]
    evicted: tuple[int, ...]
    nbytes: int
    nbytes_full: int
    key_norms: tuple[float, ...]
    value_norms: tuple[float, ...]


@dataclass(frozen=True, repr=False)
class CacheReport:
    """What the cache of a model holds after n tokens."""

    n_tokens: int
    layers: tuple[LayerCache, ...]

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    def rows(self) -> list[dict[str, Any]]:
        """One row a layer."""
        return [
            {
                "layer": layer.layer,
                "kind": layer.kind,
                "slots": len(layer.kept),
                "positions": spans(layer.kept),
                "evicted": spans(layer.evicted),
                "bytes": layer.nbytes,
                "of full keys": round(layer.nbytes / layer.nbytes_full, 3),
            }
            for layer in self.layers
        ]

    def to_dict(self) -> dict[str, Any]:
        return {"n_tokens": self.n_tokens, "layers": [asdict(layer) for layer in self.layers]}

    def __repr__(self) -> str:
        full = sum(layer.nbytes_full for layer in self.layers)
        return f"CacheReport({self.n_tokens} tokens, {self.nbytes:,} bytes; {full:,} with full keys)"


@torch.inference_mode()
def cache_growth(lm: LanguageModel, lengths: Sequence[int]) -> list[dict[str, int]]:
    """Bytes of the cache for texts of these lengths, measured on made-up ids: one row each."""
    if too_long := [n for n in lengths if not 0 < n <= lm.model.block_size]:
        raise ConfigError(f"length {too_long[0]} is not from 1 to the context of {lm.model.block_size} tokens")
    rows = []
    for n in lengths:
        cache = lm.model.new_cache()
        prefill(lm.model, [[i % lm.vocab_size for i in range(n)]], cache)
        rows.append({"tokens": n, "bytes": cache.nbytes, "a token": cache.nbytes // n})
    return rows


def kind_of(attn: Any) -> str:
    if isinstance(attn, LatentAttention):
        return f"latent of {attn.kv_a_sizes[0]}"
    if attn.window is not None:
        return f"window {attn.window.size} + {attn.window.sinks} sinks"
    return "full"


def full_numbers(attn: Any) -> int:
    """Numbers for one token in keys and values of every head, as plain attention would keep them."""
    if isinstance(attn, LatentAttention):
        return attn.n_head * (sum(attn.q_sizes) + attn.kv_b_sizes[1])
    return sum(attn.sizes[1:])


def held_positions(store: Any) -> list[int]:
    positions = store.held()[2][0]
    return sorted(positions[positions >= 0].tolist())


def norms(x: Tensor) -> tuple[float, ...]:
    """(1, K, n, D) -> mean norm over the heads, per token."""
    return tuple(round(value, 4) for value in x[0].norm(dim=-1).mean(dim=0).tolist())


def spans(positions: Sequence[int]) -> str:
    """0–3, 9–20: runs of positions."""
    out: list[list[int]] = []
    for p in positions:
        if out and out[-1][1] == p - 1:
            out[-1][1] = p
        else:
            out.append([p, p])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in out) or "none"


@dataclass(frozen=True, repr=False)
class Audit:
    """Cached against uncached, at some lengths of one text.

    Attributes:
        checks: per length: largest |Δlogit|, the likeliest token with and without cache, and its largest |Δkey|.
        faults: what is wrong, in words; empty for a healthy cache.
    """

    checks: tuple[dict[str, Any], ...]
    faults: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.faults

    @property
    def largest(self) -> float:
        """Largest |Δlogit| of all checks."""
        return max(check["max |Δlogit|"] for check in self.checks)

    @property
    def first_flip(self) -> int | None:
        """The first length at which the likeliest token differs."""
        return next((check["tokens"] for check in self.checks if check["cached"] != check["uncached"]), None)

    def rows(self) -> list[dict[str, Any]]:
        return [dict(check) for check in self.checks]

    def to_dict(self) -> dict[str, Any]:
        return {"checks": self.rows(), "faults": list(self.faults)}

    def __repr__(self) -> str:
        verdict = "healthy" if self.ok else f"{len(self.faults)} faults: {self.faults[0]}"
        return f"Audit({len(self.checks)} checks, {verdict})"


@torch.inference_mode()
def audit_cache(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    settings: Settings | None = None,
    *,
    every: int = 8,
    tolerance: float = TOLERANCE,
    progress: Progress = None,
    **changes: Any,
) -> Audit:
    """Write on from a prompt without the cache, follow with it, and compare the two.

    At every so many tokens: the logits, the keys and values that the cache holds against freshly computed ones of the
    same positions, and which positions it holds against those its window leaves. Past the context the text is cropped
    as in a generation.

    Args:
        every: so many tokens lie between two checks.
        tolerance: of logits, and of keys and values relative to the largest.
        progress: a bar, or a function that is called with the tokens done and all of them; see ``Progress``.
        changes: fields of Settings, of the text that is written.
    """
    if not lm.model.blocks:
        raise ConfigError("this model is a wrapped function; it has no cache")
    if every < 1:
        raise ConfigError(f"every is {every}; it must be at least 1")
    model, run = lm.model, stream(lm, prompt, settings, use_cache=False, **{"overflow": "crop"} | changes)
    checks: list[dict[str, Any]] = []
    faults: list[str] = []
    cache: KVCache | None = None
    moments = itertools.chain([None], run)  # before the first new token, and after each
    for _ in steps(moments, "auditing", progress, total=run.settings.max_new_tokens + 1):
        ids = run.prompt_ids + run.ids
        n = len(ids)
        start = visible_from(n, model.block_size, "crop")
        if cache is not None and cache.length == n - start - 1:
            logits = decode_step(model, [ids[-1]], cache)[0]
        else:
            cache = model.new_cache()
            logits = prefill(model, [ids[start:]], cache)[0]
        if len(run.ids) % every and run.finish_reason is None:
            continue
        with apart(), capture(lm, ["blocks.*.k", "blocks.*.v"]) as fresh:
            plain = prefill(model, [ids[start:]], None)[0]
        found, difference = compare_stores(lm, cache, fresh, n - start, tolerance)
        faults += [f"at {n} tokens, {fault}" for fault in found]
        largest = float((logits - plain).abs().max())
        checks.append(
            {
                "tokens": n,
                "max |Δlogit|": largest,
                "cached": int(logits.argmax()),
                "uncached": int(plain.argmax()),
                "max |Δkey|": difference,
            }
        )
        if largest > tolerance:
            faults.append(f"at {n} tokens, logits differ by {largest:.3g} (allowed are {tolerance:.1g})")
    return Audit(tuple(checks), tuple(faults))


def compare_stores(lm: LanguageModel, cache: KVCache, fresh: Any, n: int, tolerance: float) -> tuple[list[str], float]:
    """What is wrong with what a cache holds after n tokens, layer by layer; and the largest difference of a key."""
    faults, largest = [], 0.0
    for i, store in enumerate(cache.stores):
        attn: Any = lm.model.blocks[i].get_submodule("attn")
        window = attn.window
        wanted = [p for p in range(n) if window is None or n - 1 - p < window.size or p < window.sinks]
        held = held_positions(store)
        if held != wanted:
            faults.append(f"layer {i} holds positions {spans(held)}, and should hold {spans(wanted)}")
        keys, values, positions = store.held()
        there = (positions[0] >= 0) & (positions[0] < n)
        for name, mine in (("keys", keys), ("values", values)):
            theirs = fresh[f"blocks.{i}.{name[0]}"][0]  # (K, n, D)
            if not mine.shape[-1]:  # a latent cache keeps its values within its keys
                continue
            apart = (
                (mine[0][:, there].float().cpu() - theirs[:, positions[0][there].cpu()]).abs().amax(dim=(0, 2))
            )  # (S,)
            scale = max(1.0, float(theirs.abs().max()))
            if name == "keys" and len(apart):
                largest = max(largest, float(apart.max()))
            if bool((apart > tolerance * scale).any()):
                bad = sorted(positions[0][there][apart > tolerance * scale].tolist())
                faults.append(f"layer {i} holds other {name} than a fresh run at positions {spans(bad)}")
    return faults, largest
