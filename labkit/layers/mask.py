"""Who may look at whom: one rule from positions, for full and windowed attention, sinks, padding and any chunking."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .rotary import Rotation


@dataclass(frozen=True)
class Window:
    """Sliding-window attention: the last ``size`` positions besides the current one, and the first ``sinks`` ones."""

    size: int
    sinks: int = 0


def attend_mask(q_positions: Tensor, k_positions: Tensor, window: Window | None = None) -> Tensor:
    """True where a query may look at a key.

    Args:
        q_positions: (B, T) position of each query; -1 for padding.
        k_positions: (B, S) position held by each slot; -1 for an empty slot.
        window: None for full causal attention.

    Returns:
        bool (B, 1, T, S). Padding queries see everything: their output is never read, but it must stay finite.
    """
    q, k = q_positions[:, None, :, None], k_positions[:, None, None, :]  # (B, 1, T, 1), (B, 1, 1, S)
    visible = (k >= 0) & (k <= q)
    if window is not None:
        visible &= (q - k <= window.size) | (k < window.sinks)
    return visible | (q < 0)


@dataclass
class AttentionContext:
    """What all layers of one forward share: positions, rotation and the masks made so far.

    Attributes:
        positions: (B, T), -1 for padding.
        rotation: cos and sin for these positions; None: the family does not rotate.
        latent_rotations: those of queries and of keys in latent attention.
        ids: (B, T), for layers that look the tokens up again.

    Layers whose stores share their slots (see ``cache.Slots``) hand in the very same k_positions tensor, so a mask is
    made once per kind of layer and not once per layer.
    """

    positions: Tensor
    rotation: Rotation | None = None
    latent_rotations: tuple[Rotation, Rotation] | None = None
    ids: Tensor | None = None
    _masks: list[tuple[Tensor, Window | None, Tensor]] = field(default_factory=list)

    def mask(self, k_positions: Tensor, window: Window | None = None) -> Tensor:
        """bool (B, 1, T, S)"""
        for seen_positions, seen_window, mask in self._masks:
            if seen_positions is k_positions and seen_window == window:
                return mask
        mask = attend_mask(self.positions, k_positions, window)
        self._masks.append((k_positions, window, mask))
        return mask


def consecutive(first: Tensor, n: int) -> Tensor:
    """Positions first .. first + n - 1 of every row: (B,) -> (B, T)."""
    return first[:, None] + torch.arange(n, device=first.device)
