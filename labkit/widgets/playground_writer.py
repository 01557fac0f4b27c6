"""A playground's runs, off the cell and one at a time; and the panels that look at the same trace as it does."""

import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import LabkitError
from ..language_model import LanguageModel
from ..settings import Settings
from ..trace import Trace
from .background import Background
from .code import source_of
from .names import TokenNames
from .playground_screen import PlaygroundScreen
from .prompt import shown_prompt
from .recording import PlaygroundResult, Recording
from .selection import Selection

PAINT_SECONDS = 0.035  # at most 28 paints a second


class PlaygroundWriter(PlaygroundScreen):
    """Writes recordings, shows them as they grow, and keeps them.

    Attributes:
        selection: the selected token; other panels of the same trace share it.
    """

    def __init__(self, lm: LanguageModel, models: list[str], prompt: str, settings: Settings):
        self.selection = Selection()
        self._names = TokenNames(lm, lm.vocab_size)
        self._background = Background()
        self._callbacks: list[Callable[[Trace], Any]] = []
        super().__init__(lm, models, prompt, settings)
        self.strip.observe(lambda _: self._on_strip(), "selected")
        self.selection.observe(self._on_selection, "token")

    @property
    def result(self) -> PlaygroundResult | None:
        """What is shown as plain data; None before the first run, while one goes on, and after one that failed."""
        if self._recording is None or self._background.running or self.error is not None:
            return None
        return self._recording.result()

    @property
    def trace(self) -> Trace | None:
        """The run or branch that is current, as ``labkit.record`` would have it; None as long as there is none."""
        recording = self.history.current
        return None if recording is None else recording.trace

    def on_trace(self, callback: Callable[[Trace], Any]) -> None:
        """Have this called with the trace whenever a run has ended, or another branch has become current."""
        self._callbacks.append(callback)

    def stop(self) -> None:
        """End the run that is going on, if one is; what it wrote stays."""
        self._background.stop()

    def wait(self) -> PlaygroundResult | None:
        """Until what is being written has ended; its result."""
        self._background.wait()
        return self.result

    # in a thread of its own

    def _begin(self, make: Callable[[], Recording], wait: bool, provisional: bool = False) -> PlaygroundResult | None:
        """Stop what is being written, and write the recording that ``make`` begins."""
        self.stop()
        self._background.start(lambda stopped: self._write(make, stopped, provisional))
        return self.wait() if wait else None

    def _travel(self, move: Callable[[], Any], wait: bool) -> PlaygroundResult | None:
        """Stop what is being written, move in the history, and show what is there."""
        self.stop()

        def travel(stopped: threading.Event) -> None:
            try:
                move()
            except LabkitError as error:
                self.fail(error)
            else:
                self._show_current()

        self._background.start(travel)
        return self.wait() if wait else None

    def _write(self, make: Callable[[], Recording], stopped: threading.Event, provisional: bool) -> None:
        self.error, self._writing, recording = None, True, None
        self.stop_button.disabled = False
        try:
            recording = make()
            painted_at = 0.0
            while not stopped.is_set() and recording.advance():
                if time.monotonic() - painted_at >= PAINT_SECONDS:
                    self.paint_new(recording)
                    painted_at = time.monotonic()
        except Exception as error:  # whatever a model raises belongs in the widget, not in the log
            self.fail(error)
        finally:
            self._writing = False
            if recording is not None and (recording.tokens or self.error is None):
                self.paint_new(recording)
                self._settle(recording, provisional)
            self.paint_around()

    def _settle(self, recording: Recording, provisional: bool) -> None:
        """The run has ended: nothing is provisional any more."""
        recording.end()
        with self._lock:
            self.strip.settle()
            self.history.add(recording, provisional)
            self.paint_branches()
        self._follow(recording)

    def _show_current(self) -> None:
        """What is current in the history, with the prompt, the settings and the model it was written with."""
        recording = self.history.current
        if recording is None:
            return
        with self._lock:
            self.error, self._recording = None, recording
            if recording.lm is not self.lm:
                self._use(recording.lm)
                self.model.value = source_of(recording.lm)
            self.controls.settings = recording.settings
            self.prompt_box.value = shown_prompt(recording.lm, recording.prompt)
            self.paint_tokens()
            self.paint_branches()
        self._follow(recording)

    def _use(self, lm: LanguageModel) -> None:
        self.lm, self._names = lm, TokenNames(lm, lm.vocab_size)

    # the selected token, here and in other panels

    def _on_strip(self) -> None:
        self.paint()
        self._share()

    def _share(self) -> None:
        """Tell the other panels which token is selected here."""
        if self._recording is not None and self._recording is self.history.current and self.token >= 0:
            self.selection.token = len(self._recording.prompt_ids) + self.token

    def _on_selection(self, _: Any = None) -> None:
        recording = self.history.current
        if recording is None or recording is not self._recording:
            return
        index = self.selection.token - len(recording.prompt_ids)
        if 0 <= index < len(recording.tokens) and index != self.token:
            self.strip.selected = index

    def _follow(self, recording: Recording) -> None:
        """Move with all panels that look at this trace, and tell who wants to know of it."""
        self.selection.unobserve(self._on_selection, "token")
        self.selection = Selection.of(recording.trace)
        self.selection.observe(self._on_selection, "token")
        if self.selection.token < 0:
            self._share()
        else:
            self._on_selection()
        self.paint()
        for callback in self._callbacks:
            callback(recording.trace)
