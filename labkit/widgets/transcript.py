"""A conversation as HTML: messages as blocks, and the tokens of the answers coloured as in any strip."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import chat
from ..chat import Conversation
from ..views import View
from ..views.base import CSS, escape, label, page, text_table, visible
from ..views.tokens import legend, token_html
from .answer import Answer
from .dialogue import Said, n_exchanges
from .panels import ENDED
from .strip import TokenStrip

HERE = Path(__file__).parent
TRANSCRIPT_CSS = (HERE / "transcript.css").read_text(encoding="utf-8")
MOST_SHOWN = 2_000  # characters of a text without tokens; nobody reads a megabyte, and no browser likes to show it
WHO = {"system": "system", "user": "you", "assistant": "model"}


class TranscriptStrip(TokenStrip):
    """A token strip with the messages between the answers."""

    _esm = TokenStrip._esm.replace("export default { render };", (HERE / "transcript.js").read_text(encoding="utf-8"))
    _css = f"{TokenStrip._css}{TRANSCRIPT_CSS}"

    def __init__(self) -> None:
        super().__init__()
        self.add_class("lk-transcript")

    def __repr__(self) -> str:
        return "TranscriptStrip()"

    def to_end(self) -> None:
        """Show the end of it, wherever the reader has been."""
        self.send({"type": "end"})


def html(said: Sequence[Said], rows: Sequence[dict[str, Any]], colour: str) -> str:
    """All that was said; what the prompt does not hold is told apart.

    Args:
        rows: one a turn, as labkit.chat.rows gives them.
    """
    if not said:
        return "<div class=lk-empty>Nobody has spoken yet.</div>"
    parts, start, out = [], 0, n_out(rows)
    for each, row in zip(said, rows, strict=True):
        parts.append(turn_html(each, row["tokens"], start, colour))
        start += each.size
    if not out:
        return "".join(parts)
    cut = f'<div class="lk-cut">above, not in the prompt: {length(said[:out], rows)}</div>'
    return f'<div class="lk-out">{"".join(parts[:out])}</div>{cut}{"".join(parts[out:])}'


def n_out(rows: Sequence[dict[str, Any]]) -> int:
    """So many of the oldest turns are not in the prompt."""
    return sum(not row["in prompt"] for row in rows)


def length(said: Sequence[Said], rows: Sequence[dict[str, Any]]) -> str:
    """How much these turns are."""
    n_tokens = sum(row["tokens"] for row in rows[: len(said)])
    return f"{counted(n_exchanges(said), 'exchange')}, {counted(n_tokens, 'token')}"


def turn_html(said: Said, tokens: int, start: int, colour: str, first: int = 0) -> str:
    """A message, or an answer with the line below it; without its tokens before ``first``."""
    if said.turn.role != "assistant":
        title = f"{WHO[said.turn.role]} · {counted(tokens, 'token')}"
        return f'<div class="lk-said" data-i={start} title="{title}">{shortened(said.turn.text)}</div>'
    if said.answer is None or not said.tokens:
        body = f'<div class="lk-text" data-i={start} title="as text">{shortened(said.turn.text)}</div>'
    else:
        body = tokens_html(said.answer, first, len(said.answer.tokens), start, colour)
    return body + foot_html(said, tokens, start)


def tokens_html(answer: Answer, first: int, last: int, start: int, colour: str) -> str:
    """The tokens of an answer from ``first`` to before ``last``; what ended it is told apart."""
    written = [token_html(token, colour, start + token["index"]) for token in answer.tokens[first:last]]
    end = max(0, min(answer.end, last) - first)
    ending = f"<span class=lk-end>{''.join(written[end:])}</span>" if written[end:] else ""
    return "".join(written[:end]) + ending


def foot_html(said: Said, tokens: int, start: int) -> str:
    """The line below an answer: how long it is, how it ended, and what it was an answer to."""
    answer, reason = said.answer, said.turn.finish_reason
    facts = [counted(len(answer.tokens) if answer is not None else tokens, "token")]
    facts += [ENDED[reason]] if reason else []
    if answer is not None:
        prompt = answer.reply.prompt
        facts += [f"prompt {len(prompt.ids)} of {prompt.context}", f"seed {answer.reply.settings.seed}"]
    return f'<div class="lk-foot" data-i={start + said.size - 1} title="this answer">{escape(" · ".join(facts))}</div>'


def seen_html(talk: Conversation, n_ids: int) -> str:
    """A prompt as the model gets it: what the template adds is told apart from what was said."""
    pieces = chat.parts(talk.turns, talk.template, talk.system)
    body = "".join(shortened(text) if typed else f"<mark>{lines(text)}</mark>" for text, typed in pieces if text)
    added = sum(len(text) for text, typed in pieces if not typed)
    head = f"{counted(n_ids, 'token')}; the template {talk.template.name} added {counted(added, 'character')} (marked)"
    return (
        f'<div class="lk"><div class="lk-legend">{escape(head)}</div><div class="lk-strip lk-seen">{body}</div></div>'
    )


def transcript(said: Sequence[Said], rows: Sequence[dict[str, Any]], colour: str, title: str) -> View:
    """The conversation without controls and script; ``rows`` may begin with that of the system text."""
    alt = f"{title}: {counted(len(said), 'turn')}"
    table = [
        [WHO[row["role"]], str(row["tokens"]), "yes" if row["in prompt"] else "no", visible(row["text"], spaces=False)]
        for row in rows
    ]
    body = f'{legend(colour)}<div class="lk-strip lk-transcript">{html(said, rows[-len(said) :], colour)}</div>'
    text = text_table([["", "tokens", "in prompt", "text"], *table])
    return View(page(body, alt, CSS + TRANSCRIPT_CSS), text, alt, rows=tuple(rows))


def counted(n: int, word: str) -> str:
    return f"{n:,} {word}{'s' * (n != 1)}"


def shortened(text: str) -> str:
    """Words as HTML, of very many the first."""
    more = f" <i>… {counted(len(text) - MOST_SHOWN, 'more character')}</i>" if len(text) > MOST_SHOWN else ""
    return lines(text[:MOST_SHOWN]) + more


def lines(text: str) -> str:
    return "\n".join(map(label, text.split("\n")))
