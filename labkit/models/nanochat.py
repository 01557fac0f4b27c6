"""nanochat: parameter-free RMS norm, rotation before QK norm, squared ReLU, untied head, softcap.

Source: karpathy/nanochat (October 2025 to January 2026) and the nanochat arithmetic experiment, which uses it unchanged.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ..layers.attention import SelfAttention, Store
from ..layers.mask import AttentionContext
from ..layers.mlp import MLP, relu_squared
from ..layers.rotary import Rotary
from .base import CausalLM


@dataclass(frozen=True)
class NanochatConfig:
    """The six fields of a nanochat meta file, then what nanochat hard-codes."""

    sequence_len: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    padded_vocab_size: int
    rope_base: float = 10000.0
    rope_dtype: Literal["bfloat16", "float32"] = "bfloat16"  # tables are rounded to it even in a float32 run
    rope_positions_per_sequence: int = 10
    softcap: float = 15.0

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head or self.n_embd // self.n_head % 2:
            raise ValueError(f"n_embd {self.n_embd} must be an even multiple of n_head {self.n_head}")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} must be a multiple of n_kv_head {self.n_kv_head}")


def rms_norm(n: int) -> nn.RMSNorm:
    """RMS norm without weights; eps is the machine epsilon of the dtype (1.19e-7 in float32)."""
    return nn.RMSNorm(n, eps=None, elementwise_affine=False)


class NanochatBlock(nn.Module):
    def __init__(self, config: NanochatConfig):
        super().__init__()
        self.norm_1 = rms_norm(config.n_embd)
        self.attn = SelfAttention(
            config.n_embd,
            config.n_head,
            config.n_kv_head,
            bias=False,
            rope_layout="half",
            qk_norm=rms_norm(config.n_embd // config.n_head),
        )
        self.norm_2 = rms_norm(config.n_embd)
        self.mlp = MLP(config.n_embd, 4 * config.n_embd, relu_squared, bias=False)

    def forward(self, x: Tensor, context: AttentionContext, store: Store | None = None) -> Tensor:
        x = x + self.attn(self.norm_1(x), context, store)
        return x + self.mlp(self.norm_2(x))


class Nanochat(CausalLM):
    def __init__(self, config: NanochatConfig):
        super().__init__()
        self.config = config
        # sequence_len limits nothing at inference; the rotary tables do.
        self.block_size = self.n_positions = config.rope_positions_per_sequence * config.sequence_len
        self.embed = nn.Embedding(config.padded_vocab_size, config.n_embd)
        self.embed_norm = rms_norm(config.n_embd)
        self.rotary = Rotary(
            config.n_embd // config.n_head,
            self.n_positions,
            config.rope_base,
            direction=-1,
            table_dtype=getattr(torch, config.rope_dtype),
        )
        self.blocks = nn.ModuleList(NanochatBlock(config) for _ in range(config.n_layer))
        self.norm_f = rms_norm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.padded_vocab_size, bias=False)

    def tie(self) -> None:
        """Embedding and head are two matrices."""

    def embed_ids(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.embed_norm(self.embed(ids))  # (B, T, C)

    def unembed(self, x: Tensor) -> Tensor:
        logits = self.lm_head(x)[..., : self.config.vocab_size].float()  # (B, T, V), padding rows cropped
        return self.config.softcap * torch.tanh(logits / self.config.softcap)
