"""How tokens and values are written, and what each token went through."""

from collections.abc import Sequence
from typing import Any, Protocol

from ...language_model import LanguageModel
from ...sampling import SamplingTrace
from ...sampling.orders import STAGES
from ...sampling.stages import Temperature
from ...views.base import visible

CARD_ALTERNATIVES = 12
TEMPERATURE = {Temperature.name}
PENALTIES = {stage.name for stage in STAGES[: STAGES.index(Temperature)]}  # what looks at ids
NO_FILTERS = PENALTIES | TEMPERATURE


class HasPieces(Protocol):
    """A tokenizer, or whatever else knows how tokens are written."""

    def pieces(self, ids: Sequence[int]) -> list[str]: ...


Source = LanguageModel | HasPieces | None


def pieces(source: Source, ids: Sequence[int]) -> list[str]:
    """What each id stands for; the id itself where there is no tokenizer."""
    known = source.tokenizer if isinstance(source, LanguageModel) else source
    return known.pieces(ids) if known is not None else [f"<{i}>" for i in ids]


def named(source: Source, token_id: int) -> str:
    """A token's name in a sentence."""
    return f"“{visible(pieces(source, [token_id])[0])}”"


def removed_by(trace: SamplingTrace, token_id: int) -> str | None:
    """The stage that took the token out, if one did."""
    return next((stage.name for stage in trace.stages if not stage.kept[token_id]), None)


def alternatives(source: Source, trace: SamplingTrace, n: int = CARD_ALTERNATIVES) -> list[dict[str, Any]]:
    """What else a token could have been, for views.token_strip."""
    ids, shown = trace.candidates(n), columns(trace)
    return [
        {
            "piece": piece,
            "probabilities": {
                heading: round(float(trace.stages[last].probabilities[i]), 6)
                for heading, last in shown.items()
                if trace.stages[last].kept[i]
            },
            "removed_by": removed_by(trace, i),
        }
        for piece, i in zip(pieces(source, ids), ids, strict=True)
    ]


def columns(trace: SamplingTrace) -> dict[str, int]:
    """The columns of a card: heading -> the record it shows, in the order of the stages. What is off shows what the
    column before it does."""
    names = [stage.name for stage in trace.stages[1:]]
    ends, last = {"model": 0}, 0
    for heading, group in (("after penalties", PENALTIES), ("after temperature", TEMPERATURE), ("after filters", None)):
        places = [i for i, name in enumerate(names, 1) if (name in group if group else name not in NO_FILTERS)]
        ends[heading] = last = max(places, default=last)
    return dict(sorted(ends.items(), key=lambda end: end[1]))


def value_text(value: Any) -> str:
    """A setting's value in few characters."""
    if value is None or isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float):
        return str(value) if isinstance(value, int) else f"{value:g}"
    return value if isinstance(value, str) else f"{len(value)} tokens"
