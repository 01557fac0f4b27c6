"""The token strip: text coloured token by token, and on each token a card with what else it could have been."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .base import View, decimals, escape, label, page, percent, text_table, visible
from .colours import LEVELS, level_colours
from .figures import Drawing, running_text

# What each token dictionary holds: piece, probability (the model's own), rank (0: its first choice), entropy (nats),
# and alternatives: dictionaries with piece, probabilities (heading -> probability, from "model" to what the draw saw;
# without those after its removal) and removed_by (the stage that removed it, or None).
Token = Mapping[str, Any]
Alternative = Mapping[str, Any]


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
        tuple(_row(i, token, alternatives) for i, token in enumerate(tokens)),
        _drawing(prompt, tokens, colour),
    )


def token_html(token: Token, colour: str = "probability", index: int | None = None) -> str:
    """One token without its card. ``index`` is for who wants to know which one was clicked."""
    marks = "" if index is None else f" data-i={index}"
    return f'<span class=k{level(token, colour)}{marks} title="{escape(title(token))}">{in_text(token["piece"])}</span>'


def prompt_html(pieces: Sequence[str], most: int = 400) -> str:
    """The prompt's tokens; of a long prompt the last ones, and how many are not shown."""
    hidden = max(0, len(pieces) - most)
    more = f'<span class="lk-p lk-more">… {hidden:,} earlier tokens …</span>' if hidden else ""
    return more + "".join(f'<span class="lk-p">{in_text(piece)}</span>' for piece in pieces[hidden:])


def card_html(token: Token, most: int = 12) -> str:
    """What else the token could have been: a row each with its probability from stage to stage, in percent."""
    shown = token["alternatives"][:most]
    if not shown:
        return "<table></table>"
    headings = max((each["probabilities"] for each in shown), key=len)
    head = "".join(f"<td>{label(heading)}" for heading in headings)
    rows = "".join(_card_row(each, len(headings), each["piece"] == token["piece"]) for each in shown)
    return f"<table><tr class=lk-h><td>%{head}{rows}</table>"


def _card_row(alternative: Alternative, columns: int, chosen: bool) -> str:
    removed_by, probabilities = alternative["removed_by"], alternative["probabilities"]
    numbers = "".join(f"<td>{percent(p)}" for p in probabilities.values())
    kind = " class=lk-x" if removed_by else " class=lk-y" if chosen else ""
    if removed_by:
        left = columns - len(probabilities)
        numbers += f"<td{f' colspan={left}' if left > 1 else ''}>✕ {label(stage_name(removed_by))}"
    return f"<tr{kind}><td>{escape(visible(alternative['piece']))}{numbers}"


def title(token: Token) -> str:
    """A token's numbers in one line."""
    return f"{percent(token['probability'])} % · rank {token['rank']} · entropy {decimals(token['entropy'], 2)}"


def in_text(piece: str) -> str:
    """A piece as it stands in running text: spaces are spaces, a newline is marked and breaks the line."""
    return "<i>↵</i>\n".join(label(line) for line in piece.split("\n"))


def _drawing(prompt: Sequence[str], tokens: Sequence[Token], colour: str) -> Drawing:
    def drawn(piece: str) -> str:
        return "↵\n".join(visible(line, spaces=False) for line in piece.split("\n"))

    behind = [(1.0, 1.0, 1.0), *level_colours(dark=False)[1:]]  # level 0 is the page's own
    coloured = [(drawn(token["piece"]), behind[level(token, colour)]) for token in tokens]
    return running_text([*((drawn(piece), None) for piece in prompt), *coloured])


def legend(colour: str) -> str:
    """What the colours mean."""
    _, first, last = COLOURS[colour]
    steps = "".join(f"<i class=k{i}></i>" for i in range(LEVELS))
    return f'<div class="lk-legend">{colour} <span>{first}</span><b>{steps}</b><span>{last}</span></div>'


def stage_name(name: str) -> str:
    """A stage's name for people: top_k is top-k."""
    return name.replace("_", "-" if name in ("top_k", "top_p", "min_p") else " ")


def level(token: Token, colour: str) -> int:
    """Where a token stands on the scale, 0 … LEVELS - 1."""
    return min(LEVELS - 1, int(COLOURS[colour][0](token)))


def _token_with_card(token: Token, colour: str, alternatives: int) -> str:
    card = f"<span class=lk-c hidden>{card_html(token, alternatives)}</span>" if token.get("alternatives") else ""
    return (
        f'<span class="lk-t k{level(token, colour)}" tabindex=0 title="{escape(title(token))}">'
        f"{in_text(token['piece'])}{card}</span>"
    )


def _text(tokens: Sequence[Token], most: int) -> str:
    """The same as a table: one row a token."""
    head = ["", "token", "%", "rank", "entropy", "alternatives (% of the model → … → what the draw saw)"]
    rows = [
        [
            str(i),
            visible(token["piece"]),
            percent(token["probability"]),
            str(token["rank"]),
            decimals(token["entropy"], 2),
            ", ".join(map(_alternative_text, token.get("alternatives", ())[:most])),
        ]
        for i, token in enumerate(tokens)
    ]
    return text_table([head, *rows])


def _alternative_text(alternative: Alternative) -> str:
    steps = [percent(p) for p in alternative["probabilities"].values()]
    if alternative["removed_by"]:
        steps.append(f"removed by {visible(stage_name(alternative['removed_by']), spaces=False)}")
    return f"{visible(alternative['piece'])} {' → '.join(steps)}"


def _row(index: int, token: Token, most: int) -> dict[str, Any]:
    numbers = {name: token[name] for name in ("piece", "probability", "rank", "entropy")}
    return {"index": index, **numbers, "alternatives": [dict(each) for each in token.get("alternatives", ())[:most]]}
