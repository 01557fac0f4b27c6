"""What several views look like as a figure: a grid of coloured cells, and columns of bars."""

from collections.abc import Sequence
from typing import Any

from .base import percent
from .figures import Drawing, colour_map, short

MANY = 60  # names of so many rows or columns can be read


def grid(
    values: Sequence[Sequence[float | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    high: float,
    title: str = "",
    words: Sequence[Sequence[str]] | None = None,
) -> Drawing:
    """Coloured cells; None stays white.

    Args:
        rows, columns: names, as they are shown.
        words: what is written into each cell; nothing without it.
    """
    rows, columns, title = [*map(short, rows)], [*map(short, columns)], short(title, 90)
    longest = max(map(len, columns), default=0)

    def paint(figure: Any) -> None:
        axis = figure.subplots()
        if rows and columns:
            numbers = [[0.0 if v is None else v for v in row] for row in values]
            axis.imshow(numbers, cmap=colour_map(), vmin=0, vmax=high, aspect="auto", interpolation="nearest")
            for y, line in enumerate(words or ()):
                for x, word in enumerate(line):
                    colour = "w" if numbers[y][x] > 0.55 * high else "k"
                    axis.text(x, y, short(word, 12), ha="center", va="center", color=colour, fontsize="small")
        turned = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if longest > 3 else {}
        axis.set_xticks(range(len(columns)), columns, **turned) if len(columns) <= MANY else None
        axis.set_yticks(range(len(rows)), rows) if len(rows) <= MANY else None
        axis.set_title(title, loc="left", fontsize="medium")

    longest_word = max((len(short(word, 12)) for line in words or () for word in line), default=0)
    cell = 0.14 + 0.07 * longest_word if words else 0.2
    wide = 1.5 + cell * min(len(columns), MANY)
    return Drawing(max(4.0, wide), max(2.4, 1.2 + 0.24 * min(len(rows), MANY)), paint)


def bars(
    columns: Sequence[tuple[str, Sequence[float | None]]], names: Sequence[str], marked: Sequence[int], title: str = ""
) -> Drawing:
    """Columns of horizontal bars with their probabilities, a row a token; × where there is none any more.

    Args:
        columns: heading, and a probability for each name.
        marked: for each column the row that is chosen; −1: none.
    """

    def paint(figure: Any) -> None:
        axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        widest = max((p for _, values in columns for p in values if p is not None), default=1.0) or 1.0
        for axis, (heading, values), here in zip(axes, columns, marked, strict=True):
            colours = ["#1d91c0" if i == here else "#bbbbbb" for i in range(len(names))]
            axis.barh(range(len(names)), [p or 0.0 for p in values], color=colours)
            for y, p in enumerate(values):
                axis.text(0, y, " ×" if p is None else f" {percent(p)}", va="center", fontsize="small")
            axis.set_xlim(0, 1.05 * widest)
            axis.set_xticks([])
            axis.set_title(short(heading, 20), fontsize="medium")
            axis.spines[["top", "right", "bottom"]].set_visible(False)
        axes[0].set_yticks(range(len(names)), [*map(short, names)])
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        if title:
            figure.suptitle(short(title, 90), x=0.01, ha="left", fontsize="medium")

    return Drawing(1.2 + 1.4 * len(columns), 1.0 + 0.26 * max(1, len(names)), paint)
