"""What the playground consists of, and where each part stands. What the parts do is in generation.py."""

import ipywidgets as ipw

from ..settings import Settings
from ..views import COLOURS
from .controls import HELP as SETTINGS_HELP
from .controls import GenerationControls
from .layout import row
from .panel import Panel
from .panels import legend_html
from .picker import Picker
from .strip import TokenStrip

LIVE_TOKENS = 200  # a run of at most so many tokens follows the sliders
MORE_TOKENS = 100  # so many are added to a text that is continued

HELP = {
    **SETTINGS_HELP,
    "model": "Which model writes: this one, the shipped ones, and one that speaks words; prompt and settings stay.",
    "prompt": "The text that the model continues.",
    "generate": "Write on from the prompt with these settings; a run that is still going on is stopped first.",
    "stop": "Stop writing; what is there stays.",
    "more": f"Go on from the end, by up to {MORE_TOKENS} tokens.",
    "undo": "Back to the text and the settings before.",
    "redo": "Forward again to what was left by Undo.",
    "live": f"Write anew, with the same seed, whenever a setting changes (runs of up to {LIVE_TOKENS} tokens).",
    "colour": "What a token's colour says: the model's probability for it, its surprisal, its rank, or the entropy.",
    "instead": "Another token in place of the selected one: type it, press Enter, and the text goes on from there.",
    "timeline": "Show probability, rank and entropy of all tokens of the run.",
    "open": "Read a file that was saved here: a trace goes on where it was, settings (toml) are taken over.",
    "leave_out": "Take the characters that the model does not know out of the prompt, and generate.",
}


class PlaygroundLayout(Panel):
    """The parts of a playground in rows that wrap: a narrow window shows the same in fewer columns."""

    NOTEBOOK = "10_generate_text.ipynb"
    FILE = "playground.html"

    def __init__(self, models: list[str], prompt: str, settings: Settings, vocab_size: int):
        super().__init__()
        narrow = {"style": {"description_width": "initial"}}
        self.model = ipw.Dropdown(options=models, description="model", **narrow)
        self.prompt_box = ipw.Textarea(prompt, rows=2, description="prompt", **narrow)
        self.controls = GenerationControls(settings, vocab_size)
        self.generate_button = ipw.Button(description="Generate", icon="play", button_style="primary")
        self.stop_button = ipw.Button(description="Stop", icon="stop", disabled=True)
        self.more_button = ipw.Button(description="Continue", icon="forward", disabled=True)
        self.undo_button = ipw.Button(description="Undo", icon="undo", disabled=True)
        self.redo_button = ipw.Button(description="Redo", icon="repeat", disabled=True)
        self.live = ipw.Checkbox(True, description="live", indent=False)
        self.leave_out_button = ipw.Button(description="Leave them out", layout={"display": "none"})
        self.colour = ipw.Dropdown(options=list(COLOURS), description="colour", **narrow)
        self.instead_box = ipw.Combobox(
            description="instead", placeholder="another token", continuous_update=False, disabled=True, **narrow
        )
        self.timeline_button = ipw.ToggleButton(description="Timeline", icon="line-chart")
        self.open_button = ipw.Button(description="Open", icon="folder-open")
        self.strip = TokenStrip(chooses=True)
        self.branches, self.timeline = Picker(), Picker()
        self.branches.add_class("lk-branches")
        self.legend, self.bars = ipw.HTML(legend_html(self.colour.value)), ipw.HTML()
        self.fill(*self._rows(), beside_save=(self.open_button,))
        self.explain(self._explained(), HELP)

    def _rows(self) -> list[ipw.Widget]:
        boxes = self.controls.boxes
        draw = [boxes["seed"], self.controls.new_seed, boxes["greedy"], boxes["use_cache"]]
        writing = [self.generate_button, self.stop_button, self.more_button, self.undo_button, self.redo_button]
        return [
            self.prompt_box,
            row("lk-sliders", *self.controls.sliders.values()),
            row("lk-options", *draw, self.controls.preset, self.colour, self.model),
            row("lk-actions", *writing, self.live, self.help),
            row("lk-above", self.status, self.leave_out_button, self.legend),
            self.strip,
            row("lk-options", self.instead_box, self.timeline_button),
            self.branches,
            self.timeline,
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
            "more": self.more_button,
            "undo": self.undo_button,
            "redo": self.redo_button,
            "live": self.live,
            "colour": self.colour,
            "instead": self.instead_box,
            "timeline": self.timeline_button,
            "open": self.open_button,
            "leave_out": self.leave_out_button,
        }
