"""Inspector: a text, what happens inside a model that reads it, and one token of it that is selected."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import ipywidgets as ipw

from ..errors import LabkitError
from ..generation import encode_prompt
from ..language_model import LanguageModel, load
from ..trace import Trace
from ..views.base import escape, label
from ..views.tokens import in_text
from .background import Background, Debounced
from .code import source_of
from .facts import pieces
from .layout import row, show
from .panel import Panel
from .panels import status_html
from .prompt import read_prompt, shown_prompt
from .selection import Selection
from .strip import TokenStrip

FIRST_SECONDS = 10.0  # that the cell which makes a panel waits for its first picture
SETTLE_SECONDS = 0.3  # a text that nobody typed in for so long is finished
HELP = {
    "text": "The text that the model reads; edit it and the picture follows.",
    "stop": "Stop; what was there stays.",
}


class Inspector(Panel):
    """The panels that look inside: the text as tokens, one of them selected, and below it what a subclass draws.

    Args:
        lm: a model, or what ``labkit.load`` takes.
        text: text, ids, or a Trace, whose prompt and new tokens are looked at and whose selection is shared.
        selection: another panel's, to move with it.

    Attributes:
        ids: what the model reads.
        selection: the selected token; panels that share it move together.
        stopped: set when the result is no longer wanted; a long ``look`` asks it now and then, and returns anything.
    """

    def __init__(
        self,
        lm: LanguageModel | str,
        text: str | Sequence[int] | Trace | None = None,
        *,
        selection: Selection | None = None,
    ):
        self._background = Background()
        self._typed = Debounced(lambda: self.run(wait=False), SETTLE_SECONDS)
        super().__init__()
        self.lm = lm if isinstance(lm, LanguageModel) else load(lm)
        self.selection = selection or Selection.of(text if text is not None else "")
        self.ids: list[int] = []
        self._result: Any = None
        self._of_trace: Trace | None = None
        self._of_ids: list[int] | None = None
        words = ""
        if isinstance(text, Trace):
            self._of_trace = text
        elif text is None or isinstance(text, str) or self.lm.tokenizer is None:
            words = shown_prompt(self.lm, text)
        else:  # ids need not be what any text is read as, so they are not put into the box
            self._of_ids = list(text)
        self.text_box = ipw.Textarea(words, rows=2, description="text", style={"description_width": "initial"})
        show(self.text_box, self._of_trace is None and self._of_ids is None)
        self.strip = TokenStrip()
        self._unpainted = False  # a painting failed, of a text that could be read
        self.stopped = threading.Event()
        self._lock = threading.RLock()  # held by whoever paints: a job and a click do, each in its own thread
        self.explain({"text": self.text_box}, HELP)
        self.build()
        self.text_box.observe(lambda _: self._typed(), "value")
        self.strip.observe(lambda _: self._on_strip(), "selected")
        self._follow()
        self.run(wait=False)
        self._wait_for_the_first()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._result!r})"

    # what a subclass says

    def build(self) -> None:
        """Make the controls, explain them, and ``fill`` the panel: ``*self.above()`` first, then its own rows."""
        raise NotImplementedError

    def look(self, ids: list[int]) -> Any:
        """Ask labkit about these ids; in a thread of its own. What comes back is ``result``."""
        raise NotImplementedError

    def paint(self) -> None:
        """Draw ``result`` with the controls and the selection as they are; cheap, since every click does it."""
        raise NotImplementedError

    # what all of them do

    @property
    def result(self) -> Any:
        return self._result

    @property
    def token(self) -> int:
        """Place of the selected token; the last one if none is selected."""
        return self.selection.token if 0 <= self.selection.token < len(self.ids) else len(self.ids) - 1

    @property
    def given(self) -> str | list[int]:
        """What labkit's functions are given to read the same: the text of the box, or ids."""
        if self._of_trace is not None or self._of_ids is not None:
            return self._read()
        return read_prompt(self.lm, self.text_box.value)

    def opening(self) -> str:
        """The first lines of ``code()``: labkit and the model."""
        # A model that never was a file cannot be opened again: the code then goes on from the variable that holds it.
        is_file = self.lm.checkpoint.path.exists()
        opened = f"lm = labkit.load({source_of(self.lm)!r})" if is_file else "# lm is the model you gave to the widget"
        return f"import labkit\nfrom labkit import inspection\n\n{opened}\n"

    def above(self) -> list[ipw.Widget]:
        """The rows that every inspector begins with."""
        return [self.text_box, row("lk-above", self.status, self.help), self.strip]

    def show_trace(self, trace: Trace) -> None:
        """Look at another run from now on, and move with its selection."""
        self._of_trace = trace
        show(self.text_box, False)
        self._follow(Selection.of(trace))
        self.run(wait=False)

    def run(self, wait: bool = True) -> Any:
        """Look at what the box says; with ``wait`` until that is done, and return the result."""
        self._typed.cancel()
        self._background.start(self._look)
        if not wait:
            return None
        self._background.wait()
        return None if self.error else self.result

    def _wait_for_the_first(self) -> None:
        """So that an executed notebook shows something; but who opens a large model can stop it and go on."""
        deadline = time.monotonic() + FIRST_SECONDS
        while self._background.running and time.monotonic() < deadline:
            time.sleep(0.005)

    def close(self) -> None:
        self._typed.cancel()
        self._background.stop()
        super().close()

    def _follow(self, selection: Selection | None = None) -> None:
        """Move with this selection from now on, and no longer with the one before."""
        if selection is not None:
            self.selection.unobserve(self._on_selection, "token")
            self.selection = selection
        self.selection.observe(self._on_selection, "token")

    def _look(self, stopped: threading.Event) -> None:
        self.stopped = stopped
        try:
            ids = self._read()
            result = self.look(ids)
        except Exception as error:  # whatever a model raises belongs in the widget, not in the log
            self.fail(error)
            return
        if stopped.is_set():  # another text or other settings are looked at next
            return
        with self._lock:
            self.ids, self._result, self.error = ids, result, None
        self._say_what_was_read()
        self._draw_strip()
        self.repaint()

    def repaint(self) -> None:
        """Paint again, after a control or the selection moved; what goes wrong is said in the panel."""
        if self._result is None:
            return
        try:
            with self._lock:
                self.paint()
            self.refresh_code()
        except LabkitError as error:
            self.fail(error)
            self._unpainted = True
        else:
            if self._unpainted:  # the control that was in the way has been moved
                self._unpainted, self.error = False, None
                self._say_what_was_read()

    def _say_what_was_read(self) -> None:
        self.status.value = status_html(f"{len(self.ids)} tokens")

    def _read(self) -> list[int]:
        if self._of_trace is not None:
            return [*self._of_trace.prompt_ids, *self._of_trace.ids]
        if self._of_ids is not None:
            return self._of_ids
        return encode_prompt(self.lm, read_prompt(self.lm, self.text_box.value))[0]

    def _draw_strip(self) -> None:
        spans = (
            f'<span data-i={i} title="{i}: {label(piece)}">{in_text(piece)}</span>'
            for i, piece in enumerate(pieces(self.lm, self.ids))
        )
        self.strip.selected = self.token
        self.strip.reset("".join(spans))
        self.strip.settle()

    def _on_strip(self) -> None:
        if self.strip.selected != self.token:
            self.selection.token = self.strip.selected

    def _on_selection(self, _: Any = None) -> None:
        self.strip.selected = self.token
        self.repaint()


def heading(text: str) -> ipw.HTML:
    """A line above a part of a panel."""
    return ipw.HTML(f'<div class="lk"><b>{escape(text)}</b></div>')
