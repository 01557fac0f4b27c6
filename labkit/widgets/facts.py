"""From labkit's results to the plain data that views draw."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..language_model import LanguageModel
from ..sampling import SamplingTrace

CARD_ALTERNATIVES = 12
BAR_CANDIDATES = 10


def pieces(lm: LanguageModel, ids: Sequence[int]) -> list[str]:
    """What each id stands for; the id itself where there is no tokenizer."""
    return lm.tokenizer.pieces(ids) if lm.tokenizer is not None else [f"<{i}>" for i in ids]


def removed_by(trace: SamplingTrace, token_id: int) -> str | None:
    """The stage that took the token out, if one did."""
    return next((stage.name for stage in trace.stages if not stage.kept[token_id]), None)


def alternatives(lm: LanguageModel, trace: SamplingTrace, n: int = CARD_ALTERNATIVES) -> list[tuple]:
    """(piece, probability before the stages, after them, the stage that removed it or None), for views.token_strip."""
    ids = trace.candidates(n)
    before, after = trace.stages[0].probabilities, trace.stages[-1].probabilities
    return [
        (piece, round(float(before[i]), 6), round(float(after[i]), 6), removed_by(trace, i))
        for piece, i in zip(pieces(lm, ids), ids, strict=True)
    ]


def bars(
    lm: LanguageModel, trace: SamplingTrace, values: Mapping[str, Any], always: Sequence[int], n: int = BAR_CANDIDATES
) -> dict[str, Any]:
    """Stages and candidates for views.stage_bars.

    Args:
        values: of the settings, to write beside the stages' names.
        always: ids that are shown whatever their probability.
    """
    ids = trace.candidates(n)
    ids += [i for i in dict.fromkeys(always) if i not in ids]
    stages = [
        {
            "stage": stage.name,
            "setting": f"{values[stage.name]:g}" if stage.name in values else "",
            "kept": int(stage.kept.sum()),
            "kept_mass": stage.kept_mass,
            "entropy": stage.entropy,
        }
        for stage in trace.stages
    ]
    candidates = [
        {
            "id": i,
            "piece": piece,
            "probabilities": [float(stage.probabilities[i]) for stage in trace.stages],
            "removed_by": removed_by(trace, i),
        }
        for piece, i in zip(pieces(lm, ids), ids, strict=True)
    ]
    return {"stages": stages, "candidates": candidates, "chosen": trace.chosen}
