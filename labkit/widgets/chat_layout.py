"""What a chat consists of, and where each part stands. What the parts do is in chat.py."""

from collections.abc import Sequence
from typing import Any

import ipywidgets as ipw

from ..settings import Settings
from ..views import COLOURS
from .controls import HELP as SETTINGS_HELP
from .controls import GenerationControls
from .layout import row
from .message import MessageBox
from .panel import Panel
from .panels import legend_html
from .transcript import TranscriptStrip

MOST_HISTORY = 20  # exchanges on the slider; one more is all of them
HELP = {
    **SETTINGS_HELP,
    "message": "What you say: Enter sends it, Shift+Enter begins a new line, the up arrow fetches your last message.",
    "system": "Text in front of everything that is said; empty for none.",
    "template": "How turns are written for the model; only templates that its tokenizer can write are listed.",
    "history": "Earlier exchanges that a prompt may hold: all, as far as there is room, or so many at most.",
    "stop": "Stop writing; what is there stays.",
    "retry": "Another answer to the selected message, or to the last one, with the next seed.",
    "edit": "Take the selected message, or the last one, back into the box; what you send then replaces it.",
    "undo": "Back to the conversation as it was before the last change; nothing is ever lost.",
    "redo": "Forward again.",
    "clear": "Begin anew; the system text stays, and Undo brings back what was said.",
    "seen": "Show the next prompt as the model will get it: the template's marks, and what was said.",
    "colour": "What a token's colour says: the model's probability for it, its surprisal, its rank, or the entropy.",
    "open": "Go on with the conversation in this file (json), also one that labkit chat saved.",
    "leave_out": "Take the characters that the model does not know out of the message, and send it.",
    "stream": "Show the answer while it is written, not only when it is finished.",
}
SLIDERS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")
# The demo of LabCore: from, to and step of its sliders, and what it begins with.
DEMO_SLIDERS: dict[str, tuple[float, float, float]] = {
    "temperature": (0.1, 2.0, 0.05),
    "top_k": (0, 200, 1),
    "top_p": (0.1, 1.0, 0.01),
    "repetition_penalty": (1.0, 2.0, 0.01),
    "max_new_tokens": (8, 512, 8),
}
DEMO_SETTINGS: dict[str, Any] = {
    "temperature": 0.9,
    "top_k": 40,
    "top_p": 0.95,
    "repetition_penalty": 1.0,
    "max_new_tokens": 160,
}


def demo_settings(settings: Settings | None) -> Settings:
    """The demo's settings, each within its slider's range; LabCore's rules unless others are given."""
    settings = settings or Settings(dialect="labcore", **DEMO_SETTINGS)
    changes: dict[str, Any] = {}
    for name, (low, high, _) in DEMO_SLIDERS.items():
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            changes[name] = min(max(value, low), high)
    return settings.replace(**changes)


class ChatLayout(Panel):
    """The parts of a chat in rows that wrap: the conversation, the box below it, and below that what can be set.

    The demo has the controls of LabCore's, and nothing that reads or writes files where it runs.
    """

    FILE = "chat.json"

    def __init__(
        self,
        settings: Settings,
        vocab_size: int,
        templates: Sequence[str],
        system: str,
        history: int | None,
        demo: bool,
    ):
        super().__init__()
        narrow = {"style": {"description_width": "initial"}}
        self.demo = demo
        boxes = ("use_cache",) if demo else ("seed", "greedy", "use_cache")
        self.controls = GenerationControls(settings, vocab_size, tuple(DEMO_SLIDERS) if demo else SLIDERS, boxes)
        self.message, self.strip = MessageBox(), TranscriptStrip()
        self.system_box = ipw.Textarea(system, rows=1, description="system", **narrow)
        self.template = ipw.Dropdown(options=list(templates), description="template", **narrow)
        self.history = ipw.IntSlider(min=0, max=MOST_HISTORY, readout=demo, style={"description_width": "7.6em"})
        self.history_bound = history
        self.stream = ipw.Checkbox(True, description="stream", indent=False)
        self.stop_button = ipw.Button(description="Stop", icon="stop", disabled=True)
        self.retry_button = ipw.Button(description="Retry", icon="refresh")
        self.edit_button = ipw.Button(description="Edit", icon="pencil")
        self.undo_button = ipw.Button(description="Undo", icon="undo")
        self.redo_button = ipw.Button(description="Redo", icon="repeat")
        self.clear_button = ipw.Button(description="Clear", icon="trash")
        self.seen_button = ipw.ToggleButton(description="As the model sees it", icon="eye")
        self.leave_out_button = ipw.Button(description="Leave them out", layout={"display": "none"})
        self.open_button = ipw.Button(description="Open", icon="folder-open")
        self.colour = ipw.Dropdown(options=list(COLOURS), description="colour", **narrow)
        self.legend, self.seen = ipw.HTML(legend_html(self.colour.value)), ipw.HTML(layout={"display": "none"})
        if demo:
            self._lay_out_demo()
        else:
            self._lay_out()
        self.explain(self._explained(), HELP)

    @property
    def history_bound(self) -> int | None:
        """Earlier exchanges that a prompt may hold; None: all, which is the end of the slider, but not in the demo."""
        return None if not self.demo and self.history.value == self.history.max else self.history.value

    @history_bound.setter
    def history_bound(self, bound: int | None) -> None:
        self.history.max = max(MOST_HISTORY, bound or 0) + (not self.demo)
        self.history.value = self.history.max if bound is None else max(0, bound)

    def _lay_out(self) -> None:
        boxes = self.controls.boxes
        changes = [self.retry_button, self.edit_button, self.undo_button, self.redo_button, self.clear_button]
        draw = [boxes["seed"], self.controls.new_seed, boxes["greedy"], boxes["use_cache"]]
        self.fill(
            row("lk-above", self.status, self.leave_out_button, self.legend),
            self.strip,
            self.message,
            row("lk-actions", self.stop_button, *changes, self.seen_button, self.help),
            self.seen,
            self.system_box,
            row("lk-sliders", *self.controls.sliders.values(), self.history),
            row("lk-options", *draw, self.controls.preset, self.template, self.colour),
        )
        *rows, take_away, code_box = self.children
        *before, saved = take_away.children
        take_away.children = (*before, self.open_button, saved)
        self.children = (*rows, take_away, code_box)

    def _lay_out_demo(self) -> None:
        self.children = (
            row("lk-above", self.status, self.leave_out_button, self.legend),
            self.strip,
            self.message,
            row("lk-actions", self.stop_button, self.clear_button, self.help),
            self.system_box,
            row("lk-sliders", *self.controls.sliders.values(), self.history),
            row("lk-options", self.controls.boxes["use_cache"], self.stream),
        )
        for name, (low, high, step) in DEMO_SLIDERS.items():
            slider = self.controls.sliders[name]
            slider.min, slider.max, slider.step = low, high, step

    def _explained(self) -> dict[str, ipw.DOMWidget]:
        """Every control by its name in HELP."""
        return {
            **self.controls.sliders,
            **self.controls.boxes,
            "new_seed": self.controls.new_seed,
            "preset": self.controls.preset,
            "message": self.message,
            "system": self.system_box,
            "template": self.template,
            "history": self.history,
            "stop": self.stop_button,
            "retry": self.retry_button,
            "edit": self.edit_button,
            "undo": self.undo_button,
            "redo": self.redo_button,
            "clear": self.clear_button,
            "seen": self.seen_button,
            "colour": self.colour,
            "open": self.open_button,
            "leave_out": self.leave_out_button,
            "stream": self.stream,
        }
