"""The fast path on the CPU: products with weights in oneDNN's own order.

With few rows torch hands a product to a library that, on some processors, uses but a part of the memory's bandwidth.
oneDNN, which is in torch, reads a packed copy of the weights faster (docs/decisions/0007). It adds up in another order,
so logits differ in their last digits; everything else about the model stays as it is, hooks included.
"""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAST = 2**18  # numbers in a matrix; smaller ones lie in a cache, where calling oneDNN costs more than it saves
DTYPES = (torch.float32, torch.bfloat16)
Model = TypeVar("Model", bound=nn.Module)


class PackedLinear(nn.Linear):
    """A linear layer that multiplies with a packed copy of its weights wherever no gradient is asked for.

    The copy is made when it is first needed, and again after the weights were changed in place.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self._packed: tuple[tuple[int, int], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) -> (…, out)"""
        weight = self.weight
        if x.dtype != weight.dtype or torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            return F.linear(x, weight, self.bias)
        version = weight.data_ptr(), weight._version
        if self._packed is None or self._packed[0] != version:
            self._packed = version, torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        return torch.ops.mkldnn._linear_pointwise(x, self._packed[1], self.bias, "none", [], "")

    def plain(self) -> nn.Linear:
        """The same layer, not packed."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        linear.weight, linear.bias = self.weight, self.bias
        return linear

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": None}  # it can be neither copied nor saved, and is made again


def can_pack(linear: nn.Linear) -> bool:
    """Whether it is large enough to gain, and its weights are where and what oneDNN takes."""
    weight = linear.weight
    there = weight.device.type == "cpu" and weight.dtype in DTYPES and not weight.is_inference()
    return there and weight.numel() >= LEAST and torch.backends.mkldnn.is_available()


def pack(model: nn.Module) -> int:
    """Pack the large linear layers of a model, whose weights stay the same tensors; how many they are."""
    found = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and can_pack(child):
                setattr(parent, name, PackedLinear(child))
                found += 1
    return found


def is_packed(model: nn.Module) -> bool:
    return any(isinstance(module, PackedLinear) for module in model.modules())


def plain(model: Model) -> Model:
    """The same model on the same weights, nothing packed."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    other = copy.deepcopy(model, shared)
    for module in list(other.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, PackedLinear):
                setattr(module, name, child.plain())
    return other
