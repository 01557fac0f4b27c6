"""GenerationPlayground: type a prompt, turn the settings, watch each token being chosen."""

import threading
import time
from collections.abc import Sequence

import ipywidgets as ipw

from ..errors import LabkitError
from ..language_model import LanguageModel, load
from ..settings import Settings
from ..views import COLOURS
from ..views.tokens import CARD_HEAD, card_html, prompt_html, token_html
from .background import Background, Debounced
from .code import CodeBox, generate_code
from .controls import HELP as SETTINGS_HELP
from .controls import GenerationControls
from .facts import pieces
from .help import HelpLine
from .layout import playground_rows
from .panels import bars_html, error_html, error_message, legend_html, run_facts, status_html
from .prompt import read_prompt, shown_prompt
from .recording import PlaygroundResult, Recording
from .strip import TokenStrip

PAINT_SECONDS = 0.04  # at most 25 paints a second
SETTLE_SECONDS = 0.15  # a slider at rest for so long has arrived
LIVE_TOKENS = 200  # a run of at most so many tokens follows the sliders
STALE = "Written with other settings: press Generate."

HELP = {
    "prompt": "The text that the model continues.",
    "generate": "Write on from the prompt with these settings; a run that is still going on is stopped first.",
    "stop": "Stop writing; what is there stays.",
    "live": f"Write anew, with the same seed, whenever a setting changes (runs of up to {LIVE_TOKENS} tokens).",
    "colour": "What a token's colour says: the model's probability for it, its surprisal, its rank, or the entropy.",
    "code": "Show these settings as Python code that gives the same text.",
}


class GenerationPlayground(ipw.VBox):
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
        self._build(shown_prompt(self.lm, prompt), settings or Settings())
        super().__init__(playground_rows(self))
        self.add_class("lk-playground")

    def _build(self, prompt: str, settings: Settings) -> None:
        """All parts; ``layout`` puts them in their places."""
        narrow = {"style": {"description_width": "initial"}}
        self.controls = GenerationControls(settings, self.lm.vocab_size, self._on_settings)
        self.prompt_box = ipw.Textarea(prompt, rows=2, description="prompt", **narrow)
        self.generate_button = ipw.Button(description="Generate", icon="play", button_style="primary")
        self.stop_button = ipw.Button(description="Stop", icon="stop", disabled=True)
        self.live = ipw.Checkbox(True, description="live", indent=False)
        self.colour = ipw.Dropdown(options=list(COLOURS), description="colour", **narrow)
        self.code_button = ipw.ToggleButton(description="Copy as code", icon="code")
        self.help, self.code, self.strip = HelpLine(), CodeBox(), TokenStrip(card=self._card, ready=self._on_ready)
        self.status, self.legend, self.bars = ipw.HTML(), ipw.HTML(legend_html(self.colour.value)), ipw.HTML()
        self.code.layout.display = "none"
        explained = {
            **self.controls.explained, "prompt": self.prompt_box, "generate": self.generate_button,
            "stop": self.stop_button, "live": self.live, "colour": self.colour, "code": self.code_button,
        }  # fmt: skip
        for name, control in explained.items():
            self.help.explain(name, control, {**SETTINGS_HELP, **HELP}[name])
        self.generate_button.on_click(lambda _: self.run(wait=False))
        self.stop_button.on_click(lambda _: self.stop())
        for part, painter in (
            (self.prompt_box, self._repaint_around),
            (self.colour, self._repaint_tokens),
            (self.code_button, self._repaint_around),
        ):
            part.observe(lambda _, painter=painter: painter(), "value")
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
        """The newest run as plain data; None before the first and after one that failed."""
        if self._recording is None or self.error is not None:
            return None
        return self._recording.result()

    def run(self, wait: bool = True) -> PlaygroundResult | None:
        """Generate with the controls as they are.

        Args:
            wait: until it has ended, and return its result; otherwise return at once.
        """
        self._rerun.cancel()
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
        self._repaint()
        if self._follows_sliders():
            self._rerun()

    def _follows_sliders(self) -> bool:
        ran = self._recording is not None
        return ran and self.live.value and self.controls.sliders["max_new_tokens"].value <= LIVE_TOKENS

    def _on_ready(self) -> None:
        """Somebody looks at it for the first time: write something."""
        if self._recording is None and self.error is None and not self._background.running and self.prompt_box.value:
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
                self._settle(recording)

    def _settle(self, recording: Recording) -> None:
        """The run has ended: the selection must be one of its tokens, and the strip keeps them all."""
        with self._lock:
            self.strip.settle()
            self.strip.selected = max(0, min(self.strip.selected, len(recording.tokens) - 1))
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
        if recording is not None and self.strip.selected < len(recording.tokens):
            try:
                self.bars.value = bars_html(recording, self.strip.selected, self.settings)
            except LabkitError as error:  # controls that contradict each other
                self.bars.value = error_html(error_message(error))

    def _repaint_around(self) -> None:
        """The line of status, and the code if it is open."""
        with self._lock:
            recording = self._recording
            if self.error is not None:
                self.status.value = error_html(self.error)
            elif recording is not None:
                settled = self._writing or self._follows_sliders()
                notes = (*self.lm.checkpoint.notes, *recording.run.notes)
                hint = "" if settled or not self._stale(recording) else STALE
                self.status.value = status_html(run_facts(recording, self._writing), hint, notes)
            self.code.layout.display = "" if self.code_button.value else "none"
            if self.code_button.value:
                self._repaint_code()

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
