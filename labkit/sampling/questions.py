"""Questions about one recorded step, answered without the model: why this token, why not that one, and what if the
settings were others (where it would change: ``breaks``).

Nothing here knows a stage's rule: every answer is found, and checked, by running the sampler itself on the recorded
logits and the noise of the same draw.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ..errors import SamplingError
from ..settings import Settings, check_names
from .breaks import PARAMETERS, BreakPoint, BreakPoints, Segment, Strip, break_points, has_stage, present, strip_of
from .probe import HOT, SCALES, Probe, Recorded, SameDraw, changes, fresh

Name = Callable[[int], str]


def spoken(name: str) -> str:
    """A setting as one says it: top-k, min-p, repetition penalty."""
    first, _, rest = name.partition("_")
    return f"{first}-{rest}" if first in ("top", "min", "typical") else name.replace("_", " ")


def numbered(token: int) -> str:
    """What a token is called where its text is not known."""
    return f"#{token}"


# --- why not that token


class Way(NamedTuple):
    """The smallest change of one setting alone that lets a token in.

    Attributes:
        now: the present value; None: off.
        value: the nearest one that lets it in; None: no value does.
        side: "≥" or "≤": on which side of ``value`` it is in.
        wins: whether the draw then picks it.
        exact: nothing nearer lets it in.
    """

    parameter: str
    now: float | None
    value: float | None
    side: str
    wins: bool = False
    exact: bool = True

    def __str__(self) -> str:
        if self.value is None:
            return "no value"
        return f"{spoken(self.parameter)} {self.side} {shown(self.value, self.side)}"


class Push(NamedTuple):
    """A stage that moved a token's logit because of which token it is."""

    stage: str
    before: float
    after: float


@dataclass(frozen=True, repr=False)
class WhyNot:
    """Why one token was not chosen; ``str`` says it in a sentence.

    Attributes:
        rank: of the model's logit, 0 is the largest.
        probability: the model's.
        removal: the stage that removed it, what it measured and where it draws the line; None: it reached the draw.
        ways: for a removed token, setting by setting, the smallest change that lets it in.
        missed_by: for a token that reached the draw: how much larger the winner's logit + noise is; None otherwise, and
            where the draw has no noise of each token's own.
        wins_at: temperatures (from, to), nearest to the present one, at which the draw would pick it; None: none.
        pushes: penalties and biases that moved its logit.
    """

    id: int
    chosen: int
    rank: int
    probability: float
    removal: Any
    ways: tuple[Way, ...]
    missed_by: float | None
    wins_at: tuple[float, float] | None
    pushes: tuple[Push, ...]
    name: str = field(default="", compare=False)
    chosen_name: str = field(default="", compare=False)

    def rows(self) -> list[dict[str, Any]]:
        """One row a way to let it in."""
        return [way._asdict() for way in self.ways]

    def to_dict(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        removal = self.removal and self.removal._asdict()
        return values | {"removal": removal, "ways": self.rows(), "pushes": [push._asdict() for push in self.pushes]}

    def __str__(self) -> str:
        name, chosen = self.name or numbered(self.id), self.chosen_name or numbered(self.chosen)
        pushed = "".join(
            f"; {spoken(p.stage)} moved its logit from {p.before:.4g} to {p.after:.4g}" for p in self.pushes
        )
        known = f"{name} ({percent(self.probability)} from the model, rank {self.rank}{pushed})"
        if self.id == self.chosen:
            return f"{known} was chosen."
        if self.removal is None:
            if self.probability == 0 and self.missed_by is None:
                return (
                    f"{name} had no probability to begin with (a logit of -inf, or it ends a text that is too short)."
                )
            if self.missed_by is None:
                return f"{known} reached the draw, which took {chosen}."
            heat = "at no temperature would it have won"
            if self.wins_at is not None:
                heat = f"it would have won at temperatures from {self.wins_at[0]:.4g} to {self.wins_at[1]:.4g}"
            return f"{known} reached the draw and missed {chosen} by {self.missed_by:.4g}; {heat}."
        r = self.removal
        opens = [f"{way}{' (and then it wins)' * way.wins}" for way in self.ways if way.value is not None]
        way_in = f"to let it in: {' or '.join(opens)}" if opens else "no single one of these settings lets it in"
        line = f"{r.measure} {r.value:.6g}, must be {r.stays} {r.threshold:.6g}"
        return f"{known} was removed by {spoken(r.stage)}: {line}; {way_in}."

    def __repr__(self) -> str:
        by = f"removed by {self.removal.stage}" if self.removal else f"missed by {self.missed_by}"
        return f"WhyNot({self.id}: {by})"


def why_not(trace: Any, token: int, name: Name = numbered) -> WhyNot:
    """Why a token was not chosen, and what would change that.

    Args:
        trace: a SamplingTrace.
        name: what a token is called in the sentence.
    """
    vocab_size = len(trace.logits)
    if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
        raise SamplingError(f"token {token!r} is not in the vocabulary; ids are 0 … {vocab_size - 1}")
    draw = SameDraw(trace)
    removal, probability = trace.removal(token), trace.stages[0].probabilities[token]
    dialect = trace.sampler.named.get("dialect", "labkit")
    ways: list[Way] = []
    missed_by = wins_at = None
    if removal is not None and trace.sampler.named:
        own = [removal.stage] if removal.stage in SCALES and removal.stage not in PARAMETERS else []
        named = [name for name in (*PARAMETERS, *own) if has_stage(name, dialect)]
        ways = [way_in(trace, token, Probe(trace, name, draw)) for name in named]
    elif draw.noise is not None and bool(trace.stages[-1].kept[token]):
        scores = trace.sampler.apply(trace.logits[None], fresh(trace.context))[0].double() + draw.noise
        missed_by = float(scores[trace.chosen] - scores[token])
        if trace.sampler.named and token != trace.chosen:
            wins_at = nearest(strip_of(trace, Probe(trace, "temperature", draw)), token)
    return WhyNot(
        id=token,
        chosen=trace.chosen,
        rank=int((trace.logits > trace.logits[token]).sum()),
        probability=float(probability),
        removal=removal,
        ways=tuple(ways),
        missed_by=missed_by,
        wins_at=wins_at,
        pushes=pushes(trace, token),
        name=name(token),
        chosen_name=name(trace.chosen),
    )


def way_in(trace: Recorded, token: int, probe: Probe) -> Way:
    """The nearest value of one setting at which a removed token reaches the draw."""
    scale = probe.scale
    if scale.parameter == "temperature":
        scale = scale._replace(high=HOT, loosest=HOT)
    now = present(trace, scale.parameter)
    here = min(max(scale.loosest if now is None else now, scale.low), scale.high)

    def kept(value: float) -> bool:
        return probe.keeps(value, token)

    sides = [scale._replace(low=here), scale._replace(high=here)]
    if probe.nested:  # only the loose side can let it in, and if any value does its end does
        sides = [side for side in sides if scale.loosest in (side.low, side.high)]
        if here == scale.loosest or not kept(scale.loosest):
            return Way(scale.parameter, now, None, "≥" if scale.loosest == scale.high else "≤")
    found = []
    guesses = probe.guesses(torch.tensor([token]))
    for side in sides:
        stretches = changes(side, kept, guesses, () if probe.nested else probe.scale.tried())
        upwards = side.low == here
        opened = [(start, end) for start, end, inside in stretches if inside]
        if opened:
            value = opened[0][0] if upwards else opened[-1][1]
            found.append(Way(scale.parameter, now, value, "≥" if upwards else "≤", exact=probe.nested))
    if not found:
        return Way(scale.parameter, now, None, "≥", exact=probe.nested)
    way = min(found, key=lambda way: abs(float(way.value or 0) - here))
    return way._replace(wins=probe.pick(way.value or 0) == token)


def nearest(strip: Strip, token: int) -> tuple[float, float] | None:
    """The stretch nearest to the present value at which the draw picks a token."""
    now = 1.0 if strip.value is None else strip.value
    stretches = [(s.start, s.end) for s in strip.segments if s.id == token]
    return min(stretches, key=lambda s: max(s[0] - now, now - s[1]), default=None)


def pushes(trace: Recorded, token: int) -> tuple[Push, ...]:
    """What penalties and biases did to a token's logit."""
    found, row, context = [], trace.logits[None], fresh(trace.context)  # (1, V)
    for stage in trace.sampler.stages:
        after = stage(row, context)
        before, now = float(row[0, token]), float(after[0, token])
        if stage.by_id and before != now and math.isfinite(now):
            found.append(Push(stage.name, before, now))
        row = after
    return tuple(found)


# --- why this token


@dataclass(frozen=True, repr=False)
class Why:
    """Why the chosen token was chosen; ``str`` says it.

    Attributes:
        probability, drawn_probability: the model's, and after every stage.
        rank: of the model's logit, 0 is the largest.
        kept: tokens that reached the draw.
        noise: the draw's, for this token; None where the draw has none.
        runner_up, margin: the token with the next largest logit + noise, and how far behind it is; None if alone.
        favourite: the model's most probable token, with its probability; ``favourite_noise`` is None if it was removed.
        removed_favourite: the stage that removed the favourite, if one did.
    """

    id: int
    probability: float
    drawn_probability: float
    rank: int
    kept: int
    noise: float | None
    runner_up: int | None
    margin: float | None
    favourite: int
    favourite_probability: float
    favourite_noise: float | None
    removed_favourite: str | None
    names: Mapping[int, str] = field(default_factory=dict, compare=False)

    def rows(self) -> list[dict[str, Any]]:
        return [self.to_dict()]

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "names"}

    def _name(self, token: int) -> str:
        return self.names.get(token) or numbered(token)

    def __str__(self) -> str:
        name, favourite = self._name(self.id), self._name(self.favourite)
        model, drawn = percent(self.probability), percent(self.drawn_probability)
        left = f"{self.kept} token{'s' * (self.kept > 1)}"
        first = f"{name} has {model} from the model and {drawn} after all stages, which left {left}"
        if self.kept == 1:
            return f"{first}: no other was left."
        if self.noise is None:
            return f"{first}; the draw took it."
        won = f"with noise {self.noise:+.4g} it beat {self._name(self.runner_up or 0)} by {self.margin:.4g}"
        if self.id == self.favourite:
            return f"{first}; {won}."
        theirs = f"{favourite}, the model's favourite with {percent(self.favourite_probability)}"
        if self.removed_favourite is not None:
            return f"{first}; {won}; {theirs}, was removed by {spoken(self.removed_favourite)}."
        return f"{first}; {won}; {theirs}, had noise {self.favourite_noise:+.4g}."

    def __repr__(self) -> str:
        return f"Why({self.id}: {self.probability:.4g} → {self.drawn_probability:.4g}, margin {self.margin})"


def explain(trace: Any, name: Name = numbered) -> Why:
    """Why the chosen token of a SamplingTrace was chosen: probabilities, noise, runner-up and margin."""
    draw, model, last = SameDraw(trace), trace.stages[0].probabilities, trace.stages[-1]
    favourite, runner_up, margin = int(trace.logits.argmax()), None, None
    if draw.noise is not None and int(last.kept.sum()) > 1:
        scores = trace.sampler.apply(trace.logits[None], fresh(trace.context))[0].double() + draw.noise
        own, scores[trace.chosen] = float(scores[trace.chosen]), -math.inf
        runner_up = int(scores.argmax())
        margin = own - float(scores[runner_up])
    removal = trace.removal(favourite)
    return Why(
        id=trace.chosen,
        probability=float(model[trace.chosen]),
        drawn_probability=float(last.probabilities[trace.chosen]),
        rank=int((trace.logits > trace.logits[trace.chosen]).sum()),
        kept=int(last.kept.sum()),
        noise=None if draw.noise is None else float(draw.noise[trace.chosen]),
        runner_up=runner_up,
        margin=margin,
        favourite=favourite,
        favourite_probability=float(model[favourite]),
        favourite_noise=None if draw.noise is None or removal else float(draw.noise[favourite]),
        removed_favourite=removal.stage if removal else None,
        names={token: name(token) for token in (trace.chosen, runner_up, favourite) if token is not None},
    )


# --- what if the settings were others


@dataclass(frozen=True, repr=False)
class WhatIf:
    """The same draw under two sets of settings.

    Attributes:
        before, after: SamplingTraces; ``after.chosen`` is the token under the other settings.
        changed: (setting, before, after) of all that differ.
    """

    before: Any
    after: Any
    changed: tuple[tuple[str, Any, Any], ...]

    @property
    def same(self) -> bool:
        """Whether the token stays."""
        return bool(self.before.chosen == self.after.chosen)

    def rows(self) -> list[dict[str, Any]]:
        """One row a side."""
        return [
            {"side": side, "chosen": trace.chosen, "kept": int(trace.stages[-1].kept.sum())}
            for side, trace in (("recorded", self.before), ("what if", self.after))
        ]

    def to_dict(self) -> dict[str, Any]:
        return {"sides": self.rows(), "changed": [list(change) for change in self.changed]}

    def __repr__(self) -> str:
        changed = ", ".join(f"{name} {before} → {after}" for name, before, after in self.changed)
        return f"WhatIf({self.before.chosen} → {self.after.chosen}: {changed or 'nothing changed'})"


def what_if(trace: Any, settings: Settings | None = None, **changes: Any) -> WhatIf:
    """The same draw under other settings.

    Args:
        trace: a SamplingTrace.
        settings: all of them (their seed does not count: the draw is the recorded one) or, if None, the recorded ones.
        changes: on top of these.
    """
    other = other_sampler(trace.sampler, settings, changes)
    context = trace.context
    after = other.trace(
        trace.logits,
        context.prompt_ids[0],
        context.generated_ids[0],
        context.step,
        context.stream[0],
        fresh(context).state,
    )
    return WhatIf(trace, after, differences(trace.sampler.named, other.named))


def other_sampler(sampler: Any, settings: Settings | None, changes: Mapping[str, Any]) -> Any:
    """A sampler with the same draw and other settings."""
    check_names(changes)
    changes = dict(changes)
    if settings is not None:
        kept = ("greedy", "penalty_scope", "dialect")
        off: dict[str, Any] = {name: None for name in sampler.named if name not in kept}
        changes = off | {name: v for name, v in settings.sampling().items() if name != "seed"} | changes
    return sampler.replace(**changes)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[tuple[str, Any, Any], ...]:
    """(name, before, after) of the settings that differ; None: off, or as the dialect has it."""
    names: Sequence[str] = list(dict.fromkeys([*before, *after]))
    return tuple((n, before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n))


def percent(p: float) -> str:
    return f"{100 * p:.3g} %"


def shown(value: float, side: str) -> str:
    """A bound in four digits, rounded to the side on which it holds."""
    if isinstance(value, int) or value == 0:
        return f"{value:g}" if value < 1e6 else str(value)
    digits = 3 - math.floor(math.log10(abs(value)))
    rounded = (math.ceil if side == "≥" else math.floor)(value * 10**digits) / 10**digits
    return f"{rounded:.{max(digits, 0)}f}".rstrip("0").rstrip(".")


__all__ = [
    "BreakPoint", "BreakPoints", "Push", "Segment", "Strip", "Way", "WhatIf", "Why", "WhyNot", "break_points",
    "explain", "what_if", "why_not",
]  # fmt: skip
