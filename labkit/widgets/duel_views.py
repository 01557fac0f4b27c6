"""The tables of a duel: both sides on one part of the text, on all of it, and where they are furthest apart."""

import math
from typing import Any

from ..inspection import TeacherForced
from ..views import View
from ..views.base import decimals, percent, visible
from .tables import table_view

MOST_DIFFERENT = 8


def probability(row: dict[str, Any], side: str) -> str:
    logprob = row[f"logprob_{side}"]
    return percent(0.0 if logprob is None else round(math.exp(logprob), 6))


def difference(delta: float | None) -> str:
    if delta is None:
        return "ruled out by one of them"
    if not delta:
        return "equally likely"
    return f"likelier to {'B' if delta > 0 else 'A'} by {decimals(abs(delta), 2)} nats"


def card_view(text: TeacherForced, i: int) -> View:
    """Both sides on one part of the text."""
    row = text.rows()[i]
    sides = [{"": name, "probability %": probability(row, side), "logprob": row[f"logprob_{side}"],
              **({"first choice": visible(row[f"top_{side}"])} if "js" in row else {})}
             for name, side in (("A", "a"), ("B", "b"))]  # fmt: skip
    apart = f"; the distributions are {decimals(row['js'], 3)} apart (JS, of at most 0.693)" if "js" in row else ""
    return table_view(sides, f"“{visible(row['piece'])}” is {difference(row['delta'])}{apart}")


def totals_view(text: TeacherForced, a: str, b: str) -> View:
    """Means over the text, side by side."""
    totals = text.totals()
    rows = [{"": name, "nats a part": totals[f"surprisal_{side}"],
             "bits per byte": totals[f"bits_per_byte_{side}"]}
            for side, name in (("a", a), ("b", b))]  # fmt: skip
    if totals["ruled_out_a"] or totals["ruled_out_b"]:
        rows = [row | {"parts ruled out": totals[f"ruled_out_{side}"]} for row, side in zip(rows, "ab", strict=True)]
    same = totals["agreement"]
    agree = "" if same is None else f", the same first choice at {same:.0%}"
    return table_view(rows, f"{totals['parts']} parts{agree}")


def furthest_view(text: TeacherForced) -> View:
    """Where they differ most; a row is picked by its place in the text."""
    rows = text.rows()
    by = "js" if text.js is not None else "delta"
    order = sorted(range(len(rows)), key=lambda i: (-abs(infinite(rows[i][by])), i))[:MOST_DIFFERENT]
    listed = [
        {"at": rows[i]["start"], "part": f"“{visible(rows[i]['piece'])}”", "A %": probability(rows[i], "a"),
         "B %": probability(rows[i], "b"), **({"JS": rows[i]["js"]} if by == "js" else {})}
        for i in order
    ]  # fmt: skip
    return table_view(listed, "Where they differ most", lambda i: str(order[i]))


def infinite(value: float | None) -> float:
    return math.inf if value is None else value
