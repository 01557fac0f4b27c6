"""Multi-head and grouped-query self-attention."""

from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from .mask import AttentionContext, Window
from .rotary import Layout, rotate


class Store(Protocol):
    """What a layer sees of the cache."""

    def append(self, k: Tensor, v: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...


class AttentionCore(nn.Module):
    """softmax(q k^T * scale + mask) v. A module of its own, so that hooks can read and replace q, k, v, mask and z."""

    def __init__(self, scale: float | None = None):
        super().__init__()
        self.scale = scale

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """q (B, H, T, D), k and v (B, K, S, D), mask bool (B, 1, T, S) -> z (B, H, T, D)"""
        n_head, n_kv_head = q.shape[1], k.shape[1]
        if n_kv_head == 1 and n_head > 1:
            # All heads read the same keys: as rows of one product, none has to be copied for each head.
            q = q.flatten(1, 2).unsqueeze(1)  # (B, 1, H T, D)
            mask = mask.expand(-1, n_head, -1, -1).flatten(1, 2).unsqueeze(1)  # (B, 1, H T, S)
            z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale)  # (B, 1, H T, D)
            return z.squeeze(1).unflatten(1, (n_head, -1))  # (B, H, T, D)
        grouped = n_head != n_kv_head
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self.scale, enable_gqa=grouped)


class SelfAttention(nn.Module):
    """Attention with one fused projection; query head h reads key/value head h // (n_head // n_kv_head).

    Args:
        head_dim: size of one head; None: n_embd // n_head.
        bias: on both projections.
        rope_layout: how heads are paired for rotation; None: this layer does not rotate.
        qk_norm: applied to q and k after the rotation (nanochat's order); None: none.
        value_residual: ``value_residual(x, context)`` is added to the values (B, K, T, D); None: nothing is.
        window: None for full causal attention.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        n_kv_head: int,
        *,
        head_dim: int | None = None,
        bias: bool,
        rope_layout: Layout | None = None,
        qk_norm: nn.Module | None = None,
        value_residual: nn.Module | None = None,
        window: Window | None = None,
    ):
        super().__init__()
        self.head_dim = head_dim or n_embd // n_head
        self.sizes = [n_head * self.head_dim, n_kv_head * self.head_dim, n_kv_head * self.head_dim]
        self.rope_layout = rope_layout
        self.window = window
        self.qkv_proj = nn.Linear(n_embd, sum(self.sizes), bias=bias)
        self.qk_norm = qk_norm
        self.value_residual = value_residual
        self.core = AttentionCore()
        self.o_proj = nn.Linear(n_head * self.head_dim, n_embd, bias=bias)

    def forward(self, x: Tensor, context: AttentionContext, store: Store | None = None) -> Tensor:
        """x (B, T, C) -> what attention adds (B, T, C)"""
        q, k, v = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, H or K, T, D)
            for part in self.qkv_proj(x).split(self.sizes, dim=-1)
        )
        if self.rope_layout is not None and context.rotation is not None:
            q = rotate(q, context.rotation, self.rope_layout)
            k = rotate(k, context.rotation, self.rope_layout)
        if self.qk_norm is not None:
            q, k = self.qk_norm(q), self.qk_norm(k)
        if self.value_residual is not None:
            v = v + self.value_residual(x, context)
        k_positions = context.positions
        if store is not None:
            k, v, k_positions = store.append(k, v, context.positions)  # (B, K, S, D) twice, (B, S)
        z = self.core(q, k, v, context.mask(k_positions, self.window))  # (B, H, T, D)
        return self.o_proj(z.transpose(1, 2).flatten(2))  # (B, T, C)
