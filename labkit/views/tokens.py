"""The token strip: text coloured token by token, and on each token a card with what else it could have been."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .base import View, escape, label, page, percent, text_table, visible
from .colours import LEVELS

# What each token dictionary holds: piece, probability (the model's own), rank (0: its first choice), entropy (nats),
# and alternatives: (piece, probability before the stages, probability after them, stage that removed it or None).
Token = Mapping[str, Any]
Alternative = tuple[str, float, float, str | None]


def _probability_level(token: Token) -> float:
    return (1 - token["probability"]) * LEVELS


def _surprisal_level(token: Token) -> float:
    return -math.log2(max(token["probability"], 1e-30))


def _rank_level(token: Token) -> float:
    rank = token["rank"]
    return rank if rank < 3 else (rank - 1).bit_length() + 1  # 3–4, 5–8, 9–16 …


def _entropy_level(token: Token) -> float:
    return 2 * token["entropy"]


# What the colour may say: where a token stands on the scale, and what its two ends are called.
COLOURS: Mapping[str, tuple[Callable[[Token], float], str, str]] = {
    "probability": (_probability_level, "100 %", "0 %"),
    "surprisal": (_surprisal_level, "0 bits", "≥ 9 bits"),
    "rank": (_rank_level, "rank 0", "> 128"),
    "entropy": (_entropy_level, "0 nats", "≥ 4.5 nats"),
}


def token_strip(
    tokens: Sequence[Token],
    *,
    prompt: Sequence[str] = (),
    colour: str = "probability",
    alternatives: int = 6,
) -> View:
    """Text coloured by how probable each token was; point at one, or tab to it, for its card.

    Args:
        tokens: dictionaries with piece, probability, rank and entropy, and where there is to be a card, alternatives.
        prompt: pieces of the prompt, shown in front and told apart.
        colour: "probability", "surprisal", "rank" or "entropy".
        alternatives: how many of them each card shows; the rest is in ``tokens``.
    """
    body = "".join(_token_with_card(token, colour, alternatives) for token in tokens)
    alt = f"{len(tokens)} tokens coloured by {colour}" + f" after a prompt of {len(prompt)}" * bool(prompt)
    return View(
        page(f'{legend(colour)}<div class="lk-strip">{prompt_html(prompt)}{body}</div>', alt),
        _text(tokens, alternatives),
        alt,
    )


def token_html(token: Token, colour: str = "probability", index: int | None = None) -> str:
    """One token without its card. ``index`` is for who wants to know which one was clicked."""
    marks = "" if index is None else f" data-i={index}"
    return f'<span class={_level(token, colour)}{marks} title="{escape(title(token))}">{in_text(token["piece"])}</span>'


def prompt_html(pieces: Sequence[str], most: int = 400) -> str:
    """The prompt's tokens; of a long prompt the last ones, and how many are not shown."""
    hidden = max(0, len(pieces) - most)
    more = f'<span class="lk-p lk-more">… {hidden:,} earlier tokens …</span>' if hidden else ""
    return more + "".join(f'<span class="lk-p">{in_text(piece)}</span>' for piece in pieces[hidden:])


CARD_HEAD = "<tr class=lk-h><td>token<td>model<td>drawn from"


def card_html(token: Token, most: int = 12, head: str = "") -> str:
    """What else the token could have been: a row each with the probability before and after the stages."""
    rows = []
    for piece, before, after, removed_by in token["alternatives"][:most]:
        chosen = " class=lk-y" if piece == token["piece"] else ""
        row, last = (" class=lk-x", stage_name(removed_by)) if removed_by else (chosen, percent(after))
        rows.append(f"<tr{row}><td>{escape(visible(piece))}<td>{percent(before)}<td>{label(last)}")
    return f"<table>{head}{''.join(rows)}</table>"


def title(token: Token) -> str:
    """A token's numbers in one line."""
    return f"{percent(token['probability'])} % · rank {token['rank']} · entropy {token['entropy']:.2f}"


def in_text(piece: str) -> str:
    """A piece as it stands in running text: spaces are spaces, a newline is marked and breaks the line."""
    return "<i>↵</i>\n".join(label(line) for line in piece.split("\n"))


def legend(colour: str) -> str:
    """What the colours mean."""
    _, first, last = COLOURS[colour]
    steps = "".join(f"<i class=k{i}></i>" for i in range(LEVELS))
    return f'<div class="lk-legend">{colour} <span>{first}</span><b>{steps}</b><span>{last}</span></div>'


def stage_name(name: str) -> str:
    """A stage's name for people: top_k is top-k."""
    return name.replace("_", "-" if name in ("top_k", "top_p", "min_p") else " ")


def _level(token: Token, colour: str) -> str:
    return f"k{min(LEVELS - 1, int(COLOURS[colour][0](token)))}"


def _token_with_card(token: Token, colour: str, alternatives: int) -> str:
    card = f"<span class=lk-c hidden>{card_html(token, alternatives)}</span>" if token.get("alternatives") else ""
    return (
        f'<span class="lk-t {_level(token, colour)}" tabindex=0 title="{escape(title(token))}">'
        f"{in_text(token['piece'])}{card}</span>"
    )


def _text(tokens: Sequence[Token], most: int) -> str:
    """The same as a table: one row a token."""
    head = ["", "token", "%", "rank", "entropy", "alternatives (% before → after the stages)"]
    rows = [
        [
            str(i),
            visible(token["piece"]),
            percent(token["probability"]),
            str(token["rank"]),
            f"{token['entropy']:.2f}",
            ", ".join(map(_alternative_text, token.get("alternatives", ())[:most])),
        ]
        for i, token in enumerate(tokens)
    ]
    return text_table([head, *rows])


def _alternative_text(alternative: Alternative) -> str:
    piece, before, after, removed_by = alternative
    last = f"removed by {stage_name(removed_by)}" if removed_by else percent(after)
    return f"{visible(piece)} {percent(before)} → {last}"
