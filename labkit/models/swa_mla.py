"""SWA-MLA: blocks with sliding-window attention and blocks with multi-head latent attention, in a fixed cycle.

Source: Orolol/swamla at 315bcb9 (October 2025); at 3d3dcb0 (November) windows and ranks grow with depth.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.attention import AttentionCore, Store
from ..layers.latent_attention import LatentAttention
from ..layers.mask import AttentionContext, Window
from ..layers.mlp import GatedMLP
from ..layers.norm import DynamicTanh
from ..layers.rotary import MOST_POSITIONS, Rotary, rotate
from .base import CausalLM

Count = Annotated[int, "0 or more"]


@dataclass(frozen=True)
class SwaMlaConfig:
    """What checkpoints vary, by the original's names; what it hard-codes; and two things it meant otherwise.

    Attributes:
        ratio_kv: query heads for each key/value head, in window blocks.
        swa_layers_per_cycle, mla_layers_per_cycle: so many window blocks, then so many latent ones, and again.
        swa_window: positions visible besides the current one; 0: all.
        swa_sink_size: first positions that stay visible.
        q_lora_rank: 0: queries of latent blocks come from one projection.
        logit_scale_base: None, or what makes the queries of window blocks grow with position (see ``LogitScale``).
        depth_scale_first, depth_scale_last: windows and kv ranks are multiplied by a factor that goes from the first to
            the last of these over the layers.
        window: "executed": plain causal attention, because the original's window mask never reaches its kernel;
            "configured": window and sinks apply.
        query_positions: "head": queries of latent blocks are rotated by the number of their head, as the original did
            until December 2025; "token": by their position.
    """

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    bias: bool = False
    ratio_kv: int = 1
    norm: Literal["rms", "dynamic_tanh"] = "rms"
    swa_layers_per_cycle: Count = 2
    mla_layers_per_cycle: Count = 1
    swa_window: Count = 256
    swa_sink_size: Count = 4
    rope_theta: float = 10000.0
    q_lora_rank: Count = 0
    kv_lora_rank: int = 512
    qk_nope_head_dim: int = 128
    qk_rope_head_dim: int = 64
    v_head_dim: int = 128
    logit_scale_base: float | None = None
    logit_scale_window: int = 128
    logit_scale_offset: float = 0.0
    logit_scale_min: float | None = 1.0
    logit_scale_max: float | None = None
    depth_scale_first: float = 1.0
    depth_scale_last: float = 1.0
    mlp_ratio: int = 4
    norm_eps: float = 1e-6
    latent_norm_eps: float = 1e-5
    latent_rope_base: float = 10000.0
    window: Literal["executed", "configured"] = "executed"
    query_positions: Literal["head", "token"] = "head"

    def __post_init__(self) -> None:
        for name in ("swa_layers_per_cycle", "mla_layers_per_cycle", "swa_window", "swa_sink_size", "q_lora_rank"):
            if not isinstance(value := getattr(self, name), int) or value < 0:
                raise ValueError(f"{name} is {value!r}; it must be a whole number from 0")
        for name in ("logit_scale_base", "logit_scale_min", "logit_scale_max"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
                raise ValueError(f"{name} is {value!r}; it must be a number")
        if self.logit_scale_base is not None and self.logit_scale_base <= 1:
            raise ValueError(f"logit_scale_base is {self.logit_scale_base}; it must be above 1, or None")
        if self.swa_layers_per_cycle + self.mla_layers_per_cycle == 0:
            raise ValueError("swa_layers_per_cycle and mla_layers_per_cycle are both 0: no layer is of any kind")
        if self.block_size > MOST_POSITIONS:
            raise ValueError(f"block_size {self.block_size} is more than the {MOST_POSITIONS:,} that labkit lays out")
        if self.n_embd % self.n_head or self.n_embd // self.n_head % 2:
            raise ValueError(f"n_embd {self.n_embd} must be an even multiple of n_head {self.n_head}")
        if self.n_head % self.ratio_kv:
            raise ValueError(f"n_head {self.n_head} must be a multiple of ratio_kv {self.ratio_kv}")
        if self.qk_rope_head_dim % 2 or self.qk_rope_head_dim > 1024:
            raise ValueError(f"qk_rope_head_dim is {self.qk_rope_head_dim}; it must be even, and at most 1024")
        if self.norm not in ("rms", "dynamic_tanh"):
            raise ValueError(f'norm is {self.norm!r}; "rms" or "dynamic_tanh"')
        if self.window not in ("executed", "configured"):
            raise ValueError(f'window is {self.window!r}; "executed" or "configured"')
        if self.query_positions not in ("head", "token"):
            raise ValueError(f'query_positions is {self.query_positions!r}; "head" or "token"')

    def is_latent(self, layer: int) -> bool:
        return layer % (self.swa_layers_per_cycle + self.mla_layers_per_cycle) >= self.swa_layers_per_cycle

    def window_at(self, layer: int) -> Window | None:
        """The window that is configured for a layer, whether or not it is executed."""
        if self.swa_window == 0:
            return None
        return Window(max(1, int(self.swa_window * self._depth_scale(layer))), self.swa_sink_size)

    def kv_rank_at(self, layer: int) -> int:
        return max(1, int(self.kv_lora_rank * self._depth_scale(layer)))

    def _depth_scale(self, layer: int) -> float:
        if self.n_layer == 1:
            return 1.0
        return self.depth_scale_first + (self.depth_scale_last - self.depth_scale_first) * (layer / (self.n_layer - 1))


class LogitScale(nn.Module):
    """Queries grow with position: ln(base + floor((position + offset) / window)) / ln(base), kept in min … max."""

    def __init__(self, base: float, window: int, offset: float, least: float | None, most: float | None):
        super().__init__()
        self.base, self.window, self.offset, self.least, self.most = float(base), window, offset, least, most

    def forward(self, q: Tensor, positions: Tensor) -> Tensor:
        """q (B, H, T, D), positions (B, T) -> (B, H, T, D)"""
        steps = torch.floor((positions.clamp(min=0) + self.offset) / self.window)  # (B, T)
        scale = torch.log(self.base + steps) / math.log(self.base)
        scale = scale.clamp(self.least, self.most) if (self.least, self.most) != (None, None) else scale
        return q * scale[:, None, :, None].to(q.dtype)


def finite(x: Tensor) -> Tensor:
    """NaN becomes 0, infinities ±10,000: what the original does around its window attention."""
    return torch.nan_to_num(x, nan=0.0, posinf=1e4, neginf=-1e4)


class WindowAttention(nn.Module):
    """Grouped-query attention with interleaved rotation; what it reads, and z, are made finite.

    Args:
        window: None for full causal attention.
    """

    def __init__(self, config: SwaMlaConfig, window: Window | None):
        super().__init__()
        self.head_dim = config.n_embd // config.n_head
        n_kv = config.n_embd // config.ratio_kv
        self.sizes = [config.n_embd, n_kv, n_kv]
        self.window = window
        self.qkv_proj = nn.Linear(config.n_embd, sum(self.sizes), bias=config.bias)
        self.logit_scale = (
            LogitScale(
                config.logit_scale_base,
                config.logit_scale_window,
                config.logit_scale_offset,
                config.logit_scale_min,
                config.logit_scale_max,
            )
            if config.logit_scale_base is not None
            else None
        )
        self.core = AttentionCore()
        self.o_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor, context: AttentionContext, store: Store | None = None) -> Tensor:
        """x (B, T, C) -> what attention adds (B, T, C)"""
        q, k, v = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, H or K, T, D)
            for part in self.qkv_proj(finite(x)).split(self.sizes, dim=-1)
        )
        assert context.rotation is not None
        q, k = (rotate(part, context.rotation, "interleaved") for part in (q, k))
        if self.logit_scale is not None:
            q = self.logit_scale(q, context.positions)
        k_positions = context.positions
        if store is not None:
            k, v, k_positions = store.append(k, v, context.positions)  # (B, K, S, D) twice, (B, S)
        z = finite(self.core(q, k, v, context.mask(k_positions, self.window)))  # (B, H, T, D)
        return self.o_proj(z.transpose(1, 2).flatten(2))  # (B, T, C)


def make_norm(config: SwaMlaConfig) -> nn.Module:
    if config.norm == "dynamic_tanh":
        return DynamicTanh(config.n_embd)
    return nn.RMSNorm(config.n_embd, config.norm_eps)


def make_attention(config: SwaMlaConfig, layer: int) -> WindowAttention | LatentAttention:
    if not config.is_latent(layer):
        return WindowAttention(config, config.window_at(layer) if config.window == "configured" else None)
    return LatentAttention(
        config.n_embd,
        config.n_head,
        q_rank=config.q_lora_rank or None,
        kv_rank=config.kv_rank_at(layer),
        nope_dim=config.qk_nope_head_dim,
        rope_dim=config.qk_rope_head_dim,
        v_dim=config.v_head_dim,
        bias=config.bias,
        norm_eps=config.latent_norm_eps,
    )


class SwaMlaBlock(nn.Module):
    """Window or latent attention, then a gated MLP."""

    def __init__(self, config: SwaMlaConfig, layer: int):
        super().__init__()
        self.norm_1 = make_norm(config)
        self.attn = make_attention(config, layer)
        self.norm_2 = make_norm(config)
        self.mlp = GatedMLP(config.n_embd, config.mlp_ratio * config.n_embd, F.silu, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, context: AttentionContext, store: Store | None = None) -> Tensor:
        x = x + self.dropout(self.attn(self.norm_1(x), context, store))
        return x + self.dropout(self.mlp(self.norm_2(x)))


class SwaMla(CausalLM):
    rotary: Rotary

    def __init__(self, config: SwaMlaConfig):
        super().__init__()
        self.config = config
        self.block_size = self.n_positions = config.block_size
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        # Heads are looked up in the table of positions, too.
        n_rows = max(config.block_size, config.n_head)
        self.rotary = Rotary(config.n_embd // config.n_head, n_rows, config.rope_theta)
        self.latent_rotary = Rotary(config.qk_rope_head_dim, n_rows, config.latent_rope_base)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(SwaMlaBlock(config, i) for i in range(config.n_layer))
        self.norm_f = make_norm(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        self.embed.weight = self.lm_head.weight

    def new_context(self, ids: Tensor, positions: Tensor) -> AttentionContext:
        of_keys = of_queries = self.latent_rotary(positions)
        if self.config.query_positions == "head":
            heads = torch.arange(self.config.n_head, device=positions.device)
            cos, sin = self.latent_rotary(heads[:, None])  # (H, 1, 1, D/2) each
            of_queries = cos.transpose(0, 1), sin.transpose(0, 1)  # (1, H, 1, D/2) each
        return AttentionContext(positions, self.rotary(positions), latent_rotations=(of_queries, of_keys))

    def embed_ids(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.dropout(self.embed(ids))  # (B, T, C)

    def unembed(self, x: Tensor) -> Tensor:
        return self.lm_head(x).float()
