"""A table of numbers as coloured cells: attention weights of one head, or how much each patch restores."""

from collections.abc import Sequence

from .base import BASE_CSS, View, decimals, escape, label, page, text_table, visible
from .charts import grid
from .colours import LEVELS, THEME

CSS = (
    THEME
    + BASE_CSS
    + """
.lk .lk-heat td{padding:0 2px;min-width:14px;height:16px;text-align:center;font-size:10px}
.lk .lk-heat th{padding:0 3px;font:11px var(--jp-code-font-family,monospace);color:var(--faint)}
.lk .lk-heat thead th{text-align:center}
.lk .lk-heat thead .lk-tall{writing-mode:vertical-rl;text-align:right}
.lk .lk-heat .lk-mark{color:var(--text);font-weight:700}
"""
)


def heat_map(
    values: Sequence[Sequence[float | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    caption: str,
    numbers: bool = False,
    high: float = 1.0,
    marked: Sequence[bool] = (),
) -> View:
    """Cells from the page's own colour (0 and below) to the strongest (``high`` and above); None is left empty.

    Args:
        rows, columns: what stands beside and above, such as tokens; of any origin.
        numbers: write the numbers into the cells; else they are in what one reads on pointing at a cell.
        marked: columns whose heading is bold.
    """
    head = "".join(heading(name, i < len(marked) and marked[i]) for i, name in enumerate(columns))
    body, texts = "", [["", *map(visible, columns)]]
    for name, row in zip(rows, values, strict=True):
        cells = "".join(cell(v, name, column, numbers, high) for v, column in zip(row, columns, strict=True))
        body += f"<tr><th>{escape(visible(name))}</th>{cells}</tr>"
        texts.append([visible(name), *("" if v is None else decimals(v, 2) for v in row)])
    table = f"<table class=lk-heat><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
    shown = [visible(name) for name in rows]
    alt = f"{visible(caption, spaces=False)}: {len(rows)} by {len(columns)} numbers"
    words = [line[1:] for line in texts[1:]] if numbers else None
    return View(
        page(f"<p>{label(caption)}</p>{table}", alt, CSS),
        f"{visible(caption, spaces=False)}\n{text_table(texts)}",
        alt,
        tuple(
            {"row": name, "column": column, "value": round(value, 4) + 0.0}
            for name, row in zip(rows, values, strict=True)
            for column, value in zip(columns, row, strict=True)
            if value is not None
        ),
        grid(values, rows=shown, columns=texts[0][1:], high=high, title=visible(caption, spaces=False), words=words),
    )


def heading(name: str, marked: bool) -> str:
    """A column's name; a longer one stands upright, so that columns stay narrow."""
    shown = visible(name)
    kinds = ["lk-mark"] * marked + ["lk-tall"] * (len(shown) > 2)
    return f'<th class="{" ".join(kinds)}">{escape(shown)}</th>' if kinds else f"<th>{escape(shown)}</th>"


def cell(value: float | None, row: str, column: str, numbers: bool, high: float) -> str:
    if value is None:
        return "<td></td>"
    level = min(LEVELS - 1, max(0, round((LEVELS - 1) * value / high)))
    words = f"{escape(visible(row))} · {escape(visible(column))}: {decimals(value, 3)}"
    shown = decimals(value, 2) if numbers else ""
    return f'<td{f" class=k{level}" if level else ""} title="{words}">{shown}</td>'
