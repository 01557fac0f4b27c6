"""LabCore: GPT-2 wiring with exact GELU, learned positions or interleaved RoPE. Source: LabCore LLM."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from ..layers.attention import SelfAttention, Store
from ..layers.mask import AttentionContext
from ..layers.mlp import MLP
from ..layers.rotary import Rotary
from .base import CausalLM


@dataclass(frozen=True)
class LabCoreConfig:
    """The nine fields of a LabCore checkpoint, then what LabCore hard-codes."""

    vocab_size: int
    block_size: int = 128
    n_layer: int = 6
    n_head: int = 8
    n_embd: int = 256
    dropout: float = 0.1
    bias: bool = True
    use_rope: bool = False
    use_flash: bool = False  # a choice of CUDA kernel; changes nothing here
    norm_eps: float = 1e-5
    rope_base: float = 10000.0

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} must be divisible by n_head {self.n_head}")
        if self.use_rope and self.n_embd // self.n_head % 2:
            raise ValueError(f"RoPE needs an even head size, not {self.n_embd // self.n_head}")


class LabCoreBlock(nn.Module):
    def __init__(self, config: LabCoreConfig):
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.n_embd, config.norm_eps)
        self.attn = SelfAttention(
            config.n_embd,
            config.n_head,
            config.n_head,
            bias=config.bias,
            rope_layout="interleaved" if config.use_rope else None,
        )
        self.norm_2 = nn.LayerNorm(config.n_embd, config.norm_eps)
        self.mlp = MLP(config.n_embd, 4 * config.n_embd, F.gelu, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, context: AttentionContext, store: Store | None = None) -> Tensor:
        x = x + self.dropout(self.attn(self.norm_1(x), context, store))
        return x + self.dropout(self.mlp(self.norm_2(x)))


class LabCore(CausalLM):
    def __init__(self, config: LabCoreConfig):
        super().__init__()
        self.config = config
        self.block_size = config.block_size
        # LabCore's own cache, once full, puts every further token at position block_size (RoPE) or block_size - 1.
        self.n_positions = config.block_size + config.use_rope
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.pos_embed = None if config.use_rope else nn.Embedding(config.block_size, config.n_embd)
        self.rotary = (
            Rotary(config.n_embd // config.n_head, self.n_positions, config.rope_base) if config.use_rope else None
        )
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(LabCoreBlock(config) for _ in range(config.n_layer))
        self.norm_f = nn.LayerNorm(config.n_embd, config.norm_eps)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        self.embed.weight = self.lm_head.weight

    def embed_ids(self, ids: Tensor, positions: Tensor) -> Tensor:
        x = self.embed(ids)  # (B, T, C)
        if self.pos_embed is not None:
            x = x + self.pos_embed(positions.clamp(min=0))  # padding (-1) is never looked at
        return self.dropout(x)

    def unembed(self, x: Tensor) -> Tensor:
        return self.lm_head(x).float()
