"""Chat: talk with a model, and see of each token how sure it was and what the model was given."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import chat
from ..chat import Conversation, Template, Turn
from ..errors import LabkitError
from ..language_model import LanguageModel, load
from ..settings import Settings
from ..views import View
from ..views.tokens import card_html
from . import transcript
from .answer import Answer, NewestLogits
from .background import Background, Debounced
from .chat_code import chat_code
from .chat_layout import demo_settings
from .chat_screen import ChatScreen
from .code import source_of
from .dialogue import Dialogue, Said, Turns, place, size
from .prompt import without_unknown
from .templates import fitting_template
from .transcript import counted

PAINT_SECONDS = 0.04  # at most 25 paints a second
SETTLE_SECONDS = 0.15  # a slider at rest for so long has arrived
LOGITS_BYTES, DEMO_LOGITS_BYTES = 128 * 2**20, 16 * 2**20  # of the tokens whose cards can show alternatives
FIRST_MESSAGES = ("Who goes there?", "12+34=")


@dataclass(frozen=True, repr=False)
class ChatResult:
    """What was said, as plain data."""

    conversation: Conversation
    table: tuple[dict[str, Any], ...]

    def __repr__(self) -> str:
        return f"ChatResult({counted(len(self.conversation.turns), 'turn')}, {self.conversation.template.name})"

    def rows(self) -> list[dict[str, Any]]:
        """A row for the system text and for each turn: role, text, tokens, whether the next prompt holds it, and how
        an answer ended."""
        return [dict(row) for row in self.table]

    def to_dict(self) -> dict[str, Any]:
        """A conversation as ``labkit chat`` saves and loads it."""
        return self.conversation.to_dict()


class Chat(ChatScreen):
    """A conversation with a model. Its answers are those of ``labkit.chat.reply`` and of ``labkit chat``, coloured
    token by token; a message can be changed, an answer asked for anew, and every step taken back.

    Args:
        lm: a model, or what ``labkit.load`` takes.
        system: text in front of everything; None: the template's own, if it has one.
        template: a known name, a TOML file or a Template; None: the one that fits the checkpoint.
        settings: to begin with; labkit's defaults if None.
        demo: the controls, ranges and defaults of LabCore's demo and its rules, for visitors: no files are touched.
    """

    NOTEBOOK = "12_chat_with_a_model.ipynb"

    def __init__(
        self,
        lm: LanguageModel | str,
        system: str | None = None,
        template: str | Path | Template | None = None,
        settings: Settings | None = None,
        demo: bool = False,
    ):
        self._background = Background()
        self._recount = Debounced(self._on_settled, SETTLE_SECONDS)
        lm = lm if isinstance(lm, LanguageModel) else load(lm)
        settings = demo_settings(settings) if demo else settings or Settings()
        chosen = fitting_template(lm, template, settings.dialect)
        talk = chat.begin(lm, system=system, template=chosen, dialect=settings.dialect)
        self._logits = NewestLogits(DEMO_LOGITS_BYTES if demo else LOGITS_BYTES)
        super().__init__(lm, talk, settings, demo)
        if not demo:
            self.message.value = next((t for t in FIRST_MESSAGES if without_unknown(lm, t) == t), "")
        self._connect()
        self._changed()

    def _connect(self) -> None:
        self.message.on_send, self.message.on_recall = self._on_send, self._edit
        self.message.on_escape = self._leave_edit
        self.strip.card = self._card
        self.stop_button.on_click(lambda _: self.stop())
        self.retry_button.on_click(lambda _: self._told(lambda: self.retry(wait=False)))
        self.edit_button.on_click(lambda _: self._edit())
        self.undo_button.on_click(lambda _: self.undo())
        self.redo_button.on_click(lambda _: self.redo())
        self.clear_button.on_click(lambda _: self.clear())
        self.open_button.on_click(lambda _: self._told(lambda: self.load(self.file_box.value.strip())))
        self.leave_out_button.on_click(lambda _: self._leave_out())
        self.colour.observe(lambda _: self._repaint(anew=True), "value")
        self.seen_button.observe(lambda _: self._repaint_around(), "value")
        self.template.observe(self._on_template, "value")
        self.message.observe(lambda _: self._on_typed(), "value")
        self.system_box.observe(lambda _: self._recount(), "value")
        self.history.observe(lambda _: self._recount(), "value")
        self.controls.on_change = self._recount

    def __repr__(self) -> str:
        facts = [self.lm.checkpoint.family, f"{self.lm.n_parameters:,} parameters", f"template {self.template.value}"]
        return f"Chat({', '.join([*facts, counted(len(self.dialogue.said), 'turn')])})"

    # what code can do with it

    @property
    def settings(self) -> Settings:
        """What the controls say; the n-th answer has the n-th seed after theirs. May be assigned."""
        return self.controls.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self.controls.settings = settings
        self._on_settled()

    @property
    def conversation(self) -> Conversation:
        """What was said, with template, system text and bound as the controls have them."""
        return self._conversation(self.dialogue.said)

    @property
    def result(self) -> ChatResult | None:
        """What was said, as plain data; None as long as nobody has spoken."""
        said = self.dialogue.said
        reasons = [None] * (len(self._rows) - len(said)) + [each.turn.finish_reason for each in said]
        rows = zip(self._rows, reasons, strict=True)
        table = tuple(row | {"finish_reason": reason} for row, reason in rows)
        return ChatResult(self.conversation, table) if said else None

    def say(self, text: str, wait: bool = True) -> str | None:
        """Send a message.

        Args:
            wait: until the answer is there, and return it; otherwise return at once.
        """
        return self._ask(self._ended().said, text, wait)

    def edit(self, n: int, text: str, wait: bool = True) -> str | None:
        """Say this instead of the n-th message (from 0); the conversation goes on from there.

        Raises:
            ConfigError: there is no such message.
        """
        return self._ask(self._ended().before(n)[0], text, wait)

    def retry(self, n: int | None = None, wait: bool = True) -> str | None:
        """Another answer to the n-th message (the selected one if None), with the next seed; ``undo`` brings back the
        one that was there and what followed it.

        Raises:
            ConfigError: there is no such message.
        """
        before, message = self._ended().before(self._selected() if n is None else n)
        self.controls.settings = later(self.settings, 1)
        return self._ask(before, message.text, wait)

    def undo(self) -> None:
        """Back to the conversation as it was before the last change."""
        self._change(self.dialogue.undo)

    def redo(self) -> None:
        """Forward again."""
        self._change(self.dialogue.redo)

    def clear(self) -> None:
        """Begin anew; the system text stays."""
        self._change(lambda: self.dialogue.become(()) if self.dialogue.said else None)

    def load(self, path: str | Path) -> None:
        """Go on with a saved conversation.

        Raises:
            ConfigError: the file cannot be read, or is none.
            TokenizerError: its template or its words cannot be written for this model.
        """
        talk = Conversation.load(path)
        chat.prompt(self.lm, talk, self.settings)  # refuses what cannot be written
        self._templates[talk.template.name], self._max_tokens = talk.template, talk.max_tokens
        self.template.options = [*self._templates]
        self.template.value = talk.template.name
        self.system_box.value = chat.system_text(talk.template, talk.system)
        self.history_bound = talk.max_history_turns
        self._change(lambda: self.dialogue.become(tuple(Said(turn) for turn in talk.turns)))

    def stop(self) -> None:
        """End the answer that is being written; what is there stays."""
        self._background.stop()

    def close(self) -> None:
        self._recount.cancel()
        self.stop()
        super().close()

    def view(self) -> View | None:
        name = f"a chat with {self.lm.checkpoint.path.name}"
        said = self.dialogue.said
        return transcript.transcript(said, self._rows, self.colour.value, name) if said else None

    def code(self) -> str:
        return chat_code(self.lm, self.conversation, self._messages())

    def parameters(self) -> dict[str, Any]:
        return {
            "checkpoint": source_of(self.lm),
            "messages": [message for message, _ in self._messages()],
            "seed": self.settings.seed,
            "max_new_tokens": self.settings.max_new_tokens,
        }

    def _messages(self) -> list[tuple[str, Settings]]:
        """Each message with the settings of its answer; as long as there is none, what stands in the box."""
        said, messages = self.dialogue.said, []
        for i, each in enumerate(said):
            if each.turn.role == "user":
                answer = said[i + 1].answer if i + 1 < len(said) else None
                messages.append((each.turn.text, answer.reply.settings if answer else self._seeded(said[:i])))
        return messages or [(self.message.value.strip(), self.settings)]

    # what the controls do

    def _on_send(self, text: str) -> None:
        if self._background.running:
            self.message.refuse()
            self._hint = "Still answering: stop it, or wait. Your message is kept."
            return
        try:
            before = self.dialogue.said if self._editing is None else self.dialogue.before(self._editing)[0]
            self._ask(before, text, wait=False, from_box=True)
        except LabkitError as error:
            self.message.refuse()
            self.fail(error)

    def _on_typed(self) -> None:
        if self.seen_button.value and self._answer is None:
            self._told(self._repaint_seen)

    def _on_settled(self) -> None:
        """Other settings: what fits into the next prompt may have changed."""
        self._recount.cancel()
        if not self._background.running:
            self.error = None
            self._changed(select_last=False)

    def _on_template(self, change: dict[str, Any]) -> None:
        """A template's own system text gives way to the next one's; what somebody wrote does not."""
        old, new = (self._templates[change[which]] for which in ("old", "new"))
        if self.system_box.value == (old.default_system or ""):
            self.system_box.value = new.default_system or ""
        self._recount()

    def _selected(self) -> int:
        """Number of the message that is selected, or to whose answer what is selected belongs."""
        return self.dialogue.at(self.strip.selected)

    def _edit(self) -> None:
        """Take a message back into the box."""
        if not self._background.running and self.dialogue.said:
            self._editing = self._selected()
            self.message.give_back(self.dialogue.before(self._editing)[1].text)
            self._repaint_around()

    def _leave_edit(self) -> None:
        self._editing = None
        self._repaint_around()

    def _leave_out(self) -> None:
        self.message.value = without_unknown(self.lm, self.message.value)
        self._on_send(self.message.value)

    def _card(self, index: int) -> str:
        with self._lock:
            said = (*self._asked, Said(Turn("assistant", ""), self._answer)) if self._answer else self.dialogue.said
            n, i = place(said, index)
            answer = said[n].answer if said else None
            return card_html(answer.token(i)) if answer is not None and i < said[n].tokens else ""

    # the conversation

    def _seeded(self, said: Turns) -> Settings:
        """Every answer has a draw of its own: the seed of the settings plus the number of answers before it."""
        return later(self.settings, sum(each.turn.role == "assistant" for each in said))

    def _ended(self) -> Dialogue:
        """What was said, once the answer under way has been stopped."""
        self.stop()
        self._background.wait()
        return self.dialogue

    def _change(self, change: Callable[[], object]) -> None:
        """Go to another version of the conversation, once the answer under way has ended."""
        self._ended()
        change()
        self.error, self._editing = None, None
        self._changed()

    def _ask(self, before: Turns, text: str, wait: bool, from_box: bool = False) -> str | None:
        """Let the model answer a message after what was said before."""
        if not (text := text.strip()):
            return None
        asked = (*before, Said(Turn("user", text)))
        self._background.start(lambda stopped: self._answer_to(asked, from_box, stopped))
        if not wait:
            return None
        self._background.wait()
        return None if self.error else self.dialogue.said[-1].turn.text

    # the answer, in its own thread

    def _answer_to(self, asked: Turns, from_box: bool, stopped: threading.Event) -> None:
        self.error = None
        try:
            talk = self._conversation(asked)
            settings = self._seeded(asked)
            answer = Answer(self.lm, chat.reply(self.lm, talk, settings), self._logits)
            rows = chat.rows(self.lm, talk, settings)
        except Exception as error:  # whatever goes wrong belongs in the widget, not in the log
            self.message.refuse()
            self.fail(error)
            return
        with self._lock:
            self._asked, self._answer, self._rows, self._hint = asked, answer, rows, ""
        if from_box:
            self.message.take()
        self._editing = None
        self.strip.selected = size(asked) - 1
        self._repaint()
        self.strip.to_end()
        self._write(answer, stopped)
        self._settle(asked, answer, from_box)

    def _write(self, answer: Answer, stopped: threading.Event) -> None:
        painted_at = 0.0
        try:
            while not stopped.is_set() and answer.advance():
                if self.stream.value and time.monotonic() - painted_at >= PAINT_SECONDS:
                    self._paint_new()
                    painted_at = time.monotonic()
        except Exception as error:  # what it had written stays
            self.fail(error)

    def _settle(self, asked: Turns, answer: Answer, from_box: bool) -> None:
        """The answer has ended. If there is nothing of it, nothing was said, and the message is in the box again."""
        with self._lock:
            self._answer = None
            if answer.tokens or answer.reply.run.finish_reason:
                self.dialogue.answered(asked, answer)
            elif from_box:
                self.message.give_back(asked[-1].turn.text)
        self._changed()


def later(settings: Settings, n: int) -> Settings:
    """The settings with the n-th seed after theirs."""
    assert settings.seed is not None  # one that was left open is drawn when Settings are made
    return settings.replace(seed=settings.seed + n)
