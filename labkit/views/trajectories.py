"""Things that move: tokens from layer to layer through the lens, and measures from checkpoint to checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any

from .base import BASE_CSS, Columns, View, captioned, cells_of, decimals, folded, label, page, text_table, visible
from .panels import CSS as PANELS_CSS
from .panels import Line, Panel, drawing, svg

CSS = BASE_CSS + PANELS_CSS

# A token followed through the layers: piece, and values: dictionaries with point (the layer), p (its probability there)
# and rank (0: that layer's first choice).
Followed = Mapping[str, Any]
# A checkpoint: checkpoint (its name), step (of the training; None: unknown), and numbers by what they measure.
Point = Mapping[str, Any]
NATS = "nats a token"
MEASURES = {"perplexity": "perplexity", "bits_per_byte": "bits per byte", "accuracy": "share of right answers"}


def trajectories(lines: Sequence[Followed], *, caption: str = "") -> View:
    """Probability and rank of some tokens from layer to layer; up is better in both.

    Args:
        lines: the tokens; all at the same points.
    """
    points = [value["point"] for value in lines[0]["values"]] if lines else []
    rows = tuple({"piece": line["piece"], **value} for line in lines for value in line["values"])
    names = [visible(line["piece"]) for line in lines]
    panels = [
        Panel("probability", [Line(name, [v["p"] for v in line["values"]], i)
                              for i, (name, line) in enumerate(zip(names, lines, strict=True))]),
        Panel("rank (0: the first choice)", [Line(name, [v["rank"] for v in line["values"]], i)
                                             for i, (name, line) in enumerate(zip(names, lines, strict=True))],
              ranks=True, downwards=True),
    ]  # fmt: skip
    columns: Columns = {"piece": visible, "point": _plain, "p": lambda p: decimals(p, 4), "rank": str}
    titles = [f"{point}: " + " · ".join(
        f"{name} p {decimals(line['values'][i]['p'], 4)}, rank {line['values'][i]['rank']}"
        for name, line in zip(names, lines, strict=True)) for i, point in enumerate(points)]  # fmt: skip
    return _view(
        f"{len(lines)} tokens over {len(points)} layers", caption, panels, titles, points, rows, cells_of(rows, columns)
    )


def checkpoint_trajectory(points: Sequence[Point], *, caption: str = "") -> View:
    """What was measured of the checkpoints of a run, over the steps of its training.

    Args:
        points: those without a step are in the table alone.
    """
    measures = [key for key in dict.fromkeys(key for p in points for key in p) if key not in ("checkpoint", "step")]
    placed = sorted((point for point in points if point["step"] is not None), key=lambda point: point["step"])
    losses = [key for key in measures if key not in MEASURES]
    groups = [(NATS, losses)] * bool(losses) + [(MEASURES[key], [key]) for key in measures if key in MEASURES]
    panels = [
        Panel(
            title,
            [Line(_plain(key), [point.get(key) for point in placed], i) for i, key in enumerate(keys)],
            high=1.0 if keys == ["accuracy"] else None,
        )
        for title, keys in groups
    ]
    rows = tuple({key: point.get(key) for key in ("checkpoint", "step", *measures)} for point in points)
    columns: Columns = {
        "checkpoint": _plain, "step": str, **dict.fromkeys(measures, lambda value: decimals(value, 4))
    }  # fmt: skip
    titles = [
        f"{_plain(point['checkpoint'])}, step {point['step']}: "
        + " · ".join(f"{_plain(key)} {decimals(point.get(key), 4)}" for key in measures)
        for point in placed
    ]
    steps = [point["step"] for point in placed]
    return _view(
        f"{len(points)} checkpoints of a run", caption, panels, titles, list(map(str, steps)), rows,
        cells_of(rows, columns), steps,
    )  # fmt: skip


def _plain(text: object) -> str:
    return visible(str(text), spaces=False)


def _view(
    what: str,
    caption: str,
    panels: Sequence[Panel],
    titles: Sequence[str],
    names: Sequence[str],
    rows: tuple[dict[str, Any], ...],
    cells: list[list[str]],
    places: Sequence[float] = (),
) -> View:
    alt = ": ".join([what, *captioned(caption)])
    head = f"<p class=lk-caption>{label(caption)}</p>" if caption else ""
    body = f"{head}{svg(panels, titles, names=names, places=places)}{folded(cells)}"
    text = "\n".join(captioned(caption, text_table(cells)))
    shown = [visible(name, spaces=False) for name in names]
    return View(page(body, alt, CSS), text, alt, rows, drawing(panels, shown, places, visible(caption, spaces=False)))
