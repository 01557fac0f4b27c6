"""What a playground shows: it follows from the recording, the controls and the selected token."""

import threading
import time
from collections.abc import Sequence

from .. import views
from ..errors import LabkitError
from ..language_model import LanguageModel
from ..settings import Settings
from ..views import View
from ..views.base import visible
from ..views.tokens import card_html, prompt_html, token_html
from . import facts
from .facts import pieces
from .facts.base import CARD_ALTERNATIVES
from .history import History
from .layout import show
from .panels import (
    context_notes,
    error_html,
    error_message,
    first_choice_view,
    legend_html,
    run_facts,
    stages_view,
    status_html,
)
from .playground_layout import PlaygroundLayout
from .prompt import read_prompt, without_unknown
from .recording import Recording

STALE = "Written with other settings: press Generate."
COUNT_SECONDS = 0.25  # while it writes the count of tokens is renewed that often; the tokens come faster
PROMPT_SHOWN = 400  # tokens of a long prompt that stand in front of the text


class PlaygroundScreen(PlaygroundLayout):
    """Paints; whoever calls it may come from any thread.

    Attributes:
        history: what was written so far.
    """

    def __init__(self, lm: LanguageModel, models: list[str], prompt: str, settings: Settings):
        self.lm, self.history = lm, History()
        self._recording: Recording | None = None  # the one on the screen
        self._painted = 0  # how many of its tokens are
        self._writing = False
        self._counted_at = 0.0
        self._lock = threading.RLock()  # held by whoever paints: a run, a slider and a click do, each in its own thread
        super().__init__(models, prompt, settings, lm.vocab_size)

    @property
    def settings(self) -> Settings:  # type: ignore[override]
        """What the controls say."""
        return self.controls.settings

    @property
    def prompt(self) -> str | list[int]:
        """What stands in the box: text, or ids if the model has no tokenizer."""
        return read_prompt(self.lm, self.prompt_box.value)

    @property
    def token(self) -> int:
        """The selected token of the text, the last one if that is not there; -1 if there is none."""
        n = len(self._recording.tokens) if self._recording is not None else 0
        return min(self.strip.selected, n - 1)

    def view(self) -> View | None:
        """The text with the stages of the selected token; before the first run those of the token to come."""
        recording = self._recording
        if recording is None or not recording.tokens:
            return first_choice_view(self.lm, self.prompt, self.settings) if self.prompt_box.value else None
        tokens = [{name: token[name] for name in token if name != "alternatives"} for token in recording.tokens]
        prompt = pieces(recording.lm, recording.prompt_ids[-PROMPT_SHOWN:])
        strip = views.token_strip(tokens, prompt=prompt, colour=self.colour.value)
        return views.stack([strip, stages_view(recording, self.token, self.settings)])

    def fail(self, error: Exception) -> None:
        self.error = error_message(error)
        self.paint_around()

    # the parts

    def paint_new(self, recording: Recording) -> None:
        """Show the tokens that are not on the screen yet, and only those."""
        with self._lock:
            fresh = recording is not self._recording
            if fresh:
                self._recording, self._painted = recording, 0
            start, self._painted = self._painted, len(recording.tokens)
            html = self._tokens_html(recording, start)
            if fresh:
                self.strip.reset(_prompt_html(recording) + html)
            elif html:
                self.strip.append(html)
            if start <= self.strip.selected < self._painted:
                self._paint_stages()
            if fresh or not self._writing or time.monotonic() - self._counted_at >= COUNT_SECONDS:
                self.paint_around()
                self._counted_at = time.monotonic()

    def paint_tokens(self) -> None:
        """All tokens again: in other colours, or of another recording."""
        with self._lock:
            self.legend.value = legend_html(self.colour.value)
            if (recording := self._recording) is not None:
                self._painted = len(recording.tokens)
                self.strip.reset(_prompt_html(recording) + self._tokens_html(recording, 0))
                self.strip.settle()

    def paint(self) -> None:
        """Other settings, or another token selected."""
        with self._lock:
            self._paint_stages()
            self._paint_timeline()
            self.paint_around()

    def paint_branches(self) -> None:
        """The tree, as soon as there is more than one thing in it."""
        with self._lock:
            tree = self.history.tree
            several = tree is not None and len(tree.nodes) > 1
            show(self.branches, several)
            if tree is not None and several:
                self.branches.html = views.branch_tree(**facts.branch_tree(tree, self.lm)).html
                self.branches.picked = str(tree.current)
            self.undo_button.disabled, self.redo_button.disabled = (
                not self.history.can_undo,
                not self.history.can_redo,
            )

    def paint_around(self) -> None:
        """The line of status, what can be done now, and the code if it is open."""
        with self._lock:
            recording, text = self._recording, self.prompt_box.value
            if self.error is not None:
                self.status.value = error_html(self.error)
            elif recording is not None:
                self.status.value = self._status_html(recording)
            empty = recording is None or not recording.tokens
            self.stop_button.disabled = not self._writing
            self.more_button.disabled = self.instead_box.disabled = empty
            show(self.leave_out_button, self.error is not None and without_unknown(self.lm, text) != text)
            self.refresh_code()

    def card(self, index: int) -> str:
        """What else one token could have been."""
        recording = self._recording
        if recording is None or index >= len(recording.tokens):
            return ""
        return card_html(recording.token(index), CARD_ALTERNATIVES + 1)

    def _tokens_html(self, recording: Recording, start: int) -> str:
        tokens = recording.tokens[start : self._painted]
        return "".join(token_html(token, self.colour.value, token["index"]) for token in tokens)

    def _paint_stages(self) -> None:
        recording = self._recording
        if recording is None or not recording.tokens:
            return
        # A token that is still to come is waited for; when none is to come, the last one takes its place.
        if self.strip.selected >= len(recording.tokens) and self._writing:
            return
        try:
            self.bars.value = stages_view(recording, self.token, self.settings).html
            near = recording.alternative_ids(self.token)
            self.instead_box.options = [visible(piece) for piece in pieces(recording.lm, near)]
        except LabkitError as error:  # controls that contradict each other
            self.bars.value = error_html(error_message(error))

    def _paint_timeline(self) -> None:
        recording = self._recording
        wanted = self.timeline_button.value and recording is not None and bool(recording.tokens)
        show(self.timeline, wanted)
        if wanted and recording is not None and not self._writing:
            self.timeline.html = views.run_timeline(recording.tokens, selected=self.token).html
            self.timeline.picked = str(self.token)

    def _status_html(self, recording: Recording) -> str:
        hint = STALE if self._settled() and self._stale(recording) else ""
        notes: Sequence[str] = (*recording.lm.checkpoint.notes, *recording.run.notes, *context_notes(recording))
        return status_html(run_facts(recording, self._writing), hint, notes)

    def _settled(self) -> bool:
        """Whether nothing is going to be written by itself."""
        return not self._writing

    def _stale(self, recording: Recording) -> bool:
        """Whether the controls say something else than the text was written with."""
        try:
            return (self.prompt, self.settings) != (recording.prompt, recording.settings)
        except LabkitError:
            return True


def _prompt_html(recording: Recording) -> str:
    hidden = [""] * (len(recording.prompt_ids) - PROMPT_SHOWN)  # what is not shown need not be looked up
    return prompt_html([*hidden, *pieces(recording.lm, recording.prompt_ids[-PROMPT_SHOWN:])], PROMPT_SHOWN)
