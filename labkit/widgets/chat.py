"""Chat: talk with a model, and see of each token how sure it was and what the model was given."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as ipw

from .. import chat
from ..chat import Conversation, Template, Turn
from ..errors import LabkitError
from ..language_model import LanguageModel, load
from ..settings import Settings
from ..views import View
from . import transcript
from .answer import Answer, NewestLogits
from .background import Background, Debounced
from .chat_code import chat_code, messages
from .chat_demo import demo_controls
from .chat_prompt import HELP as PROMPT_HELP
from .chat_prompt import ChatPrompt
from .chat_result import ChatResult
from .chat_screen import ChatScreen
from .code import source_of
from .controls import GenerationControls
from .dialogue import Dialogue, Said, Turns, size
from .layout import row, show
from .message import MessageBox
from .panels import error_html, status_html
from .prompt import without_unknown
from .settings_panel import SettingsPanel
from .templates import fitting_template
from .transcript import counted

SETTLE_SECONDS = 0.15  # a slider at rest for so long has arrived
LOGITS_BYTES, DEMO_LOGITS_BYTES = 128 * 2**20, 16 * 2**20  # of the tokens whose cards can show alternatives
FIRST_MESSAGES = ("Who goes there?", "12+34=")
SLIDERS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")
HELP = {
    "message": "What you say: Enter sends it, Shift+Enter begins a new line, the up arrow fetches your last message.",
    "stop": "Stop writing; what is there stays.",
    "retry": "Another answer to the selected message, or to the last one, with the next seed.",
    "edit": "Take the selected message, or the last one, back into the box; what you send then replaces it.",
    "undo": "Back to the conversation as it was before the last change; nothing is ever lost.",
    "redo": "Forward again.",
    "clear": "Begin anew; the system text stays, and Undo brings back what was said.",
    "colour": "What a token's colour says: the model's probability for it, its surprisal, its rank, or the entropy.",
    "open": "Go on with the conversation in this file (json, as labkit chat saves it), or take settings over (toml).",
    "leave_them_out": "Take the characters that the model does not know out of the message, and send it.",
    "stream": "Show the answer while it is written, not only when it is finished.",
}


class Chat(SettingsPanel):
    """A conversation with a model. Its answers are those of ``labkit.chat.reply`` and of ``labkit chat``, coloured
    token by token; a message can be changed, an answer asked for anew, and every step taken back. The n-th answer has
    the n-th seed after that of the settings.

    Args:
        lm: a model, or what ``labkit.load`` takes.
        system: text in front of everything; None: the template's own, if it has one.
        template: a known name, a TOML file or a Template; None: the one that fits the checkpoint.
        settings: to begin with; labkit's defaults if None.
        demo: the controls, ranges and defaults of LabCore's demo and its rules, for visitors: no files are touched.
    """

    NOTEBOOK = "12_chat_with_a_model.ipynb"
    FILE = "chat.json"

    def __init__(
        self,
        lm: LanguageModel | str,
        system: str | None = None,
        template: str | Path | Template | None = None,
        settings: Settings | None = None,
        demo: bool = False,
    ):
        self.lm = lm = lm if isinstance(lm, LanguageModel) else load(lm)
        own = GenerationControls(settings or Settings(), lm.vocab_size, SLIDERS, ("seed", "greedy", "use_cache"))
        super().__init__(demo_controls(settings, lm.vocab_size) if demo else own)
        self.demo = demo
        self.dialogue, self.screen = Dialogue(), ChatScreen()
        self._background = Background()
        self._recount = Debounced(self.settings_assigned, SETTLE_SECONDS)
        self._logits = NewestLogits(DEMO_LOGITS_BYTES if demo else LOGITS_BYTES)
        self._editing: int | None = None  # the message that the next one will replace
        self._hint = ""  # what to do while an answer is being written
        dialect = self.settings.dialect
        talk = chat.begin(lm, system=system, template=fitting_template(lm, template, dialect), dialect=dialect)
        self.prompt = ChatPrompt(lm, talk, self._recount, demo)
        self._build()
        if not demo:
            self.message.value = next((t for t in FIRST_MESSAGES if without_unknown(lm, t) == t), "")
        self._connect()
        self._changed()

    def _build(self) -> None:
        screen, prompt = self.screen, self.prompt
        self.message, self.strip, self.colour = MessageBox(), screen.strip, screen.colour
        self.system_box, self.template, self.history = prompt.system_box, prompt.template, prompt.history
        self.seen_button, self.seen = prompt.seen_button, prompt.seen
        self.explain(prompt.explained, PROMPT_HELP)
        self.stream = ipw.Checkbox(True, description="stream", indent=False)
        explained = {"message": self.message, "stream": self.stream, "colour": self.colour, "open": self.open_button}
        self.explain(explained, HELP)
        button = partial(self.button, HELP)
        self.stop_button = button("stop", "stop", self.stop)
        self.retry_button = button("retry", "refresh", lambda: self._told(lambda: self.retry(wait=False)))
        self.edit_button = button("edit", "pencil", self._edit)
        self.undo_button = button("undo", "undo", self.undo)
        self.redo_button = button("redo", "repeat", self.redo)
        self.clear_button = button("clear", "trash", self.clear)
        self.leave_out_button = button("leave_them_out", "", self._leave_out)
        self._lay_out()

    def _lay_out(self) -> None:
        """The parts in rows that wrap: the conversation, the box below it, and below that what can be set."""
        controls, boxes = self.controls, self.controls.boxes
        if self.demo:
            changes, options = [self.clear_button], [boxes["use_cache"], self.stream]
        else:
            changes = [self.retry_button, self.edit_button, self.undo_button, self.redo_button, self.clear_button]
            changes.append(self.seen_button)
            draw = [boxes["seed"], controls.new_seed, boxes["greedy"], boxes["use_cache"], controls.preset]
            options = [*draw, self.template, self.colour]
        self.fill(
            row("lk-above", self.status, self.leave_out_button, self.screen.legend),
            self.strip,
            self.message,
            row("lk-actions", self.stop_button, *changes, self.help),
            self.seen,
            self.system_box,
            row("lk-sliders", *controls.sliders.values(), self.history),
            row("lk-options", *options),
        )
        if self.demo:  # nothing that reads or writes files where it runs
            self.children = self.children[:-2]

    def _connect(self) -> None:
        self.message.on_send, self.message.on_recall = self._on_send, self._edit
        self.message.on_escape = self._leave_edit
        self.seen_button.observe(lambda _: self._repaint_around(), "value")
        self.message.observe(lambda _: self._on_typed(), "value")
        self.controls.on_change = self._recount

    def __repr__(self) -> str:
        facts = [self.lm.checkpoint.family, f"{self.lm.n_parameters:,} parameters", f"template {self.template.value}"]
        return f"Chat({', '.join([*facts, counted(len(self.dialogue.said), 'turn')])})"

    # what code can do with it

    @property
    def conversation(self) -> Conversation:
        """What was said, with template, system text and bound as the controls have them."""
        return self.prompt.conversation(self.dialogue.said)

    @property
    def result(self) -> ChatResult | None:
        """What was said, as plain data; None as long as nobody has spoken."""
        said = self.dialogue.said
        reasons = [None] * (len(self.screen.rows) - len(said)) + [each.turn.finish_reason for each in said]
        rows = zip(self.screen.rows, reasons, strict=True)
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
        self.controls.settings = chat.with_later_seed(self.settings, 1)
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
        self.prompt.take(talk)
        self._change(lambda: self.dialogue.become(tuple(Said(turn) for turn in talk.turns)))

    def read(self, source: str | Path) -> None:
        """Take over the settings of a TOML file; go on with the conversation in any other."""
        if Path(source).suffix == ".toml":
            super().read(source)
        else:
            self.load(source)

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
        return transcript.transcript(said, self.screen.rows, self.colour.value, name) if said else None

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
        return messages(self.dialogue.said, self._seeded) or [(self.message.value.strip(), self.settings)]

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
        if self.seen_button.value and self.screen.answer is None:
            self._told(self._repaint_seen)

    def on_open(self) -> None:
        self._told(lambda: self.read(self.file_box.value.strip()))

    def settings_assigned(self) -> None:
        """Other settings: what fits into the next prompt may have changed."""
        self._recount.cancel()
        if not self._background.running:
            self.error = None
            self._changed(select_last=False)

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

    # the conversation

    def _seeded(self, said: Turns) -> Settings:
        """Every answer has a draw of its own: the seed of the settings plus the number of answers before it."""
        return chat.with_later_seed(self.settings, sum(each.turn.role == "assistant" for each in said))

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
            talk = self.prompt.conversation(asked)
            settings = self._seeded(asked)
            answer = Answer(self.lm, chat.reply(self.lm, talk, settings), self._logits)
            rows = chat.rows(self.lm, talk, settings)
        except Exception as error:  # whatever goes wrong belongs in the widget, not in the log
            self.message.refuse()
            self.fail(error)
            return
        if from_box:
            self.message.take()
        self._editing, self._hint = None, ""
        self.strip.selected = size(asked) - 1
        self.screen.show(asked, rows, answer)
        self._repaint_around()
        self.strip.to_end()
        try:
            answer.write(stopped, lambda: self._paint_new() if self.stream.value else None)
        except Exception as error:  # what it had written stays
            self.fail(error)
        self._settle(asked, answer, from_box)

    def _settle(self, asked: Turns, answer: Answer, from_box: bool) -> None:
        """The answer has ended. If there is nothing of it, nothing was said, and the message is in the box again."""
        with self.screen.lock:
            self.screen.answer = None
            if answer.tokens or answer.reply.run.finish_reason:
                self.dialogue.answered(asked, answer)
            elif from_box:
                self.message.give_back(asked[-1].turn.text)
        self._changed()

    # painting: what is shown follows from the dialogue, the answer and the controls

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
        said = self.dialogue.said
        if select_last:
            self.strip.selected = max(0, size(said) - 1)
        settings = None
        try:
            settings = self.settings
        except LabkitError as error:  # controls that contradict each other
            self.fail(error)
        rows = chat.rows(self.lm, self.conversation, settings)
        with self.screen.lock:
            # Another thread may have begun an answer meanwhile, or ended one.
            if self.screen.answer is None and said is self.dialogue.said:
                self.screen.show(said, rows)
        self._repaint_around()

    def _paint_new(self) -> None:
        with self.screen.lock:
            self.screen.grow()
            self._repaint_status()

    def _repaint_around(self) -> None:
        """Everything but what was said."""
        with self.screen.lock:
            self._repaint_status()
            writing, said = self.screen.answer is not None, self.dialogue.said
            self.stop_button.disabled = not writing
            for button in (self.retry_button, self.edit_button, self.clear_button):
                button.disabled = writing or not said
            self.undo_button.disabled = writing or not self.dialogue.can_undo
            self.redo_button.disabled = writing or not self.dialogue.can_redo
            self.prompt.describe()
            if self.seen_button.value:
                self._told(self._repaint_seen)
            self.refresh_code()

    def _repaint_seen(self) -> None:
        """What Send would give to the model."""
        asked = self.prompt.conversation(self.screen.said)
        talk = asked if self.screen.answer is not None else asked.say(self.message.value.strip())
        self.prompt.look(talk, self.settings)

    def _repaint_status(self) -> None:
        screen = self.screen
        unknown = self.error is not None and without_unknown(self.lm, self.message.value) != self.message.value
        show(self.leave_out_button, unknown)
        if self.error is not None:
            self.status.value = error_html(self.error)
        elif screen.answer is not None:
            self.status.value = status_html(f"writing … {counted(len(screen.answer.tokens), 'token')}", self._hint)
        else:
            hint = "" if self._editing is None else f"Sending replaces message {self._editing + 1}; Escape keeps it."
            facts = screen.facts(self.template.value, self.lm.model.block_size)
            self.status.value = status_html(facts, hint, screen.notes(self.lm))
