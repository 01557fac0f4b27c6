"""GPT-2: learned positions, LayerNorm, one activation, a tied head.

Sources: OpenAI's GPT-2 as Hugging Face writes it, the GPT-2-from-scratch seed ("gpt2seed"), karpathy/nanoGPT.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from ..layers.attention import SelfAttention, Store
from ..layers.mask import AttentionContext
from ..layers.mlp import ACTIVATIONS, MLP
from .base import CausalLM


@dataclass(frozen=True)
class GPT2Config:
    """What differs between the three systems that this family serves."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    n_hidden: int
    activation: str = "gelu_tanh"  # gpt2seed and nanoGPT: "gelu"
    norm_eps: float = 1e-5
    bias: bool = True  # of the linears in the blocks
    norm_bias: bool = True  # nanoGPT leaves it out together with the others
    tied: bool = True
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} must be divisible by n_head {self.n_head}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is unknown; known are {', '.join(ACTIVATIONS)}")


class GPT2Block(nn.Module):
    def __init__(self, config: GPT2Config):
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.n_embd, config.norm_eps, bias=config.norm_bias)
        self.attn = SelfAttention(config.n_embd, config.n_head, config.n_head, bias=config.bias)
        self.norm_2 = nn.LayerNorm(config.n_embd, config.norm_eps, bias=config.norm_bias)
        self.mlp = MLP(config.n_embd, config.n_hidden, ACTIVATIONS[config.activation], bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, context: AttentionContext, store: Store | None = None) -> Tensor:
        x = x + self.dropout(self.attn(self.norm_1(x), context, store))
        return x + self.dropout(self.mlp(self.norm_2(x)))


class GPT2(CausalLM):
    rotary = None

    def __init__(self, config: GPT2Config):
        super().__init__()
        self.config = config
        self.block_size = self.n_positions = config.block_size
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.pos_embed = nn.Embedding(config.block_size, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(GPT2Block(config) for _ in range(config.n_layer))
        self.norm_f = nn.LayerNorm(config.n_embd, config.norm_eps, bias=config.norm_bias)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        if self.config.tied:
            self.embed.weight = self.lm_head.weight

    def embed_ids(self, ids: Tensor, positions: Tensor) -> Tensor:
        x = self.embed(ids) + self.pos_embed(positions.clamp(min=0))  # (B, T, C); padding (-1) is never looked at
        return self.dropout(x)

    def unembed(self, x: Tensor) -> Tensor:
        return self.lm_head(x).float()
