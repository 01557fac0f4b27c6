"""What sampling settings do to the text: how varied it is, how much it repeats, how much it surprises the model."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from tqdm.auto import tqdm

from ..errors import ConfigError
from ..generation import Generation, generate_batch
from ..language_model import LanguageModel
from ..settings import Settings
from .intervals import Summary

MEASURES = {
    "distinct": "share of the 2-grams of a text that are different (Li and others 2016, distinct-2)",
    "repeated": "share of the 4-grams of a text that it had already said",
    "own": "share of the 2-grams of a text that none of the other texts has",
    "surprisal": "mean bits per token of a text for the model itself, without penalties, temperature and filters",
}


@dataclass(frozen=True, repr=False)
class SamplingEffects:
    """Texts written under several settings, each with the same draws, and their measures.

    Attributes:
        changed: names of the settings that vary.
        points: for each setting their values, and for each measure of MEASURES its Summary over the texts.
    """

    changed: tuple[str, ...]
    points: tuple[tuple[dict[str, Any], dict[str, Summary]], ...]

    def rows(self) -> list[dict[str, Any]]:
        """One row a setting: its values, n, and each measure with the half-width of its 95 % interval."""
        rows = []
        for values, measures in self.points:
            row = {**values, "n": next(iter(measures.values())).n}
            for name, summary in measures.items():
                interval = summary.confidence
                row[name] = round(summary.mean, 4)
                row[f"{name}_within"] = None if interval is None else round(interval[1] - summary.mean, 4)
            row["self_perplexity"] = round(2 ** measures["surprisal"].mean, 3)
            rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        return {"changed": list(self.changed), "measures": dict(MEASURES), "rows": self.rows()}

    def __repr__(self) -> str:
        return f"SamplingEffects({len(self.points)} settings of {', '.join(self.changed)})"


def sampling_effects(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    grid: Mapping[str, Sequence[Any]],
    settings: Settings | None = None,
    *,
    n: int = 16,
    progress: bool = True,
    **changes: Any,
) -> SamplingEffects:
    """Write n texts at every point of a grid and measure them. Text i has the same draw at every point, so what differs
    is the settings' doing.

    Args:
        grid: name of a setting -> its values, such as {"temperature": [0.5, 1], "top_p": [0.9, 1]}.
        settings, changes: what all points share, as in ``generate``.
        n: texts at each point.

    Raises:
        ConfigError: an empty grid, or fewer than two texts or tokens to measure.
    """
    if not grid or not all(grid.values()):
        raise ConfigError("the grid is empty: give at least one setting and one value of it")
    if n < 2:
        raise ConfigError(f"n is {n}; an interval needs at least 2 texts")
    base = (settings or Settings()).replace(**changes)
    every = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    chosen = [(point, base.replace(**point)) for point in every]  # a wrong one is refused before any runs
    points = []
    for point, combined in tqdm(chosen, desc="settings", disable=not progress, leave=False):
        (texts,) = generate_batch(lm, [prompt], combined, n=n)
        points.append((point, measures(texts)))
    return SamplingEffects(tuple(grid), tuple(points))


def measures(texts: Sequence[Generation]) -> dict[str, Summary]:
    """Each measure of MEASURES over texts; texts too short for a measure say nothing about it.

    Raises:
        ConfigError: fewer than two of them are long enough.
    """
    pairs = [Counter(ngrams(text.ids, 2)) for text in texts]
    everywhere = Counter(pair for counted in pairs for pair in counted)  # in how many texts
    values = {
        "distinct": [len(counted) / counted.total() for counted in pairs if counted],
        "repeated": [repeated(text.ids) for text in texts if len(text.ids) >= 4],
        "own": [sum(k for pair, k in c.items() if everywhere[pair] == 1) / c.total() for c in pairs if c],
        "surprisal": [-sum(text.raw_logprobs) / len(text.ids) / math.log(2) for text in texts if text.ids],
    }
    if short := [name for name, found in values.items() if len(found) < 2]:
        raise ConfigError(f"too few texts are long enough to measure {short[0]}; ask for more tokens, or fewer stops")
    return {name: Summary(tuple(found)) for name, found in values.items()}


def repeated(ids: Sequence[int], n: int = 4) -> float:
    """Share of the n-grams that occurred before."""
    counted = Counter(ngrams(ids, n))
    return 1 - len(counted) / counted.total()


def ngrams(ids: Sequence[int], n: int) -> Iterable[tuple[int, ...]]:
    return zip(*(ids[i:] for i in range(n)), strict=False)
