"""RunScreen: a run as one sees it. Its tokens, how the selected one was chosen, and all of them as a timeline."""

import threading
from collections.abc import Callable

import ipywidgets as ipw

from .. import views
from ..errors import LabkitError
from ..generation import BranchTree
from ..views import COLOURS, View
from ..views.base import visible
from ..views.tokens import card_html, prompt_html, token_html
from . import facts
from .controls import GenerationControls
from .facts import pieces
from .facts.base import CARD_ALTERNATIVES
from .layout import show
from .panels import error_html, error_message, legend_html, stages_view
from .picker import Picker
from .recording import Recording
from .selection import Selection
from .strip import TokenStrip

PROMPT_SHOWN = 400  # tokens of a long prompt that stand in front of the text
HELP = {
    "colour": "What a token's colour says: the model's probability for it, its surprisal, its rank, or the entropy.",
    "instead": "Another token in place of the selected one: type it, press Enter, and the text goes on from there.",
    "timeline": "Show probability, rank and entropy of all tokens of the run.",
}


class RunScreen:
    """Paints one recording at a time, from whichever thread, and the tree that it is a branch of.

    Attributes:
        recording: the one that is shown.
        choose: called with the index of a token and what somebody wants there instead, an id or text; whether it is
            accepted.
        go: called with the node of the tree that somebody wants to see.
        selection: the selected token; other panels of the same trace share it.
        lock: held by whoever paints: a run, a slider and a click do, each in its own thread.
    """

    def __init__(self, controls: GenerationControls):
        narrow = {"style": {"description_width": "initial"}}
        self.recording: Recording | None = None
        self.selection = Selection()
        self.lock = threading.RLock()
        self.choose: Callable[[int, int | str], bool] = lambda index, token: False
        self.go: Callable[[int], object] = lambda node: None
        self._controls = controls
        self._painted = 0  # how many of its tokens are on the screen
        self._shared: Recording | None = None  # whose selection it is
        self.strip, self.bars, self.branches, self.timeline = TokenStrip(chooses=True), ipw.HTML(), Picker(), Picker()
        self.branches.add_class("lk-branches")
        self.colour = ipw.Dropdown(options=list(COLOURS), description="colour", **narrow)
        self.legend = ipw.HTML(legend_html(self.colour.value))
        self.instead_box = ipw.Combobox(
            description="instead", placeholder="another token", continuous_update=False, disabled=True, **narrow
        )
        self.timeline_button = ipw.ToggleButton(description="Timeline", icon="line-chart")
        self.explained = {"colour": self.colour, "instead": self.instead_box, "timeline": self.timeline_button}
        self.strip.card, self.strip.choose = self._card, self._on_choice
        self.strip.observe(lambda _: self._on_select(), "selected")
        self.instead_box.observe(lambda change: self._on_instead(change["new"]), "value")
        self.branches.observe(lambda change: self._on_branch(change["new"]), "picked")
        self.timeline.observe(lambda change: self._on_timeline(change["new"]), "picked")
        self.timeline_button.observe(lambda _: self._paint_timeline(), "value")
        self.colour.observe(lambda _: self.repaint(), "value")

    @property
    def token(self) -> int:
        """The selected token of the text, the last one if that is not there; -1 if there is none."""
        n = len(self.recording.tokens) if self.recording is not None else 0
        return min(self.strip.selected, n - 1)

    def view(self) -> View | None:
        """The text with the stages of the selected token; None as long as there is none."""
        recording = self.recording
        if recording is None or not recording.tokens:
            return None
        tokens = [{name: token[name] for name in token if name != "alternatives"} for token in recording.tokens]
        prompt = pieces(recording.lm, recording.prompt_ids[-PROMPT_SHOWN:])
        strip = views.token_strip(tokens, prompt=prompt, colour=self.colour.value)
        return views.stack([strip, stages_view(recording, self.token, self._controls.settings)])

    # painting

    def grow(self, recording: Recording) -> None:
        """Show the tokens that are not on the screen yet, and only those."""
        with self.lock:
            if recording is not self.recording:
                self.recording, self._painted = recording, 0
                self.strip.reset(_prompt_html(recording))
            start, self._painted = self._painted, len(recording.tokens)
            if html := self._tokens_html(start):
                self.strip.append(html)
            if start <= self.strip.selected < self._painted:
                self._paint_stages()

    def repaint(self, recording: Recording | None = None) -> None:
        """All tokens again: in other colours, or of another recording."""
        with self.lock:
            self.legend.value = legend_html(self.colour.value)
            self.recording = recording = recording or self.recording
            if recording is not None:
                self._painted = len(recording.tokens)
                self.strip.reset(_prompt_html(recording) + self._tokens_html(0))
                self.strip.settle()

    def paint(self) -> None:
        """Other settings, or another token selected."""
        with self.lock:
            self._paint_stages()
            self._paint_timeline()

    def paint_tree(self, tree: BranchTree | None) -> None:
        """The tree, as soon as there is more than one thing in it."""
        several = tree is not None and len(tree.nodes) > 1
        show(self.branches, several)
        if tree is not None and several and self.recording is not None:
            self.branches.html = views.branch_tree(**facts.branch_tree(tree, self.recording.lm)).html
            self.branches.picked = str(tree.current)

    def _tokens_html(self, start: int) -> str:
        tokens = self.recording.tokens[start : self._painted] if self.recording is not None else []
        return "".join(token_html(token, self.colour.value, token["index"]) for token in tokens)

    def _paint_stages(self) -> None:
        recording = self.recording
        if recording is None or not recording.tokens:
            return
        # A token that is still to come is waited for; when none is to come, the last one takes its place.
        if self.strip.selected >= len(recording.tokens) and not recording.ended:
            return
        try:
            self.bars.value = stages_view(recording, self.token, self._controls.settings).html
            near = recording.alternative_ids(self.token)
            self.instead_box.options = [visible(piece) for piece in pieces(recording.lm, near)]
        except LabkitError as error:  # controls that contradict each other
            self.bars.value = error_html(error_message(error))

    def _paint_timeline(self) -> None:
        with self.lock:
            recording = self.recording
            wanted = self.timeline_button.value and recording is not None and bool(recording.tokens)
            show(self.timeline, wanted)
            if wanted and recording is not None and recording.ended:
                self.timeline.html = views.run_timeline(recording.tokens, selected=self.token).html
                self.timeline.picked = str(self.token)

    def _card(self, index: int) -> str:
        """What else one token could have been."""
        recording = self.recording
        if recording is None or index >= len(recording.tokens):
            return ""
        return card_html(recording.token(index), CARD_ALTERNATIVES + 1)

    # the selected token, here and in other panels

    def follow(self, recording: Recording) -> None:
        """Move with all panels that look at this run, which has ended."""
        self.selection.unobserve(self._on_selection, "token")
        self.selection, self._shared = Selection.of(recording.trace), recording
        self.selection.observe(self._on_selection, "token")
        if self.selection.token < 0:
            self._share()
        else:
            self._on_selection()
        self.paint()

    def _share(self) -> None:
        """Tell the other panels which token is selected here."""
        if self.recording is not None and self.recording is self._shared and self.token >= 0:
            self.selection.token = len(self.recording.prompt_ids) + self.token

    def _on_select(self) -> None:
        self.paint()
        self._share()

    def _on_selection(self, _: object = None) -> None:
        if (recording := self.recording) is None or recording is not self._shared:
            return
        index = self.selection.token - len(recording.prompt_ids)
        if 0 <= index < len(recording.tokens) and index != self.token:
            self.strip.selected = index

    # what somebody clicks

    def _on_timeline(self, step: str) -> None:
        if step:
            self.strip.selected = int(step)

    def _on_branch(self, node: str) -> None:
        if node:
            self.go(int(node))

    def _on_choice(self, index: int, line: int) -> None:
        recording = self.recording
        if recording is None or not 0 <= index < len(recording.tokens):
            return
        ids = recording.alternative_ids(index)
        if 0 <= line < len(ids) and ids[line] != recording.steps[index].id:
            self.choose(index, ids[line])

    def _on_instead(self, text: str) -> None:
        if text and self.token >= 0 and self.choose(self.token, text):
            self.instead_box.value = ""


def _prompt_html(recording: Recording) -> str:
    hidden = [""] * (len(recording.prompt_ids) - PROMPT_SHOWN)  # what is not shown need not be looked up
    return prompt_html([*hidden, *pieces(recording.lm, recording.prompt_ids[-PROMPT_SHOWN:])], PROMPT_SHOWN)
