"""A run step by step: how probable what was drawn was, how far down the model's list it stood, how open it was."""

from collections.abc import Mapping, Sequence
from typing import Any

from .base import (
    BASE_CSS,
    Columns,
    View,
    captioned,
    cells_of,
    decimals,
    folded,
    label,
    page,
    percent,
    text_table,
    visible,
)
from .panels import CSS as PANELS_CSS
from .panels import Line, Panel, drawing, svg

CSS = BASE_CSS + PANELS_CSS

# Steps: dictionaries with piece, probability (the model's own), drawn_from (its probability when it was drawn), rank
# (0: the model's first choice) and entropy (nats, of what the draw saw).
Step = Mapping[str, Any]
COLUMNS: Columns = {
    "step": str,
    "piece": visible,
    "probability": lambda p: decimals(p, 4),
    "drawn_from": lambda p: decimals(p, 4),
    "rank": str,
    "entropy": lambda h: decimals(h, 2),
}


def run_timeline(steps: Sequence[Step], *, caption: str = "", selected: int | None = None) -> View:
    """Chosen probability, rank and entropy over the steps of a run, and the numbers folded below.

    Args:
        selected: a step that is marked.
    """
    rows: tuple[dict[str, Any], ...] = tuple(
        {"step": i, **{key: step.get(key) for key in COLUMNS if key != "step"}} for i, step in enumerate(steps)
    )
    probabilities = [Line("model", [row["probability"] for row in rows], 0)]
    if any(row["drawn_from"] is not None for row in rows):
        probabilities.append(Line("drawn from", [row["drawn_from"] for row in rows], 1))
    ranks = [Line("rank", [row["rank"] for row in rows], 5, bars=True)]
    panels = [
        Panel("probability of what was drawn", probabilities, high=1.0),
        Panel("rank among the model's choices (0: its first)", ranks, ranks=True),
        Panel("entropy of what the draw saw, nats", [Line("entropy", [row["entropy"] for row in rows], 2)]),
    ]
    names = [visible(row["piece"]) for row in rows]
    titles = [
        f"step {row['step']}: {visible(row['piece'])} · {percent(row['probability'])} % of the model"
        f" · rank {row['rank']} · entropy {decimals(row['entropy'], 2)}"
        for row in rows
    ]
    cells = cells_of(rows, COLUMNS)
    alt = ": ".join([f"a run of {len(rows)} steps: probability, rank and entropy of each", *captioned(caption)])
    head = f"<p class=lk-caption>{label(caption)}</p>" if caption else ""
    picture = svg(panels, titles, names=names, selected=selected)
    html = page(f"{head}{picture}{folded(cells)}", alt, CSS)
    return View(
        html,
        "\n".join(captioned(caption, text_table(cells))),
        alt,
        rows,
        drawing(panels, names, title=visible(caption, spaces=False)),
    )
