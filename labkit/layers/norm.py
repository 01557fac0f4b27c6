"""Normalisation beyond what torch has (``nn.LayerNorm``, ``nn.RMSNorm``)."""

import torch
from torch import Tensor, nn


class DynamicTanh(nn.Module):
    """tanh(alpha x) * weight + bias with one learned alpha, in the place of a norm (Zhu et al. 2025)."""

    def __init__(self, n: int, alpha: float = 0.5):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(alpha))
        self.weight = nn.Parameter(torch.ones(n))
        self.bias = nn.Parameter(torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        return torch.tanh(self.alpha * x) * self.weight + self.bias
