"""Llama: RMSNorm, rotary positions in halves, grouped queries, SwiGLU, tied or not.

Source: Touvron et al. 2023 and the Llama 3 report, as Hugging Face writes them. SmolLM2 and TinyLlama are such models.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from ..layers.attention import SelfAttention, Store
from ..layers.mask import AttentionContext
from ..layers.mlp import ACTIVATIONS, GatedMLP
from ..layers.rotary import MOST_POSITIONS, Llama3Scaling, PairScaling, Rotary, Scaling
from .base import CausalLM


@dataclass(frozen=True)
class LlamaConfig:
    """What real checkpoints of the family vary."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    head_dim: int
    n_embd: int
    n_hidden: int
    activation: str = "silu"
    norm_eps: float = 1e-6
    rope_base: float = 10000.0
    rope_scaling: Scaling | None = None
    attn_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False

    def __post_init__(self) -> None:
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} must be a multiple of n_kv_head {self.n_kv_head}")
        if self.head_dim % 2:
            raise ValueError(f"RoPE needs an even head size, not {self.head_dim}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is unknown; known are {', '.join(ACTIVATIONS)}")
        if self.rope_base <= 0:
            raise ValueError(f"rope_base is {self.rope_base}; it must be above 0")
        if self.block_size > MOST_POSITIONS:
            raise ValueError(f"block_size {self.block_size} is more than the {MOST_POSITIONS:,} that labkit lays out")
        scaling = self.rope_scaling
        if isinstance(scaling, Llama3Scaling) and not scaling.low_freq_factor < scaling.high_freq_factor:
            raise ValueError("rope_scaling: low_freq_factor must be less than high_freq_factor")
        if isinstance(scaling, PairScaling) and len(scaling.factors) != self.head_dim // 2:
            raise ValueError(f"rope_scaling: {len(scaling.factors)} factors for {self.head_dim // 2} pairs")


class LlamaBlock(nn.Module):
    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.norm_1 = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.attn = SelfAttention(
            config.n_embd,
            config.n_head,
            config.n_kv_head,
            head_dim=config.head_dim,
            bias=config.attn_bias,
            rope_layout="half",
        )
        self.norm_2 = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.mlp = GatedMLP(config.n_embd, config.n_hidden, ACTIVATIONS[config.activation], bias=config.mlp_bias)

    def forward(self, x: Tensor, context: AttentionContext, store: Store | None = None) -> Tensor:
        x = x + self.attn(self.norm_1(x), context, store)
        return x + self.mlp(self.norm_2(x))


class Llama(CausalLM):
    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.config = config
        self.block_size = self.n_positions = config.block_size
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.rotary = Rotary(config.head_dim, self.n_positions, config.rope_base, scaling=config.rope_scaling)
        self.blocks = nn.ModuleList(LlamaBlock(config) for _ in range(config.n_layer))
        self.norm_f = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        if self.config.tied:
            self.embed.weight = self.lm_head.weight

    def embed_ids(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.embed(ids)  # (B, T, C)

    def unembed(self, x: Tensor) -> Tensor:
        return self.lm_head(x).float()
