"""How tokens and values are written, and what each token went through."""

from collections.abc import Sequence
from typing import Any, Protocol

from ...language_model import LanguageModel
from ...sampling import SamplingTrace
from ...views.base import visible

CARD_ALTERNATIVES = 12


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


def alternatives(source: Source, trace: SamplingTrace, n: int = CARD_ALTERNATIVES) -> list[tuple]:
    """(piece, probability before the stages, after them, the stage that removed it or None), for views.token_strip."""
    ids = trace.candidates(n)
    before, after = trace.stages[0].probabilities, trace.stages[-1].probabilities
    return [
        (piece, round(float(before[i]), 6), round(float(after[i]), 6), removed_by(trace, i))
        for piece, i in zip(pieces(source, ids), ids, strict=True)
    ]


def value_text(value: Any) -> str:
    """A setting's value in few characters."""
    if value is None or isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float):
        return str(value) if isinstance(value, int) else f"{value:g}"
    return value if isinstance(value, str) else f"{len(value)} tokens"
