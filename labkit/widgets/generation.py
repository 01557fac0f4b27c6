"""GenerationPlayground: type a prompt, turn the settings, watch each token being chosen, and choose another one."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as ipw

from ..errors import ConfigError, LabkitError
from ..generation import BranchTree
from ..language_model import LanguageModel, load
from ..settings import Settings, off_value
from ..trace import Trace, load_trace
from ..views import View
from .background import Debounced
from .code import branch_code, generate_code, models_beside, source_of
from .controls import GenerationControls
from .layout import row, show
from .names import TokenNames
from .panels import context_notes, error_html, error_message, first_choice_view, run_facts, status_html
from .prompt import read_prompt, shown_prompt, without_unknown
from .recording import Origin, PlaygroundResult, Recording
from .run_screen import HELP as SCREEN_HELP
from .run_screen import RunScreen
from .selection import Selection
from .settings_panel import SettingsPanel
from .writer import Writer

LIVE_TOKENS = 200  # a run of at most so many tokens follows the sliders
MORE_TOKENS = 100  # so many are added to a text that is continued
SETTLE_SECONDS = 0.15  # a slider at rest for so long has arrived
STALE = "Written with other settings: press Generate."
PARAMETERS = ("seed", "max_new_tokens", "temperature", "top_k", "top_p")  # of the notebook
HELP = {
    "model": "Which model writes: this one, the shipped ones, and one that speaks words; prompt and settings stay.",
    "prompt": "The text that the model continues.",
    "generate": "Write on from the prompt with these settings; a run that is still going on is stopped first.",
    "stop": "Stop writing; what is there stays.",
    "continue": f"Go on from the end, by up to {MORE_TOKENS} tokens.",
    "undo": "Back to the text and the settings before.",
    "redo": "Forward again to what was left by Undo.",
    "live": f"Write anew, with the same seed, whenever a setting changes (runs of up to {LIVE_TOKENS} tokens).",
    "open": "Read a file that was saved here: a trace goes on where it was, settings (toml) are taken over.",
    "leave_them_out": "Take the characters that the model does not know out of the prompt, and generate.",
}


class GenerationPlayground(SettingsPanel):
    """A prompt, sliders, and the text that a model writes with them, coloured by how probable each token was.

    Pointing at a token shows what else it could have been; clicking it shows stage by stage how it was chosen, and
    choosing one of the others goes on from there as a branch. Moving a slider shows at once what the new settings make
    of that choice: same logits, same draw, no model run. Every run and branch is kept.

    Args:
        lm: a model, or what ``labkit.load`` takes.
        prompt: text, or ids for a model without tokenizer; None: a few words, if the model knows their characters.
        settings: to begin with; labkit's defaults if None.
        trace: a recorded run to go on with; then prompt and settings are its own.

    Attributes:
        error: what went wrong in the last run, in one line; None if nothing did.
        screen: the run that is shown.
        history: what was written so far.
    """

    NOTEBOOK = "10_generate_text.ipynb"
    FILE = "playground.html"

    def __init__(
        self,
        lm: LanguageModel | str,
        prompt: str | Sequence[int] | None = None,
        settings: Settings | None = None,
        *,
        trace: Trace | None = None,
    ):
        lm = lm if isinstance(lm, LanguageModel) else load(lm)
        super().__init__(GenerationControls(settings or Settings(), lm.vocab_size))
        self.screen = RunScreen(self.controls)
        self.writer = Writer(self.screen, self._paint_around, self.fail, self._on_moved)
        self.history, self._background = self.writer.history, self.writer.background
        self._rerun = Debounced(self._run_again, SETTLE_SECONDS)
        self._use(lm)
        self._build(shown_prompt(lm, prompt))
        self._connect()
        if trace is not None:
            self.read(trace)

    def _use(self, lm: LanguageModel) -> None:
        self.lm, self._names = lm, TokenNames(lm, lm.vocab_size)

    def _build(self, prompt: str) -> None:
        """The parts in rows that wrap: a narrow window shows the same in fewer columns."""
        narrow = {"style": {"description_width": "initial"}}
        self.model = ipw.Dropdown(options=models_beside(self.lm), description="model", **narrow)
        self.prompt_box = ipw.Textarea(prompt, rows=2, description="prompt", **narrow)
        self.live = ipw.Checkbox(True, description="live", indent=False)
        explained = {"model": self.model, "prompt": self.prompt_box, "live": self.live, "open": self.open_button}
        self.explain(explained, HELP)
        button = partial(self.button, HELP)
        self.generate_button = button("generate", "play", lambda: self.run(wait=False), button_style="primary")
        self.stop_button = button("stop", "stop", self.stop)
        self.more_button = button("continue", "forward", lambda: self.more(wait=False))
        self.undo_button = button("undo", "undo", lambda: self.undo(wait=False))
        self.redo_button = button("redo", "repeat", lambda: self.redo(wait=False))
        self.leave_out_button = button("leave_them_out", "", self._leave_out)
        screen, controls, boxes = self.screen, self.controls, self.controls.boxes
        self.strip, self.colour, self.bars, self.branches = screen.strip, screen.colour, screen.bars, screen.branches
        self.timeline, self.timeline_button, self.instead_box = (
            screen.timeline,
            screen.timeline_button,
            screen.instead_box,
        )
        self.explain(screen.explained, SCREEN_HELP)
        draw = [boxes["seed"], controls.new_seed, boxes["greedy"], boxes["use_cache"], controls.preset]
        writing = [self.generate_button, self.stop_button, self.more_button, self.undo_button, self.redo_button]
        self.fill(
            self.prompt_box,
            row("lk-sliders", *controls.sliders.values()),
            row("lk-options", *draw, screen.colour, self.model),
            row("lk-actions", *writing, self.live, self.help),
            row("lk-above", self.status, self.leave_out_button, screen.legend),
            self.strip,
            row("lk-options", self.instead_box, self.timeline_button),
            self.branches,
            self.timeline,
            self.bars,
        )

    def _connect(self) -> None:
        self.controls.on_change = self._on_settings
        self.screen.choose, self.screen.go, self.strip.on_ready = self._choose, self._on_branch, self._on_ready
        self.model.observe(lambda change: self._on_model(change["new"]), "value")
        self.prompt_box.observe(lambda _: self._paint_around(), "value")
        self._paint_around()

    def __repr__(self) -> str:
        facts = [self.lm.checkpoint.family, f"{self.lm.n_parameters:,} parameters"]
        if self.screen.recording is not None:
            facts.append(f"{len(self.screen.recording.tokens)} tokens")
        return f"GenerationPlayground({', '.join(facts)})"

    # what code can do with it

    @property
    def prompt(self) -> str | list[int]:
        """What stands in the box: text, or ids if the model has no tokenizer."""
        return read_prompt(self.lm, self.prompt_box.value)

    @property
    def selection(self) -> Selection:
        """The selected token; other panels of the same trace share it."""
        return self.screen.selection

    @property
    def tree(self) -> BranchTree | None:
        """All that was written behind this prompt; None as long as nothing was."""
        return self.history.tree

    @property
    def result(self) -> PlaygroundResult | None:
        """What is shown as plain data; None before the first run, while one goes on, and after one that failed."""
        if self.screen.recording is None or self._background.running or self.error is not None:
            return None
        return self.screen.recording.result()

    @property
    def trace(self) -> Trace | None:
        """The run or branch that is current, as ``labkit.record`` would have it; None as long as there is none."""
        recording = self.history.current
        return None if recording is None else recording.trace

    def on_trace(self, callback: Callable[[Trace], Any]) -> None:
        """Have this called with the trace whenever a run has ended, or another branch has become current."""
        self.writer.on_trace.append(callback)

    def run(self, wait: bool = True) -> PlaygroundResult | None:
        """Generate from the prompt with the controls as they are.

        Args:
            wait: until it has ended, and return its result; otherwise return at once.
        """
        return self._begin(lambda: Recording(self.lm, self.prompt, self.settings), wait)

    def branch(self, at: int, token: int | str, wait: bool = True) -> PlaygroundResult | None:
        """Take another token in place of new token ``at``, and go on from there with the controls as they are.

        Args:
            token: an id; or text: a token as it is shown, or words of several tokens.
        """
        base, settings = self.screen.recording, self.settings
        if base is None:
            self.fail(ConfigError("there is no text to branch from yet: press Generate"))
            return None
        try:
            ids = [token] if isinstance(token, int) else self._names.ids_of(token, self.lm.tokenizer)
        except LabkitError as error:
            self.fail(error)
            return None
        return self._begin(lambda: Recording(base.lm, base.prompt, settings, Origin(base, at, tuple(ids))), wait)

    def more(self, n: int = MORE_TOKENS, wait: bool = True) -> PlaygroundResult | None:
        """Go on from the end, by up to n tokens."""
        base = self.screen.recording
        if base is None:
            return self.run(wait)

        def longer() -> Recording:
            at = len(base.tokens)
            self.controls.settings = self.settings.replace(max_new_tokens=at + n)
            return Recording(base.lm, base.prompt, self.settings, Origin(base, at))

        return self._begin(longer, wait)

    def undo(self, wait: bool = True) -> PlaygroundResult | None:
        """Back to the text and the settings that were current before."""
        return self._travel(self.history.undo, wait)

    def redo(self, wait: bool = True) -> PlaygroundResult | None:
        """Forward again to what ``undo`` left."""
        return self._travel(self.history.redo, wait)

    def go(self, node: int, wait: bool = True) -> PlaygroundResult | None:
        """Make a node of the tree the current one."""
        return self._travel(lambda: self.history.go(node), wait)

    def settings_assigned(self) -> None:
        """No run is started."""
        self._rerun.cancel()
        self._paint()

    def read(self, source: Trace | str | Path) -> PlaygroundResult | None:
        """Go on with a run that was recorded, here or elsewhere; or take over the settings of a toml file.

        Raises:
            LabkitError: it cannot be read, or is of another model.
        """
        if not isinstance(source, Trace) and Path(source).suffix == ".toml":
            super().read(source)
            return self.result
        trace = source if isinstance(source, Trace) else load_trace(source)
        recording = Recording.of_trace(self.lm, trace)
        self.stop()
        self._background.wait()
        self.history.add(recording)
        self.writer.show_current()
        return self.result

    def save(self, path: str | Path) -> Path:
        """Write what is shown; besides what every panel writes, ``.trace`` is the run with its logits, for ``read``."""
        path = Path(path)
        if path.suffix != ".trace":
            return super().save(path)
        if (trace := self.trace) is None:
            raise ConfigError(f"there is nothing to write to {path.name} yet: run it first")
        trace.save(path)
        return path

    def stop(self) -> None:
        """End the run that is going on, if one is; what it wrote stays."""
        self._rerun.cancel()
        self._background.stop()

    def wait(self) -> PlaygroundResult | None:
        """Until what is being written has ended; its result."""
        self._background.wait()
        return self.result

    def close(self) -> None:
        self.stop()
        super().close()

    def view(self) -> View | None:
        """The text with the stages of the selected token; before the first run those of the token to come."""
        if (shown := self.screen.view()) is not None:
            return shown
        return first_choice_view(self.lm, self.prompt, self.settings) if self.prompt_box.value else None

    def code(self) -> str:
        recording = self.screen.recording
        if recording is None or recording.origin is None or self._stale(recording):
            return generate_code(self.lm, self.prompt, self.settings)
        return branch_code(recording)

    def parameters(self) -> dict[str, Any]:
        settings = self.settings
        values = {name: off_value(name, getattr(settings, name)) for name in PARAMETERS}
        return {"checkpoint": source_of(self.lm), "prompt": self.prompt, **values}

    def _begin(self, make: Callable[[], Recording], wait: bool, provisional: bool = False) -> PlaygroundResult | None:
        """Stop what is being written, and write the recording that ``make`` begins."""

        def begun() -> Recording:
            self.error = None
            return make()

        self.stop()
        self.writer.write(begun, provisional)
        return self.wait() if wait else None

    def _travel(self, move: Callable[[], object], wait: bool) -> PlaygroundResult | None:
        """Stop what is being written, move in the history, and show what is there."""
        self.stop()
        self.writer.travel(move)
        return self.wait() if wait else None

    def _on_moved(self, recording: Recording) -> None:
        """The prompt, the settings and the model that it was written with."""
        self.error = None
        if recording.lm is not self.lm:
            self._use(recording.lm)
            self.model.value = source_of(recording.lm)
        self.controls.settings = recording.settings
        self.prompt_box.value = shown_prompt(recording.lm, recording.prompt)

    # painting

    def fail(self, error: Exception) -> None:
        self.error = error_message(error)
        self._paint_around()

    def _paint(self) -> None:
        self.screen.paint()
        self._paint_around()

    def _paint_around(self) -> None:
        """The line of status, what can be done now, and the code if it is open."""
        with self.screen.lock:
            recording, text = self.screen.recording, self.prompt_box.value
            if self.error is not None:
                self.status.value = error_html(self.error)
            elif recording is not None:
                hint = "" if self.writer.busy or self._rerun.pending or not self._stale(recording) else STALE
                notes = (*recording.lm.checkpoint.notes, *recording.run.notes, *context_notes(recording))
                self.status.value = status_html(run_facts(recording, self.writer.busy), hint, notes)
            self.undo_button.disabled, self.redo_button.disabled = not self.history.can_undo, not self.history.can_redo
            self.stop_button.disabled = not self.writer.busy
            self.more_button.disabled = self.instead_box.disabled = recording is None or not recording.tokens
            show(self.leave_out_button, self.error is not None and without_unknown(self.lm, text) != text)
            self.refresh_code()

    def _stale(self, recording: Recording) -> bool:
        """Whether the controls say something else than the text was written with."""
        try:
            return (self.prompt, self.settings) != (recording.prompt, recording.settings)
        except LabkitError:
            return True

    # what the controls do

    def _on_settings(self) -> None:
        short = self.controls.sliders["max_new_tokens"].value <= LIVE_TOKENS
        if self.screen.recording is not None and self.live.value and short:
            self._rerun()
        self._paint()

    def _run_again(self) -> None:
        """Write anew what is on the screen, with the controls as they are; of a branch only what was drawn."""
        base = self.screen.recording
        if base is None or base.origin is None or base.prompt != self.prompt_box.value:
            self._begin(lambda: Recording(self.lm, self.prompt, self.settings), False, provisional=True)
        else:
            self._begin(lambda: Recording(base.lm, base.prompt, self.settings, base.origin), False, provisional=True)

    def _on_model(self, name: str) -> None:
        if name == source_of(self.lm):
            return

        def opened() -> Recording:
            lm = load(name)
            self._use(lm)
            return Recording(lm, self.prompt, self.settings)

        self._begin(opened, wait=False)

    def _on_ready(self) -> None:
        """Somebody looks at it for the first time: write something."""
        untouched = self.screen.recording is None and self.error is None and not self._background.running
        if untouched and self.prompt_box.value:
            self.run(wait=False)

    def _leave_out(self) -> None:
        self.prompt_box.value = without_unknown(self.lm, self.prompt_box.value)
        self.run(wait=False)

    def _choose(self, at: int, token: int | str) -> bool:
        self.branch(at, token, wait=False)
        return self.error is None

    def _on_branch(self, node: int) -> None:
        if self.tree is not None and node != self.tree.current:
            self.go(node, wait=False)
