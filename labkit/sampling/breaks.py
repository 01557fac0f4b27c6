"""Break points: along one setting, the values at which one recorded draw gives another token."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import SamplingError
from ..settings import rule_of
from .probe import SCALES, Along, Probe, Recorded, SameDraw, changes

PARAMETERS = ("temperature", "top_k", "top_p", "min_p")
DEFAULTS: Mapping[str, Any] = {"temperature": 1.0}  # what a setting is that was not given, if that is not "off"


class Segment(NamedTuple):
    """The token from one value of a setting to another, both tried; None where it cannot be told."""

    start: float
    end: float
    id: int | None


class BreakPoint(NamedTuple):
    """At ``value`` the token is ``above``; at the next smaller value there is, ``below``."""

    value: float
    below: int | None
    above: int | None


@dataclass(frozen=True, repr=False)
class Strip:
    """The tokens of one draw along one setting, everything else as it was.

    Attributes:
        value: the present one; None: off.
        low, high, log: the range, and whether a slider for it is better logarithmic.
        segments: side by side from low to high.
        exact: no change between two neighbouring segments' ends was missed.
        note: what to know about it, such as why it is not exact.
    """

    parameter: str
    value: float | None
    low: float
    high: float
    segments: tuple[Segment, ...]
    exact: bool = True
    note: str = ""
    log: bool = False

    @property
    def points(self) -> tuple[BreakPoint, ...]:
        """Where the token changes."""
        pairs = zip(self.segments, self.segments[1:], strict=False)
        return tuple(BreakPoint(after.start, before.id, after.id) for before, after in pairs)

    def to_dict(self) -> dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | {"segments": [segment._asdict() for segment in self.segments]}

    def __repr__(self) -> str:
        changes = "".join(f" | {point.value:.6g} | {point.above}" for point in self.points)
        return f"Strip({self.parameter}: {self.segments[0].id}{changes})"


@dataclass(frozen=True, repr=False)
class BreakPoints:
    """Strips by setting: ``answer["temperature"].points``."""

    strips: tuple[Strip, ...]

    def __getitem__(self, parameter: str) -> Strip:
        for strip in self.strips:
            if strip.parameter == parameter:
                return strip
        raise SamplingError(f"{parameter}: asked about were {', '.join(strip.parameter for strip in self.strips)}")

    @property
    def exact(self) -> bool:
        return all(strip.exact for strip in self.strips)

    def rows(self) -> list[dict[str, Any]]:
        """One row a segment."""
        return [
            {"parameter": strip.parameter, "now": strip.value, **segment._asdict(), "exact": strip.exact}
            for strip in self.strips
            for segment in strip.segments
        ]

    def to_dict(self) -> dict[str, Any]:
        return {"strips": [strip.to_dict() for strip in self.strips]}

    def __repr__(self) -> str:
        counts = ", ".join(f"{strip.parameter} {len(strip.points)}" for strip in self.strips)
        return f"BreakPoints({counts})"


def break_points(trace: Recorded, parameter: str | None = None) -> BreakPoints:
    """All values of a setting (or of temperature, top-k, top-p and min-p, one at a time) at which the token changes.

    Raises:
        SamplingError: the dialect has no such stage, the draw has no noise of each token's own, or the sampler was made
            from a list of stages.
    """
    draw = SameDraw(trace)
    if draw.noise is None:
        raise SamplingError(draw.reason)
    return BreakPoints(tuple(strip_of(trace, Probe(trace, name, draw)) for name in parameters_of(trace, parameter)))


def strip_of(trace: Recorded, probe: Along) -> Strip:
    scale = probe.scale
    segments = changes(scale, probe.pick, probe.guesses(), () if probe.nested else scale.tried())
    note = "" if probe.nested else f"{probe.why}; {len(scale.tried())} values were tried, and changes may hide between"
    if probe.nested and not trace.sampler.draw.by_chance and len(segments) == 1:
        note = "greedy: the largest logit is taken at every value"
    value = present(trace, scale.parameter)
    stretches = tuple(Segment(*segment) for segment in segments)
    return Strip(scale.parameter, value, scale.low, scale.high, stretches, probe.nested, note, scale.log)


def present(trace: Recorded, parameter: str) -> float | None:
    """The value of a setting in a recorded step; None: off."""
    value: float | None = trace.sampler.named.get(parameter, DEFAULTS.get(parameter))
    return value


def parameters_of(trace: Recorded, parameter: str | None) -> list[str]:
    """The one that is asked about, or those of the usual four that the dialect has."""
    dialect = trace.sampler.named.get("dialect", "labkit")
    if parameter is not None:
        if parameter not in SCALES:
            raise SamplingError(f"{parameter!r} has no break points; ask about {', '.join(SCALES)}")
        rule_of(parameter, dialect)
        return [parameter]
    return [name for name in PARAMETERS if has_stage(name, dialect)]


def has_stage(name: str, dialect: str) -> bool:
    try:
        rule_of(name, dialect)
    except SamplingError:
        return False
    return True
