"""Capture and edit: read and replace what is at a site, also while a model generates with its cache.

    with labkit.capture(lm, "blocks.*.pattern") as acts:
        labkit.generate(lm, "To be")
    acts["blocks.0.pattern"]          # (B, H, n, n): prompt and continuation in one picture

Hooks are PyTorch's own and are gone when the ``with`` block ends, however it ends. They act in every thread that runs
the model, unless they were opened within ``apart()``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ContextError
from ..language_model import LanguageModel
from .site_names import Site, module_of, resolve, value_of

MOST_BYTES = 2 << 30
_APART: ContextVar[tuple[object, ...]] = ContextVar("apart", default=())


@contextmanager
def apart() -> Iterator[None]:
    """What is captured and edited within acts on what runs within, and on no other run of the model: for whatever may
    share it with another thread, such as a widget that writes meanwhile."""
    before = _APART.set((*_APART.get(), object()))
    try:
        yield
    finally:
        _APART.reset(before)


def only_here(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook, for forwards that run where it is opened; if that is not ``apart``, for all."""
    if not (chain := _APART.get()):
        return hook
    return lambda *args: hook(*args) if chain[-1] in _APART.get() else None


@dataclass(frozen=True)
class At:
    """A part of a site: some heads, some positions of the text; None: all.

    Attributes:
        site: a name, in which ``*`` stands for any text.
        heads: of q, k, v and z.
        positions: of tokens, counted from the first one that the model sees.
    """

    site: str
    heads: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None


class Where:
    """Which tokens the forward that is running looks at: told by hooks on the blocks and their attention."""

    def __init__(self, lm: LanguageModel):
        self.positions = torch.empty(0)  # (B, T)
        self.k_positions = torch.empty(0)  # (B, S)
        self.handles: list[Any] = []
        for block in lm.model.blocks:
            attn, core = block.get_submodule("attn"), block.get_submodule("attn.core")
            self.handles.append(block.register_forward_pre_hook(only_here(self._enter_block)))
            self.handles.append(attn.register_forward_pre_hook(only_here(self._enter_attention)))
            self.handles.append(core.register_forward_pre_hook(only_here(self._enter_core)))
        self._store: Any = None

    def _enter_block(self, module: nn.Module, args: Any) -> None:
        self.positions = args[1].positions

    def _enter_attention(self, module: nn.Module, args: Any) -> None:
        self._store = args[2] if len(args) > 2 else None

    def _enter_core(self, module: nn.Module, args: Any) -> None:
        self.k_positions = self.positions if self._store is None else self._store.seen


@dataclass
class Rows:
    """What was seen at a site in one forward: values with T as second to last dim but for (B, T, C), and positions."""

    positions: Tensor
    k_positions: Tensor
    values: Tensor


class Activations(Mapping[str, Tensor]):
    """What was at each site, by name: float32 on the CPU, the tokens of all forwards in one tensor.

    A forward that begins at the first position begins anew: of several prompts the last one is here. Keys and values
    are those of every token when it was new; a pattern has a row for each token and a column for each position.
    """

    def __init__(self, captured: Mapping[Site, At], max_bytes: int):
        self.sites = {site.name: site for site in captured}
        self.max_bytes = max_bytes
        self._parts = {site.name: at for site, at in captured.items()}
        self._rows: dict[str, list[Rows]] = {name: [] for name in self.sites}
        self._bytes = dict.fromkeys(self.sites, 0)
        self._total = 0
        kinds: dict[int, list[str]] = {}  # layer -> the names of what is captured there
        for site in captured:
            if site.layer is not None:
                kinds.setdefault(site.layer, []).append(site.name)
        # Where every layer gives the same, the first tells what all will hold.
        alike = len({tuple(name.split(".", 2)[-1] for name in names) for names in kinds.values()}) == 1
        self._of_first_layer = kinds[min(kinds)] if alike else []
        self._n_layer = len(kinds)

    def add(self, site: Site, where: Where, values: Tensor) -> None:
        rows = self._rows[site.name]
        if rows and int(where.positions.max()) + 1 == where.positions.shape[1]:
            self._total -= self._bytes[site.name]
            self._bytes[site.name] = 0
            rows.clear()
        if site.kind.argument in ("k", "v"):
            values = new_keys(values, where)
        at, positions = self._parts[site.name], where.positions
        if at.heads is not None:
            values = values[:, heads_of(site, at, values)]
        if at.positions is not None:
            wanted = torch.isin(positions[0], torch.tensor(at.positions, device=positions.device))
            values, positions = values[..., wanted, :], positions[:, wanted]
        self._bytes[site.name] += values.nbytes
        self._total += values.nbytes
        self._refuse_what_would_not_fit(site.name)
        rows.append(Rows(positions, where.k_positions.clone(), values.detach().clone()))

    def _refuse_what_would_not_fit(self, name: str) -> None:
        """As soon as the first layer is done, if it tells what all will hold after this forward; else at the limit."""
        needed = self._total
        if name in self._of_first_layer[-1:]:
            needed = self._n_layer * sum(self._bytes[site] for site in self._of_first_layer)
        if needed > self.max_bytes:
            raise ContextError(
                f"the capture would take about {needed / 2**20:,.0f} MiB, and may take {self.max_bytes / 2**20:,.0f}; "
                "capture fewer sites or fewer tokens, or pass max_bytes="
            )

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.sites:
            raise ConfigError(f"{name!r} was not captured; captured are {', '.join(self.sites)}")
        rows = self._rows[name]
        if not rows:
            raise ConfigError(f"nothing has run through {name} yet")
        if self.sites[name].kind.argument == "pattern":
            return assembled_pattern(rows)
        return torch.cat([row.values for row in rows], dim=-2).float().cpu()

    def positions(self, name: str) -> Tensor:
        """Positions (B, n) of the tokens in ``self[name]``."""
        return torch.cat([row.positions for row in self._rows[name]], dim=1).cpu()

    def __iter__(self) -> Iterator[str]:
        return (name for name in self.sites if self._rows[name])

    def __len__(self) -> int:
        return sum(1 for _ in self)


def new_keys(values: Tensor, where: Where) -> Tensor:
    """Of keys or values of all slots (B, K, S, D) those of this forward's tokens (B, K, T, D)."""
    is_new = where.k_positions[:, None, :] == where.positions[:, :, None]  # (B, T, S)
    slot = is_new.to(torch.uint8).argmax(dim=-1)  # (B, T)
    return values.gather(2, slot[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3]))


def assembled_pattern(rows: list[Rows]) -> Tensor:
    """Rows of several forwards as one picture: (B, H, n, positions), 0 where nothing was looked at."""
    n = int(max(row.k_positions.max() for row in rows)) + 1
    parts = []
    for row in rows:
        b, h, t, _ = row.values.shape
        full = torch.zeros(b, h, t, n + 1)  # the last column takes empty slots
        columns = torch.where(row.k_positions < 0, n, row.k_positions)[:, None, None, :].expand(row.values.shape)
        parts.append(full.scatter(-1, columns.cpu(), row.values.float().cpu())[..., :n])
    return torch.cat(parts, dim=2)


def weights(q: Tensor, k: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention weights from q (B, H, T, D), k (B, K, S, D) and mask (B, 1, T, S): float32 (B, H, T, S)"""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # (B, H, S, D)
    scores = (q @ k.transpose(-1, -2)).float() * scale
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)


@contextmanager
def capture(
    lm: LanguageModel, names: str | At | Iterable[str | At], *, max_bytes: int = MOST_BYTES
) -> Iterator[Activations]:
    """Read what is at these sites while the block runs.

    Args:
        names: of ``labkit.sites(lm)``; ``*`` stands for any text. An ``At`` keeps only some heads or positions.
        max_bytes: a capture that needs more is refused, with the number, before it fills the memory.

    Raises:
        ConfigError: no such site; the nearest names are suggested.
    """
    chosen: dict[Site, At] = {}
    for name in [names] if isinstance(names, str | At) else names:
        at = name if isinstance(name, At) else At(name)
        for site in resolve(lm, at.site):
            check_part(site, at)
            chosen[site] = at
    acts = Activations(chosen, max_bytes)
    where = Where(lm)
    try:
        for site in chosen:
            module = module_of(lm.model, site)
            where.handles.append(module.register_forward_hook(only_here(_reader(acts, site, where))))
        yield acts
    finally:
        for handle in where.handles:
            handle.remove()


def _reader(acts: Activations, site: Site, where: Where) -> Callable[..., None]:
    def read(module: Any, args: Any, output: Any) -> None:
        if site.kind.argument == "pattern":
            q, k, _, mask = args
            acts.add(site, where, weights(q, k, mask, module.scale or q.shape[-1] ** -0.5))
        else:
            acts.add(site, where, value_of(site.kind.argument, args, output))

    return read


@contextmanager
def edit(lm: LanguageModel, edits: Mapping[str | At, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Replace what is at sites by ``function(value)`` while the block runs, at every generated token as well.

    With an ``At`` that names heads or positions, the function gets and returns only that part. k and v are those of all
    tokens so far, at every step; what the cache holds stays as it is.

    Raises:
        ConfigError: no such site, a site that is only read, or a function that changes shape or dtype.
    """
    where = Where(lm)
    try:
        for key, function in edits.items():
            at = key if isinstance(key, At) else At(key)
            for site in resolve(lm, at.site):
                check_part(site, at)
                where.handles.append(_register(lm, site, at, function, where))
        yield
    finally:
        for handle in where.handles:
            handle.remove()


def _register(lm: LanguageModel, site: Site, at: At, function: Callable[[Tensor], Tensor], where: Where) -> Any:
    module, argument = module_of(lm.model, site), site.kind.argument
    if argument == "pattern":
        raise ConfigError(f"{site.name} is computed from q and k and only read; edit q, k, v or z")
    if argument == "output":
        return module.register_forward_hook(only_here(lambda m, args, out: edited(out, site, at, function, where)))
    place = "qkv".index(argument) if argument in "qkv" else 0

    def replace(module: nn.Module, args: Any) -> Any:
        return (*args[:place], edited(args[place], site, at, function, where), *args[place + 1 :])

    return module.register_forward_pre_hook(only_here(replace))


def edited(value: Tensor, site: Site, at: At, function: Callable[[Tensor], Tensor], where: Where) -> Tensor:
    """The value with the selected part replaced."""
    if at.positions is None and at.heads is None:
        return checked(function(value), value, site)
    dims = site.kind.dims
    index: list[Any] = [slice(None)] * value.ndim
    if at.heads is not None:
        index[1] = heads_of(site, at, value)
    if at.positions is not None:
        positions = where.k_positions if "S" in dims else where.positions  # (B, T)
        wanted = torch.isin(positions[0], torch.tensor(at.positions, device=positions.device))
        if not bool(wanted.any()):
            return value
        index[dims.index("S" if "S" in dims else "T")] = wanted.nonzero().squeeze(-1)
    if at.heads is not None and at.positions is not None:
        index[1] = torch.tensor(index[1], device=value.device)[:, None]
    part = value[tuple(index)]
    out = value.clone()
    out[tuple(index)] = checked(function(part), part, site)
    return out


def checked(new: Any, old: Tensor, site: Site) -> Tensor:
    if not isinstance(new, Tensor) or new.shape != old.shape or new.dtype != old.dtype:
        got = f"{tuple(new.shape)} {new.dtype}" if isinstance(new, Tensor) else type(new).__name__
        raise ConfigError(f"the edit of {site.name} gave {got}; it must give {tuple(old.shape)} {old.dtype}")
    return new


def heads_of(site: Site, at: At, value: Tensor) -> list[int]:
    """The heads that are asked for, all of which a value (B, H, …) has."""
    heads = list(at.heads or ())
    if bad := [head for head in heads if not 0 <= head < value.shape[1]]:
        raise ConfigError(f"{site.name} has heads 0 … {value.shape[1] - 1}; there is no head {bad[0]}")
    return heads


def check_part(site: Site, at: At) -> None:
    """Only sites with heads have any."""
    if at.heads is not None and site.kind.dims[1] not in "HK":
        raise ConfigError(f"{site.name} has no heads; sites with heads are q, k, v and z")
