"""Writer: recordings, written off the cell and one at a time, shown as they grow, and kept."""

import threading
import time
from collections.abc import Callable
from typing import Any

from ..errors import LabkitError
from ..trace import Trace
from .background import Background
from .history import History
from .recording import Recording
from .run_screen import RunScreen

TELL_SECONDS = 0.25  # while it writes the count of tokens is renewed that often; the tokens come faster


class Writer:
    """Works in a thread of its own; what is asked for next stops what is under way.

    Args:
        screen: where recordings are shown.
        tell: called when there is something new to say about the one that is shown.
        fail: called with what went wrong.
        moved: called with a recording that has become the current one again, before it is shown.

    Attributes:
        history: what was written so far.
        busy: whether tokens are still to come.
        on_trace: called with the trace whenever a run has ended, or another branch has become current.
    """

    def __init__(
        self,
        screen: RunScreen,
        tell: Callable[[], None],
        fail: Callable[[Exception], None],
        moved: Callable[[Recording], None],
    ):
        self.history, self.background, self.busy = History(), Background(), False
        self.on_trace: list[Callable[[Trace], Any]] = []
        self._screen, self._tell, self._fail, self._moved = screen, tell, fail, moved
        self._told_at = 0.0

    def write(self, make: Callable[[], Recording], provisional: bool = False) -> None:
        """Write the recording that ``make`` begins."""
        self.background.start(lambda stopped: self._write(make, stopped, provisional))

    def travel(self, move: Callable[[], object]) -> None:
        """Move in the history, and show what is there."""
        self.background.start(lambda _: self._travel(move))

    def show_current(self) -> None:
        """Show what is current in the history."""
        if (recording := self.history.current) is not None:
            with self._screen.lock:
                self._moved(recording)
                self._screen.repaint(recording)
            self._arrive(recording)

    def _travel(self, move: Callable[[], object]) -> None:
        try:
            move()
        except LabkitError as error:
            self._fail(error)
        else:
            self.show_current()

    def _write(self, make: Callable[[], Recording], stopped: threading.Event, provisional: bool) -> None:
        recording, failed, self.busy = None, False, True
        self._tell()
        try:
            recording = make()
            recording.write(stopped, lambda: self._grow(recording))
        except Exception as error:  # whatever a model raises belongs in the widget, not in the log
            failed = True
            self._fail(error)
        finally:
            self.busy = False
            if recording is not None and (recording.tokens or not failed):
                recording.end()
                with self._screen.lock:
                    self._screen.grow(recording)
                    self._screen.strip.settle()
                    self.history.add(recording, provisional)
                self._arrive(recording)
            self._tell()

    def _grow(self, recording: Recording) -> None:
        another = recording is not self._screen.recording
        self._screen.grow(recording)
        if another or time.monotonic() - self._told_at >= TELL_SECONDS:
            self._tell()
            self._told_at = time.monotonic()

    def _arrive(self, recording: Recording) -> None:
        """Another recording is the current one: all panels that look at it move with it."""
        self._screen.paint_tree(self.history.tree)
        self._screen.follow(recording)
        self._tell()
        for callback in self.on_trace:
            callback(recording.trace)
