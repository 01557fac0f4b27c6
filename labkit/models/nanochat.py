"""nanochat: parameter-free RMS norm, rotation before QK norm, squared ReLU, untied head, softcap.

Source: karpathy/nanochat, October 2025 to July 2026; the nanochat arithmetic experiment uses that of 8 January 2026.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from ..cache import KVCache
from ..layers.attention import SelfAttention, Store
from ..layers.mask import AttentionContext, Window
from ..layers.mlp import MLP, relu_squared
from ..layers.rotary import MOST_POSITIONS, Rotary
from .base import CausalLM

Count = Annotated[int, "0 or more"]


@dataclass(frozen=True)
class NanochatConfig:
    """The six fields of every nanochat meta file, then what differs between versions; the defaults are those of 2025.

    Attributes:
        padded_vocab_size: rows of embedding and head; logits beyond vocab_size are cropped.
        rope_dtype: the tables are rounded to it even in a float32 run.
        rope_positions_per_sequence: the tables are this many times longer than sequence_len, which limits nothing.
        qk_scale: queries and keys are multiplied by it after their norm.
        window_pattern: "S" or "L" for each layer, repeated as often as needed; the last layer is always L. None: no
            windows.
        short_window: positions visible besides the current one in S layers; in L layers it is sequence_len.
        lambdas: before each block the stream and the embedding are mixed, with two learned numbers a layer.
        value_gate_channels: in every second layer, the last one included, an embedding of the token is added to the
            values, through a gate that reads so many channels; 0: none.
        value_gate_scale: the gate's largest value.
        smear_channels: a share of the embedding of the token before is added to each, through a gate that reads so many
            channels; 0: none.
        backout_layer: the output of this block, times a learned number, is subtracted before the final norm.
    """

    sequence_len: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    padded_vocab_size: int
    rope_base: float = 10000.0
    rope_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    rope_positions_per_sequence: int = 10
    softcap: float = 15.0
    qk_scale: float = 1.0
    window_pattern: str | None = None
    short_window: int | None = None
    lambdas: bool = False
    value_gate_channels: Count = 0
    value_gate_scale: float = 2.0
    smear_channels: Count = 0
    backout_layer: int | None = None

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head or self.n_embd // self.n_head % 2:
            raise ValueError(f"n_embd {self.n_embd} must be an even multiple of n_head {self.n_head}")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} must be a multiple of n_kv_head {self.n_kv_head}")
        if self.rope_positions_per_sequence * self.sequence_len > MOST_POSITIONS:
            raise ValueError(f"sequence_len {self.sequence_len} asks for more positions than labkit lays out")
        if self.window_pattern is not None and (self.short_window is None or set(self.window_pattern) - {*"SL"}):
            raise ValueError(f"window_pattern {self.window_pattern!r} must be of S and L, with a short_window")
        if self.window_pattern == "":
            raise ValueError("window_pattern is empty")

    def window_at(self, layer: int) -> Window | None:
        if self.window_pattern is None or self.short_window is None:
            return None
        is_short = self.window_pattern[layer % len(self.window_pattern)] == "S" and layer != self.n_layer - 1
        return Window(self.short_window if is_short else self.sequence_len)

    def has_value_embedding(self, layer: int) -> bool:
        return self.value_gate_channels > 0 and layer % 2 == (self.n_layer - 1) % 2


def rms_norm(n: int) -> nn.RMSNorm:
    """RMS norm without weights; eps is the machine epsilon of the dtype (1.19e-7 in float32)."""
    return nn.RMSNorm(n, eps=None, elementwise_affine=False)


class ScaledNorm(nn.Module):
    """RMS norm, times a constant."""

    def __init__(self, n: int, scale: float):
        super().__init__()
        self.norm = rms_norm(n)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) * self.scale


class ValueEmbedding(nn.Module):
    """An embedding of the token for the values, with a gate for each of their heads that reads a few channels of x."""

    def __init__(self, config: NanochatConfig):
        super().__init__()
        self.channels, self.scale = config.value_gate_channels, config.value_gate_scale
        head_dim = config.n_embd // config.n_head
        self.embed = nn.Embedding(config.padded_vocab_size, config.n_kv_head * head_dim)
        self.gate = nn.Linear(self.channels, config.n_kv_head, bias=False)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """x (B, T, C) -> (B, K, T, D)"""
        gate = self.scale * torch.sigmoid(self.gate(x[..., : self.channels]))  # (B, T, K)
        values = self.embed(context.ids).unflatten(-1, (gate.shape[-1], -1))  # (B, T, K, D)
        return (gate.unsqueeze(-1) * values).transpose(1, 2)  # (B, K, T, D)


class LambdaMix(nn.Module):
    """What block i reads: residual[i] * x + embedding[i] * x_0."""

    def __init__(self, n_layer: int):
        super().__init__()
        self.residual = nn.Parameter(torch.ones(n_layer))
        self.embedding = nn.Parameter(torch.zeros(n_layer))

    def forward(self, x: Tensor, x_0: Tensor, layer: int) -> Tensor:
        """x, x_0 (B, T, C) -> (B, T, C)"""
        return self.residual[layer] * x + self.embedding[layer] * x_0


class Smear(nn.Module):
    """Adds a gated share of the embedding of the token before.

    The embedding of the last token, as it was before, is left in ``carried`` for the next call. The original forgets it
    between the chunks of a prefill; here every chunking gives the same.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.gate = nn.Linear(channels, 1, bias=False)
        self.amount = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, positions: Tensor, carried: dict[str, Tensor]) -> Tensor:
        """x (B, T, C), positions (B, T) -> (B, T, C)"""
        last = carried.get("embedding", torch.zeros_like(x[:, :1]))  # (B, 1, C)
        before = torch.cat((last, x[:, :-1]), dim=1)  # (B, T, C)
        carried["embedding"] = x[:, -1:].clone()
        before = before * (positions > 0).unsqueeze(-1)  # nothing is before the first token, nor in padding
        return x + self.amount * torch.sigmoid(self.gate(x[..., : self.channels])) * before


class NanochatBlock(nn.Module):
    def __init__(self, config: NanochatConfig, layer: int):
        super().__init__()
        head_dim = config.n_embd // config.n_head
        self.norm_1 = rms_norm(config.n_embd)
        self.attn = SelfAttention(
            config.n_embd,
            config.n_head,
            config.n_kv_head,
            bias=False,
            rope_layout="half",
            qk_norm=rms_norm(head_dim) if config.qk_scale == 1 else ScaledNorm(head_dim, config.qk_scale),
            value_residual=ValueEmbedding(config) if config.has_value_embedding(layer) else None,
            window=config.window_at(layer),
        )
        self.norm_2 = rms_norm(config.n_embd)
        self.mlp = MLP(config.n_embd, 4 * config.n_embd, relu_squared, bias=False)

    def forward(self, x: Tensor, context: AttentionContext, store: Store | None = None) -> Tensor:
        x = x + self.attn(self.norm_1(x), context, store)
        return x + self.mlp(self.norm_2(x))


class Nanochat(CausalLM):
    rotary: Rotary

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
        self.smear = Smear(config.smear_channels) if config.smear_channels else None
        self.mix = LambdaMix(config.n_layer) if config.lambdas else None
        self.blocks = nn.ModuleList(NanochatBlock(config, i) for i in range(config.n_layer))
        self.backout = nn.Parameter(torch.zeros(1)) if config.backout_layer is not None else None
        self.norm_f = rms_norm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.padded_vocab_size, bias=False)

    def tie(self) -> None:
        """Embedding and head are two matrices."""

    def new_context(self, ids: Tensor, positions: Tensor) -> AttentionContext:
        return AttentionContext(positions, self.rotary(positions), ids=ids)

    def embed_ids(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.embed_norm(self.embed(ids))  # (B, T, C)

    def run_blocks(self, x: Tensor, context: AttentionContext, cache: KVCache | None) -> Tensor:
        if self.smear is not None:
            x = self.smear(x, context.positions, cache.carried if cache is not None else {})
        x_0 = x_middle = x
        for i, (block, store) in enumerate(zip(self.blocks, self.stores(cache), strict=True)):
            if self.mix is not None:
                x = self.mix(x, x_0, i)
            x = block(x, context, store)
            if i == self.config.backout_layer:
                x_middle = x
        return x if self.backout is None else x - self.backout * x_middle

    def unembed(self, x: Tensor) -> Tensor:
        logits = self.lm_head(x)[..., : self.config.vocab_size].float()  # (B, T, V), padding rows cropped
        return self.config.softcap * torch.tanh(logits / self.config.softcap)
