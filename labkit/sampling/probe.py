"""One recorded draw under other values of one setting, and where along them its token changes.

Where every stage from the changed one on keeps a prefix of the tokens in order of their logits, and a larger one if it
is given more or something flatter (``nested``), the pick moves one way as the setting does: through ever larger scores
when the prefix grows, and to ever smaller logits when the temperature rises. So if two values give the same token, all
values between them do, and bisecting on the sampler itself finds every change.
"""

import bisect
import dataclasses
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..errors import SamplingError
from ..settings import rule_of
from .stages import Filter, Left, StepContext
from .systems import DividePenalty

Id = TypeVar("Id")
COLDEST = 2.0**-30  # what is below it counts as 0: dividing by less can leave float32
HOTTEST = 5.0
HOT = 2.0**10  # where a question about "any temperature" ends
RUNGS = (1, 3, 16, 2**8, 2**14, 2**22, 2**33)  # distances, in last digits, at which a guess is fenced in
LIKELY = 1024  # of so many largest logits the noise is looked at first
TRIED = 64  # values of a setting that are tried where no order of the tokens can be relied on


class Recorded(Protocol):
    """One recorded step: what a SamplingTrace holds. Logits are (V,), or a PartialLogits."""

    @property
    def chosen(self) -> int: ...
    @property
    def logits(self) -> Any: ...
    @property
    def sampler(self) -> Any: ...
    @property
    def context(self) -> StepContext: ...


class Along(Protocol):
    """What is asked of one step along one setting: a Probe, or a PartialProbe where not all logits are known."""

    scale: "Scale"
    nested: bool
    why: str

    def pick(self, value: float) -> int | None: ...
    def guesses(self) -> list[float]: ...


class Scale(NamedTuple):
    """The values of a setting.

    Attributes:
        low, high: the range that is asked about.
        loosest: the end at which its stage keeps most tokens.
        between: a value between two, the middle or thereabouts; None for neighbours.
        log: a slider for it is better logarithmic.
    """

    parameter: str
    low: float
    high: float
    loosest: float
    between: Callable[[Any, Any], Any]
    log: bool = False

    def tried(self) -> list[float]:
        """Values all along, closer together where the setting acts more."""
        if self.between is integer_between:
            return sorted({round(self.high ** (i / TRIED)) for i in range(TRIED + 1)})
        return [self.low + (self.high - self.low) * i / TRIED for i in range(TRIED + 1)]


def integer_between(a: int, b: int) -> int | None:
    return (a + b) // 2 if b - a > 1 else None


def float_between(a: float, b: float) -> float | None:
    middle = (a + b) / 2
    return middle if a < middle < b else None


def float32_between(a: float, b: float) -> float | None:
    """For a stage that computes with the value as float32; what is smaller than COLDEST counts as 0."""
    if b <= COLDEST:
        return None
    middle = max(float(np.float32((a + b) / 2)), COLDEST)
    return middle if a < middle < b else None


def scale_of(parameter: str, sampler: Any, vocab_size: int) -> Scale:
    """The values of a setting that this sampler's dialect takes.

    Raises:
        SamplingError: it has no such stage, or the sampler was not made from settings.
    """
    dialect = sampler.named.get("dialect", "labkit")
    rule = rule_of(parameter, dialect)
    between = float_between if dialect == "labkit" else float32_between  # the other systems compute in float32
    if parameter == "temperature":
        low = 0.0 if dialect != "gpt2seed" and rule.inside(0.0) else 2.0**-7
        high = max(HOTTEST, 2 * sampler.named.get("temperature", 1.0))
        return Scale(parameter, low, high, high, float32_between)
    if parameter == "top_k":
        return Scale(parameter, 1, vocab_size, vocab_size, integer_between, log=True)
    if parameter in ("top_p", "typical_p"):
        return Scale(parameter, COLDEST, 1.0, 1.0, between)
    if parameter in ("min_p", "epsilon_cutoff", "eta_cutoff"):
        return Scale(parameter, 0.0, math.nextafter(1.0, 0.0), 0.0, between)
    if parameter == "top_n_sigma":
        return Scale(parameter, 2.0**-10, 100.0, 100.0, between)
    raise SamplingError(f"{parameter}: there is no scale for it; ask about {', '.join(SCALES)}")


SCALES = ("temperature", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma", "epsilon_cutoff", "eta_cutoff")


class SameDraw:
    """The draw of one recorded step, for other sets of tokens: its noise is computed once."""

    def __init__(self, trace: Recorded):
        self.context, self.draw, self.vocab_size = trace.context, trace.sampler.draw, len(trace.logits)
        try:
            ids = torch.arange(self.vocab_size)
            self.noise: Tensor | None = self.draw.noise(ids, fresh(self.context), self.vocab_size)  # (V,)
        except SamplingError as error:
            self.noise, self.reason = None, str(error)

    def pick(self, left: Left, draw: Any = None) -> int:
        """The token among what is left; ``draw`` is another one where a setting of 0 makes it greedy."""
        draw = draw or self.draw
        if not len(left.ids) or not bool(torch.isfinite(left.logits.max())):
            raise SamplingError("no token is left to draw from, or the logits hold NaN or infinity")
        if draw is self.draw and self.noise is not None:
            return int(left.ids[(left.logits.double() + self.noise[left.ids]).argmax()])
        return int(draw.pick(left.ids, left.logits, fresh(self.context), self.vocab_size))


class Probe:
    """The stages of one recorded step with one setting changed; those before the changed one run once.

    Attributes:
        nested: every stage from the changed one on keeps a prefix (see above), and the draw has noise for each token.
        why: a sentence why not.
    """

    def __init__(self, trace: Recorded, parameter: str, draw: SameDraw):
        self.sampler, self.same = trace.sampler, draw
        self.scale = scale_of(parameter, trace.sampler, len(trace.logits))
        # Some value that switches the stage on, to see where it stands.
        there = self._changed({"top_k": 1, "top_n_sigma": 1.0}.get(parameter, 0.5)).stages
        names = [stage.name for stage in there]
        self.place = names.index(parameter) if parameter in names else len(names)
        before, after = there[: self.place], there[self.place :]
        self.stage = after[0] if after else None
        self.nested, self.why = nested(after)
        if draw.noise is None and draw.draw.by_chance:
            self.nested, self.why = False, draw.reason
        *_, (_, left) = self._stages(before).walk(trace.logits, fresh(draw.context))
        self.ids, self.row = left.ids, left.logits
        if self.nested and draw.noise is not None and ties_decide(after, self.row, draw.noise[self.ids]):
            self.nested, self.why = False, "equal logits fall as the sort of the whole row has them"
        if any(stage.by_id for stage in after):  # they want to know which token is which: the whole row
            self.ids = torch.arange(len(trace.logits))
            self.row = torch.full_like(trace.logits, -math.inf).scatter(0, left.ids, left.logits)

    def _changed(self, value: float) -> Any:
        return self.sampler.replace(**{self.scale.parameter: value})

    def _stages(self, stages: Sequence[Any]) -> Any:
        return type(self.sampler)(stages)

    def left(self, value: float) -> Left:
        """What the draw sees at a value."""
        return self._left(self._changed(value))

    def _left(self, changed: Any) -> Left:
        *_, (_, left) = self._stages(changed.stages[self.place :]).walk(self.row, fresh(self.same.context))
        there = left.logits > -math.inf
        return Left(self.ids[left.ids[there]], left.logits[there])

    def pick(self, value: float) -> int:
        """The token that the draw gives at a value."""
        changed = self._changed(value)
        return self.same.pick(self._left(changed), changed.draw)

    def keeps(self, value: float, token: int) -> bool:
        """Whether a token reaches the draw at a value."""
        return bool((self.left(value).ids == token).any())

    def guesses(self, ids: Tensor | None = None) -> list[float]:
        """Values near which these tokens (of those that can win) may enter or take over; only a help to find them."""
        if ids is not None:
            places = torch.isin(self.ids, ids).nonzero().squeeze(-1)
        elif self.same.noise is None:
            return []
        else:
            noise = self.same.noise[self.ids]
            places = contenders(self.row, noise)
        logits, largest = self.row[places].double(), float(self.row.max())
        parameter = self.scale.parameter
        values: list[float] = []
        if parameter == "temperature" and ids is None:
            values = takeovers(logits.tolist(), noise[places].tolist())
            if share := self.sampler.named.get("min_p"):
                values += ((logits - largest) / math.log(share)).tolist()
        elif parameter == "top_k":
            values = [int(n) + x for place in places for n in self._larger(int(place)) for x in (0, 1)]
        elif parameter == "min_p":
            values = (logits - largest).exp().tolist()
        elif parameter == "top_p" and isinstance(self.stage, Filter):
            limit = self.stage.limit(self.row[None], fresh(self.same.context))
            values = limit.values[0, places].tolist()
            values = values if limit.stays in ("below", "at most") else [1 - x for x in values]
        near = {x for value in values for x in self._near(value) if self.scale.low < x < self.scale.high}
        return sorted(near)

    def _larger(self, place: int) -> tuple[int, int]:
        """How many logits are larger than this one, and how many at least as large."""
        return int((self.row > self.row[place]).sum()), int((self.row >= self.row[place]).sum())

    def _near(self, value: float) -> list[float]:
        """A value between its neighbours, and some further and further away."""
        if self.scale.between is integer_between:
            return [value]
        digits, rungs = (24, (1, 4, 64, 4096)) if self.scale.between is float32_between else (53, RUNGS)
        off = [value * (1 + side * k * 2.0**-digits) for k in rungs for side in (-1, 1)]
        return [float(np.float32(x)) for x in (value, *off)] if digits == 24 else [value, *off]


def nested(stages: Sequence[Any]) -> tuple[bool, str]:
    """Whether all these stages keep prefixes that grow; if not, why."""
    for stage in stages:
        # Dividing the logits of some tokens does not care what all of them were divided by before.
        fine = stage.nested if isinstance(stage, Filter) else stage.name == "temperature"
        if not fine and not isinstance(stage, DividePenalty):
            return False, f"{stage.name} may remove likelier tokens than it keeps"
    return True, ""


def contenders(logits: Tensor, noise: Tensor) -> Tensor:
    """Places of the logits (n,) that can win among those at least as large, largest first: they have more noise than
    all of these. There are about log n of them."""
    first = logits.topk(min(LIKELY, len(logits))).indices
    late = (noise > noise[first].max()).nonzero().squeeze(-1)
    places = torch.cat([first, late]).unique()  # ascending
    places = places[logits[places].sort(descending=True, stable=True).indices]
    n = noise[places]
    return places[(n == n.cummax(dim=0).values) & (logits[places] > -math.inf)]


def ties_decide(stages: Sequence[Any], logits: Tensor, noise: Tensor) -> bool:
    """Whether a token that can win, of these logits (n,), equals another, and a stage orders the two by what else is in
    the row."""
    if not any(isinstance(stage, Filter) and stage.nested and stage.by_id for stage in stages):
        return False
    ordered, order = logits.sort(descending=True, stable=True)
    most = noise[order].cummax(dim=0).values
    tied = torch.zeros_like(ordered, dtype=torch.bool)
    tied[1:] = (ordered[1:] == ordered[:-1]) & (ordered[1:] > -math.inf)
    tied[:-1] |= tied[1:].clone()
    larger = torch.searchsorted(-ordered, -ordered)  # how many are strictly larger
    before = torch.where(larger > 0, most[(larger - 1).clamp(min=0)], -math.inf)
    return bool((tied & (noise[order] >= before)).any())


def takeovers(logits: Sequence[float], noise: Sequence[float]) -> list[float]:
    """Temperatures at which logit / T + noise of another token becomes the largest, from 0 on, without any filter."""
    values: list[float] = []
    here = 0
    while True:
        later = [
            ((logits[here] - logits[j]) / (noise[j] - noise[here]), j)
            for j in range(len(logits))
            if logits[j] < logits[here] and noise[j] > noise[here]
        ]
        if not later:
            return values
        value, here = min(later)
        values.append(value)


def changes(
    scale: Scale, pick: Callable[[float], Id], guesses: Sequence[float] = (), tried: Sequence[float] = ()
) -> list[tuple[float, float, Id]]:
    """Stretches (start, end, what) of the scale on which the pick stays the same, in order.

    Neighbouring stretches end and start at neighbouring values, and both were tried.

    Args:
        guesses: values to try first where a change is known to lie between.
        tried: values to try anyway; without, equal picks at two values are taken to hold for all between.
    """
    known: dict[float, Id] = {}

    def at(value: float) -> Id:
        if value not in known:
            known[value] = pick(value)
        return known[value]

    ends = sorted({scale.low, scale.high, *(x for x in tried if scale.low <= x <= scale.high)})
    guesses = sorted(guesses)
    borders: list[tuple[float, float]] = []
    ahead = list(zip(ends, ends[1:], strict=False))[::-1]
    while ahead:
        a, b = ahead.pop()
        if at(a) == at(b):
            continue
        first, last = bisect.bisect_right(guesses, a), bisect.bisect_left(guesses, b)
        middle = guesses[(first + last) // 2] if first < last else scale.between(a, b)
        if middle is None:
            borders.append((a, b))
        else:
            ahead += [(middle, b), (a, middle)]
    starts = [scale.low, *(b for _, b in borders)]
    stops = [*(a for a, _ in borders), scale.high]
    return [(start, stop, at(start)) for start, stop in zip(starts, stops, strict=True)]


def fresh(context: StepContext) -> StepContext:
    """A context whose state may be written to: neither stages nor generators move on in the recorded one."""
    state = {key: copied(value) for key, value in context.state.items()}
    return dataclasses.replace(context, state=state)


def copied(value: Any) -> Any:
    """Generators as they are now; other values are never changed in place."""
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if isinstance(value, np.random.RandomState):
        return deepcopy(value)
    return tuple(map(copied, value)) if isinstance(value, tuple) else value
