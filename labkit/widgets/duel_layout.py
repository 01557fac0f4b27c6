"""What a duel consists of, and where each part stands. What the parts do is in duel.py."""

from collections.abc import Sequence

import ipywidgets as ipw

from ..settings import Settings
from .controls import HELP as SETTINGS_HELP
from .controls import GenerationControls
from .layout import row, show
from .panel import Panel
from .picker import Picker

OF_B = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")

HELP = {
    **SETTINGS_HELP,
    "a": "The first model; any of the menu can be opened, and the text and the settings stay.",
    "b": "The second model; the same one as A to compare two settings.",
    "differ": "Give B settings of its own; then what the draws see is compared, after all stages.",
    "prompt": "What both continue, with the same luck at every token.",
    "text": "What both read; empty: the prompt and what A writes after it.",
    "compare": "Compare with these settings; a comparison that is still going on is stopped first.",
    "stop": "Stop comparing; what is shown stays.",
    "live": "Compare anew whenever something changes.",
}


class DuelLayout(Panel):
    """The parts of a duel in rows that wrap: a narrow window shows the same in fewer columns."""

    def __init__(self, models: Sequence[str], prompt: str, text: str, settings: Settings, vocab_size: int):
        super().__init__()
        narrow = {"style": {"description_width": "initial"}}
        self.a_menu = ipw.Dropdown(options=list(models), description="A", **narrow)
        self.b_menu = ipw.Dropdown(options=list(models), description="B", **narrow)
        self.prompt_box = ipw.Textarea(prompt, rows=2, description="prompt", **narrow)
        self.text_box = ipw.Textarea(
            text, rows=2, description="text", placeholder="empty: the prompt and what A writes", **narrow
        )
        self.controls = GenerationControls(settings, vocab_size, boxes=("seed", "greedy"))
        self.controls_b = GenerationControls(settings, vocab_size, OF_B, ("seed", "greedy"))
        self.differ = ipw.ToggleButton(description="B draws differently", icon="sliders")
        self.run_button = ipw.Button(description="Compare", icon="play", button_style="primary")
        self.stop_button = ipw.Button(description="Stop", icon="stop", disabled=True)
        self.live = ipw.Checkbox(True, description="live", indent=False)
        self.strip, self.furthest = Picker(), Picker()
        self.ran, self.detail, self.totals, self.course = (ipw.HTML() for _ in range(4))
        of_b = [*self.controls_b.sliders.values(), *self.controls_b.boxes.values()]
        self.of_b = row("lk-sliders", *of_b).add_class("lk-of-b")
        show(self.of_b, False)
        self.differ.observe(lambda change: show(self.of_b, change["new"]), "value")
        self.fill(*self._rows())
        self._explain()

    def _rows(self) -> list[ipw.Widget]:
        boxes = self.controls.boxes
        return [
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
        ]

    def _explain(self) -> None:
        controls = {**self.controls.sliders, **self.controls.boxes}
        controls |= {"new_seed": self.controls.new_seed, "preset": self.controls.preset}
        controls |= {"a": self.a_menu, "b": self.b_menu, "differ": self.differ, "prompt": self.prompt_box}
        controls |= {"text": self.text_box, "compare": self.run_button, "stop": self.stop_button, "live": self.live}
        self.explain(controls, HELP)
        of_b = {**self.controls_b.sliders, **self.controls_b.boxes}
        sentences = {f"b-{name}": f"For B: {HELP[name][0].lower()}{HELP[name][1:]}" for name in of_b}
        self.explain({f"b-{name}": control for name, control in of_b.items()}, sentences)
