"""Picker: a view some of whose elements can be picked, by mouse and by keyboard, and the kernel is told which."""

from pathlib import Path

import anywidget
import traitlets

from ..views.base import CSS

HERE = Path(__file__).parent


class Picker(anywidget.AnyWidget):
    """Shows the HTML of a view. Elements with ``data-pick="…"`` are clickable; the arrow keys go from one to the next,
    Enter and Space pick. The one that is picked has the class lk-s.

    Attributes:
        html: what is shown; may be replaced at any time, focus and scrolling stay where they were.
        selector: CSS for elements of a view that knows nothing of picking; their data-pick is their place among them,
            from 0 on.
        picked: data-pick of the element picked last; "" for none. Assigning it marks that element.
        pointed: data-pick of the one that the mouse is on or that has the focus; "" for none.
    """

    _esm = (HERE / "picker.js").read_text(encoding="utf-8")
    _css = CSS + (HERE / "widgets.css").read_text(encoding="utf-8")
    html = traitlets.Unicode().tag(sync=True)
    selector = traitlets.Unicode().tag(sync=True)
    picked = traitlets.Unicode().tag(sync=True)
    pointed = traitlets.Unicode().tag(sync=True)

    def __init__(self, html: str = "", selector: str = ""):
        super().__init__(html=html, selector=selector)

    def __repr__(self) -> str:
        return f"Picker({self.picked!r})"
