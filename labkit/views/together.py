"""Several views as one: next to each other, or one below the other."""

from collections.abc import Sequence
from typing import Any

from . import figures
from .base import BASE_CSS, View, captioned, label, page
from .colours import THEME
from .figures import Drawing

CSS = """
.lk-beside { display: flex; flex-wrap: wrap; gap: 8px 24px; align-items: flex-start; }
.lk-beside > * { flex: 1 1 20em; min-width: 0; overflow-x: auto; }
.lk-below > * + * { margin-top: 12px; }
"""


def side_by_side(views: Sequence[View], caption: str = "") -> View:
    """One view of several, next to each other as far as there is room."""
    return _joined(views, caption, "lk-beside")


def stack(views: Sequence[View], caption: str = "") -> View:
    """One view of several, one below the other."""
    return _joined(views, caption, "lk-below")


def _joined(views: Sequence[View], caption: str, kind: str) -> View:
    """Rows have a column more, "view": which one, from 1 on."""
    head = f"<p class=lk-caption>{label(caption)}</p>" if caption else ""
    styles, bodies = zip(*(_style_and_body(view.html) for view in views), strict=True) if views else ((), ())
    parts = "".join(f"<div>{body}</div>" for body in bodies)
    css = THEME + BASE_CSS + "".join(dict.fromkeys([*styles, CSS]))  # what views have in common is there once
    alt = "; ".join(captioned(caption, *(view.alt for view in views)))
    text = "\n\n".join(captioned(caption, *(view.text for view in views)))
    rows = tuple({"view": i, **row} for i, view in enumerate(views, start=1) for row in view.rows)
    draw = _drawing([view.draw or figures.of_text(view.text) for view in views], kind == "lk-beside") if views else None
    return View(page(f"{head}<div class={kind}>{parts}</div>", alt, css), text, alt, rows, draw)


def _style_and_body(html: str) -> tuple[str, str]:
    """A view's own rules, without those that all have; and what it shows."""
    style, _, body = html.removeprefix("<style>").partition("</style>")
    return style.replace(THEME, "").replace(BASE_CSS, ""), body


def _drawing(drawings: Sequence[Drawing], beside: bool) -> Drawing:
    widths, heights = [d.width for d in drawings], [d.height for d in drawings]

    def paint(figure: Any) -> None:
        if beside:
            parts = figure.subfigures(1, len(drawings), width_ratios=widths, squeeze=False)[0]
        else:
            parts = figure.subfigures(len(drawings), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, drawing in zip(parts, drawings, strict=True):
            drawing.paint(part)

    if beside:
        return Drawing(sum(widths), max(heights), paint)
    return Drawing(max(widths), sum(heights), paint)
