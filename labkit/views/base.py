"""What every view is made of: the View itself, escaping, visible characters, numbers and text tables."""

import functools
import hashlib
import html
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .colours import THEME
from .figures import Drawing


def style_sheet(name: str) -> str:
    """A CSS file that lies beside this one, without what only its readers need: every stored view carries it."""
    css = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return re.sub(r"\s*([{};,])\s*", r"\1", re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL))


Columns = Mapping[str, Callable[[Any], str]]  # key of a row -> how its values are written
BASE_CSS = style_sheet("base.css")
CSS = THEME + BASE_CSS + style_sheet("views.css")


@dataclass(frozen=True)
class View:
    """Something to look at.

    Attributes:
        html: complete by itself: its own style, no script, nothing from elsewhere.
        text: the same numbers as a plain table.
        alt: one sentence for who cannot see it.
        rows: the same numbers as data, one dictionary a row.
        draw: makes a matplotlib Figure of it; None: ``save`` draws the text.
    """

    html: str = field(repr=False)
    text: str = field(repr=False)
    alt: str
    rows: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    draw: Drawing | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(map(stable, self.rows)))

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}

    def __str__(self) -> str:
        return self.text


def stable(value: Any) -> Any:
    """Plain values as they are stored: floats to four decimals, which all machines agree on, None for what is no
    number."""
    if isinstance(value, float):
        return round(value, 4) + 0.0 if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: stable(each) for key, each in value.items()}
    return [stable(each) for each in value] if isinstance(value, list | tuple) else value


def escape(text: str) -> str:
    """Text as HTML that is nothing but text, in an element and in an attribute."""
    return html.escape(text, quote=True)


def label(text: str) -> str:
    """Words of whatever origin as HTML: escaped, and with nothing invisible in them."""
    return escape(visible(text, spaces=False))


def page(body: str, alt: str, css: str = CSS) -> str:
    """A view's HTML: its style, and its body in an element whose id follows from the content."""
    name = f'id="{element_id(body)}" role="group" aria-label="{label(alt)}"'
    return f'<style>{css}</style><div class="lk" {name}>{body}</div>'


def element_id(content: str) -> str:
    """The same content, the same id; so two runs give the same bytes."""
    return "lk-" + hashlib.sha256(content.encode()).hexdigest()[:10]


def visible(text: str, spaces: bool = True) -> str:
    """Text with everything in it that cannot be seen made visible.

    Args:
        spaces: write a space as ␣ where it would be overlooked: at either end, and in a row.
    """
    shown = "".join(map(_visible_character, text))
    if not spaces:
        return shown
    inner = shown.strip(" ")
    before = len(shown) - len(shown.lstrip(" "))
    after = len(shown) - before - len(inner)
    return "␣" * before + inner.replace("  ", "␣␣") + "␣" * after


@functools.lru_cache(maxsize=4096)
def _visible_character(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return "↵" if character == "\n" else "⇥"
    if code < 0x20:
        return chr(0x2400 + code)  # control pictures: ␀ ␁ … ␟
    if code == 0x7F:
        return "␡"
    category = unicodedata.category(character)
    # Formatting characters among them turn text around (U+202E) or hide in it (U+200B).
    if category in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp") or (category == "Zs" and character != " "):
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    if category in ("Mn", "Me", "Mc"):
        return "◌" + character  # a combining mark needs something to stand on
    return character


def percent(probability: float | None) -> str:
    """A probability in percent, without the sign, short and never rounded to 0 or 100 when it is neither."""
    if probability is None:
        return "–"
    if probability in (0, 1):
        return f"{100 * probability:.0f}"
    if probability < 0.0005:
        return "<0.1"
    return ">99.9" if probability > 0.9995 else f"{100 * probability:.1f}"


def decimals(value: float | None, n: int) -> str:
    """A number with n decimals, and 0 without a sign; – where there is none."""
    return "–" if value is None else f"{round(value, n) + 0.0:.{n}f}"


def cells_of(rows: Sequence[Mapping[str, Any]], columns: Columns) -> list[list[str]]:
    """Rows as cells, the names of the columns first; what a row lacks is a dash."""
    written = [["–" if row.get(key) is None else write(row[key]) for key, write in columns.items()] for row in rows]
    return [[visible(name, spaces=False) for name in columns], *written]


def html_table(cells: Sequence[Sequence[str]]) -> str:
    """The cells of a text_table as HTML."""
    head, *rows = cells
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}' for cell in row)}" for row in rows)
    return f"<table class=lk-numbers><tr class=lk-h>{''.join(f'<td>{escape(cell)}' for cell in head)}{body}</table>"


def folded(cells: Sequence[Sequence[str]], summary: str = "the numbers") -> str:
    """The same below a picture, folded; it unfolds without a script."""
    return f"<details><summary>{escape(summary)}</summary>{html_table(cells)}</details>"


def captioned(caption: str, *parts: str) -> list[str]:
    """The parts of a view's text or alt, the caption, if there is one, in front."""
    return [*[visible(caption, spaces=False)] * bool(caption), *parts]


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
