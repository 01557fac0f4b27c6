"""What every family's model offers, and nothing more."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ..cache import FullStore, KVCache, NewestStore, Slots
from ..layers.mask import AttentionContext, consecutive
from ..layers.rotary import Rotary


class CausalLM(nn.Module, ABC):
    """Token ids -> logits. A family supplies ``embed_ids`` and ``unembed`` around its ``blocks`` and ``norm_f``.

    Attributes:
        block_size: tokens one forward may see; the context limit.
        n_positions: positions that exist; at least block_size.
    """

    config: Any
    blocks: nn.ModuleList
    norm_f: nn.Module
    lm_head: nn.Linear
    rotary: Rotary | None
    block_size: int
    n_positions: int

    @abstractmethod
    def embed_ids(self, ids: Tensor, positions: Tensor) -> Tensor:
        """ids, positions (B, T) -> residual stream before block 0 (B, T, C)"""

    @abstractmethod
    def unembed(self, x: Tensor) -> Tensor:
        """Output of the final norm (B, T, C) -> logits (B, T, V) in float32"""

    @abstractmethod
    def tie(self) -> None:
        """Make tied matrices one tensor again after weights were assigned; nothing to do where none are tied."""

    def hidden(self, ids: Tensor, cache: KVCache | None = None, positions: Tensor | None = None) -> Tensor:
        """ids (B, T) -> output of the final norm (B, T, C).

        Args:
            cache: keys and values of what came before; it is extended by these tokens.
            positions: (B, T), -1 for padding on the left; None: where the cache left off.
        """
        if positions is None:
            first = torch.zeros(len(ids), dtype=torch.long, device=ids.device) if cache is None else cache.next_position
            positions = consecutive(first, ids.shape[1])  # (B, T)
        context = AttentionContext(positions, self.rotary(positions) if self.rotary is not None else None)
        x = self.embed_ids(ids, positions)
        for block, store in zip(self.blocks, cache.stores if cache else [None] * len(self.blocks), strict=True):
            x = block(x, context, store)
        if cache is not None:
            cache.advance(positions)
        return self.norm_f(x)

    def forward(self, ids: Tensor, cache: KVCache | None = None, positions: Tensor | None = None) -> Tensor:
        """ids (B, T) -> logits (B, T, V) in float32"""
        return self.unembed(self.hidden(ids, cache, positions))

    def new_cache(self, batch: int = 1, capacity: int = 64) -> KVCache:
        """An empty cache whose layers share one set of slots; it grows as needed."""
        device = self.lm_head.weight.device
        slots = Slots.empty(batch, capacity, device)
        return KVCache([FullStore(slots) for _ in self.blocks], batch, device)

    def new_rolling_cache(self, batch: int = 1) -> KVCache:
        """An empty cache that keeps the newest block_size tokens for ever (``overflow="labcore"``)."""
        device = self.lm_head.weight.device
        stores = [NewestStore(Slots.empty(batch, self.block_size + 1, device), self.block_size) for _ in self.blocks]
        return KVCache(list(stores), batch, device)
