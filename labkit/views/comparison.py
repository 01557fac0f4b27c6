"""Texts token by token below each other: how far they are the same, where they part, and by how much they differ."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from .base import BASE_CSS, View, captioned, decimals, escape, label, page, style_sheet, text_table, visible
from .colours import Colour, rgb
from .figures import Drawing, running_text

UP, DOWN = "#0072b2", "#e69f00"
STEPS = 4  # of each of the two colours; the strongest from 2 nats on
CSS = BASE_CSS + style_sheet("comparison.css") + "".join(
    f".lk-col .{kind}{i}{{background:color-mix(in srgb,{colour} {18 * i}%,transparent)}}"
    for kind, colour in (("up", UP), ("down", DOWN))
    for i in range(1, STEPS + 1)
)  # fmt: skip

# A side: dictionary with name and tokens, which are dictionaries with piece and any numbers by name (None: infinite or
# unknown). The number called delta colours the token: above 0 blue, below 0 orange.
Side = Mapping[str, Any]


def comparison_strip(sides: Sequence[Side], *, caption: str = "", words: str = "") -> View:
    """A column a token, a line a side; what differs from the first side is marked, the first such column above all.

    Args:
        sides: one or several; of one only its numbers are shown.
        words: what came of it.
    """
    columns = list(itertools.zip_longest(*(side["tokens"] for side in sides)))
    parted = next((i for i, column in enumerate(columns) if not _same(column)), None)
    names = [visible(side["name"], spaces=False) for side in sides]
    rows = tuple(
        {"token": i, "side": side["name"], "same": _same((column[0], token)), **token}
        for i, column in enumerate(columns)
        for side, token in zip(sides, column, strict=True)
        if token is not None
    )
    numbers = list(dict.fromkeys(key for row in rows for key in row if key not in ("token", "side", "same", "piece")))
    head = "".join(f"<p class={kind}>{label(line)}</p>" for kind, line in
                   (("lk-caption", caption), ("lk-words", words)) if line)  # fmt: skip
    legend = "".join(f"<span>{escape(name)}</span>" for name in names)
    parts = [_column(i, column, names, numbers, i == parted) for i, column in enumerate(columns)]
    body = f"{head}<div class=lk-compare><div class=lk-sides>{legend}</div>{''.join(parts)}</div>"
    where = "no difference" if parted is None else f"first difference at token {parted}"
    what = where if len(sides) > 1 else f"{len(columns)} tokens"
    alt = ": ".join([f"{' and '.join(names)}, token by token, {what}", *captioned(caption)])
    text = "\n".join([*captioned(caption), *captioned(words, what), text_table(_cells(columns, names, numbers))])
    return View(page(body, alt, CSS), text, alt, rows, _drawing(sides, names, captioned(caption, *captioned(words))))


def _same(column: Sequence[Mapping[str, Any] | None]) -> bool:
    return len({None if token is None else token["piece"] for token in column}) == 1


def _kind(token: Mapping[str, Any]) -> str:
    """up1 … up4, down1 … down4, or nothing."""
    delta = token.get("delta")
    if delta is None or abs(delta) < 0.05:
        return ""
    return ("up" if delta > 0 else "down") + str(min(STEPS, math.ceil(STEPS * abs(delta) / 2)))


def _column(
    i: int, column: Sequence[Mapping[str, Any] | None], names: Sequence[str], numbers: Sequence[str], first: bool
) -> str:
    cells = []
    for name, token in zip(names, column, strict=True):
        if token is None:
            cells.append("<b class=lk-none>·</b>")
            continue
        kinds = " ".join(filter(None, [_kind(token), "" if _same((column[0], token)) else "lk-other"]))
        known = [f"{visible(key)} {_written(token[key])}" for key in numbers if key in token]
        said = " · ".join([f"{name}, token {i}", *known])
        cells.append(f'<b class="{kinds}" title="{escape(said)}">{escape(visible(token["piece"]))}</b>')
    mark = "lk-col lk-parted" if first and len(column) > 1 else "lk-col"
    return f'<span class="{mark}" data-pick="{i}" tabindex=0>{"".join(cells)}</span>'


def _written(value: float | None) -> str:
    return decimals(value, 4)


def _cells(columns: Sequence[Any], names: Sequence[str], numbers: Sequence[str]) -> list[list[str]]:
    head = ["token"]
    for name in names:
        head += [name, *map(visible, numbers)]
    table = [[*head, ""]]
    parted = False
    for i, column in enumerate(columns):
        cells = [str(i)]
        for token in column:
            cells += ["", *[""] * len(numbers)] if token is None else [
                visible(token["piece"]), *(_written(token[key]) if key in token else "" for key in numbers)
            ]  # fmt: skip
        differs = not _same(column)
        cells.append("" if not differs else "differs" if parted else "◀ first difference")
        parted = parted or differs
        table.append(cells)
    return table


def _behind(token: Mapping[str, Any], same: bool) -> Colour:
    """The colour of a token on white paper."""
    kind = _kind(token)
    if not kind:
        return (1.0, 1.0, 1.0) if same else (0.98, 0.86, 0.8)
    red, green, blue = rgb(UP if kind.startswith("up") else DOWN)
    share = 0.18 * int(kind[-1])
    return (1 - share * (1 - red), 1 - share * (1 - green), 1 - share * (1 - blue))


def _drawing(sides: Sequence[Side], names: Sequence[str], said: Sequence[str]) -> Drawing:
    first = [token["piece"] for token in sides[0]["tokens"]] if sides else []
    parts: list[tuple[str, Colour | None]] = [(f"{line}\n", None) for line in said]
    for name, side in zip(names, sides, strict=True):
        parts.append((f"{name}: ", None))
        for token, other in itertools.zip_longest(side["tokens"], first):
            if token is not None:
                parts.append((visible(token["piece"], spaces=False), _behind(token, token["piece"] == other)))
        parts.append(("\n", None))
    return running_text(parts[:-1])
