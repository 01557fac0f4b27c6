"""The controls of generation: one slider, box or menu for each setting that people turn, and Settings out of them."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ipywidgets as ipw

from ..settings import DIALECTS, OFF, Settings, off_value, presets, read_table

HELP = {
    "temperature": "Divides the logits: below 1 likely tokens gain, above 1 unlikely ones; 0 is greedy.",
    "top_k": "Only the k most probable tokens may be drawn; 0 switches it off.",
    "top_p": "Only the most probable tokens that together hold this share of the probability may be drawn; 1 is off.",
    "min_p": "Only tokens with at least this share of the likeliest token's probability may be drawn; 0 is off.",
    "repetition_penalty": "Makes tokens that already occurred less likely; 1 is off, below 1 makes them likelier.",
    "frequency_penalty": "Takes this off a token's logit for every time it already occurred; 0 is off.",
    "presence_penalty": "Takes this off the logit of every token that already occurred; 0 is off.",
    "dry_multiplier": "Penalises what would repeat a sequence, the longer the more; 0 is off.",
    "no_repeat_ngram_size": "No run of so many tokens may occur twice; 0 is off.",
    "top_n_sigma": "Only logits within so many standard deviations of the largest may be drawn; 0 is off.",
    "typical_p": "Only the tokens whose surprisal is nearest the average may be drawn, up to this share; 1 is off.",
    "epsilon_cutoff": "Tokens below this probability may not be drawn; 0 is off.",
    "eta_cutoff": "Tokens below a probability that falls with the entropy may not be drawn; 0 is off.",
    "xtc_probability": "So often, all tokens above the threshold but the least of them are removed; 0 is off.",
    "xtc_threshold": "The probability above which XTC removes tokens.",
    "mirostat_tau": "Keeps the surprisal of the text near this many bits; 0 is off.",
    "max_new_tokens": "How many tokens to write at most.",
    "seed": "Names the random draw: the same seed and settings give the same text.",
    "new_seed": "Another random draw.",
    "greedy": "Take the likeliest token that the filters left, every time, instead of drawing one.",
    "use_cache": "Keep what the model computed for earlier tokens: faster, with the same text.",
    "dialect": "Whose rules and order of stages apply: labkit's, or those of another system.",
    "preset": "Settings for a purpose, from configs/generation; the seed stays unless the preset names one.",
}
LABELS = {
    "top_k": "top-k",
    "top_p": "top-p",
    "min_p": "min-p",
    "repetition_penalty": "repetition",
    "frequency_penalty": "frequency",
    "presence_penalty": "presence",
    "dry_multiplier": "DRY",
    "no_repeat_ngram_size": "no n-gram",
    "top_n_sigma": "top-n-sigma",
    "typical_p": "typical",
    "epsilon_cutoff": "epsilon",
    "eta_cutoff": "eta",
    "xtc_probability": "XTC",
    "xtc_threshold": "XTC above",
    "mirostat_tau": "mirostat",
    "max_new_tokens": "length",
}
# From, to and step of each slider; a whole step makes a slider of whole numbers.
SLIDERS: dict[str, tuple[float, float, float]] = {
    "temperature": (0, 2, 0.01),
    "top_k": (0, 200, 1),
    "top_p": (0.01, 1, 0.01),
    "min_p": (0, 0.5, 0.005),
    "repetition_penalty": (0.5, 2, 0.01),
    "frequency_penalty": (-2, 2, 0.05),
    "presence_penalty": (-2, 2, 0.05),
    "dry_multiplier": (0, 2, 0.05),
    "no_repeat_ngram_size": (0, 8, 1),
    "top_n_sigma": (0, 5, 0.05),
    "typical_p": (0.01, 1, 0.01),
    "epsilon_cutoff": (0, 0.2, 0.001),
    "eta_cutoff": (0, 0.2, 0.001),
    "xtc_probability": (0, 1, 0.01),
    "xtc_threshold": (0.01, 0.5, 0.01),
    "mirostat_tau": (0, 10, 0.1),
    "max_new_tokens": (1, 1000, 1),
}
NOT_A_SWITCH = ("xtc_threshold",)  # its labkit value switches nothing off
OF_GENERATION = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")
NO_PRESET = "choose …"


class GenerationControls:
    """Sliders, boxes and menus. ``settings`` reads them and sets them; ``on_change`` is called after every move.

    Settings that no control shows (stop, overflow …) are kept as they were given. What a dialect does not have is
    disabled, and off for as long as that dialect is chosen.

    Attributes:
        every: all of them by their names in HELP.
    """

    def __init__(
        self,
        settings: Settings,
        vocab_size: int,
        sliders: Sequence[str] = OF_GENERATION,
        boxes: Sequence[str] = ("seed", "greedy", "use_cache"),
    ):
        self.sliders: dict[str, Any] = {name: make_slider(name, vocab_size) for name in sliders}
        narrow = {"style": {"description_width": "initial"}}
        every_box: dict[str, Any] = {
            "seed": ipw.IntText(description="seed", **narrow),
            "greedy": ipw.Checkbox(description="greedy", indent=False),
            "use_cache": ipw.Checkbox(description="KV cache", indent=False),
            "dialect": ipw.Dropdown(options=list(DIALECTS), description="dialect", **narrow),
        }
        self.boxes = {name: every_box[name] for name in boxes}
        self.new_seed = ipw.Button(description="new seed", icon="random")
        self.preset = ipw.Dropdown(options=[NO_PRESET, *presets()], description="preset", **narrow)
        self._controls = {**self.sliders, **self.boxes}
        self.every = {**self._controls, "new_seed": self.new_seed, "preset": self.preset}
        self._base, self._seen, self._quiet = settings, dict[str, Any](), False
        self.on_change: Callable[[], None] = lambda: None
        self.settings = settings
        for control in self._controls.values():
            control.observe(self._on_move, "value")
        self.preset.observe(self._on_preset, "value")
        self.new_seed.on_click(lambda _: setattr(self.boxes["seed"], "value", secrets.randbits(31)))

    @property
    def settings(self) -> Settings:
        """What the controls say. ConfigError where they contradict each other."""
        return self._base.replace(**self._values())

    @settings.setter
    def settings(self, settings: Settings) -> None:
        with self._one_change():
            self._base = settings
            for name, control in self._controls.items():
                value = getattr(settings, name)
                value = off_value(name, value) if name in OFF else value
                if name in self.sliders:
                    # A value that the slider does not reach is somebody's wish, not a mistake: the slider makes room.
                    control.min, control.max = min(control.min, value), max(control.max, value)
                control.value = value
            self._seen = self._values()
            self._describe()

    def _values(self) -> dict[str, Any]:
        return {name: self._value(name, control) for name, control in self._controls.items()}

    def _value(self, name: str, control: Any) -> Any:
        """A control's value. A slider in a browser rounds what it is given to its steps; what was given still holds."""
        value, given = control.value, getattr(self._base, name)
        if name not in self.sliders:
            return value
        if not self._has(name):
            return None
        shown = off_value(name, given) if name in OFF else given
        if abs(value - shown) <= control.step / 2:
            return given
        return None if name in OFF and value == OFF[name] else round(value, 4)

    def _has(self, name: str) -> bool:
        """Whether the chosen dialect has this stage at all."""
        dialect = self.boxes["dialect"].value if "dialect" in self.boxes else self._base.dialect
        return name not in OFF or name in DIALECTS[dialect].rules

    @contextmanager
    def _one_change(self) -> Iterator[None]:
        """Several controls are set, nobody is told of each."""
        quiet_before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = quiet_before

    def _on_move(self, _: Any) -> None:
        values = self._values()
        if self._quiet or values == self._seen:
            return
        self._seen = values
        with self._one_change():
            self.preset.value = NO_PRESET
            self._describe()
        self.on_change()

    def _on_preset(self, _: Any) -> None:
        if self._quiet or self.preset.value == NO_PRESET:
            return
        values, _program = read_table(presets()[self.preset.value])
        self.settings = Settings(**{"seed": self.boxes["seed"].value, **values})
        self.on_change()

    def _describe(self) -> None:
        """Say in the label what is switched off."""
        for name, slider in self.sliders.items():
            word = "greedy" if name == "temperature" and slider.value == 0 else None
            off = name in OFF and slider.value == OFF[name] and name not in NOT_A_SWITCH
            word = "off" if off or not self._has(name) else word
            slider.description = LABELS.get(name, name) + (f" · {word}" if word else "")
            slider.disabled = not self._has(name)


def make_slider(name: str, vocab_size: int) -> Any:
    """The slider of one setting."""
    low, high, step = SLIDERS[name]
    wide = {"continuous_update": True, "style": {"description_width": "7.6em"}}
    if isinstance(step, int):
        return ipw.IntSlider(min=low, max=min(vocab_size, high) if name == "top_k" else high, **wide)
    digits = len(str(step).partition(".")[2])
    return ipw.FloatSlider(min=low, max=high, step=step, readout_format=f".{digits}f", **wide)
