"""All heads of a model as a grid, a row a layer: one number each, and the patterns as thumbnails."""

from collections.abc import Mapping, Sequence
from typing import Any

from .base import BASE_CSS, View, captioned, decimals, escape, label, page, style_sheet, text_table, visible
from .charts import grid
from .colours import LEVELS, THEME
from .figures import Drawing, colour_map, short
from .picture import POWER, data_uri, shades

CSS = THEME + BASE_CSS + style_sheet("heads.css")

# A head: dictionary with layer, head and numbers by the name of what they measure (None: not defined).
Head = Mapping[str, Any]


def head_grid(
    heads: Sequence[Head],
    value: str = "entropy",
    *,
    high: float | None = None,
    caption: str = "",
    selected: tuple[int, int] | None = None,
) -> View:
    """A cell a head, coloured by one of its numbers, which stands in it.

    Args:
        value: which number.
        high: what has the strongest colour; None: the largest of all.
        selected: (layer, head) that is marked.
    """
    at = {(head["layer"], head["head"]): head[value] for head in heads}
    layers, columns = sorted({layer for layer, _ in at}), sorted({head for _, head in at})
    most = high or max((v for v in at.values() if v is not None), default=0.0) or 1.0
    name = visible(value, spaces=False)
    body = "".join(
        f"<tr><th>layer {layer}</th>"
        + "".join(_cell(layer, head, at, most, name, (layer, head) == selected) for head in columns)
        for layer in layers
    )
    top = "".join(f"<th>{head}</th>" for head in columns)
    said = ": ".join([f"{name} of every head, colour up to {decimals(most, 2)}", *captioned(caption)])
    table = (
        f'<p class=lk-caption>{label(said)}</p><table class="lk-heads">'
        f"<thead><tr><th>head</th>{top}</tr></thead><tbody>{body}</tbody></table>"
    )
    cells = [["head", *map(str, columns)]]
    cells += [[f"layer {layer}", *(_written(at, layer, head) for head in columns)] for layer in layers]
    rows = tuple({"layer": layer, "head": head, value: at[layer, head]} for layer, head in sorted(at))
    alt = f"{name} of {len(at)} heads in {len(layers)} layers"
    text = f"{said}\n{text_table(cells)}"
    drawn = grid(
        [[at.get((layer, head)) for head in columns] for layer in layers],
        rows=[f"layer {layer}" for layer in layers],
        columns=cells[0][1:],
        high=most,
        title=said,
        words=[line[1:] for line in cells[1:]],
    )
    return View(page(table, alt, CSS), text, alt, rows, drawn)


def attention_grid(
    patterns: Sequence[Any], heads: Sequence[Mapping[str, Any]] = (), value: str = "entropy", *, caption: str = ""
) -> View:
    """Every head's pattern as a thumbnail, a row a layer, and below each one of its numbers.

    Args:
        patterns: one array (H, n, n) a layer.
        heads: dictionaries with layer, head and the number.
        value: which number.
    """
    numbers = {(head["layer"], head["head"]): head[value] for head in heads}
    name = visible(value, spaces=False)
    body, cells, rows = "", [["head", *map(str, range(max(map(len, patterns), default=0)))]], []
    for layer, of_heads in enumerate(patterns):
        body += f"<tr><th>layer {layer}</th>"
        pixels, texts = shades(of_heads), []
        for head, picture in enumerate(pixels):
            number = decimals(numbers.get((layer, head)), 2)
            words = f"layer {layer}, head {head}: {name} {number}"
            body += (
                f'<td data-pick="{layer}.{head}" tabindex=0 title="{escape(words)}">'
                f'<img alt="{escape(words)}" src="{data_uri(picture)}"><small>{number}</small></td>'
            )
            texts.append(number)
            rows.append({"layer": layer, "head": head, value: numbers.get((layer, head))})
        body += "</tr>"
        cells.append([f"layer {layer}", *texts, *[""] * (len(cells[0]) - 1 - len(texts))])
    said = ": ".join([f"attention patterns and {name} of every head", *captioned(caption)])
    top = "".join(f"<th>{column}</th>" for column in cells[0][1:])
    table = (
        f'<p class=lk-caption>{label(said)}</p><table class="lk-patterns">'
        f"<thead><tr><th>head</th>{top}</tr></thead><tbody>{body}</tbody></table>"
    )
    alt = f"attention patterns of {len(rows)} heads"
    return View(page(table, alt, CSS), f"{said}\n{text_table(cells)}", alt, tuple(rows), _mosaic(patterns, said))


def _written(at: Mapping[tuple[int, int], float | None], layer: int, head: int) -> str:
    """A number, – where it is not defined, nothing where there is no such head."""
    return decimals(at[layer, head], 2) if (layer, head) in at else ""


def _cell(
    layer: int, head: int, at: Mapping[tuple[int, int], float | None], most: float, name: str, selected: bool
) -> str:
    if (layer, head) not in at:
        return "<td></td>"
    value = at[layer, head]
    level = 0 if value is None else min(LEVELS - 1, max(0, round((LEVELS - 1) * value / most)))
    kinds = " ".join([f"k{level}", *["lk-here"] * selected])
    words = label(f"layer {layer}, head {head}: {name} {decimals(value, 4)}")
    return f'<td class="{kinds}" data-pick="{layer}.{head}" tabindex=0 title="{words}">{decimals(value, 2)}</td>'


def _mosaic(patterns: Sequence[Any], said: str) -> Drawing:
    """All thumbnails as one picture, at most 64 numbers a side."""

    def paint(figure: Any) -> None:
        import numpy as np

        across, tile = max(map(len, patterns), default=1), 66
        picture = np.full((len(patterns) * tile, across * tile), np.nan, dtype=np.float32)
        for layer, of_heads in enumerate(patterns):
            for head, pattern in enumerate(np.asarray(of_heads, dtype=np.float32)):
                places = np.linspace(0, len(pattern) - 1, 64).round().astype(int)
                small = pattern[np.ix_(places, places)] ** POWER
                picture[layer * tile : layer * tile + 64, head * tile : head * tile + 64] = small
        axis = figure.subplots()
        axis.imshow(picture, cmap=colour_map(), vmin=0, vmax=1, interpolation="nearest")
        axis.set_xticks([32 + i * tile for i in range(across)], range(across))
        axis.set_yticks([32 + i * tile for i in range(len(patterns))], range(len(patterns)))
        axis.set(xlabel="head", ylabel="layer")
        axis.set_title(short(said, 90), loc="left", fontsize="medium")

    return Drawing(8.0, 8.0 * max(1, len(patterns)) / max((len(p) for p in patterns), default=1), paint)
