"""Stage columns: one next-token choice from the model to the draw, and why it came out as it did."""

from collections.abc import Mapping, Sequence
from typing import Any

from .base import BASE_CSS, View, captioned, decimals, escape, label, page, percent, style_sheet, text_table, visible
from .charts import bars
from .tokens import stage_name

CSS = BASE_CSS + style_sheet("stages.css")

# stages: dictionaries with stage, setting (its value as text), kept (how many tokens are left), kept_mass (of the
# probability before it), entropy and kl (nats). candidates: dictionaries with id, piece, probabilities (one a stage,
# 0 once removed), removed_by (a stage or None), because (why, in words), and of what the draw saw score and noise (None
# where there is none). All columns show the candidates in this one order.
Stage = Mapping[str, Any]
Candidate = Mapping[str, Any]


def stage_columns(
    stages: Sequence[Stage],
    candidates: Sequence[Candidate],
    *,
    chosen: int,
    draw: str = "",
    in_text: int | None = None,
    caption: str = "",
    sentence: str = "",
) -> View:
    """One column a stage, one row a token, every bar on one scale; between the columns, what each stage took away.

    Args:
        stages: the model first, then every stage in its order.
        candidates: the tokens to show, in the order to show them; the rest is one row more.
        chosen: id that the draw picks.
        draw: what draws; "" leaves its column out.
        in_text: id that stands in the text, if there is one and it is another.
        caption: what this is the next token of.
        sentence: how it came out, in words.
    """
    rest = _rest(stages, candidates)
    masses = [p for row in [*(c["probabilities"] for c in candidates), rest] for p in row]
    widest = max(masses, default=1.0) or 1.0
    ranked = _ranked(candidates)
    rows = [_html_row(c, stages, widest, ranked if draw else None, chosen, in_text) for c in candidates]
    if stages[0]["kept"] > len(candidates):
        rows.append(_html_rest(stages, candidates, rest, widest))
    alt = ": ".join([f"{len(candidates)} candidates through {len(stages)} stages", *captioned(caption)])
    below = f"<p>{label(sentence)}" if sentence else ""
    table = (
        f'<table class="lk-columns"><caption>{label(caption)}{below}</caption>{_html_widths(stages, draw)}'
        f"<thead>{_html_head(stages, draw, in_text)}</thead>"
        f"<tbody>{_with_arrows(rows, stages, draw)}</tbody><tfoot>{_html_foot(stages, draw, ranked)}</tfoot></table>"
    )
    said = [*captioned(caption), *captioned(sentence)]
    text = "\n".join([*said, _text(stages, candidates, chosen, in_text, visible(draw, spaces=False))])
    ids = [c["id"] for c in candidates]
    marked = [-1] * (len(stages) - 1) + [ids.index(chosen) if chosen in ids else -1]
    columns = [
        (_heading(stage), [c["probabilities"][i] if stages_left(c, stages) > i else None for c in candidates])
        for i, stage in enumerate(stages)
    ]
    drawn = bars(columns, [visible(c["piece"]) for c in candidates], marked, visible(caption, spaces=False))
    return View(page(table, alt, CSS), text, alt, _data(stages, candidates, chosen), drawn)


def _heading(stage: Stage) -> str:
    return visible(f"{stage_name(stage['stage'])} {stage.get('setting') or ''}".strip(), spaces=False)


def _data(stages: Sequence[Stage], candidates: Sequence[Candidate], chosen: int) -> tuple[dict[str, Any], ...]:
    """A row a stage, then a row a candidate."""
    rows: list[dict[str, Any]] = []
    for before, stage in zip((stages[0], *stages), stages, strict=False):
        gone = stage["kept"] < before["kept"]
        took = {"lost": max(0.0, 1 - stage["kept_mass"]) if gone else None, "kl": None if gone else stage["kl"]}
        known = {"stage": stage["stage"], "setting": stage.get("setting") or ""}
        rows.append(known | {key: stage[key] for key in ("kept", "entropy")} | took)
    for candidate in candidates:
        left = stages_left(candidate, stages)
        after = zip((stage["stage"] for stage in stages), candidate["probabilities"][:left], strict=False)
        known = {"id": candidate["id"], "piece": candidate["piece"], "chosen": candidate["id"] == chosen}
        rows.append(known | dict(after) | {key: candidate[key] for key in ("removed_by", "because", "noise", "score")})
    return tuple(rows)


# what every line says, for the table and for the text alike


def lost(before: Stage, stage: Stage) -> list[str]:
    """What a stage took away, in mass and tokens; or how far it moved the distribution."""
    gone = before["kept"] - stage["kept"]
    if gone:
        return ["lost", f"{percent(max(0.0, 1 - stage['kept_mass']))} %", f"{gone:,}", "token" + "s" * (gone != 1)]
    if stage["kl"] < 1e-6:
        return ["no effect"]
    return ["reshaped", "KL <0.01" if stage["kl"] < 0.005 else f"KL {decimals(stage['kl'], 2)}"]


def _lost_in_words(before: Stage, stage: Stage) -> str:
    gone, name = before["kept"] - stage["kept"], stage_name(stage["stage"])
    if not gone:
        return f"{name} removed nothing and moved the distribution by {decimals(stage['kl'], 4)} nats (KL)"
    mass = percent(max(0.0, 1 - stage["kept_mass"]))
    return f"{name} removed {gone:,} of {before['kept']:,} tokens, with {mass} % of the probability"


def stages_left(candidate: Candidate, stages: Sequence[Stage]) -> int:
    """How many stages have it still."""
    names = [stage["stage"] for stage in stages]
    return len(stages) if candidate["removed_by"] is None else names.index(candidate["removed_by"])


def _mark(token_id: int, chosen: int, in_text: int | None) -> str:
    return "▶ " if token_id == chosen else "○ " if token_id == in_text else ""


def _units(in_text: int | None) -> str:
    """What the numbers and marks are."""
    return "in %" if in_text is None else "in %, ○ in text"


def _rest(stages: Sequence[Stage], candidates: Sequence[Candidate]) -> list[float]:
    """Probability of all tokens that are not shown, after each stage; what is there is never quite 0."""
    kept = _rest_kept(stages, candidates)
    return [max(1e-9, 1 - sum(c["probabilities"][i] for c in candidates)) if n else 0.0 for i, n in enumerate(kept)]


def _rest_kept(stages: Sequence[Stage], candidates: Sequence[Candidate]) -> list[int]:
    return [
        max(0, stage["kept"] - sum(stages_left(c, stages) > i for c in candidates)) for i, stage in enumerate(stages)
    ]


def _ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that the draw saw, best score first."""
    return sorted((c for c in candidates if c["score"] is not None), key=lambda c: -c["score"])


def signed(number: float) -> str:
    """With two decimals, and a minus sign as long as a plus."""
    return f"{round(number, 2) + 0.0:+.2f}".replace("-", "−")


def _score(candidate: Candidate) -> str:
    """log probability + noise = score"""
    base = candidate["score"] - candidate["noise"]
    return f"{signed(base).lstrip('+')} {signed(candidate['noise'])} = {signed(candidate['score'])}"


def _margin(ranked: Sequence[Candidate]) -> str:
    if len(ranked) < 2:
        return "nothing else was left"
    ahead = ranked[0]["score"] - ranked[1]["score"]
    return f"{decimals(ahead, 2)} ahead of {visible(ranked[1]['piece'])}"


# as HTML


def _html_widths(stages: Sequence[Stage], draw: str) -> str:
    """All stages are as wide, so that their bars are on one scale."""
    between = "<col class=lk-a><col>" * (len(stages) - 1)
    return f"<colgroup><col class=lk-t><col>{between}{'<col class=lk-d0><col class=lk-d>' if draw else ''}</colgroup>"


def _html_head(stages: Sequence[Stage], draw: str, in_text: int | None) -> str:
    cells = []
    for i, stage in enumerate(stages):
        both = "" if i == len(stages) - 1 and not draw else " colspan=2"  # the arrow behind it as well
        cells.append(f"<th{both}>{label(stage_name(stage['stage']))} <span>{label(stage.get('setting') or '')}</span>")
    last = f"<th>the draw <span>{label(draw)}</span>" if draw else ""
    return f"<tr><th>token <span>{_units(in_text)}</span>{''.join(cells)}{last}"


def _html_row(
    candidate: Candidate,
    stages: Sequence[Stage],
    widest: float,
    ranked: Sequence[Candidate] | None,
    chosen: int,
    in_text: int | None,
) -> list[str]:
    """The first cell, then one a stage, then the draw's."""
    left, probabilities = stages_left(candidate, stages), candidate["probabilities"]
    cells = [f'<td style="--w:{100 * p / widest:.1f}%">{percent(p)}' for p in probabilities[:left]]
    why = label(candidate["because"])
    if left < len(stages):
        cells.append(f'<td class=lk-x title="{why}"><del>{percent(probabilities[left - 1])}</del>')
        cells += ["<td class=lk-x>·"] * (len(stages) - left - 1)
    if ranked is not None:
        cells.append(_html_score(candidate, ranked, why))
    row = "<tr class=lk-y>" if candidate["id"] == chosen else "<tr>"
    mark = _mark(candidate["id"], chosen, in_text)
    return [f"{row}<th>{mark}<b>{escape(visible(candidate['piece']))}</b>", *cells]


def _html_score(candidate: Candidate, ranked: Sequence[Candidate], why: str) -> str:
    if candidate["score"] is None:
        return f'<td class="lk-x lk-w" title="{why}">{why}'
    low = min(0.0, ranked[-1]["score"])
    width = (candidate["score"] - low) / ((ranked[0]["score"] - low) or 1)
    place = "wins" if candidate is ranked[0] else "2nd" if candidate is ranked[1] else ""
    return f'<td style="--w:{100 * width:.1f}%"><i>{place}</i>{_score(candidate)}'


def _html_rest(
    stages: Sequence[Stage], candidates: Sequence[Candidate], rest: Sequence[float], widest: float
) -> list[str]:
    kept = _rest_kept(stages, candidates)
    cells = [
        f'<td style="--w:{100 * mass / widest:.1f}%"><i>{n:,}</i>{percent(mass)}' if n else "<td class=lk-x>·"
        for n, mass in zip(kept, rest, strict=True)
    ]
    return [f"<tr class=lk-rest><th>{kept[0]:,} others", *cells, "<td>"]


def _with_arrows(rows: Sequence[list[str]], stages: Sequence[Stage], draw: str) -> str:
    """The rows, and between two columns one arrow that all rows share."""
    parts = []
    for r, (head, *cells) in enumerate(rows):
        line = [head]
        for i, cell in enumerate(cells[: len(stages) + bool(draw)]):
            line.append((_arrow(i, stages, len(rows)) if r == 0 and i else "") + cell)
        parts.append("".join(line))
    return "".join(parts)


def _arrow(i: int, stages: Sequence[Stage], rows: int) -> str:
    if i == len(stages):
        return f'<td class=lk-a rowspan={rows} title="log probability + noise = score"><b>→</b>'
    before, stage = stages[i - 1], stages[i]
    lines = "".join(f"<em>{escape(line)}</em>" for line in lost(before, stage))
    kind = "lk-a lk-cut" if stage["kept"] < before["kept"] else "lk-a"
    return f'<td class="{kind}" rowspan={rows} title="{escape(_lost_in_words(before, stage))}"><b>→</b>{lines}'


def _html_foot(stages: Sequence[Stage], draw: str, ranked: Sequence[Candidate]) -> str:
    kept = "<td>".join(f"<td>{stage['kept']:,}" for stage in stages)
    entropy = "<td>".join(f"<td>{decimals(stage['entropy'], 2)}" for stage in stages)
    # Who reads it with a screen reader hears the margin too.
    last = f"<td><td>{label(_margin(ranked))}" if draw and ranked else "<td><td>" * bool(draw)
    return f"<tr><th>tokens{kept}{last}<tr><th>entropy, nats{entropy}{'<td><td>' * bool(draw)}"


# as text


def _text(stages: Sequence[Stage], candidates: Sequence[Candidate], chosen: int, in_text: int | None, draw: str) -> str:
    names = [_heading(stage) for stage in stages]
    last = ["ln p + noise = score"] if draw else []
    took = ["", *(" ".join(lost(b, s)).strip() for b, s in zip(stages, stages[1:], strict=False))]
    rows = [["token", *names, *last], [_units(in_text), *took, *[draw] * len(last)]]
    for candidate in candidates:
        left = stages_left(candidate, stages)
        cells = [percent(p) for p in candidate["probabilities"][:left]]
        if left < len(stages):
            cells += ["removed", *["·"] * (len(stages) - left - 1)]
        score = visible(candidate["because"], spaces=False) if candidate["score"] is None else _score(candidate)
        name = _mark(candidate["id"], chosen, in_text) + visible(candidate["piece"])
        rows.append([name, *cells, *[score] * len(last)])
    if stages[0]["kept"] > len(candidates):
        kept, mass = _rest_kept(stages, candidates), _rest(stages, candidates)
        cells = [f"{percent(p)} ({n:,})" if n else "·" for n, p in zip(kept, mass, strict=True)]
        rows.append([f"{kept[0]:,} others", *cells, *[""] * len(last)])
    ranked = _ranked(candidates)
    rows.append(["tokens", *(f"{s['kept']:,}" for s in stages), *[_margin(ranked) if ranked else ""] * len(last)])
    rows.append(["entropy, nats", *(decimals(s["entropy"], 2) for s in stages), *[""] * len(last)])
    return text_table(rows)
