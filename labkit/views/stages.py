"""Stage bars: how one next-token distribution changes from the model to the draw, stage by stage."""

from collections.abc import Mapping, Sequence
from typing import Any

from .base import View, escape, label, page, percent, text_table, visible
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
        in_text: id that stands in the text, if there is one and it is another.
        caption: what this is the next token of.
    """
    widest = max((p for candidate in candidates for p in candidate["probabilities"]), default=1.0) or 1.0
    body = "".join(_html_row(candidate, stages, widest, chosen, in_text) for candidate in candidates)
    alt = f"{len(candidates)} candidates through {len(stages)} stages" + f": {caption}" * bool(caption)
    table = (
        f'<table class="lk-bars"><caption>{label(caption)}</caption><thead>{_html_head(stages, in_text)}</thead>'
        f"<tbody>{body}</tbody><tfoot>{_html_foot(stages, candidates)}</tfoot></table>"
    )
    return View(page(table, alt), _text(stages, candidates, chosen, in_text), alt)


# what every line says, for the table and for the text alike


def _flow(stages: Sequence[Stage]) -> list[str]:
    """What each stage did to the tokens and to the probability mass."""
    lines = [f"{stages[0]['kept']:,} tokens"]
    for before, stage in zip(stages, stages[1:], strict=False):
        lost = f"→ {stage['kept']:,} left, lost {percent(max(0.0, 1 - stage['kept_mass']))} %"
        lines.append(lost if stage["kept"] < before["kept"] else "→ all stay")
    return lines


def _stages_left(candidate: Candidate, stages: Sequence[Stage]) -> int:
    """How many stages have it still."""
    names = [stage["stage"] for stage in stages]
    return len(stages) if candidate["removed_by"] is None else names.index(candidate["removed_by"])


def _mark(token_id: int, chosen: int, in_text: int | None) -> str:
    return "▶ " if token_id == chosen else "○ " if token_id == in_text else ""


def _marks(in_text: int | None) -> str:
    return "▶ drawn" if in_text is None else "▶ drawn ○ in text"


def _hidden(stages: Sequence[Stage], candidates: Sequence[Candidate]) -> list[str]:
    """How many tokens each column does not show, and how much of the probability they hold."""
    lines = []
    for i, stage in enumerate(stages):
        shown = sum(_stages_left(candidate, stages) > i for candidate in candidates)
        mass = max(0.0, round(1 - sum(candidate["probabilities"][i] for candidate in candidates), 6))
        lines.append(f"{stage['kept'] - shown:,}: {percent(mass)} %" if stage["kept"] > shown else "none")
    return lines


def _entropy(stages: Sequence[Stage]) -> list[str]:
    return [f"{stage['entropy']:.2f}" for stage in stages]


# as HTML


def _html_head(stages: Sequence[Stage], in_text: int | None) -> str:
    names = [
        f"<th>{label(stage_name(stage['stage']))} <span>{label(stage.get('setting') or '')}</span>" for stage in stages
    ]
    return f"<tr><th>{''.join(names)}<tr class=lk-flow><th>{_marks(in_text)}{_html_cells(_flow(stages))}"


def _html_row(candidate: Candidate, stages: Sequence[Stage], widest: float, chosen: int, in_text: int | None) -> str:
    mark = _mark(candidate["id"], chosen, in_text)
    left, probabilities = _stages_left(candidate, stages), candidate["probabilities"]
    cells = [f'<td style="--w:{100 * p / widest:.1f}%">{percent(p)}' for p in probabilities[:left]]
    if left < len(stages):
        cells += [f"<td class=lk-x><del>{percent(probabilities[left - 1])}</del>"]
        cells += ["<td class=lk-x>·"] * (len(stages) - left - 1)
    row = "<tr class=lk-y>" if candidate["id"] == chosen else "<tr>"
    return f"{row}<th>{mark}<b>{escape(visible(candidate['piece']))}</b>{''.join(cells)}"


def _html_foot(stages: Sequence[Stage], candidates: Sequence[Candidate]) -> str:
    hidden, entropy = _html_cells(_hidden(stages, candidates)), _html_cells(_entropy(stages))
    return f"<tr><th>not shown{hidden}<tr><th>entropy, nats{entropy}"


def _html_cells(lines: Sequence[str]) -> str:
    return "".join(f"<td>{escape(line)}" for line in lines)


# as text


def _text(stages: Sequence[Stage], candidates: Sequence[Candidate], chosen: int, in_text: int | None) -> str:
    names = [f"{stage_name(stage['stage'])} {stage.get('setting') or ''}".strip() for stage in stages]
    rows = []
    for candidate in candidates:
        left = _stages_left(candidate, stages)
        cells = [percent(p) for p in candidate["probabilities"][:left]]
        if left < len(stages):
            cells += ["removed", *["·"] * (len(stages) - left - 1)]
        rows.append([_mark(candidate["id"], chosen, in_text) + visible(candidate["piece"]), *cells])
    last = [["not shown", *_hidden(stages, candidates)], ["entropy, nats", *_entropy(stages)]]
    return text_table([["token", *names], [_marks(in_text), *_flow(stages)], *rows, *last])
