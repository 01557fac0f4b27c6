"""What the playground consists of, and where each part stands. What the parts do is in generation.py."""

import ipywidgets as ipw

from ..settings import Settings
from ..views import COLOURS
from .code import CodeBox
from .controls import HELP as SETTINGS_HELP
from .controls import GenerationControls
from .help import HelpLine
from .panels import legend_html
from .strip import TokenStrip

LIVE_TOKENS = 200  # a run of at most so many tokens follows the sliders

HELP = {
    **SETTINGS_HELP,
    "model": "Which model writes: this one, the shipped ones, and one that speaks words; prompt and settings stay.",
    "prompt": "The text that the model continues.",
    "generate": "Write on from the prompt with these settings; a run that is still going on is stopped first.",
    "stop": "Stop writing; what is there stays.",
    "live": f"Write anew, with the same seed, whenever a setting changes (runs of up to {LIVE_TOKENS} tokens).",
    "colour": "What a token's colour says: the model's probability for it, its surprisal, its rank, or the entropy.",
    "code": "Show these settings as Python code that gives the same text.",
    "leave_out": "Take the characters that the model does not know out of the prompt, and generate.",
}


class PlaygroundLayout(ipw.VBox):
    """The parts of a playground in rows that wrap: a narrow window shows the same in fewer columns."""

    def __init__(self, models: list[str], prompt: str, settings: Settings, vocab_size: int):
        narrow = {"style": {"description_width": "initial"}}
        self.model = ipw.Dropdown(options=models, description="model", **narrow)
        self.prompt_box = ipw.Textarea(prompt, rows=2, description="prompt", **narrow)
        self.controls = GenerationControls(settings, vocab_size)
        self.generate_button = ipw.Button(description="Generate", icon="play", button_style="primary")
        self.stop_button = ipw.Button(description="Stop", icon="stop", disabled=True)
        self.live = ipw.Checkbox(True, description="live", indent=False)
        self.code_button = ipw.ToggleButton(description="Copy as code", icon="code")
        self.leave_out_button = ipw.Button(description="Leave them out", layout={"display": "none"})
        self.colour = ipw.Dropdown(options=list(COLOURS), description="colour", **narrow)
        self.help, self.code, self.strip = HelpLine(), CodeBox(layout={"display": "none"}), TokenStrip()
        self.status, self.legend, self.bars = ipw.HTML(), ipw.HTML(legend_html(self.colour.value)), ipw.HTML()
        super().__init__(self._rows())
        self.add_class("lk-playground")
        for name, control in self._explained().items():
            self.help.explain(name, control, HELP[name])

    def _rows(self) -> list[ipw.Widget]:
        boxes = self.controls.boxes
        draw = [boxes["seed"], self.controls.new_seed, boxes["greedy"], boxes["use_cache"]]
        actions = [self.generate_button, self.stop_button, self.live, self.code_button]
        return [
            self.prompt_box,
            row("lk-sliders", *self.controls.sliders.values()),
            row("lk-options", *draw, self.controls.preset, self.colour, self.model),
            row("lk-actions", *actions, self.help),
            self.code,
            row("lk-above", self.status, self.leave_out_button, self.legend),
            self.strip,
            self.bars,
        ]

    def _explained(self) -> dict[str, ipw.DOMWidget]:
        """Every control by its name in HELP."""
        return {
            **self.controls.sliders,
            **self.controls.boxes,
            "model": self.model,
            "new_seed": self.controls.new_seed,
            "preset": self.controls.preset,
            "prompt": self.prompt_box,
            "generate": self.generate_button,
            "stop": self.stop_button,
            "live": self.live,
            "colour": self.colour,
            "code": self.code_button,
            "leave_out": self.leave_out_button,
        }


def row(name: str, *parts: ipw.Widget) -> ipw.Box:
    """Parts side by side; ``name`` is the CSS class that says how (widgets.css)."""
    box = ipw.Box(parts)
    box.add_class(name)
    return box


def show(widget: ipw.DOMWidget, visible: bool) -> None:
    widget.layout.display = "" if visible else "none"
