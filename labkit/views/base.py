"""What every view is made of: the View itself, escaping, visible characters, numbers and text tables."""

import hashlib
import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .colours import THEME


def style_sheet(name: str) -> str:
    """A CSS file that lies beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


BASE_CSS = style_sheet("base.css")
CSS = THEME + BASE_CSS + style_sheet("views.css")


@dataclass(frozen=True)
class View:
    """Something to look at.

    Attributes:
        html: complete by itself: its own style, no script, nothing from elsewhere.
        text: the same numbers as a plain table.
        alt: one sentence for who cannot see it.
    """

    html: str = field(repr=False)
    text: str = field(repr=False)
    alt: str

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}

    def __str__(self) -> str:
        return self.text


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


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
