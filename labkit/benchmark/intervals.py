"""What can be concluded from a few timed runs. A run is the unit: its tokens share their luck, so they count once."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scipy import stats

CONFIDENCE = 0.95  # of the mean, and of ratios within one benchmark
# Of the mean of a second benchmark. Higher, because its few runs may have a bad day of their own.
REPEAT = 0.99
# Standard error of the exponent of the machine's pace: a run that is twice as long at half the pace is the rule, not a
# law. Measured between 0.5 and 1.4 on a machine with neighbours, according to what they do.
DOUBT = 0.25


@dataclass(frozen=True)
class Summary:
    """Values of the same thing, one a run."""

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        return len(self.values)

    @cached_property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @cached_property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def confidence(self) -> tuple[float, float] | None:
        """Student's 95 % interval of the mean; None for a single run."""
        half = self._half(CONFIDENCE, 1 / self.n)
        return None if half is None else (self.mean - half, self.mean + half)

    @property
    def repeats_within(self) -> float | None:
        """How far from this mean that of a second benchmark of as many runs stays in 99 of 100 cases.

        Two means differ by more than each differs from the truth, hence the 2: a prediction interval, which is wider
        than the confidence interval of one mean. None for a single run.
        """
        return self._half(REPEAT, 2 / self.n)

    def __str__(self) -> str:
        """The mean, and by what share of it a second benchmark may differ."""
        within = self.repeats_within
        if within is None:
            return f"{self.mean:.1f}"
        return f"{self.mean:.1f} ± {within / self.mean:.1%}" if within < self.mean else f"{self.mean:.1f} ± >100%"

    def _half(self, level: float, variance: float) -> float | None:
        if self.n < 2:
            return None
        return quantile(level, self.n - 1) * statistics.stdev(self.values) * math.sqrt(variance)

    def to_dict(self) -> dict[str, Any]:
        return {
            "mean": self.mean,
            "min": min(self.values),
            "max": max(self.values),
            "median": self.median,
            "ci95": None if self.confidence is None else list(self.confidence),
            "repeats_within": self.repeats_within,
            "values": list(self.values),
        }


@dataclass(frozen=True)
class Ratio:
    """How many times a is b; ``low`` and ``high`` are None where there are too few runs to tell."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f} x"
        return f"{self.value:.2f} x ({self.low:.2f} to {self.high:.2f})"

    def to_dict(self) -> dict[str, float | None]:
        return {"ratio": self.value, "low": self.low, "high": self.high}

    def verdict(self, tolerance: float = 0.0) -> str:
        """ "faster", "slower", "within noise" or "unclear", of a speed.

        Args:
            tolerance: a difference up to this share is noise even where the interval is narrower: what happens between
                two benchmarks (a warmer machine, another neighbour) is in no interval of either.
        """
        if self.low is None or self.high is None:
            return "unclear"
        if self.low > 1 and self.value > 1 + tolerance:
            return "faster"
        return "slower" if self.high < 1 and self.value < 1 - tolerance else "within noise"


def paired(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """The ratio of two that ran in turns: what slows a round slows both, and cancels."""
    logs = [math.log(x / y) for x, y in zip(a, b, strict=True)]
    if len(logs) < 2:
        return Ratio(math.exp(logs[0]))
    error = statistics.stdev(logs) / math.sqrt(len(logs))
    return _ratio(statistics.fmean(logs), error, len(logs) - 1, CONFIDENCE)


def unpaired(
    a: Sequence[float], b: Sequence[float], paces: tuple[Sequence[float], Sequence[float]] | None = None
) -> Ratio:
    """The ratio of two that ran at different times, by Welch's interval (99 %) of the difference of logarithms.

    Args:
        paces: of the machine, a value for each value of a and of b. The ratio is then that of the values at one and the
            same pace, and the more the paces differ, the wider is its interval.
    """
    logs = [[math.log(x) for x in values] for values in (a, b)]
    doubt = 0.0
    if paces:
        of_a, of_b = ([math.log(pace) for pace in values] for values in paces)
        doubt = DOUBT * (statistics.fmean(of_a) - statistics.fmean(of_b))
        logs = [[x - pace for x, pace in zip(*pair, strict=True)] for pair in zip(logs, (of_a, of_b), strict=True)]
    difference = statistics.fmean(logs[0]) - statistics.fmean(logs[1])
    if min(len(a), len(b)) < 2:
        return Ratio(math.exp(difference))
    parts = [statistics.variance(values) / len(values) for values in logs]
    spread = sum(part**2 / (len(values) - 1) for part, values in zip(parts, logs, strict=True))
    freedom = sum(parts) ** 2 / spread if spread else 1.0
    return _ratio(difference, math.sqrt(sum(parts) + doubt**2), freedom, REPEAT)


def _ratio(log: float, error: float, freedom: float, level: float) -> Ratio:
    half = quantile(level, freedom) * error
    return Ratio(math.exp(log), math.exp(log - half), math.exp(log + half))


def quantile(level: float, freedom: float) -> float:
    """Half-width of Student's two-sided interval, in standard errors."""
    return float(stats.t.ppf((1 + level) / 2, freedom))
