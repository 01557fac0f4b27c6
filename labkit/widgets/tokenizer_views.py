"""The pictures of a tokenizer explorer: the text as each tokenizer cuts it, one token, its merges, what was found."""

from collections.abc import Mapping, Sequence
from typing import Any

from .. import views
from ..inspection.tokenization import Tokenization
from ..inspection.vocabulary import Merge
from ..tokenizers.base import describe_unknown
from ..views import View
from ..views.base import decimals, element_id, escape, label, page, text_table, visible
from ..views.tokens import in_text
from .tables import table_view

MOST_TOKENS = 1200  # of a longer text the first ones are drawn; its numbers are of all
MOST_LINKED = 300  # so many first characters are linked between the tokenizers


def cuts_html(cuts: Mapping[str, Tokenization]) -> str:
    """A block for each tokenizer: its numbers, and the text as it cuts it."""
    blocks = "".join(block(i, name, cut) for i, (name, cut) in enumerate(cuts.items()))
    name = element_id(blocks)
    linked = min(MOST_LINKED, max((len(cut.text) for cut in cuts.values()), default=0))
    rules = "".join(link(name, i) for i in range(linked))
    return f'<style>{rules}</style><div class="lk lk-cuts {name}">{blocks}</div>'


def cuts_view(cuts: Mapping[str, Tokenization]) -> View:
    """The same, and all tokens as a table."""
    rows = tuple({"tokenizer": key, **row} for key, cut in cuts.items() for row in cut.rows())
    head = ["tokenizer", "tokens", "characters a token", "vocabulary", "round trip", "unknown"]
    totals = [[visible(key, spaces=False), *numbers(cut)] for key, cut in cuts.items()]
    pieces = [f"{visible(key, spaces=False)}: {' '.join(f'{visible(p)}({i})' for p, i in shown_tokens(cut))}"
              for key, cut in cuts.items()]  # fmt: skip
    alt = f"a text of {len(next(iter(cuts.values())).text):,} characters under {len(cuts)} tokenizers" if cuts else ""
    return View(page(cuts_html(cuts), alt), "\n".join([text_table([head, *totals]), "", *pieces]), alt, rows)


def numbers(cut: Tokenization) -> list[str]:
    totals = cut.totals()
    return [
        f"{totals['tokens']:,}",
        decimals(totals["characters a token"], 2),
        f"{cut.vocab_size:,}",
        "yes" if cut.round_trip else "no",
        describe_unknown(list(cut.unknown)) if cut.unknown else "none",
    ]


def shown_tokens(cut: Tokenization) -> list[tuple[str, int]]:
    return list(zip(cut.pieces[:MOST_TOKENS], cut.ids[:MOST_TOKENS], strict=True))


def block(number: int, name: str, cut: Tokenization) -> str:
    """One tokenizer: a line of numbers, what it does not know, and its tokens."""
    tokens, a_token, vocabulary, _, unknown = numbers(cut)
    back = "gives the text back" if cut.round_trip else "does not give the text back"
    lost = f"<div class=lk-note>Unknown, left out: {label(unknown)}</div>" if cut.unknown else ""
    spans = "".join(token_span(number, i, cut) for i in range(min(MOST_TOKENS, len(cut.ids))))
    more = f'<span class="lk-p lk-more">… {len(cut.ids) - MOST_TOKENS:,} more tokens</span>'
    return (
        f"<section><p><b>{label(name)}</b> <span class=lk-p>{tokens} tokens · {a_token} characters a token · "
        f"vocabulary of {vocabulary} · {'✓' if cut.round_trip else '✗'} {back}</span></p>{lost}"
        f'<div class="lk-strip lk-tokens">{spans}{more if len(cut.ids) > MOST_TOKENS else ""}</div></section>'
    )


def token_span(number: int, i: int, cut: Tokenization) -> str:
    start, end = cut.spans[i] if cut.spans is not None else (0, 0)
    characters = " ".join(map(str, range(start, min(end, MOST_LINKED))))
    piece = cut.pieces[i]
    title = f"{visible(piece)} · id {cut.ids[i]} · bytes {cut.data[i].hex(' ')}"
    title += f" · characters {start}–{end - 1}" if end > start + 1 else f" · character {start}" if end > start else ""
    marks = f'data-pick="{number}:{i}" data-c="{characters}" tabindex="-1" title="{escape(title)}"'
    return f"<span {marks}>{in_text(piece)}</span>"


def link(name: str, i: int) -> str:
    """Whatever has a part in the i-th character is marked while one of them is pointed at; no script is needed."""
    part = f'[data-c~="{i}"]'
    return f".{name}:has({part}:is(:hover,:focus)) {part}{{background:var(--bar);outline:1px solid var(--accent)}}"


def token_view(name: str, piece: str, token_id: int, data: bytes) -> View:
    """One token: what it is and what it adds to the text."""
    row = {"id": str(token_id), "piece": visible(piece), "bytes": data.hex(" "), "length in bytes": len(data)}
    return table_view([row], f"{name}: the token “{visible(piece)}”")


def merges_view(steps: Sequence[Merge] | None) -> View:
    """How byte pair encoding puts a token together."""
    if not steps:
        return table_view([], "Not merged from anything" if steps == () else "No merges give this token")
    rows = [
        {"joined": f"{step.left} + {step.right}", "learned as merge": step.rank + 1, "now": " ".join(step.parts)}
        for step in steps
    ]
    return table_view(rows, "Merged pair by pair, the pair that was learned first before the others")


def found_view(found: Mapping[str, list[dict[str, Any]]], wanted: str) -> View:
    """The tokens that were searched for, a table for each tokenizer; a row is picked by its id."""
    tables = []
    for i, (name, rows) in enumerate(found.items()):
        listed = [row | {"id": str(row["id"]), "piece": visible(row["piece"])} for row in rows]
        words = f"{name}: {len(rows) if rows else 'no'} token{'s' * (len(rows) != 1)} for “{visible(wanted)}”"
        tables.append(table_view(listed, words, picks(i, rows)))
    return views.side_by_side(tables)


def picks(number: int, rows: Sequence[Mapping[str, Any]]) -> Any:
    return lambda i: f"{number}#{rows[i]['id']}"
