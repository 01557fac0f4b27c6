"""One head's attention pattern: which token looks at which, how sharply, and what each receives."""

from collections.abc import Mapping, Sequence
from typing import Any

from .base import (
    BASE_CSS,
    Columns,
    View,
    captioned,
    cells_of,
    decimals,
    folded,
    label,
    page,
    style_sheet,
    text_table,
    visible,
)  # fmt: skip
from .colours import LEVELS, THEME
from .figures import Drawing, colour_map, short
from .picture import POWER, data_uri, shades
from .tokens import in_text

CSS = THEME + BASE_CSS + style_sheet("patterns.css")
SIDE, BAR = 420, 46  # pixels: the pattern, and the marginals beside it
NAME = 9  # characters of a token beside it
TOP = 3  # keys that are named for each query
MANY = 40  # names of so many tokens fit beside the picture


def _targets_text(found: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{visible(f['piece'])}@{f['position']} {decimals(f['weight'], 3)}" for f in found)


COLUMNS: Columns = {
    "position": str,
    "piece": visible,
    "entropy": lambda h: decimals(h, 2),
    "received": lambda w: decimals(w, 3),
    "looks at": _targets_text,
}


def head_pattern(weights: Any, pieces: Sequence[str], *, caption: str = "", selected: int | None = None) -> View:
    """One head: a row a token that looks, a column a token that is looked at.

    On the right the entropy of each row in nats (0: it looks at one token), below the weight that each token receives
    from all tokens together. Below that the text, coloured by what the selected token looks at; without one,
    by what is received.

    Args:
        weights: (n, n), an array or rows of numbers, causal.
        pieces: of the n tokens.
        selected: position of the token whose row is marked.
    """
    import numpy as np

    w = np.asarray(weights, dtype=np.float32)
    n = len(pieces)
    entropy = -(w * np.log(np.where(w > 0, w, 1.0))).sum(axis=1)
    received = w.sum(axis=0)
    best = np.argsort(-w, axis=1, kind="stable")[:, :TOP]
    rows = tuple(
        {
            "position": i,
            "piece": pieces[i],
            "entropy": round(float(entropy[i]), 4) + 0.0,
            "received": round(float(received[i]), 4),
            "looks at": [
                {"position": j, "piece": pieces[j], "weight": round(float(w[i, j]), 4)}
                for j in best[i].tolist() if w[i, j] >= 0.0005
            ],
        }
        for i in range(n)
    )  # fmt: skip
    alt = ": ".join([f"attention pattern of {n} tokens", *captioned(caption)])
    cells = cells_of(rows, COLUMNS)
    scale = received / (received.max(initial=0) or 1) if selected is None else w[selected]
    strip = _strip(pieces, [float(v) for v in scale], selected)
    said = "what each token receives" if selected is None else f"what token {selected} looks at"
    head = f"<p class=lk-caption>{label(caption)}</p>" if caption else ""
    body = f"{head}{_picture(w, rows, selected)}<p class=lk-said>{said}</p>{strip}{folded(cells)}"
    text = "\n".join(captioned(caption, text_table(cells)))
    return View(page(body, alt, CSS), text, alt, rows, _drawing(w, rows, caption))


def _picture(w: Any, rows: Sequence[Mapping[str, Any]], selected: int | None) -> str:
    """The pattern with its marginals and the names of the tokens."""
    n = len(rows)
    names = [visible(row["piece"])[:NAME] for row in rows] if n <= MANY else [""] * n
    longest = 7 * max(map(len, names), default=0)
    size, left = SIDE / max(1, n), max(52, longest + 8)
    right = left + SIDE
    frame = f'x="{left}" y="0" width="{SIDE}" height="{SIDE}"'
    parts = [f'<image {frame} preserveAspectRatio="none" href="{data_uri(shades(w))}"/>'] if n else []
    parts.append(f'<rect class="lk-frame" {frame}/>')
    parts += _marginals(rows, size, left)
    parts += _names(names, size, left, turned=longest > 14) if n <= MANY else _numbers(n, size, left)
    parts += _targets(rows, size, left)
    if selected is not None:
        place = f'x="{left}" y="{selected * size:.2f}" width="{SIDE}" height="{size:.2f}"'
        parts.append(f'<rect class="lk-row" {place}/>')
    parts.append(f'<text x="{right + 4}" y="{SIDE + 14}">entropy</text>')
    parts.append(f'<text x="{left - 5}" y="{SIDE + 14}" text-anchor="end">received</text>')
    width, height = right + BAR + 6, SIDE + BAR + 14 + round(0.8 * longest)
    return f'<svg class="lk-pattern" viewBox="0 0 {width} {height}" width="{width}">{"".join(parts)}</svg>'


def _marginals(rows: Sequence[Mapping[str, Any]], size: float, left: float) -> list[str]:
    """A bar for each row's entropy, and one for what each column receives."""
    parts = []
    most = {key: max((row[key] for row in rows), default=0.0) or 1.0 for key in ("entropy", "received")}
    for i, row in enumerate(rows):
        name = label(f"{i} {visible(row['piece'])}")
        wide, tall = ((BAR - 6) * row[key] / most[key] for key in ("entropy", "received"))
        beside = f'x="{left + SIDE + 4}" y="{i * size:.2f}" width="{wide:.1f}" height="{0.9 * size:.2f}"'
        below = f'x="{left + i * size:.2f}" y="{SIDE + 4}" width="{0.9 * size:.2f}" height="{tall:.1f}"'
        for place, words in (
            (beside, f"entropy {decimals(row['entropy'], 2)} nats"),
            (below, f"receives {decimals(row['received'], 3)}"),
        ):
            parts.append(f'<rect class="lk-bar" {place}><title>{name}: {words}</title></rect>')
    return parts


def _names(names: Sequence[str], size: float, left: float, turned: bool) -> list[str]:
    parts, y = [], SIDE + BAR + 4
    for i, name in enumerate(map(label, names)):
        at, x = (i + 0.5) * size, left + (i + 0.5) * size
        turn = f'text-anchor="end" transform="rotate(-60 {x:.1f} {y})"' if turned else 'text-anchor="middle"'
        parts.append(f'<text data-pick="{i}" x="{left - 5}" y="{at + 3.5:.1f}" text-anchor="end">{name}</text>')
        parts.append(f'<text x="{x:.1f}" y="{y}" {turn}>{name}</text>')
    return parts


def _numbers(n: int, size: float, left: float) -> list[str]:
    parts = []
    for i in range(0, n, 10 ** (len(str(n)) - 1)):
        parts.append(f'<text x="{left - 5}" y="{max(9.0, (i + 0.5) * size + 3.5):.1f}" text-anchor="end">{i}</text>')
        parts.append(f'<text x="{left + i * size:.1f}" y="{SIDE + BAR + 8}">{i}</text>')
    return parts


def _targets(rows: Sequence[Mapping[str, Any]], size: float, left: float) -> list[str]:
    """What is said on pointing at the strongest cells; that of all n² would be megabytes."""
    return [
        f'<rect class="lk-hit" data-pick="{i}" x="{left + found["position"] * size:.2f}" y="{i * size:.2f}"'
        f' width="{size:.2f}" height="{size:.2f}"><title>'
        + label(f"{i} {visible(row['piece'])} → {found['position']} {visible(found['piece'])}: ")
        + f"{decimals(found['weight'], 3)}</title></rect>"
        for i, row in enumerate(rows)
        for found in row["looks at"]
    ]


def _strip(pieces: Sequence[str], scale: Sequence[float], selected: int | None) -> str:
    spans = []
    for i, (piece, value) in enumerate(zip(pieces, scale, strict=True)):
        level = min(LEVELS - 1, max(0, round((LEVELS - 1) * max(value, 0.0) ** POWER)))
        here = " lk-here" if i == selected else ""
        spans.append(
            f'<span class="k{level}{here}" data-pick="{i}" title="{i}: {decimals(value, 3)}">{in_text(piece)}</span>'
        )
    return f"<div class=lk-text>{''.join(spans)}</div>"


def _drawing(w: Any, rows: Sequence[Mapping[str, Any]], caption: str) -> Drawing:
    def paint(figure: Any) -> None:
        axis = figure.subplots()
        axis.imshow(w**POWER, cmap=colour_map(), vmin=0, vmax=1, interpolation="nearest")
        if len(rows) <= MANY:
            names = [short(visible(row["piece"]), NAME) for row in rows]
            axis.set_xticks(range(len(rows)), names, rotation=60, ha="right", rotation_mode="anchor")
            axis.set_yticks(range(len(rows)), names)
        axis.set(xlabel="is looked at", ylabel="looks")
        said = "\n".join(captioned(short(caption, 70), "colour: square root of the weight"))
        axis.set_title(said, loc="left", fontsize="medium")

    return Drawing(5.6, 5.6, paint)
