"""What every family's model offers, and nothing more."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..cache import FullStore, KVCache, LatentStore, NewestStore, Slots, Store, WindowSlots, WindowStore
from ..layers.latent_attention import LatentAttention
from ..layers.mask import AttentionContext, Window, consecutive
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
        x = self.run_blocks(self.embed_ids(ids, positions), self.new_context(ids, positions), cache)
        if cache is not None:
            cache.advance(positions)
        return self.norm_f(x)

    def new_context(self, ids: Tensor, positions: Tensor) -> AttentionContext:
        """What all layers of one forward share; for ids, positions (B, T)."""
        return AttentionContext(positions, self.rotary(positions) if self.rotary is not None else None)

    def run_blocks(self, x: Tensor, context: AttentionContext, cache: KVCache | None) -> Tensor:
        """Embedded tokens (B, T, C) -> what the final norm reads (B, T, C)"""
        for block, store in zip(self.blocks, self.stores(cache), strict=True):
            x = block(x, context, store)
        return x

    def stores(self, cache: KVCache | None) -> Sequence[Store | None]:
        """One for each block; None without a cache."""
        return cache.stores if cache is not None else [None] * len(self.blocks)

    def forward(self, ids: Tensor, cache: KVCache | None = None, positions: Tensor | None = None) -> Tensor:
        """ids (B, T) -> logits (B, T, V) in float32"""
        return self.unembed(self.hidden(ids, cache, positions))

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    def new_cache(self, batch: int = 1, capacity: int = 64) -> KVCache:
        """An empty cache with the store that each layer's attention needs; layers of one kind share their slots.

        It grows as needed; ``capacity`` is what it starts with.
        """
        device = self.device
        slots = Slots.empty(batch, capacity, device)
        windows: dict[Window, WindowSlots] = {}
        stores: list[Store] = []
        for block in self.blocks:
            attn: Any = block.attn
            if attn.window is not None:
                empty = WindowSlots.empty(batch, attn.window.size, attn.window.sinks, device)
                stores.append(WindowStore(windows.setdefault(attn.window, empty)))
            else:
                stores.append(LatentStore(slots) if isinstance(attn, LatentAttention) else FullStore(slots))
        return KVCache(stores, batch, device)

    def new_rolling_cache(self, batch: int = 1) -> KVCache:
        """An empty cache that keeps the newest block_size tokens for ever (``overflow="labcore"``)."""
        device = self.device
        stores = [NewestStore(Slots.empty(batch, self.block_size + 1, device), self.block_size) for _ in self.blocks]
        return KVCache(list(stores), batch, device)
