"""The data of views.break_strips, views.what_if and views.why_not: answers about one draw."""

from collections.abc import Mapping
from typing import Any

from ...sampling import SamplingTrace
from ...sampling.questions import BreakPoints, Strip, Way, WhatIf, WhyNot, shown
from ...views.tokens import stage_name
from .base import Source, named, pieces, removed_by, value_text
from .stages import Scores, because

CANDIDATES = 8
UNKNOWN = "?"  # where it cannot be told


def break_strips(
    points: BreakPoints,
    chosen: int,
    source: Source = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Everything that views.break_strips draws.

    Args:
        chosen: the token that the draw gives at the present values.
        source: whose pieces the tokens are written as; ids without it.
        ranges: from where to where each strip goes, if not over all that was asked about.
    """
    return {
        "strips": [strip(each, source, (ranges or {}).get(each.parameter)) for each in points.strips],
        "chosen": chosen,
    }


def strip(points: Strip, source: Source, ends: tuple[float, float] | None) -> dict[str, Any]:
    """One parameter."""
    segments = [
        {"start": s.start, "end": s.end, "id": s.id, "piece": UNKNOWN if s.id is None else pieces(source, [s.id])[0]}
        for s in points.segments
    ]
    low, high = ends or (points.low, points.high)
    return {
        "parameter": points.parameter,
        "value": points.value,
        "low": low,
        "high": high,
        "log": points.log and ends is None,  # a slider is not
        "segments": segments,
        "note": points.note,
    }


def what_if(answer: WhatIf, source: Source = None, n: int = CANDIDATES) -> dict[str, Any]:
    """Everything that views.what_if draws.

    Args:
        n: how many of the model's most probable tokens are shown, besides the winners and the runners-up.
    """
    sides = (answer.before, answer.after)
    scores, chosen = [Scores.of(trace) for trace in sides], (answer.before.chosen, answer.after.chosen)
    model = answer.before.stages[0].probabilities
    ids = list(dict.fromkeys([*answer.before.candidates(n)[:n], *(i for s in scores for i in s.best(2)), *chosen]))
    ids.sort(key=lambda i: -float(model[i]))
    candidates = [
        {
            "id": i,
            "piece": piece,
            "model": float(model[i]),
            "sides": [side(trace, s, i) for trace, s in zip(sides, scores, strict=True)],
        }
        for i, piece in zip(ids, pieces(source, ids), strict=True)
    ]
    was, now = (named(source, i) for i in chosen)
    picks = f"still picks {was}" if answer.same else f"picks {now} instead of {was}"
    return {
        "candidates": candidates,
        "chosen": chosen,
        "changes": changed(answer),
        "caption": f"{draw_in_words(answer)} {picks}.",
    }


def side(trace: SamplingTrace, scores: Scores, token_id: int) -> dict[str, Any]:
    """One token under one of two settings."""
    removed = removed_by(trace, token_id)
    p = None if removed else float(trace.stages[-1].probabilities[token_id])
    return {"probability": p, "removed_by": removed, "score": scores.row(token_id)["score"]}


def draw_in_words(answer: WhatIf) -> str:
    before, after = answer.before.sampler.draw, answer.after.sampler.draw
    if not after.by_chance:
        return "Without chance it"
    return "The same draw" if after == before else "Another draw"


def changed(answer: WhatIf) -> list[tuple[str, str, str]]:
    """The settings that differ, the seed among them, as text before and after."""
    seeds = [trace.sampler.draw.seed for trace in (answer.before, answer.after)]
    differ = [*answer.changed, *[("seed", *seeds)] * (seeds[0] != seeds[1])]
    return [(name, value_text(before), value_text(after)) for name, before, after in differ]


def why_not(answer: WhyNot, source: Source = None) -> dict[str, Any]:
    """Everything that views.why_not draws."""
    facts = [("of the model", f"{100 * answer.probability:.3g} %, rank {answer.rank}")]
    facts += [(f"moved by {push.stage}", f"logit {push.before:.4g} → {push.after:.4g}") for push in answer.pushes]
    if answer.removal is not None:
        facts += [("removed by", stage_name(answer.removal.stage)), ("since", because(answer.removal))]
    elif answer.missed_by is not None and answer.id != answer.chosen:
        facts.append(("its score missed the winner's by", f"{answer.missed_by:.4g}"))
        wins = answer.wins_at
        facts.append(("would have won at temperatures", f"{wins[0]:.4g} … {wins[1]:.4g}" if wins else "none"))
    return {
        "sentence": str(answer),
        "facts": facts,
        "ways": [(way.parameter, in_words(way)) for way in answer.ways],
        "piece": pieces(source, [answer.id])[0],
    }


def in_words(way: Way) -> str:
    """The smallest change of one setting, without its name; "" where none helps."""
    if way.value is None:
        return ""
    return f"{way.side} {shown(way.value, way.side)}" + (", and then it wins" if way.wins else "")
