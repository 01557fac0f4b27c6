"""CheckpointDuel: two checkpoints, or one under two settings, on the same text and on the same draws."""

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import ipywidgets as ipw

from .. import views
from ..generation import encode_prompt
from ..inspection import Comparison, Progress, Stopped, Trajectory, compare, trajectory
from ..inspection.alignment import character_starts, same_vocabulary
from ..language_model import LanguageModel
from ..settings import Settings
from ..trace import Trace
from ..views import View
from . import facts
from .background import Background, Debounced
from .controls import HELP as SETTINGS_HELP
from .controls import GenerationControls
from .duel_views import card_view, furthest_view, totals_view
from .layout import row, show
from .models import Models
from .panels import status_html
from .picker import Picker
from .prompt import read_prompt, shown_prompt
from .selection import Selection
from .settings_panel import SettingsPanel
from .stopping import until

SETTLE_SECONDS = 0.3  # what nobody touched for so long is finished
NEW_TOKENS = 60
OF_B = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
HELP = {
    "a": "The first model; any of the menu can be opened, and the text and the settings stay.",
    "b": "The second model; the same one as A to compare two settings.",
    "differ": "Give B settings of its own; then what the draws see is compared, after all stages.",
    "prompt": "What both continue, with the same luck at every token.",
    "text": "What both read; empty: the prompt and what A writes after it.",
    "compare": "Compare with these settings; a comparison that is still going on is stopped first.",
    "stop": "Stop comparing; what is shown stays.",
    "live": "Compare anew whenever something changes.",
}

Source = LanguageModel | str


@dataclass(frozen=True, repr=False)
class DuelResult:
    """What a duel shows, as plain data.

    Attributes:
        comparison: of A and B, on the text and on the draws.
        course: all checkpoints that were given, if there are more than two, by their loss on the text.
    """

    comparison: Comparison
    course: Trajectory | None = None

    def rows(self) -> list[dict[str, Any]]:
        """One row a token of the text that both read."""
        return self.comparison.rows()

    def to_dict(self) -> dict[str, Any]:
        return {**self.comparison.to_dict(), "course": None if self.course is None else self.course.to_dict()}

    def __repr__(self) -> str:
        return f"DuelResult({self.comparison!r}{'' if self.course is None else f', {self.course!r}'})"


class CheckpointDuel(SettingsPanel):
    """A and B continue the same prompt with the same luck, and read the same text: where they part, and how far.

    Args:
        a: a model, or what ``labkit.load`` takes; or a list of them, such as the checkpoints of one run: the first and
            the last one then meet, and the loss of all of them on the text is shown.
        b: the other one; None: A itself, under other settings.
        prompt: what both continue; None: a few words.
        text: what both read; None: the prompt and what A writes after it. A Trace gives both, and its settings.
        settings: of both.
        changes_b: fields of Settings in which B differs.

    Attributes:
        selection: the selected token of the text; panels that share it move together.
    """

    NOTEBOOK: ClassVar[str] = "25_compare_checkpoints.ipynb"
    FILE: ClassVar[str] = "duel.html"

    def __init__(
        self,
        a: Source | Sequence[Source],
        b: Source | None = None,
        text: str | Trace | None = None,
        *,
        prompt: str | None = None,
        settings: Settings | None = None,
        changes_b: dict[str, Any] | None = None,
        selection: Selection | None = None,
    ):
        several = list(a) if isinstance(a, Sequence) and not isinstance(a, str) else [a]
        self._models = Models([*several, *([] if b is None else [b])])
        self._given = self._models.names
        self._trace = text if isinstance(text, Trace) else None
        if self._trace is not None:
            settings = settings or self._trace.settings
        self.selection = selection or Selection.of(text or "")
        self._result: DuelResult | None = None
        self._token_starts: list[int] = []
        first = self._models[self._given[0]]
        settings = settings or Settings(max_new_tokens=NEW_TOKENS)
        super().__init__(GenerationControls(settings, first.vocab_size, boxes=("seed", "greedy")))
        self.controls_b = GenerationControls(settings, first.vocab_size, OF_B, ("seed", "greedy"))
        self._build(shown_prompt(first, prompt) if self._trace is None else "", text if isinstance(text, str) else "")
        self._background = Background()
        self._moved = Debounced(lambda: self.run(wait=False), SETTLE_SECONDS)
        if changes_b:
            self.controls_b.settings = settings.replace(**changes_b)
            self.differ.value = True
        self._connect()
        self._show_boxes()
        self.run()

    def _build(self, prompt: str, text: str) -> None:
        """The parts in rows that wrap: a narrow window shows the same in fewer columns."""
        narrow = {"style": {"description_width": "initial"}}
        self.a_menu, self.b_menu = (
            ipw.Dropdown(options=self._models.offered(), value=name, description=which, **narrow)
            for which, name in (("A", self._given[0]), ("B", self._given[-1]))
        )
        self.prompt_box = ipw.Textarea(prompt, rows=2, description="prompt", **narrow)
        self.text_box = ipw.Textarea(
            text, rows=2, description="text", placeholder="empty: the prompt and what A writes", **narrow
        )
        self.differ = ipw.ToggleButton(description="B draws differently", icon="sliders")
        self.run_button = self.button(HELP, "compare", "play", lambda: self.run(wait=False), button_style="primary")
        self.stop_button = self.button(HELP, "stop", "stop", lambda: self._background.stop(), disabled=True)
        self.live = ipw.Checkbox(True, description="live", indent=False)
        explained = {"a": self.a_menu, "b": self.b_menu, "differ": self.differ, "live": self.live}
        self.explain(explained | {"prompt": self.prompt_box, "text": self.text_box}, HELP)
        of_b = {**self.controls_b.sliders, **self.controls_b.boxes}
        sentences = {f"b-{name}": f"For B: {SETTINGS_HELP[name][0].lower()}{SETTINGS_HELP[name][1:]}" for name in of_b}
        self.explain({f"b-{name}": control for name, control in of_b.items()}, sentences)
        self.of_b = row("lk-sliders", *of_b.values()).add_class("lk-of-b")
        show(self.of_b, False)
        self.differ.observe(lambda change: show(self.of_b, change["new"]), "value")
        self.strip, self.furthest = Picker(), Picker()
        self.ran, self.detail, self.totals, self.course = (ipw.HTML() for _ in range(4))
        boxes = self.controls.boxes
        self.fill(
            row("lk-options", self.a_menu, self.b_menu, self.differ).add_class("lk-models"),
            row("lk-texts", self.prompt_box, self.text_box),
            row("lk-sliders", *self.controls.sliders.values()),
            self.of_b,
            row("lk-options", boxes["seed"], self.controls.new_seed, boxes["greedy"], self.controls.preset),
            row("lk-actions", self.run_button, self.stop_button, self.live, self.help),
            self.status,
            self.ran,
            self.strip,
            row("lk-tables", self.detail, self.totals, self.furthest),
            self.course,
        )

    def _connect(self) -> None:
        for control in (self.a_menu, self.b_menu, self.prompt_box, self.text_box, self.differ):
            control.observe(lambda _: self._changed(), "value")
        for controls in (self.controls, self.controls_b):
            controls.on_change = self._changed
        for picker in (self.strip, self.furthest):
            picker.observe(lambda change: self._on_pick(change["new"]), "picked")
        self.selection.observe(self._on_selection, "token")

    def __repr__(self) -> str:
        return f"CheckpointDuel({self.a_menu.value} and {self.b_menu.value})"

    # what code can do with it

    @property
    def changes_b(self) -> dict[str, Any]:
        """The fields of Settings in which B differs from A."""
        if not self.differ.value:
            return {}
        own, other = self.controls.settings, self.controls_b.settings
        names = [*self.controls_b.sliders, *self.controls_b.boxes]
        return {name: getattr(other, name) for name in names if getattr(other, name) != getattr(own, name)}

    @property
    def result(self) -> DuelResult | None:
        return self._result

    def run(self, wait: bool = True) -> DuelResult | None:
        """Compare with the controls as they are; with ``wait`` until that is done, and return the result."""
        self._moved.cancel()
        self._background.start(self._compare)
        if not wait:
            return None
        self._background.wait()
        return None if self.error else self._result

    def show_trace(self, trace: Trace) -> None:
        """Compare on another run from now on, and move with its selection."""
        self._trace = trace
        self.selection.unobserve(self._on_selection, "token")
        self.selection = Selection.of(trace)
        self.selection.observe(self._on_selection, "token")
        self.controls.settings = trace.settings
        self._show_boxes()
        self.run(wait=False)

    def view(self) -> View | None:
        result = self._result
        if result is None:
            return None
        text = result.comparison.text
        parts = [
            self._run_view(),
            self._text_view(),
            totals_view(text, *self._names()),
            furthest_view(text),
            self._course_view(),
        ]
        return views.stack([part for part in parts if part is not None], " and ".join(self._names()))

    def code(self) -> str:
        arguments = self._arguments()
        changed = self.settings.changed() | ({"changes_b": self.changes_b} if self.changes_b else {})
        given = {name: value for name, value in {**arguments, **changed}.items() if value is not None}
        written = ", ".join(f"{name}={value!r}" for name, value in given.items())
        return (
            "import labkit\nfrom labkit import inspection\n\n"
            f"{self._models.opening('a', self.a_menu.value)}\n{self._models.opening('b', self.b_menu.value)}\n"
            f"pair = inspection.compare(a, b, {written})\nprint(pair.run)\nprint(pair.text.totals())"
        )

    def parameters(self) -> dict[str, Any]:
        return {"first": self.a_menu.value, "second": self.b_menu.value, "prompt": self.prompt_box.value,
                "seed": self.settings.seed}  # fmt: skip

    def close(self) -> None:
        self._moved.cancel()
        self._background.stop()
        super().close()

    # what the controls do

    def _changed(self) -> None:
        if self.live.value:
            self._moved()

    def _on_pick(self, part: str) -> None:
        if self._result is not None and part not in ("", str(self._part())):
            self.selection.token = self._token(int(part))

    def _on_selection(self, _: Any = None) -> None:
        if self._result is not None:
            self._paint_detail()

    # the comparison, in a thread of its own

    def _compare(self, stopped: threading.Event) -> None:
        self.stop_button.disabled = False
        self.status.value, tell = status_html("comparing …"), until(stopped, self.status, "comparing")
        try:
            a, b = self._models[self.a_menu.value], self._models[self.b_menu.value]
            given = self._arguments()
            pair = compare(a, b, **given, settings=self.settings, changes_b=self.changes_b, progress=tell)
            words = read_by_both(a, pair, **given)
            starts = [] if pair.text.js is not None else token_starts(a, words)
            self._result, self._token_starts = DuelResult(pair, self._course(words, tell)), starts
        except Stopped:
            self.status.value = status_html("stopped")
        except Exception as error:  # whatever a model raises belongs in the widget, not in the log
            self.fail(error)
        else:
            self.error = None
            self._paint()
        finally:
            self.stop_button.disabled = True

    def _arguments(self) -> dict[str, Any]:
        """text and prompt as ``compare`` takes them."""
        a, b = self._models[self.a_menu.value], self._models[self.b_menu.value]
        if (trace := self._trace) is not None:
            ids, start = [*trace.prompt_ids, *trace.ids], list(trace.prompt_ids)
            if same_vocabulary(a, b):
                return {"text": ids, "prompt": start}
            decode = a.require_tokenizer().decode
            return {"text": decode(ids), "prompt": decode(start)}
        text, prompt = (box.value for box in (self.text_box, self.prompt_box))
        return {"text": read_prompt(a, text) if text else None, "prompt": read_prompt(a, prompt) if prompt else None}

    def _course(self, words: str, progress: Progress) -> Trajectory | None:
        """The loss of all checkpoints that were given, on what A and B read."""
        if len(self._given) < 3 or not words:
            return None
        return trajectory((self._models[name] for name in self._given), text=words, progress=progress)

    def _part(self) -> int:
        """The part of the text that the selected token lies in; the one where they differ most if none is selected."""
        text = self._result.comparison.text  # type: ignore[union-attr]
        token, last = self.selection.token, len(text.pieces) - 1
        if token < 0:
            return int(text.delta.abs().argmax())
        if not self._token_starts:
            return min(max(token - 1, 0), last)
        start = self._token_starts[min(token, len(self._token_starts) - 1)]
        return min(max(bisect_right(text.starts, start) - 1, 0), last)

    def _token(self, part: int) -> int:
        """The token that a part begins with, among all that A reads."""
        starts = self._result.comparison.text.starts  # type: ignore[union-attr]
        return bisect_left(self._token_starts, starts[part]) if self._token_starts else part + 1

    # painting

    def _run_view(self) -> View | None:
        run = self._result.comparison.run  # type: ignore[union-attr]
        return None if run is None else views.comparison_strip(**facts.comparison_strip(run, self._names()))

    def _text_view(self) -> View:
        return views.comparison_strip(**facts.comparison_strip(self._result.comparison.text))  # type: ignore[union-attr]

    def _course_view(self) -> View | None:
        course = self._result.course  # type: ignore[union-attr]
        return None if course is None else views.checkpoint_trajectory(**facts.checkpoint_trajectory(course))

    def _paint(self) -> None:
        text = self._result.comparison.text  # type: ignore[union-attr]
        self.strip.html, self.furthest.html = self._text_view().html, furthest_view(text).html
        self.totals.value = totals_view(text, *self._names()).html
        for part, view in ((self.ran, self._run_view()), (self.course, self._course_view())):
            part.value = "" if view is None else view.html
        self.status.value = status_html("", notes=text.notes)
        self._paint_detail()
        self.refresh_code()

    def _paint_detail(self) -> None:
        part = self._part()
        self.strip.picked = self.furthest.picked = str(part)
        self.detail.value = card_view(self._result.comparison.text, part).html  # type: ignore[union-attr]

    def _show_boxes(self) -> None:
        """The boxes are for what is typed; a run brings its own text."""
        for box in (self.prompt_box, self.text_box):
            show(box, self._trace is None)

    def _names(self) -> tuple[str, str]:
        """A and B as they are told apart."""
        changes = ", ".join(f"{name} {value}" for name, value in self.changes_b.items())
        return f"A {self.a_menu.value}", f"B {self.b_menu.value}" + f" ({changes})" * bool(changes)


def read_by_both(
    a: LanguageModel, pair: Comparison, text: str | list[int] | None, prompt: str | list[int] | None
) -> str:
    """What A and B read, as text; "" if A has no tokenizer."""
    if a.tokenizer is None:
        return ""
    if text is None and pair.run is not None:
        text = f"{prompt}{pair.run.a.text}"
    return text if isinstance(text, str) else a.tokenizer.decode(text or [])


def token_starts(a: LanguageModel, words: str) -> list[int]:
    """Where each token that A reads begins, in characters."""
    return character_starts([a.require_tokenizer().token_bytes(i) for i in encode_prompt(a, words)[0]])
