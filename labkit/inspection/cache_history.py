"""The cache while a text is read: which positions every layer held after each token."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import ConfigError
from ..generation import encode_prompt, visible_from
from ..generation.steps import decode_step, prefill
from ..language_model import LanguageModel
from .cache import CacheReport, LayerCache, full_numbers, held_positions, kind_of, norms
from .hooks import apart, capture
from .progress import Progress, steps


@dataclass(frozen=True, repr=False)
class CacheHistory:
    """What the cache held after 1 … n tokens.

    Attributes:
        ids: the tokens that the cache saw: the last ones of a text that is longer than the context.
        report: after all of them.
        gone_after: layer by layer, for each position, how many tokens had been read when it was gone; None: never.
        skipped: so many tokens stood before them; positions count without those.
    """

    ids: tuple[int, ...]
    report: CacheReport
    gone_after: tuple[tuple[int | None, ...], ...]
    skipped: int = 0

    @property
    def n_tokens(self) -> int:
        return self.report.n_tokens

    def at(self, n: int) -> CacheReport:
        """What was held after the first n tokens."""
        layers = zip(self.report.layers, self.gone_after, strict=True)
        return CacheReport(n, tuple(_layer_at(layer, gone, n) for layer, gone in layers))

    def rows(self) -> list[dict[str, Any]]:
        """One row a layer, after all tokens."""
        return self.report.rows()

    def to_dict(self) -> dict[str, Any]:
        gone = [list(layer) for layer in self.gone_after]
        return {"ids": list(self.ids), "skipped": self.skipped, **self.report.to_dict(), "gone_after": gone}

    def __repr__(self) -> str:
        return f"CacheHistory(1 to {self.report!r})"


def _layer_at(layer: LayerCache, gone: Sequence[int | None], n: int) -> LayerCache:
    evicted = tuple(p for p, after in enumerate(gone[:n]) if after is not None and after <= n)
    return replace(
        layer,
        kept=tuple(sorted(set(range(n)) - set(evicted))),
        evicted=evicted,
        nbytes=layer.nbytes // len(layer.kept) * (n - len(evicted)),
        nbytes_full=layer.nbytes_full // len(gone) * n,
        key_norms=layer.key_norms[:n],
        value_norms=layer.value_norms[:n],
    )


@torch.inference_mode()
def cache_history(lm: LanguageModel, prompt: str | Sequence[int], *, progress: Progress = None) -> CacheHistory:
    """Read a text token by token and write down what leaves the cache when.

    Args:
        progress: a bar, or a function that is called with the tokens read and all of them; see ``Progress``.

    Raises:
        ConfigError: a wrapped function has no cache.
    """
    if not lm.model.blocks:
        raise ConfigError("this model is a wrapped function; it has no cache")
    ids, _ = encode_prompt(lm, prompt)
    skipped = visible_from(len(ids), lm.model.block_size, "crop")
    ids, cache = ids[skipped:], lm.model.new_cache()
    gone: list[list[int | None]] = [[None] * len(ids) for _ in cache.stores]
    there: list[set[int]] = [set() for _ in cache.stores]
    with apart(), capture(lm, ["blocks.*.k", "blocks.*.v"]) as acts:
        for n, token_id in enumerate(steps(ids, "reading", progress), start=1):
            if n == 1:
                prefill(lm.model, [[token_id]], cache)
            else:
                decode_step(lm.model, [token_id], cache)
            for after, held, store in zip(gone, there, cache.stores, strict=True):
                held.add(n - 1)
                left = held.difference(held_positions(store))
                held -= left
                for p in left:
                    after[p] = n
    layers = []
    for i, (block, store) in enumerate(zip(lm.model.blocks, cache.stores, strict=True)):
        attn: Any = block.attn
        layers.append(
            LayerCache(
                layer=i,
                kind=kind_of(attn),
                kept=tuple(held_positions(store)),
                evicted=tuple(p for p, after in enumerate(gone[i]) if after is not None),
                nbytes=store.nbytes,
                nbytes_full=len(ids) * full_numbers(attn) * store.held()[0].element_size(),
                key_norms=norms(acts[f"blocks.{i}.k"]),
                value_norms=norms(acts[f"blocks.{i}.v"]),
            )
        )
    return CacheHistory(tuple(ids), CacheReport(len(ids), tuple(layers)), tuple(map(tuple, gone)), skipped)


def cache_report(lm: LanguageModel, prompt: str | Sequence[int], *, progress: Progress = None) -> CacheReport:
    """What the cache holds after a text that is read token by token, as in a generation; see ``cache_history``."""
    return cache_history(lm, prompt, progress=progress).report
