"""The controls of generation: one slider, box or menu for each setting that people turn, and Settings out of them."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets as ipw

from ..settings import OFF, Settings, off_value, presets, read_table

HELP = {
    "temperature": "Divides the logits: below 1 likely tokens gain, above 1 unlikely ones; 0 is greedy.",
    "top_k": "Only the k most probable tokens may be drawn; 0 switches it off.",
    "top_p": "Only the most probable tokens that together hold this share of the probability may be drawn; 1 is off.",
    "min_p": "Only tokens with at least this share of the likeliest token's probability may be drawn; 0 is off.",
    "repetition_penalty": "Makes tokens that already occurred less likely; 1 is off, below 1 makes them likelier.",
    "max_new_tokens": "How many tokens to write at most.",
    "seed": "Names the random draw: the same seed and settings give the same text.",
    "new_seed": "Another random draw.",
    "greedy": "Take the likeliest token that the filters left, every time, instead of drawing one.",
    "use_cache": "Keep what the model computed for earlier tokens: faster, with the same text.",
    "preset": "Settings for a purpose, from configs/generation; the seed stays unless the preset names one.",
}
LABELS = {
    "temperature": "temperature",
    "top_k": "top-k",
    "top_p": "top-p",
    "min_p": "min-p",
    "repetition_penalty": "repetition",
    "max_new_tokens": "length",
}
NO_PRESET = "choose …"


class GenerationControls:
    """Sliders, boxes and menus. ``settings`` reads them and sets them; ``on_change`` is called after every move.

    Settings that no control shows (stop, overflow …) are kept as they were given.
    """

    def __init__(self, settings: Settings, vocab_size: int):
        wide = {"continuous_update": True, "style": {"description_width": "7.6em"}}
        self.sliders: dict[str, Any] = {
            "temperature": ipw.FloatSlider(min=0, max=2, step=0.01, readout_format=".2f", **wide),
            "top_k": ipw.IntSlider(min=0, max=min(vocab_size, 200), **wide),
            "top_p": ipw.FloatSlider(min=0.01, max=1, step=0.01, readout_format=".2f", **wide),
            "min_p": ipw.FloatSlider(min=0, max=0.5, step=0.005, readout_format=".3f", **wide),
            "repetition_penalty": ipw.FloatSlider(min=0.5, max=2, step=0.01, readout_format=".2f", **wide),
            "max_new_tokens": ipw.IntSlider(min=1, max=1000, **wide),
        }
        self.boxes: dict[str, Any] = {
            "seed": ipw.IntText(description="seed", style={"description_width": "initial"}),
            "greedy": ipw.Checkbox(description="greedy", indent=False),
            "use_cache": ipw.Checkbox(description="KV cache", indent=False),
        }
        self.new_seed = ipw.Button(description="new seed", icon="random")
        self.preset = ipw.Dropdown(
            options=[NO_PRESET, *presets()], description="preset", style={"description_width": "initial"}
        )
        self._controls = {**self.sliders, **self.boxes}
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
        given = off_value(name, given) if name in OFF else given
        return given if abs(value - given) <= control.step / 2 else round(value, 4)

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
            word = "off" if name in OFF and slider.value == OFF[name] else word
            slider.description = LABELS[name] + (f" · {word}" if word else "")
