"""What the microscope consists of, and where each part stands. What the parts do is in microscope.py."""

import ipywidgets as ipw

from ..settings import Settings
from .controls import HELP as SETTINGS_HELP
from .controls import SLIDERS, GenerationControls
from .layout import row
from .panel import Panel
from .strip import TokenStrip

WITH_STRIPS = ("temperature", "top_k", "top_p", "min_p")
MORE = tuple(name for name in SLIDERS if name not in (*WITH_STRIPS, "max_new_tokens"))

HELP = {
    **SETTINGS_HELP,
    "undo": "Back to the settings before the last change.",
    "recorded": "Back to the settings of the recorded draw.",
    "more": "Show the sliders of the stages that are used less often.",
    "why": "Why was a token not chosen? Type it and press Enter.",
}


class MicroscopeLayout(Panel):
    """The parts of a microscope in rows that wrap: a narrow window shows the same in fewer columns."""

    NOTEBOOK = "11_sampling_stages.ipynb"
    FILE = "microscope.html"

    def __init__(self, settings: Settings, vocab_size: int, several: bool, fixed: bool):
        super().__init__()
        self.controls = GenerationControls(settings, vocab_size, (*WITH_STRIPS, *MORE), ("seed", "greedy", "dialect"))
        self.controls.new_seed.description = "new draw"
        self.strips = {name: ipw.HTML() for name in WITH_STRIPS}
        self.undo_button = ipw.Button(description="Undo", icon="undo", disabled=True)
        self.recorded_button = ipw.Button(description="As recorded", icon="history", disabled=True)
        self.more_button = ipw.ToggleButton(description="More stages", icon="sliders")
        narrow = {"description_width": "initial"}
        self.why_box = ipw.Combobox(description="why not", placeholder="a token", continuous_update=False, style=narrow)
        self.strip = TokenStrip()
        self.columns, self.compared, self.why = (ipw.HTML() for _ in range(3))
        self.more = row("lk-sliders", *(self.controls.sliders[name] for name in MORE))
        self.fill(*self._rows(several, fixed))
        self.explain(self._explained(), HELP)

    def _rows(self, several: bool, fixed: bool) -> list[ipw.Widget]:
        sliders, boxes = self.controls.sliders, self.controls.boxes
        with_strips = [row("lk-with-strip", sliders[name], self.strips[name]) for name in WITH_STRIPS]
        draw = [boxes["seed"], self.controls.new_seed, boxes["greedy"], boxes["dialect"], self.controls.preset]
        settings = [
            row("lk-sliders", *with_strips).add_class("lk-wide"),
            self.more,
            row("lk-options", *draw),
        ]
        actions = [self.undo_button, self.recorded_button, self.more_button]
        return [
            *[self.strip] * several,
            *settings * (not fixed),
            row("lk-actions", *actions * (not fixed), self.help),
            self.status,
            self.columns,
            self.compared,
            row("lk-options", self.why_box),
            self.why,
        ]

    def _explained(self) -> dict[str, ipw.DOMWidget]:
        """Every control by its name in HELP."""
        return {
            **self.controls.sliders,
            **self.controls.boxes,
            "new_seed": self.controls.new_seed,
            "preset": self.controls.preset,
            "undo": self.undo_button,
            "recorded": self.recorded_button,
            "more": self.more_button,
            "why": self.why_box,
        }
