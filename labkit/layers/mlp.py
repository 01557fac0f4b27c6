"""The feed-forward half of a block."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """down_proj(activation(up_proj(x))); the input of down_proj is what inspection calls the neurons."""

    def __init__(self, n_embd: int, n_hidden: int, activation: Callable[[Tensor], Tensor], *, bias: bool):
        super().__init__()
        self.activation = activation
        self.up_proj = nn.Linear(n_embd, n_hidden, bias=bias)
        self.down_proj = nn.Linear(n_hidden, n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        return self.down_proj(self.activation(self.up_proj(x)))


def relu_squared(x: Tensor) -> Tensor:
    """relu(x) ** 2 (So et al. 2021, Primer)"""
    return F.relu(x).square()
