"""ChatScreen: a conversation as one sees it, with the answer that is being written."""

import threading
from collections.abc import Sequence
from typing import Any

import ipywidgets as ipw

from ..language_model import LanguageModel
from ..views import COLOURS
from ..views.tokens import card_html
from . import transcript
from .answer import Answer
from .dialogue import Turns, place, size
from .panels import ENDED, legend_html
from .transcript import TranscriptStrip

UNTRAINED = "Nothing in this checkpoint says that it was trained to chat: it continues the text as best it can."


class ChatScreen:
    """Paints what it is given, from whichever thread.

    Attributes:
        said: what was said, with the message that is being answered.
        rows: as labkit.chat.rows gives them: one for the system text, if there is any, and one for each turn.
        answer: what is being written.
        lock: held by whoever paints.
    """

    def __init__(self) -> None:
        self.said: Turns = ()
        self.rows: list[dict[str, Any]] = []
        self.answer: Answer | None = None
        self.lock = threading.RLock()
        self._painted = 0  # how many tokens of the answer are on the screen
        self._shown: tuple[Turns, int] = ((), 0)  # the turns on the screen, and how many of them are not in the prompt
        self.strip = TranscriptStrip()
        self.colour = ipw.Dropdown(options=list(COLOURS), description="colour", style={"description_width": "initial"})
        self.legend = ipw.HTML(legend_html(self.colour.value))
        self.strip.card = self.card
        self.colour.observe(lambda _: self._paint(anew=True), "value")

    @property
    def turn_rows(self) -> list[dict[str, Any]]:
        """The rows without that of the system text."""
        return self.rows[len(self.rows) - len(self.said) :]

    def show(self, said: Turns, rows: list[dict[str, Any]], answer: Answer | None = None) -> None:
        """Show this; what is on the screen stays there if it still looks the same."""
        with self.lock:
            self.said, self.rows, self.answer = said, rows, answer
            self._paint()

    def grow(self) -> None:
        """Show the tokens that are not on the screen yet, and only those."""
        with self.lock:
            if (answer := self.answer) is None:
                return
            start, self._painted = self._painted, answer.certain
            if answer.reply.streams and self._painted > start:
                first = size(self.said)
                self.strip.append(transcript.tokens_html(answer, start, self._painted, first, self.colour.value))

    def _paint(self, anew: bool = False) -> None:
        with self.lock:
            said, rows, colour = self.said, self.turn_rows, self.colour.value
            shown, out = self._shown
            if not anew and shown and said[: len(shown)] == shown and out == transcript.n_out(rows):
                start = size(shown)
                for each, row in zip(said[len(shown) :], rows[len(shown) :], strict=True):
                    self.strip.append(transcript.turn_html(each, row["tokens"], start, colour, self._painted))
                    start, self._painted = start + each.size, 0
            else:
                self.legend.value = legend_html(colour)
                self.strip.reset(transcript.html(said, rows, colour))
                self._painted = 0
            self._shown = said, transcript.n_out(rows)
            self.grow()
            self.strip.settle()

    def card(self, index: int) -> str:
        """What else a token could have been; "" for what is no token."""
        with self.lock:
            if self.answer is not None and index >= (before := size(self.said)):
                answer, i = self.answer, index - before
                return card_html(answer.token(i)) if answer.reply.streams and i < len(answer.tokens) else ""
            n, i = place(self.said, index)
            one = self.said[n].answer if self.said else None
            return card_html(one.token(i)) if one is not None and i < self.said[n].tokens else ""

    def facts(self, template: str, context: int) -> str:
        """What was said, what of it the next prompt holds, and how fast the newest answer was."""
        said = self.said
        if not said:
            return f"template {template} · context {context} tokens"
        facts = [f"{transcript.length(said, self.turn_rows)}, in a context of {context}"]
        if n_out := transcript.n_out(self.turn_rows):
            facts.append(f"the next prompt leaves out {transcript.length(said[:n_out], self.turn_rows)}")
        if (newest := said[-1].answer) is not None:
            facts += [ENDED[newest.finish_reason]]
            facts += [f"{newest.tokens_per_second:.0f} tokens/s"] if newest.tokens_per_second else []
        return " · ".join(facts)

    def notes(self, lm: LanguageModel) -> Sequence[str]:
        """What there is to know about the newest answer; before the first one, about the model."""
        newest = self.said[-1].answer if self.said else None
        if newest is not None:
            return (*newest.reply.prompt.notes, *newest.reply.run.notes)
        trained = bool(self.said) or lm.checkpoint.chat_template
        return lm.checkpoint.notes if trained else (UNTRAINED, *lm.checkpoint.notes)
