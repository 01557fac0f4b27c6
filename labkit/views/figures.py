"""Figures: what a view looks like on paper. matplotlib is imported when the first one is drawn, pyplot never."""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .colours import Colour, ink, palette

FORMATS = ("svg", "png", "pdf")
DPI = 150
FONT_SIZE = 9
INCH_A_CHARACTER = 0.602 * FONT_SIZE / 72  # DejaVu Sans Mono
INCH_A_LINE = 1.4 * FONT_SIZE / 72
# Text stays text and can be searched for; nothing in a token is a formula; ids in an SVG do not change.
CLIP = re.compile(rb'(url\(#|clipPath id=")(p[0-9a-f]{10})(?=[)"])')
STYLE: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "labkit", "pdf.fonttype": 42, "text.parse_math": False,
         "font.size": FONT_SIZE}  # fmt: skip
NO_DATE = {"svg": {"Date": None}, "png": {}, "pdf": {"CreationDate": None}}


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn any number of times, alone or as a part of a larger one.

    Attributes:
        width, height: inches.
        paint: puts it into a matplotlib figure or subfigure.
    """

    width: float
    height: float
    paint: Callable[[Any], None]

    def __call__(self) -> Any:
        """A matplotlib Figure of its own."""
        from matplotlib.figure import Figure

        with style():
            figure = Figure(figsize=(self.width, self.height), layout="constrained")
            self.paint(figure)
            # The layout's last digits differ from time to time, and with them the ids in an SVG.
            for _ in range(2):  # the second time it knows how wide the numbers at the axes are
                figure.draw_without_rendering()
            figure.set_layout_engine("none")
            for axes in figure.axes:
                left, bottom, width, height = (round(place, 3) for place in axes.get_position().bounds)
                axes.set_position((left, bottom, width, height))
        return figure


def short(text: str, most: int = 28) -> str:
    """A name that leaves room for the picture."""
    return text if len(text) <= most else text[: most - 1] + "…"


@contextmanager
def style() -> Iterator[None]:
    """What all figures have in common; a character that the font lacks becomes a box, and nobody is warned."""
    import matplotlib

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph|.*missing from font|constrained_layout not applied")
        yield


def file_bytes(drawing: Drawing, suffix: str) -> bytes:
    """The figure as a file, the same bytes every time.

    Args:
        suffix: "svg", "png" or "pdf".
    """
    file = io.BytesIO()
    figure = drawing()
    with style():
        figure.savefig(file, format=suffix, dpi=DPI, metadata=NO_DATE[suffix])
    return _numbered(file.getvalue()) if suffix == "svg" else file.getvalue()


def _numbered(svg: bytes) -> bytes:
    """Clip paths named one after the other: matplotlib names them after the last digits of where they are."""
    names: dict[bytes, bytes] = {}
    return CLIP.sub(lambda m: m[1] + names.setdefault(m[2], b"clip%d" % len(names)), svg)


def of_text(text: str) -> Drawing:
    """The lines of a text, in letters of one width."""
    lines = text.split("\n")
    width = max(map(len, lines)) * INCH_A_CHARACTER + 0.3
    height = len(lines) * INCH_A_LINE + 0.3

    def paint(figure: Any) -> None:
        figure.text(0.15 / width, 1 - 0.15 / height, text, family="monospace", va="top", linespacing=1.2)

    return Drawing(width, height, paint)


def running_text(parts: Sequence[tuple[str, Colour | None]], columns: int = 90) -> Drawing:
    """Text of coloured parts, broken into lines as in a terminal.

    Args:
        parts: visible text with the colour behind it; None: faint, as a prompt is.
    """
    placed, line, column = [], 0, 0
    for text, behind in parts:
        for i, shown in enumerate(text.split("\n")):
            if i:
                line, column = line + 1, 0
            while shown:
                if column == columns:
                    line, column = line + 1, 0
                room = columns - column
                placed.append((line, column, shown[:room], behind))
                column, shown = column + len(shown[:room]), shown[room:]
    width, height = columns * INCH_A_CHARACTER + 0.3, (line + 1) * INCH_A_LINE + 0.3

    def paint(figure: Any) -> None:
        from matplotlib.patches import Rectangle

        across, down = INCH_A_CHARACTER / width, INCH_A_LINE / height
        for at, start, shown, behind in placed:
            x, y = 0.15 / width + start * across, 1 - 0.15 / height - (at + 1) * down
            colour: Colour = (0.45, 0.45, 0.45)
            if behind is not None:
                colour = ink(behind)
                figure.add_artist(Rectangle((x, y), len(shown) * across, down, fc=behind, lw=0))
            figure.text(x, y + 0.27 * down, shown, family="monospace", color=colour)

    return Drawing(width, height, paint)


def colour_map() -> Any:
    """The scale of colours.py for matplotlib, from the page's white to dark blue."""
    from matplotlib.colors import ListedColormap

    return ListedColormap(palette(256), "labkit")
