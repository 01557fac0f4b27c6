"""Answers about one draw: what if the settings were others, and why not that token."""

from collections.abc import Mapping, Sequence
from typing import Any

from .base import BASE_CSS, View, captioned, escape, label, page, percent, style_sheet, text_table, visible
from .charts import bars
from .stages import signed
from .tokens import stage_name

CSS = BASE_CSS + style_sheet("answers.css")

# One token under two settings: id, piece, model (probability), and sides, two dictionaries with probability (None once
# removed), removed_by (a stage or None) and score (None where the draw gives no noise).
Compared = Mapping[str, Any]


def what_if(
    candidates: Sequence[Compared],
    *,
    chosen: tuple[int, int],
    changes: Sequence[tuple[str, str, str]],
    names: tuple[str, str] = ("recorded", "what if"),
    caption: str = "",
) -> View:
    """The same draw under two settings, side by side.

    Args:
        candidates: the tokens to show, in the order to show them.
        chosen: ids that the two pick.
        changes: name, value before and value after of every setting that differs.
        caption: what came of it, in words.
    """
    widest = max((side["probability"] or 0 for c in candidates for side in c["sides"]), default=1.0) or 1.0
    rows = "".join(_html_row(c, chosen, widest) for c in candidates)
    words = [visible(f"{stage_name(name)} {old} → {new}", spaces=False) for name, old, new in changes]
    alt = f"the same draw under two settings: {', '.join(words) or 'nothing changed'}"
    head = (
        f"<tr><th>token<th>model{''.join(f'<th>{label(name)}<th>score' for name in names)}"
        f"<tr class=lk-changes><th colspan=2><td colspan=4>{escape(', '.join(words) or 'the settings are the same')}"
    )
    table = (
        f'<table class="lk-if"><caption>{label(caption)}</caption><thead>{head}</thead><tbody>{rows}</tbody></table>'
    )
    shown = [", ".join(words)] * bool(words)
    text = "\n".join([*captioned(caption, *shown), _text(candidates, chosen, names)])
    rows_of_data = tuple(_row(c, chosen, names) for c in candidates)
    columns = [("model", [c["model"] for c in candidates])]
    for i, name in enumerate(names):
        columns.append((visible(name, spaces=False), [c["sides"][i]["probability"] for c in candidates]))
    ids = [c["id"] for c in candidates]
    marked = [-1, *(ids.index(i) if i in ids else -1 for i in chosen)]
    drawn = bars(columns, [visible(c["piece"]) for c in candidates], marked, visible(caption, spaces=False))
    return View(page(table, alt, CSS), text, alt, rows_of_data, drawn)


def why_not(sentence: str, facts: Sequence[tuple[str, str]], ways: Sequence[tuple[str, str]], *, piece: str) -> View:
    """Why a token was not chosen: one sentence, what decided, and what would let it in.

    Args:
        facts: what was measured, and its value.
        ways: a parameter, and the smallest change of it alone; "" where none does.
        piece: the token.
    """
    alt = f"why not {visible(piece)}"
    rows = [(visible(name, spaces=False), visible(value, spaces=False) or "no value does") for name, value in ways]
    known = [(visible(name, spaces=False), visible(value, spaces=False)) for name, value in facts]
    cells = "".join(f"<tr><th>{escape(name)}<td>{escape(value)}" for name, value in known)
    let_in = "".join(f"<tr><th>{escape(stage_name(name))}<td>{escape(value)}" for name, value in rows)
    ways_html = f"<div><h5>the smallest change of one setting</h5><table>{let_in}</table></div>" if rows else ""
    body = (
        f'<div class="lk-why"><p>{label(sentence)}</p><div class=lk-cols><table>{cells}</table>{ways_html}</div></div>'
    )
    table = text_table([["why not", visible(piece)], *known, *((stage_name(name), value) for name, value in rows)])
    data = [*((name, value) for name, value in facts), *((name, value or "no value does") for name, value in ways)]
    rows_of_data = tuple({"what": name, "value": value} for name, value in data)
    return View(page(body, alt, CSS), f"{visible(sentence, spaces=False)}\n{table}", alt, rows_of_data)


def _row(candidate: Compared, chosen: tuple[int, int], names: tuple[str, str]) -> dict[str, Any]:
    row = {"id": candidate["id"], "piece": candidate["piece"], "model": candidate["model"]}
    for name, side, winner in zip(names, candidate["sides"], chosen, strict=True):
        row |= {name: side["probability"], f"{name}: score": side["score"], f"{name}: removed by": side["removed_by"]}
        row |= {f"{name}: chosen": candidate["id"] == winner}
    return row


def _mark(candidate: Compared, chosen: int) -> str:
    return "▶ " if candidate["id"] == chosen else ""


def _html_row(candidate: Compared, chosen: tuple[int, int], widest: float) -> str:
    cells = []
    for side, winner in zip(candidate["sides"], chosen, strict=True):
        kind = ' class="lk-y"' if candidate["id"] == winner else ""
        if side["removed_by"] is not None:
            cells.append(f"<td class=lk-x>·<td class=lk-x>{label(stage_name(side['removed_by']))}")
            continue
        width = 100 * side["probability"] / widest
        score = "" if side["score"] is None else signed(side["score"])
        shown = _mark(candidate, winner) + percent(side["probability"])
        cells.append(f'<td{kind} style="--w:{width:.1f}%">{shown}<td{kind}>{score}')
    return f"<tr><th><b>{escape(visible(candidate['piece']))}</b><td>{percent(candidate['model'])}{''.join(cells)}"


def _text(candidates: Sequence[Compared], chosen: tuple[int, int], names: tuple[str, str]) -> str:
    rows = [["token", "model", *(cell for name in names for cell in (visible(name, spaces=False), "score"))]]
    for candidate in candidates:
        cells = [visible(candidate["piece"]), percent(candidate["model"])]
        for side, winner in zip(candidate["sides"], chosen, strict=True):
            if side["removed_by"] is not None:
                cells += ["removed", visible(stage_name(side["removed_by"]), spaces=False)]
            else:
                score = "" if side["score"] is None else signed(side["score"])
                cells += [_mark(candidate, winner) + percent(side["probability"]), score]
        rows.append(cells)
    return text_table(rows)
