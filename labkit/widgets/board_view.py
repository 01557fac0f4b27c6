"""The picture of a sample board: a column for each settings, a row for each draw, the first difference marked."""

from ..views import View
from ..views.base import decimals, label, page, percent, text_table, visible
from ..views.tokens import in_text
from .board_result import BoardResult, Cell
from .panels import ENDED


def board_html(result: BoardResult) -> str:
    """A table; each continuation is picked as "row,column"."""
    totals = result.totals()
    head = "".join(
        f"<th><b>{label(name)}</b><br>{numbers(total['mean_logprob'], total['distinct'])}"
        for (name, _), total in zip(result.columns, totals, strict=True)
    )
    rows = len(result.cells) // len(result.columns)
    body = "".join(
        f"<tr><th>{r + 1}" + "".join(cell_html(result, result.cell(r, c)) for c in range(len(result.columns)))
        for r in range(rows)
    )
    return f'<div class="lk"><table class=lk-board><thead><tr><th>{head}</thead><tbody>{body}</tbody></table></div>'


def cell_html(result: BoardResult, cell: Cell) -> str:
    before, mark, after = in_three(cell)
    marked = f"<mark>{in_text(mark)}</mark>" if cell.parted is not None else ""
    first = "" if cell.column == 0 else "as the first" if cell.parted is None else f"parts at token {cell.parted + 1}"
    reason = cell.generation.finish_reason
    ended = "" if reason == "length" else ENDED[reason]
    said = " · ".join(filter(None, (numbers(cell.mean_logprob, cell.distinct), first, ended)))
    shared = "lk-same" if cell.column else ""
    return (
        f'<td data-pick="{cell.row},{cell.column}" tabindex="-1"><div class=lk-strip>'
        f'<span class="{shared}">{in_text(before)}</span>{marked}{in_text(after)}</div><small>{label(said)}</small>'
    )


def in_three(cell: Cell) -> tuple[str, str, str]:
    """The text up to where it leaves the first column's, the token that does, and what follows."""
    ids, at = cell.generation.ids, cell.parted
    if at is None:
        return text_of(cell, ids), "", ""
    return text_of(cell, ids[:at]), text_of(cell, ids[at : at + 1]), text_of(cell, ids[at + 1 :])


def text_of(cell: Cell, ids: list[int]) -> str:
    """What the ids say; their numbers without a tokenizer."""
    tokenizer = cell.generation.tokenizer
    return tokenizer.decode(ids) if tokenizer is not None else "".join(f"{i} " for i in ids)


def numbers(mean_logprob: float | None, distinct: float | None) -> str:
    """How likely the model finds it, and how many of its token pairs are no repetition."""
    share = "–" if distinct is None else f"{percent(distinct)} %"
    return f"{decimals(mean_logprob, 2)} nats a token · {share} distinct"


def board_view(result: BoardResult) -> View:
    """The same as one table of numbers and texts."""
    head = ["row", "settings", "parts at", "nats a token", "distinct", "ended", "text"]
    cells = [
        [
            str(row["row"] + 1),
            row["settings"],
            "–" if row["parted"] is None else str(row["parted"] + 1),
            decimals(row["mean_logprob"], 2),
            decimals(row["distinct"], 2),
            row["finish_reason"],
            visible(row["text"], spaces=False),
        ]
        for row in result.rows()
    ]
    alt = f"{len(cells)} continuations of a prompt under {len(result.columns)} settings, on the same draws"
    return View(page(board_html(result), alt), text_table([head, *cells]), alt, tuple(result.rows()))
