"""The feed-forward half of a block."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]

# The activations that a checkpoint's config may name.
ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": F.gelu,  # exact, by erf
    "gelu_tanh": partial(F.gelu, approximate="tanh"),  # GPT-2's
    "relu": F.relu,
    "silu": F.silu,
}


class MLP(nn.Module):
    """down_proj(activation(up_proj(x))); the input of down_proj is what inspection calls the neurons."""

    def __init__(self, n_embd: int, n_hidden: int, activation: Activation, *, bias: bool):
        super().__init__()
        self.activation = activation
        self.up_proj = nn.Linear(n_embd, n_hidden, bias=bias)
        self.down_proj = nn.Linear(n_hidden, n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        return self.down_proj(self.activation(self.up_proj(x)))


class GatedMLP(nn.Module):
    """down_proj(activation(gate_proj(x)) * up_proj(x)); with SiLU this is SwiGLU (Shazeer 2020)."""

    def __init__(self, n_embd: int, n_hidden: int, activation: Activation, *, bias: bool):
        super().__init__()
        self.activation = activation
        self.gate_proj = nn.Linear(n_embd, n_hidden, bias=bias)
        self.up_proj = nn.Linear(n_embd, n_hidden, bias=bias)
        self.down_proj = nn.Linear(n_hidden, n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


def relu_squared(x: Tensor) -> Tensor:
    """relu(x) ** 2 (So et al. 2021, Primer)"""
    return F.relu(x).square()
