"""A view as a file that anyone can open: a page, a figure, a table or plain text."""

import csv
import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

from . import figures
from .base import View, label
from .colours import DARK_PAGE

# What is drawn never runs and never asks another host, whatever a token says; this holds should a view be wrong.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>:root{{color-scheme:light dark}}body{{margin:1.5em}}{dark}</style></head>
<body>
{body}
</body></html>
"""


def save(view: View, path: str | os.PathLike[str]) -> Path:
    """Write a view to a file, whole or not at all; the same view gives the same bytes.

    Args:
        path: its suffix says as what: html (a page by itself), svg, png, pdf (a figure), csv, json (the rows), txt.

    Raises:
        ValueError: an unknown suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in WRITERS:
        raise ValueError(f"{path.name}: a view is not saved as {suffix or 'a file without suffix'!r}; "
                         f"use one of {', '.join(WRITERS)}")  # fmt: skip
    data = WRITERS[suffix](view)
    path.parent.mkdir(parents=True, exist_ok=True)
    # As files.atomic_write does it, which the views, who know nothing of the rest of labkit, cannot call.
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def as_html(view: View) -> bytes:
    """A complete page, light or dark as the reader's system is, without any script."""
    return PAGE.format(policy=POLICY, title=label(view.alt), dark=DARK_PAGE, body=view.html).encode()


def as_csv(view: View) -> bytes:
    """The rows; a column for every key that any of them has, lists in it as JSON."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in view.rows for key in row)), lineterminator="\n")
    writer.writeheader()
    for row in view.rows:
        nested = {key: _json(value) for key, value in row.items() if isinstance(value, dict | list | tuple)}
        writer.writerow(row | nested)
    return file.getvalue().encode()


def as_json(view: View) -> bytes:
    """An object with alt and rows."""
    return (_json({"alt": view.alt, "rows": view.rows}, indent=1) + "\n").encode()


def _json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def _as_figure(suffix: str) -> Callable[[View], bytes]:
    return lambda view: figures.file_bytes(view.draw or figures.of_text(view.text), suffix)


WRITERS: dict[str, Callable[[View], bytes]] = {
    "html": as_html,
    **{suffix: _as_figure(suffix) for suffix in figures.FORMATS},
    "csv": as_csv,
    "json": as_json,
    "txt": lambda view: (view.text + "\n").encode(),
}
