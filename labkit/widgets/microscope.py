"""SamplingMicroscope: one draw, stage by stage; turn the settings and see what the same draw would have given."""

import threading
from dataclasses import dataclass
from typing import Any

import ipywidgets as ipw

from .. import views
from ..errors import LabkitError
from ..sampling import SamplingTrace
from ..sampling.questions import WhatIf, WhyNot, break_points, what_if, why_not
from ..settings import Settings
from ..tokenizers.base import Tokenizer
from ..trace import Trace
from ..views import View
from ..views.base import visible
from ..views.breaks import band_page, kinds_of
from ..views.tokens import card_html, prompt_html, token_html
from . import facts
from .background import Debounced
from .code import as_arguments
from .controls import SLIDERS, GenerationControls
from .layout import row, show
from .panels import error_html, error_message, status_html
from .selection import Selection
from .settings_panel import SettingsPanel
from .steps import Recorded, Steps, all_values, steps_of
from .strip import TokenStrip

SETTLE_SECONDS = 0.1  # a slider at rest for so long has arrived: break points and the answer follow then
WITH_STRIPS = ("temperature", "top_k", "top_p", "min_p")
MORE = tuple(name for name in SLIDERS if name not in (*WITH_STRIPS, "max_new_tokens"))
HELP = {
    "undo": "Back to the settings before the last change.",
    "as_recorded": "Back to the settings of the recorded draw.",
    "more": "Show the sliders of the stages that are used less often.",
    "why": "Why was a token not chosen? Type it and press Enter.",
}


@dataclass(frozen=True, repr=False)
class MicroscopeResult:
    """What the microscope shows, as plain data.

    Attributes:
        index: which step of the trace.
        settings: what the controls say.
        recorded, trace: the step under its own settings, and the same draw under these.
        why_not: the answer about the token that was asked for, if one was.
    """

    index: int
    settings: Settings
    recorded: SamplingTrace
    trace: SamplingTrace
    why_not: WhyNot | None = None

    def __repr__(self) -> str:
        return f"MicroscopeResult(step {self.index}, {self.trace!r})"

    def rows(self) -> list[dict[str, Any]]:
        """One row a stage."""
        return self.trace.rows()

    def to_dict(self) -> dict[str, Any]:
        asked = None if self.why_not is None else self.why_not.to_dict()
        return {
            "index": self.index,
            "settings": self.settings.to_dict(),
            "recorded": self.recorded.to_dict(),
            "trace": self.trace.to_dict(),
            "why_not": asked,
        }


class SamplingMicroscope(SettingsPanel):
    """Every stage of one draw as a column: what it kept, removed and reshaped, and how the draw came out.

    The sliders ask what the same draw would have given under other settings, and the strips below them at which values
    it gives another token. No model is run. What was recorded stays beside it.

    Args:
        source: a Trace or the SamplingTraces of a run (click one of its tokens), one SamplingTrace, or logits (V,).
        tokenizer: whose pieces the tokens are written as; a Trace has its own; ids without it.
        settings: for bare logits; labkit's defaults if None.

    Attributes:
        error: what is wrong with the settings or with the token asked for, in one line; None if nothing is.
        selection: the step that is looked at; other panels of the same trace share it.
    """

    NOTEBOOK = "11_sampling_stages.ipynb"
    FILE = "microscope.html"

    def __init__(self, source: Recorded, tokenizer: Tokenizer | None = None, settings: Settings | None = None):
        self._settle = Debounced(self._settled, SETTLE_SECONDS)
        self.steps: Steps = steps_of(source, tokenizer, settings)
        self.selection = Selection.of(source if isinstance(source, Trace) else "")
        self._lock = threading.RLock()  # held by whoever paints: a slider and the settling do, each in its own thread
        self._asked: int | None = None
        self._index = 0
        self._recorded = self._now = self.steps.trace(0)
        self._history = [self.steps.settings]
        boxes = ("seed", "greedy", "dialect")
        size = len(self._now.logits)
        super().__init__(GenerationControls(self.steps.settings, size, (*WITH_STRIPS, *MORE), boxes))
        self._build()
        self._connect()
        self._follow()
        self._moved()
        self.wait()

    def _build(self) -> None:
        """The parts in rows that wrap: a narrow window shows the same in fewer columns."""
        sliders, boxes, fixed = self.controls.sliders, self.controls.boxes, self.steps.fixed
        show(self.open_button, not fixed)
        self.controls.new_seed.description = "new draw"
        self.strips = {name: ipw.HTML() for name in WITH_STRIPS}
        self.undo_button = self.button(HELP, "undo", "undo", self._undo, disabled=True)
        self.recorded_button = self.button(
            HELP, "as_recorded", "history", lambda: self._set(self.steps.settings), disabled=True
        )
        self.more_button = ipw.ToggleButton(description="More stages", icon="sliders")
        narrow = {"description_width": "initial"}
        self.why_box = ipw.Combobox(description="why not", placeholder="a token", continuous_update=False, style=narrow)
        self.explain({"more": self.more_button, "why": self.why_box}, HELP)
        self.strip = TokenStrip()
        self.strip.reset(prompt_html(self.steps.prompt) + "".join(self._token_html(i) for i in range(self.steps.count)))
        self.strip.settle()
        self.columns, self.compared, self.why = (ipw.HTML() for _ in range(3))
        self.more = row("lk-sliders", *(sliders[name] for name in MORE))
        with_strips = [row("lk-with-strip", sliders[name], self.strips[name]) for name in WITH_STRIPS]
        draw = [boxes["seed"], self.controls.new_seed, boxes["greedy"], boxes["dialect"], self.controls.preset]
        settings = [row("lk-sliders", *with_strips).add_class("lk-wide"), self.more, row("lk-options", *draw)]
        actions = [self.undo_button, self.recorded_button, self.more_button]
        self.fill(
            *[self.strip] * (self.steps.count > 1),
            *settings * (not fixed),
            row("lk-actions", *actions * (not fixed), self.help),
            self.status,
            self.columns,
            self.compared,
            row("lk-options", self.why_box),
            self.why,
        )

    def _connect(self) -> None:
        self.controls.on_change = self._moved
        self.strip.card = lambda index: card_html(self.steps.card(index))
        self.strip.observe(lambda change: self._select(change["new"]), "selected")
        self.selection.observe(lambda _: self._follow(), "token")
        self.more_button.observe(lambda change: show(self.more, change["new"]), "value")
        self.why_box.observe(lambda change: self._on_why(change["new"]), "value")
        used = self.steps.settings.sampling()
        self.more_button.value = any(name in used for name in MORE)
        show(self.more, self.more_button.value)

    def __repr__(self) -> str:
        chosen = self.steps.pieces([self._now.chosen])[0]
        return f"SamplingMicroscope(step {self._index + 1} of {self.steps.count}, chosen {chosen!r})"

    # what code can do with it

    def settings_assigned(self) -> None:
        self._moved()
        self.wait()

    @property
    def result(self) -> MicroscopeResult | None:
        """What is shown, as plain data; None where the settings make no sense."""
        if self.error is not None:
            return None
        return MicroscopeResult(self._index, self.settings, self._recorded, self._now, self._answer())

    def view(self) -> View | None:
        """The columns, what the settings that were moved change, and the answer about the token asked for."""
        with self._lock:
            if self.error is not None:
                return None
            now = self._asked_what_if(self.settings)
            shown = [self._columns_view(now)]
            if now.after is not now.before:
                shown.append(views.what_if(**facts.what_if(now, self.steps)))
            if (answer := self._answer()) is not None:
                shown.append(views.why_not(**facts.why_not(answer, self.steps)))
            return views.stack(shown)

    def code(self) -> str:
        changes = ", ".join(as_arguments(self._changes(self.settings)))
        lines = ["import labkit", "", *self.steps.code(self._index)]
        if changes:
            lines += [f"answer = trace.what_if({changes})", "print(answer)"]
        now = "answer.after" if changes else "trace"
        lines += [f"print({now})"]
        if self._asked is not None:
            lines += [f"print({now}.why_not({self._asked}))"]
        return "\n".join(lines)

    def parameters(self) -> dict[str, Any]:
        settings = self.settings
        values = {"seed": settings.seed, "temperature": settings.temperature, "min_p": settings.min_p or 0.0}
        return values | ({"prompt": "".join(self.steps.prompt)} if self.steps.prompt else {})

    def ask(self, token: int | str) -> WhyNot | None:
        """Why was this token not chosen? What the box does; the answer is also in ``result``."""
        self._asked = token if isinstance(token, int) else self.steps.names.id_of(token)
        self.wait()
        return self._answer()

    def wait(self) -> None:
        """Until everything that follows from the settings is on the screen."""
        self._settle.cancel()
        self._settled()

    def close(self) -> None:
        self._settle.cancel()
        super().close()

    # what the controls do

    def _follow(self) -> None:
        """Another panel has selected a token."""
        index = self.selection.token - len(self.steps.prompt)
        if 0 <= index < self.steps.count:
            self.strip.selected = index

    def _select(self, index: int) -> None:
        with self._lock:
            try:
                self._recorded = self.steps.trace(index)
            except LabkitError as error:  # a trace may not hold enough of this step
                self.status.value = error_html(error_message(error))
                return
            self._index = index
        self.selection.token = len(self.steps.prompt) + index
        self._moved()

    def _set(self, settings: Settings) -> None:
        self.controls.settings = settings
        self._moved()

    def _undo(self) -> None:
        """To what was there before the last change that came to rest."""
        with self._lock:
            if self.error is None and self._history[-1] == self.settings and len(self._history) > 1:
                self._history.pop()
            self._set(self._history[-1])

    def _on_why(self, text: str) -> None:
        with self._lock:
            try:
                self._asked = self.steps.names.id_of(text) if text else None
            except LabkitError as error:
                self._asked = None
                self.why.value = error_html(error_message(error))
            else:
                self._paint_why()

    def _moved(self) -> None:
        """Other settings or another step: what the draw gives now at once, the rest when the slider rests."""
        with self._lock:
            self.error = None
            try:
                answer = self._asked_what_if(self.settings)
                self._now = answer.after
                self._paint_columns(answer)
            except LabkitError as error:
                self.error = error_message(error)
                self.undo_button.disabled = self.recorded_button.disabled = False  # the ways out
            self.status.value = self._status()
        self._settle()

    def _asked_what_if(self, settings: Settings) -> WhatIf:
        """The selected step under these settings: same logits, same draw unless the seed is another."""
        changes = self._changes(settings)
        if not changes:
            return WhatIf(self._recorded, self._recorded, ())
        return what_if(self._recorded, **changes)

    def _changes(self, settings: Settings) -> dict[str, Any]:
        """What is not as it was recorded."""
        if self.steps.fixed:
            return {}
        before = all_values(self.steps.settings)
        return {name: value for name, value in all_values(settings).items() if value != before[name]}

    def _answer(self) -> WhyNot | None:
        """Why the token that was asked for was not chosen."""
        if self._asked is None:
            return None
        return why_not(self._now, self._asked, lambda i: facts.named(self.steps, i))

    def _settled(self) -> None:
        """The controls rest: remember them, and show what takes longer to find out."""
        with self._lock:
            if self.error is not None:
                return
            now, settings = self._now, self.settings
            if self._history[-1] != settings:
                self._history.append(settings)
            as_recorded = settings == self.steps.settings
            self.recorded_button.disabled, self.undo_button.disabled = as_recorded, len(self._history) == 1
        drawn, note = self._strips_html(now)  # not under the lock: a slider that moves on must not wait for it
        with self._lock:
            if now is self._now:
                for name, html in self.strips.items():
                    html.value = drawn.get(name, "")
                self.status.value = self._status() if not note else status_html(note)
                self._paint_why()

    # painting: what is shown follows from the step, the controls and the token asked for

    def _token_html(self, index: int) -> str:
        return token_html(self.steps.row(index), index=index)

    def _paint_columns(self, answer: WhatIf) -> None:
        recorded, now = answer.before, answer.after
        self.columns.value = self._columns_view(answer).html
        show(self.compared, now is not recorded)
        if now is not recorded:
            self.compared.value = views.what_if(**facts.what_if(answer, self.steps)).html
        self.why_box.options = [visible(piece) for piece in self.steps.pieces(now.candidates())]
        self.refresh_code()

    def _columns_view(self, answer: WhatIf) -> View:
        recorded, now = answer.before, answer.after
        data = facts.stage_columns(now, self.steps, always=[recorded.chosen])
        caption = f"Token {self._index + 1} of {self.steps.count}" if self.steps.count > 1 else ""
        other = recorded.chosen if recorded.chosen != now.chosen else None
        return views.stage_columns(**data, in_text=other, caption=caption)

    def _strips_html(self, now: SamplingTrace) -> tuple[dict[str, str], str]:
        """The strip of each parameter, or why none can be drawn."""
        if self.steps.fixed:
            return {}, ""
        sliders = {name: self.controls.sliders[name] for name in WITH_STRIPS}
        ranges = {name: (slider.min, slider.max) for name, slider in sliders.items()}
        try:
            facts.noise(now)  # without it nearly every value is a break point, and none means anything
            data = facts.break_strips(break_points(now), now.chosen, self.steps, ranges)
        except LabkitError as error:
            return {}, error_message(error)
        kinds = kinds_of(**data)
        return {strip["parameter"]: band_page(strip, kinds) for strip in data["strips"]}, ""

    def _paint_why(self) -> None:
        try:
            answer = None if self.error is not None else self._answer()
        except LabkitError as error:
            self.why.value = error_html(error_message(error))
        else:
            self.why.value = "" if answer is None else views.why_not(**facts.why_not(answer, self.steps)).html
        self.refresh_code()

    def _status(self) -> str:
        if self.error is not None:
            return error_html(self.error)
        return status_html(self.steps.note) if self.steps.note else ""
