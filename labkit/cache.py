"""The KV cache: what every layer keeps of the tokens seen so far, and the one clock.

A store keeps one layer's keys and values. ``append`` returns everything this step may look at (kept slots and all new
ones) with their positions, and only then evicts; so a mask made from positions is right for any prompt length and any
chunking. The model advances the clock once per forward (``KVCache.advance``); no layer does.
"""

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
    """Keeps every key and value. Buffers are preallocated and doubled when full, so a step costs no Python per token."""

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
    def nbytes(self) -> int:
        """Bytes that the kept keys and values take (not the spare capacity)."""
        if self.k is None or self.v is None:
            return 0
        return sum(x[:, :, : self.n].numel() * x.element_size() for x in (self.k, self.v))


class NewestStore:
    """Keeps the newest ``capacity`` slots whatever their positions: LabCore's cache, which cuts before it attends.

    Slots move here, so every such store has Slots of its own.
    """

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
    def nbytes(self) -> int:
        return self.full.nbytes


Store = FullStore | NewestStore


class KVCache:
    """The stores of all layers, and how many tokens were seen.

    Args:
        stores: one per layer; stores may share Slots.
        batch: rows; every row has a clock of its own, because rows may be padded on the left.
    """

    def __init__(self, stores: list[Store], batch: int, device: torch.device):
        self.stores = stores
        self.length = 0  # tokens appended, padding included
        self.next_position = torch.zeros(batch, dtype=torch.long, device=device)  # (B,)

    def advance(self, positions: Tensor) -> None:
        """The model's call, once per forward: positions (B, T) were appended to every store."""
        self.length += positions.shape[1]
        self.next_position = positions[:, -1] + 1

    def fork(self) -> "KVCache":
        """An independent continuation of the same prefix (copy on write)."""
        slots: dict[int, Slots] = {}
        stores = [store.fork(slots.setdefault(id(store.slots), store.slots.fork())) for store in self.stores]
        other = KVCache(stores, len(self.next_position), self.next_position.device)
        other.length, other.next_position = self.length, self.next_position.clone()
        return other

    def truncate(self, n: int) -> None:
        """Forget all but the first n tokens. Only for stores that evict nothing."""
        if any(isinstance(store, NewestStore) for store in self.stores):
            raise ValueError("a store that evicts cannot be wound back; fork it before, or prefill again")
        self.next_position = self.next_position - (self.length - n)
        self.length = n
        for store in self.stores:
            store.truncate(n)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may appear twice (n continuations of one prefill)."""
        self.next_position = self.next_position[rows]
        for slots in {id(store.slots): store.slots for store in self.stores}.values():
            slots.select(rows)
        for store in self.stores:
            store.select(rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all kept keys and values."""
        return sum(store.nbytes for store in self.stores)
