"""What a KV cache holds: a row a layer, a place a position, kept or gone."""

from collections.abc import Mapping, Sequence
from typing import Any

from .base import (
    BASE_CSS,
    Columns,
    View,
    captioned,
    cells_of,
    decimals,
    escape,
    folded,
    label,
    page,
    style_sheet,
    text_table,
    visible,
)
from .colours import LEVELS, THEME
from .figures import Drawing, colour_map, short

CSS = THEME + BASE_CSS + style_sheet("cache_map.css")

# A layer: dictionary with layer, kind ("full", "window 64 + 4 sinks", "latent of 64"), n_tokens (positions that there
# were), kept (those that are held), positions (these as text), bytes (held), bytes_full (what keys and values of every
# head would have cost), and key_norms, value_norms (one number for each of n_tokens; empty where unknown).
Layer = Mapping[str, Any]
COLUMNS: Columns = {
    "layer": str,
    "kind": lambda kind: visible(kind, spaces=False),
    "kept": str,
    "evicted": str,
    "positions": str,
    "bytes": lambda n: f"{n:,}",
    "of full keys": lambda share: decimals(share, 3),
}


def cache_map(layers: Sequence[Layer], *, pieces: Sequence[str] = (), caption: str = "") -> View:
    """Positions from left to right, coloured by the norm of their keys; what was evicted is hollow.

    Args:
        pieces: what stands at each position, said on pointing at it.
    """
    rows = tuple(_row(layer) for layer in layers)
    most = max((norm for layer in layers for norm in layer["key_norms"]), default=0.0) or 1.0
    bands = "".join(_band(layer, row, pieces, most) for layer, row in zip(layers, rows, strict=True))
    total, full = sum(row["bytes"] for row in rows), sum(layer["bytes_full"] for layer in layers)
    said = f"{total:,} bytes, {decimals(100 * total / full if full else 0.0, 1)} % of what full keys and values take"
    cells, norms = cells_of(rows, COLUMNS), _norm_cells(layers)
    alt = ": ".join([f"the cache of {len(rows)} layers", *captioned(caption, said)])
    head = "".join(f"<p class=lk-caption>{label(line)}</p>" for line in captioned(caption)) + f"<p>{said}</p>"
    legend = (
        f"<p class=lk-said>colour: norm of the key, up to {decimals(most, 2)}; hollow: evicted</p>" if norms else ""
    )
    tables = folded(cells) + (folded(norms, "norms of keys and values") if norms else "")
    text = "\n".join([*captioned(caption, said), text_table(cells), *[text_table(norms)] * bool(norms)])
    body = f"{head}<div class=lk-cache>{bands}</div>{legend}{tables}"
    return View(page(body, alt, CSS), text, alt, rows, _drawing(layers, rows, most, said, caption))


def _row(layer: Layer) -> dict[str, Any]:
    kept = len(layer["kept"])
    return {
        "layer": layer["layer"],
        "kind": layer["kind"],
        "kept": kept,
        "evicted": layer["n_tokens"] - kept,
        "positions": layer["positions"],
        "bytes": layer["bytes"],
        "of full keys": round(layer["bytes"] / layer["bytes_full"], 3) if layer["bytes_full"] else None,
        "key_norms": [round(norm, 2) for norm in layer["key_norms"]],
        "value_norms": [round(norm, 2) for norm in layer["value_norms"]],
    }


def _band(layer: Layer, row: Mapping[str, Any], pieces: Sequence[str], most: float) -> str:
    kept, keys = set(layer["kept"]), layer["key_norms"]
    places = []
    for i in range(layer["n_tokens"]):
        kind = f"k{_level(keys[i] if keys else most, most)}" if i in kept else "lk-gone"
        norms = f": key {decimals(keys[i], 2)}, value {decimals(layer['value_norms'][i], 2)}" if keys else ""
        gone = "" if i in kept else ", evicted"
        piece = f" {escape(visible(pieces[i]))}" if i < len(pieces) else ""
        places.append(f'<i class={kind} data-pick="{row["layer"]}.{i}" title="{i}{piece}{norms}{gone}"></i>')
    said = f"layer {row['layer']} <span>{label(row['kind'])}</span>"
    facts = f"{row['kept']:,} of {layer['n_tokens']:,} · {row['bytes']:,} bytes"
    held = "".join(places)
    return f"<div class=lk-name>{said}</div><div class=lk-places>{held}</div><div class=lk-facts>{facts}</div>"


def _level(norm: float, most: float) -> int:
    """Of what is kept, never the page's own colour."""
    return min(LEVELS - 1, max(1, round((LEVELS - 1) * norm / most)))


def _norm_cells(layers: Sequence[Layer]) -> list[list[str]]:
    """A row a position, two columns a layer."""
    known = [layer for layer in layers if layer["key_norms"]]
    if not known:
        return []
    head = ["position", *(f"{name} {layer['layer']}" for layer in known for name in ("key", "value"))]
    columns = [layer[name] for layer in known for name in ("key_norms", "value_norms")]
    return [head, *([str(i), *(decimals(v, 2) for v in row)] for i, row in enumerate(zip(*columns, strict=True)))]


def _drawing(
    layers: Sequence[Layer], rows: Sequence[Mapping[str, Any]], most: float, said: str, caption: str
) -> Drawing:
    def paint(figure: Any) -> None:
        n = max((layer["n_tokens"] for layer in layers), default=0)
        grid = [[0.0] * n for _ in layers]
        for line, layer in zip(grid, layers, strict=True):
            for i in layer["kept"]:
                line[i] = _level(layer["key_norms"][i] if layer["key_norms"] else most, most) / (LEVELS - 1)
        axis = figure.subplots()
        if n:
            axis.imshow(grid, cmap=colour_map(), vmin=0, vmax=1, aspect="auto", interpolation="nearest")
        axis.set_yticks(
            range(len(rows)), [short(f"{row['layer']} {visible(row['kind'], spaces=False)}") for row in rows]
        )
        axis.set(xlabel="position")
        axis.set_title("\n".join(captioned(short(caption, 90), said)), loc="left", fontsize="medium")

    return Drawing(8.0, 1.2 + 0.3 * len(rows), paint)
