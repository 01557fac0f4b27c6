"""GenerationPlayground: type a prompt, turn the settings, watch each token being chosen, and choose another one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, LabkitError, SamplingError
from ..generation import BranchTree
from ..language_model import LanguageModel, load
from ..settings import Settings, off_value
from ..trace import Trace, load_trace
from .background import Debounced
from .code import branch_code, generate_code, models_beside, source_of
from .panels import error_html, error_message, status_html
from .playground_layout import LIVE_TOKENS, MORE_TOKENS
from .playground_writer import PlaygroundWriter
from .prompt import shown_prompt, without_unknown
from .recording import Origin, PlaygroundResult, Recording

SETTLE_SECONDS = 0.15  # a slider at rest for so long has arrived
PARAMETERS = ("seed", "max_new_tokens", "temperature", "top_k", "top_p")  # of the notebook


class GenerationPlayground(PlaygroundWriter):
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
    """

    def __init__(
        self,
        lm: LanguageModel | str,
        prompt: str | Sequence[int] | None = None,
        settings: Settings | None = None,
        *,
        trace: Trace | None = None,
    ):
        lm = lm if isinstance(lm, LanguageModel) else load(lm)
        self._rerun = Debounced(self._run_again, SETTLE_SECONDS)
        super().__init__(lm, models_beside(lm), shown_prompt(lm, prompt), settings or Settings())
        self._connect()
        if trace is not None:
            self.read(trace)

    def _connect(self) -> None:
        self.controls.on_change = self._on_settings
        self.strip.card, self.strip.choose, self.strip.on_ready = self.card, self._on_choice, self._on_ready
        self.model.observe(lambda change: self._on_model(change["new"]), "value")
        self.generate_button.on_click(lambda _: self.run(wait=False))
        self.stop_button.on_click(lambda _: self.stop())
        self.more_button.on_click(lambda _: self.more(wait=False))
        self.undo_button.on_click(lambda _: self.undo(wait=False))
        self.redo_button.on_click(lambda _: self.redo(wait=False))
        self.leave_out_button.on_click(lambda _: self._leave_out())
        self.open_button.on_click(lambda _: self._on_open())
        self.instead_box.observe(lambda change: self._on_instead(change["new"]), "value")
        self.branches.observe(lambda change: self._on_branch(change["new"]), "picked")
        self.timeline.observe(lambda change: self._on_timeline(change["new"]), "picked")
        self.timeline_button.observe(lambda _: self.paint(), "value")
        self.prompt_box.observe(lambda _: self.paint_around(), "value")
        self.colour.observe(lambda _: self.paint_tokens(), "value")

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
        self.paint()

    @property
    def tree(self) -> BranchTree | None:
        """All that was written behind this prompt; None as long as nothing was."""
        return self.history.tree

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
        base, settings = self._recording, self.settings
        if base is None:
            self.fail(ConfigError("there is no text to branch from yet: press Generate"))
            return None
        try:
            ids = [token] if isinstance(token, int) else self._ids_of(token)
        except LabkitError as error:
            self.fail(error)
            return None
        return self._begin(lambda: Recording(base.lm, base.prompt, settings, Origin(base, at, tuple(ids))), wait)

    def more(self, n: int = MORE_TOKENS, wait: bool = True) -> PlaygroundResult | None:
        """Go on from the end, by up to n tokens."""
        base = self._recording
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

    def read(self, source: Trace | str | Path) -> PlaygroundResult | None:
        """Go on with a run that was recorded, here or elsewhere; or take over the settings of a toml file.

        Raises:
            LabkitError: it cannot be read, or is of another model.
        """
        if not isinstance(source, Trace) and Path(source).suffix == ".toml":
            self.settings = Settings.read(source)
            return self.result
        trace = source if isinstance(source, Trace) else load_trace(source)
        recording = Recording.of_trace(self.lm, trace)
        self.stop()
        self._background.wait()
        self.history.add(recording)
        self._show_current()
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
        super().stop()

    def close(self) -> None:
        self.stop()
        super().close()

    def code(self) -> str:
        recording = self._recording
        if recording is None or recording.origin is None or self._stale(recording):
            return generate_code(self.lm, self.prompt, self.settings)
        return branch_code(recording)

    def parameters(self) -> dict[str, Any]:
        settings = self.settings
        values = {name: off_value(name, getattr(settings, name)) for name in PARAMETERS}
        return {"checkpoint": source_of(self.lm), "prompt": self.prompt, **values}

    # what the controls do

    def _on_settings(self) -> None:
        short = self.controls.sliders["max_new_tokens"].value <= LIVE_TOKENS
        if self._recording is not None and self.live.value and short:
            self._rerun()
        self.paint()

    def _run_again(self) -> None:
        """Write anew what is on the screen, with the controls as they are; of a branch only what was drawn."""
        base = self._recording
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
        if self._recording is None and self.error is None and not self._background.running and self.prompt_box.value:
            self.run(wait=False)

    def _leave_out(self) -> None:
        self.prompt_box.value = without_unknown(self.lm, self.prompt_box.value)
        self.run(wait=False)

    def _on_choice(self, index: int, line: int) -> None:
        recording = self._recording
        if recording is None or not 0 <= index < len(recording.tokens):
            return
        ids = recording.alternative_ids(index)
        if 0 <= line < len(ids) and ids[line] != recording.steps[index].id:
            self.branch(index, ids[line], wait=False)

    def _on_instead(self, text: str) -> None:
        if text and self.token >= 0:
            self.branch(self.token, text, wait=False)
            if self.error is None:
                self.instead_box.value = ""

    def _on_branch(self, node: str) -> None:
        if node and self.tree is not None and int(node) != self.tree.current:
            self.go(int(node), wait=False)

    def _on_timeline(self, step: str) -> None:
        if step:
            self.strip.selected = int(step)

    def _on_open(self) -> None:
        path = self.file_box.value.strip()
        try:
            self.read(path)
        except (LabkitError, OSError) as error:
            self.saved.value = error_html(error_message(error))
        else:
            self.saved.value = status_html(f"read: {path}")

    def _ids_of(self, text: str) -> list[int]:
        """One token by its name, or the tokens of any text."""
        try:
            return [self._names.id_of(text)]
        except SamplingError:
            if self.lm.tokenizer is None or self.lm.tokenizer.unknown_in(text):
                raise
            return self.lm.tokenizer.encode(text, special="text")

    def _settled(self) -> bool:
        return super()._settled() and not self._rerun.pending
