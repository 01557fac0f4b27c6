"""The KV cache: what every layer keeps of the tokens seen so far, and the one clock.

A store keeps one layer's keys and values. ``append`` returns everything this step may look at (kept slots and all new
ones) with their positions, and only then evicts; so a mask made from positions is right for any prompt length and any
chunking. The model advances the clock once per forward (``KVCache.advance``); no layer does.
"""

from typing import Any

import torch
from torch import Tensor


class Slots:
    """Which position each slot holds (B, S). Stores of one kind share it: every layer writes the same numbers."""

    def __init__(self, positions: Tensor):
        self._replace(positions)

    def _replace(self, positions: Tensor) -> None:
        self.positions = positions
        self._used = positions[:, :0]

    @classmethod
    def empty(cls, batch: int, capacity: int, device: torch.device) -> "Slots":
        return cls(torch.full((batch, capacity), -1, dtype=torch.long, device=device))

    def write(self, start: int, positions: Tensor) -> Tensor:
        """Put positions (B, T) at ``start``; returns all up to there (B, S), the same tensor for every layer."""
        end = start + positions.shape[1]
        self.reserve(end)
        self.positions[:, start:end] = positions
        if self._used.shape[1] != end:
            self._used = self.positions[:, :end]
        return self._used

    def reserve(self, n: int) -> None:
        """Make room for n slots, at least doubling, so that growing stays cheap however long the run."""
        capacity = self.positions.shape[1]
        if n > capacity:
            more = self.positions.new_full((self.positions.shape[0], max(n, 2 * capacity) - capacity), -1)
            self._replace(torch.cat((self.positions, more), dim=1))  # (B, S)

    def fork(self) -> "Slots":
        return Slots(self.positions.clone())

    def select(self, rows: Tensor) -> None:
        self._replace(self.positions[rows])


class FullStore:
    """Keeps every key and value. Buffers are preallocated and doubled when full, so a step costs no Python per token.

    Attributes:
        complete: nothing was evicted so far, so the store can be wound back.
    """

    complete = True

    def __init__(self, slots: Slots):
        self.slots = slots
        self.n = 0
        self.k: Tensor | None = None
        self.v: Tensor | None = None
        self._shared = False

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add k, v (B, K, T, D) at positions (B, T); returns all keys, values (B, K, S, D) and positions (B, S)."""
        end = self.n + k.shape[2]
        k_positions = self.slots.write(self.n, positions)
        self._reserve(end, k, v)
        assert self.k is not None and self.v is not None
        self.k[:, :, self.n : end] = k
        self.v[:, :, self.n : end] = v
        self.n = end
        return self.k[:, :, :end], self.v[:, :, :end], k_positions

    def _reserve(self, n: int, k: Tensor, v: Tensor) -> None:
        if self.k is None or self.v is None:
            self.k, self.v = self._buffer(k), self._buffer(v)
        elif n > self.k.shape[2] or self._shared:
            kept = self.k[:, :, : self.n], self.v[:, :, : self.n]
            self.k, self.v = self._buffer(k), self._buffer(v)
            self.k[:, :, : self.n], self.v[:, :, : self.n] = kept
        self._shared = False

    def _buffer(self, x: Tensor) -> Tensor:
        return x.new_empty(*x.shape[:2], self.slots.positions.shape[1], x.shape[3])  # (B, K, S, D)

    def fork(self, slots: Slots) -> "FullStore":
        """A second store with the same prefix; the buffers are shared until either side writes."""
        other = FullStore(slots)
        other.n, other.k, other.v = self.n, self.k, self.v
        other._shared = self._shared = self.k is not None
        return other

    def truncate(self, n: int) -> None:
        """Forget all but the first n slots."""
        self.n = min(self.n, n)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may appear twice."""
        if self.k is not None and self.v is not None:
            self.k, self.v, self._shared = self.k[rows], self.v[rows], False

    @property
    def seen(self) -> Tensor:
        """Positions (B, S) of what the newest ``append`` returned."""
        return self.slots.positions[:, : self.n]

    def held(self) -> tuple[Tensor, Tensor, Tensor]:
        """What is kept: keys and values (B, K, S, D), and positions (B, S); -1: an empty slot."""
        assert self.k is not None and self.v is not None
        return self.k[:, :, : self.n], self.v[:, :, : self.n], self.seen

    @property
    def nbytes(self) -> int:
        """Bytes that the kept keys and values take (not the spare capacity)."""
        if self.k is None or self.v is None:
            return 0
        return sum(x[:, :, : self.n].numel() * x.element_size() for x in (self.k, self.v))


class NewestStore:
    """Keeps the newest ``capacity`` slots whatever their positions: LabCore's cache, which cuts before it attends.

    Slots move here, so every such store has Slots of its own.
    """

    complete = False

    def __init__(self, slots: Slots, capacity: int):
        self.slots = slots
        self.capacity = capacity
        self.full = FullStore(slots)

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add k, v (B, K, T, D) at positions (B, T), drop the oldest beyond capacity, return what is left."""
        k, v, positions = self.full.append(k, v, positions)
        extra = self.full.n - self.capacity
        if extra <= 0:
            return k, v, positions
        newest = k[:, :, extra:].clone(), v[:, :, extra:].clone(), positions[:, extra:].clone()
        self.full.truncate(0)
        return self.full.append(*newest)

    def fork(self, slots: Slots) -> "NewestStore":
        other = NewestStore(slots, self.capacity)
        other.full = self.full.fork(slots)
        return other

    def truncate(self, n: int) -> None:
        self.full.truncate(n)

    def select(self, rows: Tensor) -> None:
        self.full.select(rows)

    @property
    def seen(self) -> Tensor:
        return self.full.seen

    def held(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.full.held()

    @property
    def nbytes(self) -> int:
        return self.full.nbytes


class LatentStore:
    """Keeps what latent attention needs: per token the normed latent and the rotated key side by side (B, 1, S, R + D).

    The values are the latents, which are a part of the keys, so nothing is stored for them.
    """

    complete = True

    def __init__(self, slots: Slots):
        self.slots = slots
        self.full = FullStore(slots)

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add k (B, 1, T, R + D), of which v is the first R; returns all of both, and their positions (B, S)."""
        k, _, k_positions = self.full.append(k, v[..., :0], positions)
        return k, k[..., : v.shape[-1]], k_positions

    def fork(self, slots: Slots) -> "LatentStore":
        other = LatentStore(slots)
        other.full = self.full.fork(slots)
        return other

    def truncate(self, n: int) -> None:
        self.full.truncate(n)

    def select(self, rows: Tensor) -> None:
        self.full.select(rows)

    @property
    def seen(self) -> Tensor:
        return self.full.seen

    def held(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.full.held()

    @property
    def nbytes(self) -> int:
        return self.full.nbytes


class WindowSlots:
    """The slots of all layers with one window: which position each holds, and where the next tokens go.

    Worked out once per forward, by the first layer that appends; the others find it done. What leaves the window is the
    slot that the next token is written to, so a decode step moves nothing in memory and slots are in no order.

    Attributes:
        size, sinks: the last ``size`` positions and the first ``sinks`` ones are kept.
        positions: (B, S) what is kept; -1: an empty slot.
        seen: (B, S) what the newest forward looked at: what was kept before, and its own.
        into: (B, 1) slot for the one token of this forward; None: behind the others.
        kept: (B, size + sinks) slots of ``seen`` that stay, in the forwards that move any; None: all.
        complete: nothing was evicted so far.
    """

    def __init__(self, positions: Tensor, size: int, sinks: int):
        self.size, self.sinks = size, sinks
        self.positions = self.seen = positions
        self.into: Tensor | None = None
        self.kept: Tensor | None = None
        self.complete = True
        self.forwards = 0

    @classmethod
    def empty(cls, batch: int, size: int, sinks: int, device: torch.device) -> "WindowSlots":
        return cls(torch.full((batch, 0), -1, dtype=torch.long, device=device), size, sinks)

    def append(self, forward: int, positions: Tensor) -> Tensor:
        """Take in positions (B, T), unless a layer did so already in this forward; returns ``seen``."""
        if forward == self.forwards:
            self.forwards += 1
            self._append(positions)
        return self.seen

    def _append(self, positions: Tensor) -> None:
        self.into = self.kept = None
        limit, n = self.size + self.sinks, self.positions.shape[1]
        if n > limit and positions.shape[1] == 1:
            self.into = self._least()
            self.seen = self.positions.scatter(1, self.into, positions)  # (B, limit + 1)
        else:
            self.seen = torch.cat((self.positions, positions), dim=1)  # (B, S)
        self.positions = self.seen
        n = self.seen.shape[1]
        if n == limit + 1:
            self.positions = self.seen.scatter(1, self._least(), -1)
        elif n > limit + 1:
            self.kept = self._worth().topk(limit, dim=1).indices.sort(dim=1).values  # (B, limit)
            self.positions = self.seen.gather(1, self.kept)
        self.complete = self.complete and n <= limit

    def _worth(self) -> Tensor:
        """Empty slots are worth least, newer ones more than older ones, sinks most."""
        is_sink = (self.positions >= 0) & (self.positions < self.sinks)
        return self.positions.masked_fill(is_sink, torch.iinfo(self.positions.dtype).max)

    def _least(self) -> Tensor:
        return self._worth().argmin(dim=1, keepdim=True)  # (B, 1)

    def fork(self) -> "WindowSlots":
        other = WindowSlots(self.positions, self.size, self.sinks)
        other.complete, other.forwards = self.complete, self.forwards
        return other

    def truncate(self, n: int) -> None:
        self.positions = self.positions[:, :n]

    def select(self, rows: Tensor) -> None:
        self.positions = self.positions[rows]


class WindowStore:
    """Keeps the keys and values of the last ``size`` positions and of the first ``sinks``, as its slots say."""

    def __init__(self, slots: WindowSlots):
        self.slots = slots
        self.forwards = 0
        self.n = 0
        self.k: Tensor | None = None
        self.v: Tensor | None = None
        self._shared = False

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add k, v (B, K, T, D) at positions (B, T); returns what was kept and all of these, with positions (B, S)."""
        slots, self.forwards = self.slots, self.forwards + 1
        seen = slots.append(self.forwards - 1, positions)
        start, self.n = self.n, seen.shape[1]
        self._reserve(start, k, v)
        assert self.k is not None and self.v is not None
        for buffer, new in ((self.k, k), (self.v, v)):
            if slots.into is None:
                buffer[:, :, start : self.n] = new
            else:
                buffer.scatter_(2, along(slots.into, new), new)
        k, v = self.k[:, :, : self.n], self.v[:, :, : self.n]  # (B, K, S, D)
        if slots.kept is not None:
            self.k, self.v = (x.gather(2, along(slots.kept, x)) for x in (k, v))  # (B, K, size + sinks, D)
            self.n = self.k.shape[2]
        return k, v, seen

    def _reserve(self, start: int, k: Tensor, v: Tensor) -> None:
        """Room for n slots in buffers that no fork shares; the first ``start`` of them are filled."""
        if self.k is None or self.v is None:
            self.k, self.v = self._buffer(k), self._buffer(v)
        elif self.n > self.k.shape[2] or self._shared:
            kept = self.k[:, :, :start], self.v[:, :, :start]
            self.k, self.v = self._buffer(k), self._buffer(v)
            self.k[:, :, :start], self.v[:, :, :start] = kept
        self._shared = False

    def _buffer(self, x: Tensor) -> Tensor:
        most = self.slots.size + self.slots.sinks + 1
        return x.new_empty(*x.shape[:2], max(self.n, min(2 * self.n, most)), x.shape[3])  # (B, K, S, D)

    @property
    def complete(self) -> bool:
        return self.slots.complete

    @property
    def seen(self) -> Tensor:
        return self.slots.seen

    def held(self) -> tuple[Tensor, Tensor, Tensor]:
        assert self.k is not None and self.v is not None
        n = self.slots.positions.shape[1]
        return self.k[:, :, :n], self.v[:, :, :n], self.slots.positions

    def fork(self, slots: WindowSlots) -> "WindowStore":
        other = WindowStore(slots)
        other.forwards, other.n, other.k, other.v = self.forwards, self.n, self.k, self.v
        other._shared = self._shared = self.k is not None
        return other

    def truncate(self, n: int) -> None:
        self.n = min(self.n, n)
        self.slots.truncate(n)

    def select(self, rows: Tensor) -> None:
        if self.k is not None and self.v is not None:
            self.k, self.v, self._shared = self.k[rows], self.v[rows], False

    @property
    def nbytes(self) -> int:
        """Bytes that the kept keys and values take (not the slot that is free, nor the spare capacity)."""
        if self.k is None or self.v is None:
            return 0
        n = min(self.n, self.slots.size + self.slots.sinks)
        return sum(x[:, :, :n].numel() * x.element_size() for x in (self.k, self.v))


def along(slots: Tensor, x: Tensor) -> Tensor:
    """Slots (B, S) as an index into dimension 2 of x (B, K, ·, D): (B, K, S, D)."""
    return slots[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])


Store = FullStore | NewestStore | LatentStore | WindowStore


class KVCache:
    """The stores of all layers, and how many tokens were seen.

    Args:
        stores: one per layer; stores may share Slots.
        batch: rows; every row has a clock of its own, because rows may be padded on the left.

    Attributes:
        carried: by name, what else a family remembers of the last token (B, 1, C).
    """

    def __init__(self, stores: list[Store], batch: int, device: torch.device):
        self.stores = stores
        self.length = 0  # tokens appended, padding included
        self.next_position = torch.zeros(batch, dtype=torch.long, device=device)  # (B,)
        self.carried: dict[str, Tensor] = {}

    def advance(self, positions: Tensor) -> None:
        """The model's call, once per forward: positions (B, T) were appended to every store."""
        self.length += positions.shape[1]
        self.next_position = positions[:, -1] + 1

    def fork(self) -> "KVCache":
        """An independent continuation of the same prefix (copy on write)."""
        slots: dict[int, Any] = {}
        stores = [store.fork(slots.setdefault(id(store.slots), store.slots.fork())) for store in self.stores]
        other = KVCache(stores, len(self.next_position), self.next_position.device)
        other.length, other.next_position = self.length, self.next_position.clone()
        other.carried = dict(self.carried)
        return other

    def truncate(self, n: int) -> None:
        """Forget all but the first n tokens; only as long as nothing was evicted and nothing else is carried."""
        if self.carried or not all(store.complete for store in self.stores):
            raise ValueError("a cache that has forgotten tokens cannot be wound back; fork it before, or prefill again")
        self.next_position = self.next_position - (self.length - n)
        self.length = n
        for store in self.stores:
            store.truncate(n)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may appear twice (n continuations of one prefill)."""
        self.next_position = self.next_position[rows]
        self.carried = {name: x[rows] for name, x in self.carried.items()}
        for slots in {id(store.slots): store.slots for store in self.stores}.values():
            slots.select(rows)
        for store in self.stores:
            store.select(rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all kept keys and values."""
        return sum(store.nbytes for store in self.stores)
