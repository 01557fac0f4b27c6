"""Tensor names: tables from labkit's canonical names to a format's own, exhaustive in both directions."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
        whole = tuple(expected[canonical])
        if isinstance(source, Fused):
            shapes = {name: (size, *whole[1:]) for name, size in zip(source.names, source.sizes, strict=True)}
        else:
            shapes = {source: whole}
        parts = []
        for name, shape in shapes.items():
            tensor = left.pop(name, None)
            if tensor is None:
                missing.append(name)
            elif tuple(tensor.shape) != shape:
                wrong.append(f"{name} is {tuple(tensor.shape)}, the config asks for {shape}")
            elif not tensor.is_floating_point():
                wrong.append(f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, not floating point")
            else:
                parts.append(tensor)
        if len(parts) == len(shapes):
            weights[canonical] = joined(parts)
    problems = [
        f"{len(found)} tensor{'s' * (len(found) > 1)} {what} ({', '.join(found[:3])}{', …' * (len(found) > 3)})"
        for what, found in (("missing", missing), ("not understood", sorted(left)), ("of the wrong shape", wrong))
        if found
    ]
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems)}. The file and its config do not belong together.")
    return weights


def joined(parts: Sequence[Tensor]) -> Tensor:
    """One after the other along dimension 0; of different dtypes in float32."""
    if len(parts) == 1:
        return parts[0]
    same_dtype = all(part.dtype == parts[0].dtype for part in parts)
    return torch.cat(list(parts) if same_dtype else [part.float() for part in parts])


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


def tensors_in(state: Any, where: str) -> dict[str, Tensor]:
    """A state dict without prefixes; whatever in it is no plain tensor is refused by name.

    A tensor whose shape claims more than its storage holds (stride 0) would be gigabytes once it is copied.
    """
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{where}: a {type(state).__name__} in place of the state dict")
    odd = [str(name) for name, tensor in state.items() if not isinstance(name, str) or not is_plain(tensor)]
    if odd:
        named = ", ".join(odd[:3]) + ", …" * (len(odd) > 3)
        raise CheckpointError(f"{where}: no plain tensors in the state dict: {named}")
    return strip_prefixes(state)


def is_plain(tensor: Any) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def tie(native: dict[str, Tensor], embedding: str, head: str, notes: list[str]) -> None:
    """One matrix under two names: fill in the one that is absent. If a file holds two, the head, loaded last, wins."""
    if embedding in native and head in native and not same(native[embedding], native[head]):
        notes.append(f"{head} and {embedding} differ although they should be one matrix; {head} is used for both.")
    for name, other in ((head, embedding), (embedding, head)):
        if name in native:
            native[other] = native[name]
            return


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and (a.data_ptr() == b.data_ptr() or torch.equal(a, b))


def check_layers(native: Mapping[str, Tensor], prefix: str, n_layer: int, where: str) -> None:
    """Compare the config's n_layer with the file's, before a model of that size is laid out."""
    held = {match[1] for name in native if (match := re.match(re.escape(prefix) + r"(\d+)\.", name))}
    if n_layer > len(held):
        raise CheckpointError(f"{where}: the config says {n_layer} layers, the file holds {len(held)}")
