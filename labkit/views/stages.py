"""Stage bars: how one next-token distribution changes from the model to the draw, stage by stage."""

from collections.abc import Mapping, Sequence
from typing import Any

from .base import View, escape, page, percent, text_table, visible
from .tokens import stage_name

# stages: dictionaries with stage, setting (its value as text), kept (how many tokens are left), kept_mass (of the
# probability before it) and entropy (nats). candidates: dictionaries with id, piece, probabilities (one a stage, 0 once
# removed) and removed_by (a stage or None); all columns show them in this one order.
Stage = Mapping[str, Any]
Candidate = Mapping[str, Any]


def stage_bars(
    stages: Sequence[Stage],
    candidates: Sequence[Candidate],
    *,
    chosen: int,
    in_text: int | None = None,
    caption: str = "",
) -> View:
    """One column a stage, one row a token; every bar on one scale.

    Args:
        stages: the model first, then every stage in its order.
        candidates: the tokens to show, in the order to show them.
        chosen: id that the draw picks from the last column.
        in_text: id that stands in the text, if another one.
        caption: what this is the next token of.
    """
    widest = max((p for candidate in candidates for p in candidate["probabilities"]), default=1.0) or 1.0
    body = "".join(_row(candidate, stages, widest, chosen, in_text) for candidate in candidates)
    alt = f"{len(candidates)} candidates through {len(stages)} stages, {caption or 'one step'}"
    table = (
        f'<table class="lk-bars"><caption>{escape(caption)}</caption><thead>{_head(stages)}</thead>'
        f"<tbody>{body}</tbody><tfoot>{_foot(stages, candidates)}</tfoot></table>"
    )
    return View(page(table, alt), _text(stages, candidates, chosen, in_text), alt)


def _head(stages: Sequence[Stage]) -> str:
    names = "".join(
        f"<th>{escape(stage_name(stage['stage']))} <span>{escape(stage.get('setting') or '')}</span>" for stage in stages
    )
    flow = "".join(f"<td>{escape(line)}" for line in _flow(stages))
    return f"<tr><th>{names}<tr class=lk-flow><th>{flow}"


def _flow(stages: Sequence[Stage]) -> list[str]:
    """What each stage did to the tokens and to the probability mass."""
    lines = [f"{stages[0]['kept']:,} tokens"]
    for before, stage in zip(stages, stages[1:], strict=False):
        removed = before["kept"] - stage["kept"]
        lines.append(f"→ −{percent(1 - stage['kept_mass'])} %, {stage['kept']:,} left" if removed else "→ all stay")
    return lines


def _row(candidate: Candidate, stages: Sequence[Stage], widest: float, chosen: int, in_text: int | None) -> str:
    marked = " class=lk-y" if candidate["id"] == chosen else " class=lk-w" if candidate["id"] == in_text else ""
    cells = []
    removed = False
    previous = 0.0
    for stage, p in zip(stages, candidate["probabilities"], strict=True):
        if removed:
            cells.append("<td class=lk-x>·")
        elif stage["stage"] == candidate["removed_by"]:
            removed = True
            cells.append(f"<td class=lk-x><del>{percent(previous)}</del>")
        else:
            cells.append(f'<td style="--w:{100 * p / widest:.1f}%">{percent(p)}')
            previous = p
    mark = _mark(candidate["id"], chosen, in_text)
    return f"<tr{marked}><th>{mark}<b>{escape(visible(candidate['piece']))}</b>{''.join(cells)}"


def _mark(token_id: int, chosen: int, in_text: int | None) -> str:
    return "▶ " if token_id == chosen else "○ " if token_id == in_text else ""


def _foot(stages: Sequence[Stage], candidates: Sequence[Candidate]) -> str:
    hidden = "".join(f"<td>{line}" for line in _hidden(stages, candidates))
    entropy = "".join(f"<td>{stage['entropy']:.2f}" for stage in stages)
    return f"<tr><th>not shown{hidden}<tr><th>entropy, nats{entropy}"


def _hidden(stages: Sequence[Stage], candidates: Sequence[Candidate]) -> list[str]:
    """How many tokens each column leaves out, and how much of the probability they hold."""
    lines = []
    gone: set[int] = set()
    for i, stage in enumerate(stages):
        gone |= {candidate["id"] for candidate in candidates if candidate["removed_by"] == stage["stage"]}
        n = stage["kept"] - len(candidates) + len(gone)
        mass = 1 - sum(candidate["probabilities"][i] for candidate in candidates)
        lines.append(f"{n:,}: {percent(max(0.0, round(mass, 6)))} %" if n > 0 else "none")
    return lines


def _text(stages: Sequence[Stage], candidates: Sequence[Candidate], chosen: int, in_text: int | None) -> str:
    head = ["token", *(f"{stage_name(stage['stage'])} {stage.get('setting') or ''}".strip() for stage in stages)]
    rows = [
        [
            _mark(candidate["id"], chosen, in_text) + visible(candidate["piece"]),
            *_text_cells(candidate, stages),
        ]
        for candidate in candidates
    ]
    return text_table(
        [
            head,
            ["", *_flow(stages)],
            *rows,
            ["not shown", *_hidden(stages, candidates)],
            ["entropy, nats", *(f"{stage['entropy']:.2f}" for stage in stages)],
        ]
    )


def _text_cells(candidate: Candidate, stages: Sequence[Stage]) -> list[str]:
    cells = []
    for stage, p in zip(stages, candidate["probabilities"], strict=True):
        if stage["stage"] == candidate["removed_by"]:
            return [*cells, "removed", *["·"] * (len(stages) - len(cells) - 1)]
        cells.append(percent(p))
    return cells
