"""Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2)."""

import torch
from torch import Tensor, nn

from .attention import AttentionCore, Store
from .mask import AttentionContext
from .rotary import rotate


class LatentAttention(nn.Module):
    """Attention whose keys and values all heads unfold from one latent vector a token.

    Computed in absorbed form: a head's key is ``A latent``, hence ``q · A latent = (A^T q) · latent``. So the heads'
    matrices move to the queries and to the output, and what is left is multi-query attention over one key/value head,
    [latent | rotated key]: all that a cache has to hold.

    Args:
        q_rank: queries come from a normed vector of this size; None: from x directly.
        kv_rank: R, size of the latent.
        nope_dim: N, part of a head's query and key without rotation.
        rope_dim: D, part with rotation; the rotated key is one for all heads.
        v_dim: E, size of a head's value.
        bias: on all projections but ``kv_b_proj``, which is used by its weight alone.
    """

    window = None

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        *,
        q_rank: int | None,
        kv_rank: int,
        nope_dim: int,
        rope_dim: int,
        v_dim: int,
        bias: bool,
        norm_eps: float,
    ):
        super().__init__()
        self.n_head = n_head
        self.q_sizes, self.kv_a_sizes, self.kv_b_sizes = [nope_dim, rope_dim], [kv_rank, rope_dim], [nope_dim, v_dim]
        n_query = n_head * (nope_dim + rope_dim)
        if q_rank is None:
            self.q_proj = nn.Linear(n_embd, n_query, bias=bias)
        else:
            self.q_a_proj = nn.Linear(n_embd, q_rank, bias=bias)
            self.q_norm = nn.LayerNorm(q_rank, norm_eps)
            self.q_b_proj = nn.Linear(q_rank, n_query, bias=bias)
        self.q_rank = q_rank
        self.kv_a_proj = nn.Linear(n_embd, kv_rank + rope_dim, bias=bias)
        self.kv_norm = nn.LayerNorm(kv_rank, norm_eps)
        self.kv_b_proj = nn.Linear(kv_rank, n_head * (nope_dim + v_dim), bias=False)
        self.core = AttentionCore(scale=(nope_dim + rope_dim) ** -0.5)
        self.o_proj = nn.Linear(n_head * v_dim, n_embd, bias=bias)

    def queries(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, H, T, N + D)"""
        q = self.q_proj(x) if self.q_rank is None else self.q_b_proj(self.q_norm(self.q_a_proj(x)))
        return q.unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (B, H, T, N + D)

    def forward(self, x: Tensor, context: AttentionContext, store: Store | None = None) -> Tensor:
        """x (B, T, C) -> what attention adds (B, T, C)"""
        assert context.latent_rotations is not None
        q_rotation, k_rotation = context.latent_rotations
        q, q_rope = self.queries(x).split(self.q_sizes, dim=-1)  # (B, H, T, N), (B, H, T, D)
        latent, k_rope = self.kv_a_proj(x).unsqueeze(1).split(self.kv_a_sizes, dim=-1)  # (B, 1, T, R), (B, 1, T, D)
        latent = self.kv_norm(latent)
        heads = self.kv_b_proj.weight.unflatten(0, (self.n_head, -1))  # (H, N + E, R)
        to_k, to_v = heads.split(self.kv_b_sizes, dim=1)  # (H, N, R), (H, E, R)
        q = torch.cat((q @ to_k, rotate(q_rope, q_rotation, "interleaved")), dim=-1)  # (B, H, T, R + D)
        k = torch.cat((latent, rotate(k_rope, k_rotation, "interleaved")), dim=-1)  # (B, 1, T, R + D)
        v, k_positions = latent, context.positions
        if store is not None:
            k, v, k_positions = store.append(k, v, context.positions)  # (B, 1, S, R + D), (B, 1, S, R), (B, S)
        z = self.core(q, k, v, context.mask(k_positions))  # (B, H, T, R)
        z = z @ to_v.transpose(1, 2)  # (B, H, T, E)
        return self.o_proj(z.transpose(1, 2).flatten(2))  # (B, T, C)
