"""Steps of the model: prefill, decode, and a feed that keeps several rows going on caches they share."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..cache import KVCache
from ..models import CausalLM
from ..settings import Overflow, Settings


def prefill(model: CausalLM, rows: Sequence[Sequence[int]], cache: KVCache | None) -> Tensor:
    """All visible ids of every row at once -> logits of each row's next token (B, V).

    Shorter rows are padded on the left, by slots at position -1, which no mask shows to anyone.
    """
    width = max(map(len, rows))
    batch = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=model.device)  # (B, T)
    positions = None
    if any(len(row) < width for row in rows):
        padding = torch.tensor([width - len(row) for row in rows], device=model.device)
        positions = (torch.arange(width, device=model.device) - padding[:, None]).clamp(min=-1)  # (B, T)
    return model.unembed(model.hidden(batch, cache, positions)[:, -1:])[:, 0]


def decode_step(model: CausalLM, ids: Sequence[int], cache: KVCache) -> Tensor:
    """One more id of every row on a cache -> logits of each row's next token (B, V)."""
    # Past its tables only a rolling cache goes: LabCore puts every further token at the last position there is.
    position = cache.next_position.clamp(max=model.n_positions - 1)[:, None]  # (B, 1)
    batch = torch.tensor(ids, device=position.device)[:, None]  # (B, 1)
    return model.unembed(model.hidden(batch, cache, position))[:, 0]


def visible_from(n: int, block_size: int, overflow: Overflow) -> int:
    """Index of the first of n ids that the model sees.

    "crop" drops the oldest quarter at once, so that prefilling anew stays rare; it depends on n alone, hence is the
    same with and without cache. "recrop" always shows the last block_size ids.
    """
    extra = max(0, n - block_size)
    if overflow != "crop":
        return extra
    quarter = max(1, block_size // 4)
    return -(-extra // quarter) * quarter


class Ids(Protocol):
    """What a feed reads of a row."""

    prompt_ids: list[int]
    ids: list[int]


def visible(row: Ids, start: int) -> list[int]:
    """The row's ids, prompt and new ones, from ``start`` on."""
    n = len(row.prompt_ids)
    return row.prompt_ids[start:] + row.ids if start < n else row.ids[start - n :]


@dataclass(eq=False)
class Group:
    """Rows that share a cache; of each it holds all ids from its start on but the last."""

    rows: list[Ids]
    starts: list[int]
    cache: KVCache


class KeptCache(NamedTuple):
    """The cache of a run that has ended, which holds its ids from ``start`` on but the last."""

    model: CausalLM
    start: int
    cache: KVCache


class Feed:
    """Logits of the next token for rows that go on together.

    A row stays in its group as long as its cache can be decoded on: till older ids drop out of its sight. Then it is
    prefilled anew, together with all others that this happens to at the same step. So past the context rows of equal
    length stay together, and others end up in groups of their own.
    """

    def __init__(self, model: CausalLM, settings: Settings):
        self.model, self.settings = model, settings
        self.groups: list[Group] = []
        self.rolling = settings.overflow == "labcore"
        self.caches = settings.use_cache and len(model.blocks) > 0  # a wrapped function has no blocks, hence no cache

    def __call__(self, rows: Sequence[Ids]) -> list[Tensor]:
        """The next logits (V,) of these rows, float32 on the CPU; rows that are no longer among them are dropped."""
        try:
            with torch.inference_mode(), deterministic_kernels(self.settings.deterministic):
                return self._next(rows)
        except BaseException:
            self.groups = []  # some layers may hold the token and others not; going on prefills again
            raise

    def keep(self, row: Ids) -> KeptCache | None:
        """The cache of a row that runs alone, for ``resume``."""
        if self.rolling or not self.groups:
            return None
        (group,) = self.groups
        return KeptCache(self.model, group.starts[0], group.cache.fork())

    def resume(self, row: Ids, kept: KeptCache) -> None:
        """Go on with a cache that was kept of the same ids, wound back to this row's, where that is possible."""
        n = len(row.prompt_ids) + len(row.ids) - 1 - kept.start
        if kept.model is not self.model or not 0 < n <= kept.cache.length or not self.caches or self.rolling:
            return
        cache = kept.cache.fork()
        if n < cache.length:
            try:
                cache.truncate(n)
            except ValueError:  # it has forgotten tokens, or carries something of the last one
                return
        self.groups = [Group([row], [kept.start], cache)]

    def _next(self, rows: Sequence[Ids]) -> list[Tensor]:
        out: dict[int, Tensor] = {}
        wanted = {id(row) for row in rows}
        for group in self.groups:
            self._keep(group, wanted)
        self.groups = [group for group in self.groups if group.rows]
        for group in self.groups:
            logits = decode_step(self.model, [(row.ids or row.prompt_ids)[-1] for row in group.rows], group.cache)
            out |= zip(map(id, group.rows), logits.float().cpu(), strict=True)
        for together in self._fresh([row for row in rows if id(row) not in out]):
            out |= zip(map(id, together), self._prefill(together).float().cpu(), strict=True)
        return [out[id(row)] for row in rows]

    def _start(self, row: Ids) -> int:
        """Index of the first id that the row's next step sees; of a rolling cache, that its prefill saw."""
        n = len(row.prompt_ids) if self.rolling else len(row.prompt_ids) + len(row.ids)
        return visible_from(n, self.model.block_size, self.settings.overflow)

    def _keep(self, group: Group, wanted: set[int]) -> None:
        """Drop the rows that are not wanted, or that see less than the cache holds."""
        places = range(len(group.rows))
        kept = [i for i in places if id(group.rows[i]) in wanted and self._start(group.rows[i]) == group.starts[i]]
        if 0 < len(kept) < len(group.rows):
            group.cache.select(torch.tensor(kept, device=group.cache.next_position.device))
        group.rows, group.starts = [group.rows[i] for i in kept], [group.starts[i] for i in kept]

    def _fresh(self, rows: list[Ids]) -> Iterable[list[Ids]]:
        """The rows that have to be prefilled, in parts that can be."""
        parts: dict[int, list[Ids]] = {}
        for row in rows:
            alike = 0
            if self.rolling:
                alike = len(row.ids)  # what a rolling cache drops depends on how the tokens came
            elif not len(self.model.blocks):
                alike = len(row.prompt_ids) + len(row.ids)  # a wrapped function knows no padding
            parts.setdefault(alike, []).append(row)
        return parts.values()

    def _prefill(self, rows: list[Ids]) -> Tensor:
        """Logits (B, V) after all visible ids; rows that see the same are computed once."""
        starts = [self._start(row) for row in rows]
        seen = [
            tuple(row.prompt_ids[start:] if self.rolling else visible(row, start))
            for row, start in zip(rows, starts, strict=True)
        ]
        once = list(dict.fromkeys(seen))
        cache = None
        if self.rolling:
            cache = self.model.new_rolling_cache(len(once))
        elif self.caches:
            cache = self.model.new_cache(len(once))
        logits = prefill(self.model, once, cache)
        if len(once) < len(rows):
            places = torch.tensor([once.index(ids) for ids in seen], device=logits.device)
            logits = logits[places]
            if cache is not None:
                cache.select(places)
        if cache is not None:
            for ids in zip(*(row.ids for row in rows), strict=True) if self.rolling else ():
                logits = decode_step(self.model, ids, cache)
            self.groups.append(Group(list(rows), starts, cache))
        return logits


@contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """Ask torch for deterministic kernels, and put the previous setting back."""
    if not wanted:
        yield
        return
    before, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
