"""GenerationPlayground: type a prompt, turn the settings, watch each token being chosen."""

import threading
import time
from collections.abc import Sequence

from ..errors import LabkitError
from ..language_model import LanguageModel, load
from ..settings import Settings
from ..views.tokens import CARD_HEAD, card_html, prompt_html, token_html
from .background import Background, Debounced
from .code import generate_code, models_beside
from .facts import pieces
from .layout import LIVE_TOKENS, PlaygroundLayout, show
from .panels import bars_html, error_html, error_message, legend_html, run_facts, status_html
from .prompt import read_prompt, shown_prompt, without_unknown
from .recording import PlaygroundResult, Recording

PAINT_SECONDS = 0.04  # at most 25 paints a second
SETTLE_SECONDS = 0.15  # a slider at rest for so long has arrived
STALE = "Written with other settings: press Generate."


class GenerationPlayground(PlaygroundLayout):
    """A prompt, sliders, and the text that a model writes with them, coloured by how probable each token was.

    Pointing at a token shows what else it could have been; clicking it shows stage by stage how it was chosen. Moving a
    slider shows at once what the new settings make of that choice: same logits, same draw, no model run.

    Args:
        lm: a model, or what ``labkit.load`` takes.
        prompt: text, or ids for a model without tokenizer; None: a few words, if the model knows their characters.
        settings: to begin with; labkit's defaults if None.

    Attributes:
        error: what went wrong in the last run, in one line; None if nothing did.
    """

    def __init__(
        self,
        lm: LanguageModel | str,
        prompt: str | Sequence[int] | None = None,
        settings: Settings | None = None,
    ):
        self.lm = lm if isinstance(lm, LanguageModel) else load(lm)
        self.error: str | None = None
        self._recording: Recording | None = None
        self._painted = 0  # how many of its tokens are on the screen
        self._writing = False
        self._lock = threading.RLock()  # held by whoever paints: a run, a slider and a click do, each in its own thread
        self._background = Background()
        self._rerun = Debounced(lambda: self.run(wait=False), SETTLE_SECONDS)
        words = shown_prompt(self.lm, prompt)
        super().__init__(models_beside(self.lm), words, settings or Settings(), self.lm.vocab_size)
        self._connect()

    def _connect(self) -> None:
        self.controls.on_change = self._on_settings
        self.strip.card, self.strip.on_ready = self._card, self._on_ready
        self.model.observe(lambda change: self._on_model(change["new"]), "value")
        self.generate_button.on_click(lambda _: self.run(wait=False))
        self.stop_button.on_click(lambda _: self.stop())
        self.leave_out_button.on_click(lambda _: self._leave_out())
        self.prompt_box.observe(lambda _: self._repaint_around(), "value")
        self.code_button.observe(lambda _: self._repaint_around(), "value")
        self.colour.observe(lambda _: self._repaint_tokens(), "value")
        self.strip.observe(lambda _: self._repaint(), "selected")

    def __repr__(self) -> str:
        facts = [self.lm.checkpoint.family, f"{self.lm.n_parameters:,} parameters"]
        if self._recording is not None:
            facts.append(f"{len(self._recording.tokens)} tokens")
        return f"GenerationPlayground({', '.join(facts)})"

    # what code can do with it

    @property
    def settings(self) -> Settings:
        """What the controls say; may be assigned, which starts no run."""
        return self.controls.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self.controls.settings = settings
        self._rerun.cancel()
        self._repaint()

    @property
    def prompt(self) -> str | list[int]:
        """What stands in the box: text, or ids if the model has no tokenizer."""
        return read_prompt(self.lm, self.prompt_box.value)

    @property
    def result(self) -> PlaygroundResult | None:
        """The newest run as plain data; None before the first, while one goes on, and after one that failed."""
        if self._recording is None or self._background.running or self.error is not None:
            return None
        return self._recording.result()

    def run(self, wait: bool = True) -> PlaygroundResult | None:
        """Generate with the controls as they are.

        Args:
            wait: until it has ended, and return its result; otherwise return at once.
        """
        self.stop()
        try:
            prompt, settings = self.prompt, self.settings
        except LabkitError as error:
            self._fail(error)
            return None
        self._background.start(lambda stopped: self._generate(prompt, settings, stopped))
        if not wait:
            return None
        self._background.wait()
        return self.result

    def stop(self) -> None:
        """End the run that is going on, if one is; what it wrote stays."""
        self._rerun.cancel()
        self._background.stop()

    def close(self) -> None:
        self.stop()
        super().close()

    # what the controls do

    def _on_settings(self) -> None:
        short = self.controls.sliders["max_new_tokens"].value <= LIVE_TOKENS
        if self._recording is not None and self.live.value and short:
            self._rerun()
        self._repaint()

    def _on_model(self, name: str) -> None:
        self.stop()
        self._background.start(lambda stopped: self._open(name, stopped))

    def _open(self, name: str, stopped: threading.Event) -> None:
        """Load another model and let it write; what is in the box stays, also when it cannot be loaded."""
        try:
            self.lm = load(name)
            prompt, settings = self.prompt, self.settings
        except LabkitError as error:
            self._fail(error)
            return
        with self._lock:
            self._recording = None
            self.strip.reset("")
            self.bars.value = ""
        self._generate(prompt, settings, stopped)

    def _on_ready(self) -> None:
        """Somebody looks at it for the first time: write something."""
        if self._recording is None and self.error is None and not self._background.running and self.prompt_box.value:
            self.run(wait=False)

    def _leave_out(self) -> None:
        self.prompt_box.value = without_unknown(self.lm, self.prompt_box.value)
        self.run(wait=False)

    def _card(self, index: int) -> str:
        recording = self._recording
        if recording is None or index >= len(recording.tokens):
            return ""
        return card_html(recording.token(index), head=CARD_HEAD)

    # the run, in its own thread

    def _generate(self, prompt: str | list[int], settings: Settings, stopped: threading.Event) -> None:
        self.error, self._writing, self.stop_button.disabled = None, True, False
        recording = None
        try:
            recording = Recording(self.lm, prompt, settings)
            painted_at = 0.0
            while not stopped.is_set() and recording.advance():
                if time.monotonic() - painted_at >= PAINT_SECONDS:
                    self._paint_new(recording)
                    painted_at = time.monotonic()
        except Exception as error:  # whatever a model raises belongs in the widget, not in the log
            self._fail(error)
        finally:
            self._writing, self.stop_button.disabled = False, True
            if recording is not None:
                self._paint_new(recording)
                self._settle()

    def _settle(self) -> None:
        """The run has ended: nothing is provisional any more."""
        with self._lock:
            self.strip.settle()
            self._repaint()

    def _fail(self, error: Exception) -> None:
        self.error = error_message(error)
        self._repaint_around()

    # painting: what is shown follows from the recording and the controls

    def _paint_new(self, recording: Recording) -> None:
        """Show the tokens that are not on the screen yet, and only those."""
        with self._lock:
            fresh = recording is not self._recording
            if fresh:
                self._recording, self._painted = recording, 0
            start, self._painted = self._painted, len(recording.tokens)
            html = self._tokens_html(recording, start)
            if fresh:
                self.strip.reset(prompt_html(pieces(self.lm, recording.run.prompt_ids)) + html)
            elif html:
                self.strip.append(html)
            if start <= self.strip.selected < self._painted:
                self._repaint_bars()
            self._repaint_around()

    def _tokens_html(self, recording: Recording, start: int) -> str:
        tokens = recording.tokens[start : self._painted]
        return "".join(token_html(token, self.colour.value, token["index"]) for token in tokens)

    def _repaint_tokens(self) -> None:
        """All tokens again: in other colours."""
        with self._lock:
            self.legend.value = legend_html(self.colour.value)
            if (recording := self._recording) is not None:
                prompt = prompt_html(pieces(self.lm, recording.run.prompt_ids))
                self.strip.reset(prompt + self._tokens_html(recording, 0))
                self.strip.settle()

    def _repaint(self) -> None:
        """Other settings, or another token selected."""
        with self._lock:
            self._repaint_bars()
            self._repaint_around()

    def _repaint_bars(self) -> None:
        recording = self._recording
        if recording is None or not recording.tokens:
            return
        # A token that is still to come is waited for; when none is to come, the last one takes its place.
        last = len(recording.tokens) - 1
        if self.strip.selected <= last or not self._writing:
            try:
                self.bars.value = bars_html(recording, min(self.strip.selected, last), self.settings)
            except LabkitError as error:  # controls that contradict each other
                self.bars.value = error_html(error_message(error))

    def _repaint_around(self) -> None:
        """The line of status, and the code if it is open."""
        with self._lock:
            if self.error is not None:
                self.status.value = error_html(self.error)
            elif self._recording is not None:
                self.status.value = self._status_html(self._recording)
            text = self.prompt_box.value
            show(self.leave_out_button, self.error is not None and without_unknown(self.lm, text) != text)
            show(self.code, self.code_button.value)
            if self.code_button.value:
                self._repaint_code()

    def _status_html(self, recording: Recording) -> str:
        settled = not self._writing and not self._rerun.pending
        notes = (*self.lm.checkpoint.notes, *recording.run.notes)
        return status_html(
            run_facts(recording, self._writing), STALE if settled and self._stale(recording) else "", notes
        )

    def _repaint_code(self) -> None:
        try:
            self.code.code = generate_code(self.lm, self.prompt, self.settings)
        except LabkitError as error:
            self.code.code = f"# {error_message(error)}"

    def _stale(self, recording: Recording) -> bool:
        """Whether the controls say something else than the text was written with."""
        try:
            return (self.prompt, self.settings) != (recording.prompt, recording.settings)
        except LabkitError:
            return True
