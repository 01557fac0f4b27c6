"""Rows as a small table: what stands beside a picture in numbers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..views import View
from ..views.base import decimals, label, page, text_table, visible

Row = Mapping[str, Any]


def table_view(rows: Sequence[Row], caption: str, pick: Callable[[int], str] | None = None) -> View:
    """A table with the keys of the first row as its head.

    Args:
        rows: dictionaries with the same keys; numbers are written short, None as a dash.
        pick: what ``Picker.picked`` becomes when the i-th row is picked; None: rows cannot be picked.
    """
    names = list(rows[0]) if rows else []
    kinds = {name: " class=lk-n" if any(is_number(row[name]) for row in rows) else "" for name in names}
    head = "".join(f"<th{kinds[name]}>{label(name)}" for name in names)
    body = ""
    for i, row in enumerate(rows):
        marks = f' data-pick="{label(pick(i))}" tabindex="-1"' if pick is not None else ""
        cells = "".join(f"<td{kinds[name]}>{label(shown(row[name]))}" for name in names)
        body += f"<tr{marks}>{cells}"
    html = f"<table class=lk-rows><caption>{label(caption)}</caption><thead><tr>{head}</thead><tbody>{body}</table>"
    caption = visible(caption, spaces=False)
    cells_of_text = [[visible(shown(row[name]), spaces=False) for name in names] for row in rows]
    text = f"{caption}\n{text_table([names, *cells_of_text])}" if rows else caption
    return View(page(html, caption), text, caption, tuple(dict(row) for row in rows))


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value in few characters."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return decimals(value, 3 if abs(value) < 10 else 1)
    return f"{value:,}" if is_number(value) else str(value)
