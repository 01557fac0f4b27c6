"""Tensor names: tables from labkit's canonical names to a format's own, exhaustive in both directions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import CheckpointError


class Fused(NamedTuple):
    """A canonical tensor that the format keeps as several, one after the other along dimension 0."""

    names: Sequence[str]
    sizes: Sequence[int]


# Canonical name -> the format's name, or several fused; "{i}" stands for the layer.
Table = Mapping[str, str | Fused]


def expand(table: Table, n_layer: int) -> dict[str, str | Fused]:
    """Write out "{i}" for every layer."""
    out: dict[str, str | Fused] = {}
    for canonical, native in table.items():
        for i in range(n_layer) if "{i}" in canonical else [0]:
            out[canonical.replace("{i}", str(i))] = (
                Fused([name.replace("{i}", str(i)) for name in native.names], native.sizes)
                if isinstance(native, Fused)
                else native.replace("{i}", str(i))
            )
    return out


def to_canonical(native: Mapping[str, Tensor], table: Table, model: nn.Module, where: str) -> dict[str, Tensor]:
    """Rename a file's tensors for ``model`` (which may live on the meta device).

    Raises:
        CheckpointError: naming every tensor that is missing, not understood, or of the wrong shape.
    """
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    names = expand(table, len(model.blocks))  # type: ignore[arg-type]
    missing, wrong, weights = [], [], {}
    left = dict(native)
    for canonical, source in names.items():
        if canonical not in expected:
            continue
        fused = source if isinstance(source, Fused) else Fused([source], [expected[canonical][0]])
        parts = []
        for name, size in zip(fused.names, fused.sizes, strict=True):
            tensor, shape = left.pop(name, None), (size, *expected[canonical][1:])
            if tensor is None:
                missing.append(name)
            elif tuple(tensor.shape) != shape:
                wrong.append(f"{name} is {tuple(tensor.shape)}, the config asks for {shape}")
            else:
                parts.append(tensor)
        if len(parts) == len(fused.names):
            weights[canonical] = torch.cat(parts) if len(parts) > 1 else parts[0]
    problems = [
        f"{len(found)} tensor{'s' * (len(found) > 1)} {what} ({', '.join(found[:3])}{', …' * (len(found) > 3)})"
        for what, found in (("missing", missing), ("not understood", sorted(left)), ("of the wrong shape", wrong))
        if found
    ]
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems)}. The file and its config do not belong together.")
    return weights


def to_native(weights: Mapping[str, Tensor], table: Table, n_layer: int) -> dict[str, Tensor]:
    """Rename a model's tensors for a file in the format of ``table``."""
    out: dict[str, Tensor] = {}
    for canonical, native in expand(table, n_layer).items():
        if canonical not in weights:
            continue
        if isinstance(native, Fused):
            out.update(zip(native.names, weights[canonical].split(list(native.sizes)), strict=True))
        else:
            out[native] = weights[canonical]
    return out


def strip_prefixes(native: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove what DDP (``module.``) and torch.compile (``_orig_mod.``) put in front, in any order and number."""
    out = {}
    for name, tensor in native.items():
        while name.startswith(("module.", "_orig_mod.")):
            name = name.split(".", 1)[1]
        out[name] = tensor
    return out


def check_layers(native: Mapping[str, Tensor], prefix: str, n_layer: int, where: str) -> None:
    """Compare the config's n_layer with the file's, before a model of that size is laid out."""
    found = {int(name[len(prefix) :].split(".")[0]) for name in native if name.startswith(prefix)}
    if found and n_layer > max(found) + 1:
        raise CheckpointError(f"{where}: the config says {n_layer} layers, the file holds {max(found) + 1}")
