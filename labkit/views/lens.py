"""The logit lens as a grid: a row a layer, a column a token, in each cell what that layer would say next."""

from collections.abc import Mapping, Sequence
from typing import Any

from .base import BASE_CSS, View, captioned, decimals, escape, label, page, percent, style_sheet, text_table, visible
from .charts import grid
from .colours import LEVELS, THEME

CSS = THEME + BASE_CSS + style_sheet("lens.css")

# Cells: dictionaries with point (the layer), position, piece (the token there), first (the first choice after it), p
# (its probability), entropy and kl (nats, to the last point).
Cell = Mapping[str, Any]
COLOURS = {"p": "probability of the first choice", "entropy": "entropy, nats", "kl": "nats from what the model says"}


def lens_grid(cells: Sequence[Cell], *, colour: str = "p", caption: str = "", note: str = "") -> View:
    """The first choice of every layer at every position; underlined where it is already the last layer's.

    Args:
        cells: of all points and positions; points in the order of the model.
        colour: "p", "entropy" or "kl".
        note: what the reader must know.
    """
    points = list(dict.fromkeys(cell["point"] for cell in cells))
    positions = sorted({cell["position"] for cell in cells})
    at = {(cell["point"], cell["position"]): cell for cell in cells}
    pieces = [at[points[0], t]["piece"] for t in positions]
    finals = {t: at[points[-1], t]["first"] for t in positions}
    most = 1.0 if colour == "p" else max((cell[colour] for cell in cells), default=0.0) or 1.0
    head = "".join(f"<td>{escape(visible(piece))}" for piece in pieces)
    body = "".join(
        f"<tr><th>{label(point)}"
        + "".join(_cell(f"{i}.{t}", at[point, t], colour, most, at[point, t]["first"] == finals[t]) for t in positions)
        for i, point in enumerate(points)
    )
    alt = ": ".join([f"logit lens: {len(points)} layers, {len(positions)} tokens", *captioned(caption)])
    words = [line for line in (caption, f"Colour: {COLOURS[colour]}, up to {most:.3g}.", note) if line]
    said = "".join(f"<p>{label(line)}" for line in words)
    html = f'<table class="lk-lens"><caption>{said}</caption><thead><tr><th>{head}</thead><tbody>{body}</tbody></table>'
    names = [visible(point, spaces=False) for point in points]
    rows = [
        [name, *(_in_text(at[point, t], colour, finals[t]) for t in positions)]
        for name, point in zip(names, points, strict=True)
    ]
    table = text_table([["", *map(visible, pieces)], *rows])
    legend = f"Beside it: {COLOURS[colour]}{', %' * (colour == 'p')}; * is what the last layer says as well."
    notes = [visible(line, spaces=False) for line in (caption, legend, note) if line]
    values = [[at[point, t][colour] for t in positions] for point in points]
    choices = [[visible(at[point, t]["first"]) for t in positions] for point in points]
    drawn = grid(
        values,
        rows=names,
        columns=[visible(piece) for piece in pieces],
        high=most,
        title=visible(caption or words[0], spaces=False),
        words=choices,
    )
    keys = ("point", "position", "piece", "first", "p", "entropy", "kl")
    rows_of_data = tuple({key: cell[key] for key in keys} for cell in cells)
    return View(page(html, alt, CSS), "\n".join([table, *notes]), alt, rows_of_data, drawn)


def _cell(pick: str, cell: Cell, colour: str, most: float, settled: bool) -> str:
    level = min(LEVELS - 1, int(cell[colour] / most * LEVELS))
    classes = " ".join([f"k{level}", *(["lk-y"] if settled else [])])
    numbers = f"{percent(cell['p'])} % · entropy {decimals(cell['entropy'], 2)} · KL {decimals(cell['kl'], 2)}"
    title = label(f"{cell['point']}, after ") + escape(f"{visible(cell['piece'])}: {visible(cell['first'])} {numbers}")
    return f'<td class="{classes}" data-pick="{pick}" title="{title}">{escape(visible(cell["first"]))}'


def _in_text(cell: Cell, colour: str, final: str) -> str:
    number = percent(cell["p"]) if colour == "p" else decimals(cell[colour], 2)
    return f"{visible(cell['first'])}{'*' * (cell['first'] == final)} {number}"
