"""Sites: the places inside a model that can be read and edited, by names that are the same in every family.

    resid_pre → norm_1 → q k v → pattern → z → attn_out → resid_mid → norm_2 → neurons → mlp_out → resid_post

All of them are inputs or outputs of modules that are there anyway, so ordinary PyTorch hooks reach them, and a model
without hooks pays nothing.
"""

import difflib
import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ..errors import ConfigError
from ..language_model import LanguageModel
from ..models import CausalLM

Argument = Literal["input", "output", "q", "k", "v", "pattern"]


class Kind(NamedTuple):
    """Where a kind of site is.

    Attributes:
        module: path within the block, "" for the block itself.
        argument: which of the module's inputs, or its output.
        dims: letters of ``labkit.layers``; T are the tokens of this forward, S the keys they may look at.
    """

    module: str
    argument: Argument
    dims: str
    words: str


KINDS: dict[str, Kind] = {
    "resid_pre": Kind("", "input", "BTC", "the residual stream before the block"),
    "q": Kind("attn.core", "q", "BHTD", "queries, rotated"),
    "k": Kind("attn.core", "k", "BKSD", "keys, rotated, of all tokens so far"),
    "v": Kind("attn.core", "v", "BKSD", "values of all tokens so far"),
    "pattern": Kind(
        "attn.core", "pattern", "BHTS", "attention weights, recomputed from q, k and the mask; to read only"
    ),
    "z": Kind("attn.core", "output", "BHTD", "what each head read: the weighted values"),
    "attn_out": Kind("attn", "output", "BTC", "what attention adds to the stream"),
    "resid_mid": Kind("norm_2", "input", "BTC", "the stream between attention and MLP"),
    "neurons": Kind("mlp.down_proj", "input", "BTN", "the MLP's neurons, after activation and gate"),
    "mlp_out": Kind("mlp", "output", "BTC", "what the MLP adds to the stream"),
    "resid_post": Kind("", "output", "BTC", "the stream after the block"),
}
FINAL: dict[str, Kind] = {
    "resid_final": Kind("norm_f", "input", "BTC", "what the final norm reads"),
    "norm_f": Kind("norm_f", "output", "BTC", "the normed stream, which the head reads"),
}


@dataclass(frozen=True, repr=False)
class Site:
    """One place in one model.

    Attributes:
        name: "blocks.3.z", or "norm_f".
        layer: None for the sites behind the last block.
        sizes: of the dims that the model fixes, by letter; known in the list that ``sites`` gives.
    """

    name: str
    kind: Kind
    layer: int | None
    sizes: tuple[tuple[str, int], ...] = ()

    @property
    def shape(self) -> str:
        """As one writes it: (B, 4, T, 32)."""
        sizes = dict(self.sizes)
        return f"({', '.join(str(sizes.get(d, d)) for d in self.kind.dims)})"

    def nbytes(self, n_tokens: int, batch: int = 1) -> int:
        """Bytes in float32 for so many tokens."""
        size = dict(self.sizes) | {"B": batch, "T": n_tokens, "S": n_tokens}
        total = 4
        for dim in self.kind.dims:
            total *= size[dim]
        return total

    def __repr__(self) -> str:
        return f"{self.name} {self.shape}"


def sites(lm: LanguageModel) -> list[Site]:
    """Every site of a model with its shape, in the order of a forward pass.

    Raises:
        ConfigError: a wrapped function has no inside.
    """
    unsized = every_site(lm.model)
    shapes = _shapes(lm.model)
    return [
        replace(
            site, sizes=tuple((d, n) for d, n in zip(site.kind.dims, shapes[site.name], strict=True) if d not in "BTS")
        )
        for site in unsized
    ]


def every_site(model: CausalLM) -> list[Site]:
    """The sites by name alone; nothing runs."""
    if not model.blocks:
        raise ConfigError("this model is a wrapped function; there is nothing to look into")
    inside = [Site(f"blocks.{i}.{name}", kind, i) for i in range(len(model.blocks)) for name, kind in KINDS.items()]
    return [*inside, *(Site(name, kind, None) for name, kind in FINAL.items())]


def module_of(model: CausalLM, site: Site) -> nn.Module:
    return (model if site.layer is None else model.blocks[site.layer]).get_submodule(site.kind.module)


def _shapes(model: CausalLM) -> dict[str, tuple[int, ...]]:
    """The shape of every site for one token, found by looking."""
    found: dict[str, tuple[int, ...]] = {}
    handles = []
    for site in every_site(model):

        def note(module: nn.Module, args: Any, output: Any, site: Site = site) -> None:
            if site.kind.argument == "pattern":
                found[site.name] = (*args[0].shape[:3], args[1].shape[2])
            else:
                found[site.name] = tuple(value_of(site.kind.argument, args, output).shape)

        handles.append(module_of(model, site).register_forward_hook(note))
    try:
        with torch.inference_mode():
            model.hidden(torch.zeros(1, 1, dtype=torch.long, device=model.device))
    finally:
        for handle in handles:
            handle.remove()
    return found


def value_of(argument: Argument, args: Any, output: Any) -> Any:
    """The tensor at a site, of a module's inputs and output."""
    return output if argument == "output" else args["qkv".index(argument) if argument in "qkv" else 0]


def resolve(lm: LanguageModel, names: str | Iterable[str]) -> list[Site]:
    """Sites by name; ``*`` stands for any text ("blocks.*.z"). Of an unknown name the nearest ones are suggested."""
    every = {site.name: site for site in every_site(lm.model)}
    out: dict[str, Site] = {}
    for name in [names] if isinstance(names, str) else names:
        matching = fnmatch.filter(every, name)
        if not matching:
            near = difflib.get_close_matches(name, every, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "labkit.sites(lm) lists all"
            raise ConfigError(f"no site is called {name!r} in these {len(lm.model.blocks)} blocks; {hint}")
        out |= {found: every[found] for found in matching}
    return list(out.values())
