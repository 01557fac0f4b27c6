"""SampleBoard: several continuations of a prompt under several settings, side by side on the same draws."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import ipywidgets as ipw
import traitlets

from ..errors import ConfigError, LabkitError
from ..generation import BatchRun, stream_batch
from ..language_model import LanguageModel, load
from ..settings import Settings
from ..views import View
from ..views.base import visible
from .background import Background
from .board_result import BoardResult
from .board_view import board_html, board_view
from .code import opening, source_of
from .controls import LABELS, GenerationControls
from .layout import row
from .panels import status_html
from .picker import Picker
from .prompt import read_prompt, shown_prompt
from .settings_panel import SettingsPanel

PAINT_SECONDS = 0.1
PAINT_SHARE = 20  # painting, which costs more the longer the texts are, never takes more than a 20th of the time
AS_GIVEN = "as given"
VARIED = {"temperature": float, "top_k": int, "top_p": float, "min_p": float, "repetition_penalty": float}
COLUMNS: tuple[dict[str, Any], ...] = ({"temperature": 0.5}, {"temperature": 0.8}, {"temperature": 1.2})
STALE = "Written with other settings: press Generate."

HELP = {
    "prompt": "The text that is continued.",
    "vary": "What the columns differ in; all else is as the sliders say.",
    "values": "One column for each of these values; the others are compared with the first.",
    "n": "So many continuations in each column; those in one row have the same luck.",
    "generate": "Write all of them; what is still being written is stopped first.",
    "stop": "Stop writing; what is there stays.",
    "continue_the_chosen_one": "Make it a part of the prompt, exactly as its tokens are, and write on from there.",
}


class SampleBoard(SettingsPanel):
    """A column for each settings, a row for each draw. Continuations of one row have the same luck, so that they part
    only where the settings make a difference; that place is marked.

    Args:
        lm: a model, or what ``labkit.load`` takes.
        prompt: text, or ids for a model without tokenizer; None: a few words.
        columns: fields of Settings in which each column differs from ``settings``.
        settings: of all.
        n: rows.
        on_continue: called with the ids, those of the prompt first, when somebody goes on from a continuation.

    Attributes:
        continued: the ids that somebody went on from last; None before that.
    """

    NOTEBOOK: ClassVar[str] = "10_generate_text.ipynb"
    FILE: ClassVar[str] = "samples.html"
    continued = traitlets.List(traitlets.Int(), default_value=None, allow_none=True)

    def __init__(
        self,
        lm: LanguageModel | str,
        prompt: str | Sequence[int] | None = None,
        columns: Sequence[Mapping[str, Any]] = COLUMNS,
        *,
        settings: Settings | None = None,
        n: int = 4,
        on_continue: Callable[[list[int]], None] = lambda ids: None,
    ):
        self.lm = lm if isinstance(lm, LanguageModel) else load(lm)
        settings = settings or Settings(max_new_tokens=60)
        super().__init__(GenerationControls(settings, self.lm.vocab_size, boxes=("seed", "greedy")))
        self._given = [dict(changes) for changes in columns]
        self._from: tuple[str, list[int]] | None = None  # what the box says, and the ids it stands for
        self._on_continue = on_continue
        self._runs: list[BatchRun] = []
        self._columns: list[tuple[str, Settings]] = []
        self._written: tuple[Any, ...] = ()  # what the controls said when it was written
        self._background = Background()
        self._build(shown_prompt(self.lm, prompt), n)
        self.run(wait=False)

    def _build(self, prompt: str, n: int) -> None:
        narrow = {"style": {"description_width": "initial"}}
        self.prompt_box = ipw.Textarea(prompt, rows=2, description="prompt", **narrow)
        self.vary = ipw.Dropdown(
            options=[(LABELS.get(name, name), name) for name in (AS_GIVEN, *VARIED)], description="columns", **narrow
        )
        self.values_box = ipw.Text("", description="values", continuous_update=False, disabled=True, **narrow)
        self.n = ipw.IntSlider(n, min=1, max=max(12, n), description="rows", layout={"min_width": "16em"}, **narrow)
        self.run_button = self.button(HELP, "generate", "play", lambda: self.run(wait=False), button_style="primary")
        self.stop_button = self.button(HELP, "stop", "stop", self.stop, disabled=True)
        self.continue_button = self.button(HELP, "continue_the_chosen_one", "arrow-right", self.go_on, disabled=True)
        self.board = Picker()
        controls = {"prompt": self.prompt_box, "vary": self.vary, "values": self.values_box, "n": self.n}
        self.explain(controls, HELP)
        boxes = self.controls.boxes
        self.fill(
            self.prompt_box,
            row("lk-sliders", *self.controls.sliders.values()),
            row("lk-options", boxes["seed"], self.controls.new_seed, boxes["greedy"], self.controls.preset),
            row("lk-options", self.vary, self.values_box, self.n),
            row("lk-actions", self.run_button, self.stop_button, self.continue_button, self.help),
            self.status,
            self.board,
        )  # fmt: skip
        self.vary.observe(lambda change: self._on_vary(change["new"]), "value")
        self.controls.on_change = self._say_status
        for control in (self.prompt_box, self.values_box, self.n):
            control.observe(lambda _: self._say_status(), "value")
        self.board.observe(lambda _: self._say_status(), "picked")

    def __repr__(self) -> str:
        return f"SampleBoard({self.lm.checkpoint.family}, {self.n.value} rows, {self.vary.label})"

    # what code can do with it

    @property
    def prompt(self) -> str | list[int]:
        """What is continued: text, or the ids that somebody went on from."""
        if self._from is not None and self._from[0] == self.prompt_box.value:
            return self._from[1]
        return read_prompt(self.lm, self.prompt_box.value)

    @property
    def columns(self) -> list[dict[str, Any]]:
        """What each column differs in.

        Raises:
            ConfigError: a value that is no number.
        """
        if self.vary.value == AS_GIVEN:
            return [dict(changes) for changes in self._given]
        number, words = VARIED[self.vary.value], self.values_box.value.replace(",", " ").split()
        try:
            return [{self.vary.value: number(word)} for word in words]
        except ValueError as error:
            raise ConfigError(f"values: {error}; write numbers, such as 0.5, 0.8, 1.2") from None

    @property
    def result(self) -> BoardResult | None:
        """All continuations as far as they are written; None before the first."""
        runs = self._runs
        if not runs:
            return None
        return BoardResult.of(self._columns, [run.results()[0] for run in runs])

    def run(self, wait: bool = True) -> BoardResult | None:
        """Write all continuations; with ``wait`` until that is done, and return the result."""
        try:
            prompt, columns, n = self._asked()
            if not columns:
                raise ConfigError("values: give at least one, such as 0.5, 0.8, 1.2")
        except LabkitError as error:
            self.fail(error)
            return None
        self._background.start(lambda stopped: self._write(prompt, columns, n, stopped))
        if not wait:
            return None
        self._background.wait()
        return None if self.error else self.result

    def stop(self) -> None:
        """End what is being written; what is there stays."""
        self._background.stop()

    def go_on(self) -> None:
        """Continue the chosen one: its ids become the prompt, here and for whoever listens to ``continued``."""
        result = self.result
        if result is None or not self.board.picked:
            return
        chosen = result.cell(*map(int, self.board.picked.split(","))).generation
        self.stop()
        self._background.wait()
        ids = [*chosen.prompt_ids, *chosen.ids]
        shown = self.prompt_box.value + chosen.text if self.lm.tokenizer is not None else shown_prompt(self.lm, ids)
        self._from = (shown, ids)
        self.board.picked = ""
        self.prompt_box.value = shown
        self.continued = ids
        self._on_continue(ids)
        self.run(wait=False)

    def view(self) -> View | None:
        result = self.result
        return None if result is None else board_view(result)

    def code(self) -> str:
        shared = "".join(f", {name}={value!r}" for name, value in self.settings.changed().items())
        return (
            f"{opening(self.lm)}settings = labkit.Settings({shared[2:]})\n"
            f"for changes in {self.columns!r}:\n"
            f"    [row] = labkit.generate_batch(lm, [{self.prompt!r}], settings.replace(**changes), n={self.n.value})\n"
            "    print(changes, [one.text for one in row])"
        )

    def parameters(self) -> dict[str, Any]:
        used = self.settings
        names = ("seed", "max_new_tokens", "temperature", "top_k", "top_p")
        return {"checkpoint": source_of(self.lm), "prompt": self.prompt_box.value,
                **{name: getattr(used, name) for name in names}}  # fmt: skip

    def close(self) -> None:
        self.stop()
        super().close()

    # the run, in a thread of its own

    def _write(
        self, prompt: str | list[int], columns: list[tuple[str, Settings]], n: int, stopped: threading.Event
    ) -> None:
        self.error, self.stop_button.disabled = None, False
        try:
            runs = [stream_batch(self.lm, [prompt], settings, n=n) for _, settings in columns]
            self._runs, self._columns, self._written = runs, columns, (prompt, columns, n)
            self.board.picked = ""
            next_paint, going = 0.0, list(runs)
            while going and not stopped.is_set():
                # A token of every row, column after column: the board fills from above, not from the left.
                going = [run for run in going if all(next(run, None) is not None for _ in range(n))]
                if (began := time.monotonic()) >= next_paint:
                    self._paint(writing=True)
                    cost = time.monotonic() - began
                    next_paint = began + max(PAINT_SECONDS, PAINT_SHARE * cost)
        except Exception as error:  # whatever a model raises belongs in the widget, not in the log
            self.fail(error)
        finally:
            self.stop_button.disabled = True
            if self._runs:
                self._paint(writing=False)

    # painting

    def _paint(self, writing: bool) -> None:
        result = self.result
        assert result is not None
        self.board.html = board_html(result)
        self._say_status(writing)
        if not writing:
            self.refresh_code()

    def _say_status(self, writing: bool | None = None) -> None:
        """How far it is, and whether the controls say something else by now."""
        result = self.result
        self.continue_button.disabled = result is None or not self.board.picked
        if self.error is not None or result is None:
            return
        writing = self._background.running if writing is None else writing
        tokens = sum(len(cell.generation.ids) for cell in result.cells)
        self.status.value = status_html(
            f"{len(result.cells)} continuations, {tokens:,} tokens" + " · writing …" * writing,
            "" if writing or not self._stale() else STALE,
            result.cells[0].generation.notes,
        )

    def _asked(self) -> tuple[Any, ...]:
        """What the controls say."""
        columns = [(name_of(changes), self.settings.replace(**changes)) for changes in self.columns]
        return self.prompt, columns, self.n.value

    def _stale(self) -> bool:
        try:
            return self._asked() != self._written
        except LabkitError:
            return True

    def _on_vary(self, name: str) -> None:
        """Offer values around the present one."""
        self.values_box.disabled = name == AS_GIVEN
        if name != AS_GIVEN:
            slider = self.controls.sliders[name]
            now, number = slider.value, VARIED[name]
            steps = sorted({number(max(slider.min, min(slider.max, now * factor))) for factor in (0.5, 1, 1.5)})
            self.values_box.value = ", ".join(f"{round(value, 3):g}" for value in steps)
        self._say_status()


def name_of(changes: Mapping[str, Any]) -> str:
    """A column's name: what it differs in."""
    return (
        visible(", ".join(f"{LABELS.get(name, name)} {value}" for name, value in changes.items()), spaces=False)
        or "as is"
    )
