"""Small line charts one below the other over one common x axis: as inline SVG, and for matplotlib."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .base import label, style_sheet
from .colours import KIND_LINES, KINDS
from .figures import Drawing, short

CSS = KIND_LINES + style_sheet("panels.css")
WIDTH, LEFT, RIGHT, HEIGHT, GAP = 760, 52, 120, 84, 26
MANY = 48  # names of so many places can be read below the axis
NAME = 12  # characters of a name there


@dataclass(frozen=True)
class Line:
    """Values from place to place; None leaves a gap.

    Attributes:
        kind: its colour.
        bars: bars from below instead of a line.
    """

    name: str
    values: Sequence[float | None]
    kind: int = 0
    bars: bool = False


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes:
        high: of the axis; None: the largest value. It begins at 0.
        ranks: a logarithmic axis for ranks, on which 0 has a place.
        downwards: 0 is above, as the best of ranks should be.
    """

    title: str
    lines: Sequence[Line]
    high: float | None = None
    ranks: bool = False
    downwards: bool = False

    @cached_property
    def top(self) -> float:
        values = [v for line in self.lines for v in line.values if v is not None]
        return self.high or max(values, default=0.0) or 1.0

    def place(self, value: float) -> float:
        """0 … 1 from the bottom."""
        at = math.log1p(value) / math.log1p(self.top) if self.ranks else value / self.top
        return 1 - at if self.downwards else at

    def ticks(self) -> list[tuple[float, str]]:
        """Values on the axis and how they are written."""
        if self.ranks:
            far = [10**k for k in range(6) if 0.16 < math.log1p(10**k) / math.log1p(self.top) < 0.84]
            return [(v, f"{v:,.0f}") for v in (0, *far[:: 1 + len(far) // 3], self.top)]
        return [(0.0, "0"), (self.top, f"{self.top:.3g}")]


def svg(
    panels: Sequence[Panel],
    titles: Sequence[str],
    *,
    names: Sequence[str] = (),
    places: Sequence[float] = (),
    selected: int | None = None,
) -> str:
    """All panels as one inline SVG.

    Args:
        titles: what is said on pointing at each of the n places; of any origin.
        names: what stands below each place; numbers without it. Of many, some.
        places: where they stand on the x axis; equally far apart without it. Ascending.
        selected: a place that is marked.
    """
    n = len(titles)
    xs = _xs(n, places, any(line.bars for panel in panels for line in panel.lines))
    parts = [_panel_svg(panel, xs, top) for panel, top in zip(panels, _tops(panels), strict=True)]
    bottom = len(panels) * (HEIGHT + GAP)
    shown = names if names and n <= MANY else [str(i) for i in range(n)]
    parts.append(_names_svg(shown, xs, bottom))
    borders = [LEFT, *((a + b) / 2 for a, b in zip(xs, xs[1:], strict=False)), WIDTH - RIGHT]
    for i, words in enumerate(titles):
        kind = "lk-hit lk-here" if i == selected else "lk-hit"
        where = f'x="{borders[i]:.1f}" width="{borders[i + 1] - borders[i]:.1f}" height="{bottom}"'
        parts.append(f'<rect class="{kind}" data-pick="{i}" {where}><title>{label(words)}</title></rect>')
    longest = min(NAME, max(map(len, shown), default=0))
    height = bottom + 20 + (round(5.2 * longest) if longest > 3 and n <= MANY else 0)
    return f'<svg class="lk-panels" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}">{"".join(parts)}</svg>'


def drawing(panels: Sequence[Panel], names: Sequence[str], places: Sequence[float] = (), title: str = "") -> Drawing:
    """The same for matplotlib."""
    xs = list(places) or list(range(len(names)))

    def paint(figure: Any) -> None:
        import numpy as np

        axes = figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False)[:, 0]
        for axis, panel in zip(axes, panels, strict=False):
            for line in panel.lines:
                values = [math.nan if v is None else v for v in line.values]
                colour = KINDS[line.kind % len(KINDS)]
                if line.bars:
                    axis.bar(xs, values, width=0.8, color=colour, label=short(line.name), clip_on=False)
                else:
                    axis.plot(xs, values, ".-", color=colour, lw=1.4, ms=4, label=short(line.name), clip_on=False)
            if panel.ranks:
                axis.set_yscale("function", functions=(np.log1p, np.expm1))
                axis.set_yticks(*zip(*panel.ticks(), strict=True))
            axis.set_ylim(*((panel.top * 1.1, 0) if panel.downwards else (0, panel.top * 1.04)))
            axis.set_title(panel.title, loc="left", fontsize="medium")
            axis.spines[["top", "right"]].set_visible(False)
            if len(panel.lines) > 1:
                axis.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        if len(xs) <= MANY:
            turned = {"rotation": 50, "ha": "right", "rotation_mode": "anchor"}
            axes[-1].set_xticks(
                xs, [short(name, NAME) for name in names], **turned if max(map(len, names), default=0) > 3 else {}
            )

        if title:
            figure.suptitle(short(title, 90), x=0.01, ha="left", fontsize="medium")

    return Drawing(8.0, 0.6 + 1.5 * len(panels), paint)


def _xs(n: int, places: Sequence[float], bars: bool) -> list[float]:
    room = WIDTH - LEFT - RIGHT
    if places:
        low, span = places[0], (places[-1] - places[0]) or 1
        return [LEFT + 8 + (room - 16) * (place - low) / span for place in places]
    if bars or n == 1:
        return [LEFT + room * (i + 0.5) / n for i in range(n)]
    return [LEFT + 8 + (room - 16) * i / (n - 1) for i in range(n)]


def _tops(panels: Sequence[Panel]) -> list[int]:
    return [GAP + i * (HEIGHT + GAP) for i in range(len(panels))]


def _panel_svg(panel: Panel, xs: Sequence[float], top: int) -> str:
    parts = [f'<text class="lk-title" x="{LEFT}" y="{top - 8}">{label(panel.title)}</text>']
    for value, words in panel.ticks():
        y = top + HEIGHT * (1 - panel.place(value))
        parts.append(f'<path class="lk-rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{words}</text>')
    ends = []
    for line in panel.lines:
        points = [
            None if v is None else (x, top + HEIGHT * (1 - panel.place(v)))
            for x, v in zip(xs, line.values, strict=True)
        ]
        parts.append(_bars_svg(line, points, top) if line.bars else _line_svg(line, points))
        if known := [point for point in points if point]:
            ends.append((known[-1][1], line))
    if len(panel.lines) > 1:
        parts += _labels_svg(ends, top + HEIGHT + 4)
    return "".join(parts)


def _line_svg(line: Line, points: Sequence[tuple[float, float] | None]) -> str:
    path, pen = "", "M"
    for point in points:
        path += f"{pen}{point[0]:.1f} {point[1]:.1f}" if point else ""
        pen = "L" if point else "M"
    kind = line.kind % len(KINDS)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in filter(None, points))
    return f'<g class="s{kind}"><path d="{path}"/>{dots if len(points) <= 4 * MANY else ""}</g>'


def _bars_svg(line: Line, points: Sequence[tuple[float, float] | None], top: int) -> str:
    wide = max(0.6, min(18.0, 0.72 * (WIDTH - LEFT - RIGHT) / max(1, len(points))))
    path = "".join(f"M{x:.1f} {top + HEIGHT}V{min(y, top + HEIGHT - 0.8):.1f}" for x, y in filter(None, points))
    return f'<path class="s{line.kind % len(KINDS)}" style="stroke-width:{wide:.1f}" d="{path}"/>'


def _labels_svg(ends: Sequence[tuple[float, Line]], bottom: float) -> list[str]:
    """The lines' names where they end, moved apart where they would lie on each other."""
    parts, ends = [], sorted(ends, key=lambda end: end[0])
    low = bottom - 12 * (len(ends) - 1)  # where the next one must begin, so that all that follow have room
    free = -math.inf
    for i, (y, line) in enumerate(ends):
        free = min(max(free + 12, y + 4), low + 12 * i)
        parts.append(f'<text class="f{line.kind % len(KINDS)}" x="{WIDTH - RIGHT + 6}" y="{free:.1f}">'
                     f"■ <tspan>{label(line.name[:18])}</tspan></text>")  # fmt: skip
    return parts


def _names_svg(names: Sequence[str], xs: Sequence[float], bottom: int) -> str:
    every = -(-len(names) // MANY) if len(names) <= MANY else 10 ** math.ceil(math.log10(len(names) / 20))
    parts = []
    for i in range(0, len(names), max(1, every)):
        x, y = xs[i], bottom + 14
        if len(names) <= MANY and max(map(len, names)) > 3:
            turn = f' text-anchor="end" transform="rotate(-50 {x:.1f} {y})"'
        else:
            turn = ' text-anchor="middle"'
        parts.append(f'<text class="lk-tick" x="{x:.1f}" y="{y}"{turn}>{label(names[i][:NAME])}</text>')
    return "".join(parts)
