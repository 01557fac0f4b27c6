"""What a chat shows: it follows from what was said, the answer that is being written, and the controls."""

import threading
from collections.abc import Callable
from typing import Any

from .. import chat
from ..chat import Conversation, Template
from ..errors import LabkitError
from ..language_model import LanguageModel
from ..settings import Settings
from . import transcript
from .answer import Answer
from .chat_layout import ChatLayout
from .dialogue import Dialogue, Turns, size
from .layout import show
from .panels import ENDED, error_html, legend_html, status_html
from .prompt import without_unknown
from .templates import templates_for
from .transcript import counted

UNTRAINED = "Nothing in this checkpoint says that it was trained to chat: it continues the text as best it can."


class ChatScreen(ChatLayout):
    """A chat that shows itself; what its controls do is in Chat."""

    def __init__(self, lm: LanguageModel, talk: Conversation, settings: Settings, demo: bool):
        self.lm, self.dialogue = lm, Dialogue()
        self._templates: dict[str, Template] = {talk.template.name: talk.template, **templates_for(lm)}
        self._max_tokens = talk.max_tokens
        self._editing: int | None = None  # the message that the next one will replace
        self._asked: Turns = ()  # what is being answered
        self._answer: Answer | None = None  # what is being written
        self._painted = 0  # how many of its tokens are on the screen
        self._shown: tuple[Turns, int] = ((), 0)  # the turns on the screen, and how many of them are not in the prompt
        self._rows: list[dict[str, Any]] = []
        self._hint = ""  # what to do while an answer is being written
        self._lock = threading.RLock()  # held by whoever paints
        said = chat.system_text(talk.template, talk.system)
        super().__init__(settings, lm.vocab_size, [*self._templates], said, talk.max_history_turns, demo)
        self.template.value = talk.template.name

    def _conversation(self, said: Turns) -> Conversation:
        turns, template = tuple(each.turn for each in said), self._templates[self.template.value]
        return Conversation(template, turns, self.system_box.value, self.history_bound, self._max_tokens)

    @property
    def _said(self) -> Turns:
        """What was said, with the message that is being answered."""
        return self.dialogue.said if self._answer is None else self._asked

    @property
    def _turn_rows(self) -> list[dict[str, Any]]:
        """The rows without that of the system text."""
        return self._rows[len(self._rows) - len(self._said) :]

    def fail(self, error: Exception) -> None:
        super().fail(error)
        self._repaint_status()

    def _told(self, action: Callable[[], object]) -> None:
        """Do it, and say inside the widget what goes wrong."""
        try:
            action()
        except LabkitError as error:
            self.fail(error)

    def _changed(self, select_last: bool = True) -> None:
        """The conversation is another one, or is counted otherwise."""
        if select_last:
            self.strip.selected = max(0, size(self.dialogue.said) - 1)
        settings = None
        try:
            settings = self.settings
        except LabkitError as error:  # controls that contradict each other
            self.fail(error)
        self._rows = chat.rows(self.lm, self.conversation, settings)
        self._repaint()

    # painting: what is shown follows from the dialogue, the answer and the controls

    def _paint_new(self) -> None:
        """Show the tokens that are not on the screen yet, and only those."""
        with self._lock:
            if (answer := self._answer) is None:
                return
            start, self._painted = self._painted, answer.certain
            if answer.reply.streams and self._painted > start:
                first = size(self._asked)
                self.strip.append(transcript.tokens_html(answer, start, self._painted, first, self.colour.value))
            self._repaint_status()

    def _repaint(self, anew: bool = False) -> None:
        """What was said, and what follows from it; what is on the screen stays there if it still looks the same."""
        with self._lock:
            said, rows, colour = self._said, self._turn_rows, self.colour.value
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
            self._paint_new()
            self.strip.settle()
            self._repaint_around()

    def _repaint_around(self) -> None:
        """Everything but what was said."""
        with self._lock:
            self._repaint_status()
            writing, said = self._answer is not None, self.dialogue.said
            self.stop_button.disabled = not writing
            for button, usable in (
                (self.retry_button, said),
                (self.edit_button, said),
                (self.clear_button, said),
                (self.undo_button, self.dialogue.can_undo),
                (self.redo_button, self.dialogue.can_redo),
            ):
                button.disabled = writing or not usable
            bound = "all" if self.history_bound is None else self.history_bound
            self.history.description = "history" if self.demo else f"history · {bound}"
            show(self.seen, self.seen_button.value)
            if self.seen_button.value:
                self._told(self._repaint_seen)
            self.refresh_code()

    def _repaint_seen(self) -> None:
        """What Send would give to the model."""
        talk = self._conversation(self._asked) if self._answer else self.conversation.say(self.message.value.strip())
        given = chat.prompt(self.lm, talk, self.settings, unknown="drop")
        self.seen.value = transcript.seen_html(talk.replace(turns=given.turns), len(given.ids))

    def _repaint_status(self) -> None:
        unknown = self.error is not None and without_unknown(self.lm, self.message.value) != self.message.value
        show(self.leave_out_button, unknown)
        if self.error is not None:
            self.status.value = error_html(self.error)
        elif self._answer is not None:
            self.status.value = status_html(f"writing … {counted(len(self._answer.tokens), 'token')}", self._hint)
        else:
            hint = "" if self._editing is None else f"Sending replaces message {self._editing + 1}; Escape keeps it."
            self.status.value = status_html(self._facts(), hint, self._notes())

    def _facts(self) -> str:
        """What was said, what of it the next prompt holds, and how fast the newest answer was."""
        said = self.dialogue.said
        if not said:
            return f"template {self.template.value} · context {self.lm.model.block_size} tokens"
        facts = [f"{transcript.length(said, self._turn_rows)}, in a context of {self.lm.model.block_size}"]
        if n_out := transcript.n_out(self._turn_rows):
            facts.append(f"the next prompt leaves out {transcript.length(said[:n_out], self._turn_rows)}")
        if (newest := said[-1].answer) is not None:
            facts += [ENDED[newest.finish_reason]]
            facts += [f"{newest.tokens_per_second:.0f} tokens/s"] if newest.tokens_per_second else []
        return " · ".join(facts)

    def _notes(self) -> tuple[str, ...]:
        said = self.dialogue.said
        newest = said[-1].answer if said else None
        if newest is not None:
            return (*newest.reply.prompt.notes, *newest.reply.run.notes)
        trained = bool(said) or self.lm.checkpoint.chat_template
        return self.lm.checkpoint.notes if trained else (UNTRAINED, *self.lm.checkpoint.notes)
