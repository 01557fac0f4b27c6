"""Rows of parts, and showing and hiding them."""

import ipywidgets as ipw


def row(name: str, *parts: ipw.Widget) -> ipw.Box:
    """Parts side by side; ``name`` is the CSS class that says how (widgets.css)."""
    box = ipw.Box(parts)
    box.add_class(name)
    return box


def show(widget: ipw.DOMWidget, visible: bool) -> None:
    widget.layout.display = "" if visible else "none"
