"""The demo of LabCore: from, to and step of its sliders, and what it begins with."""

from typing import Any

from ..settings import Settings
from .controls import GenerationControls

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


def demo_controls(settings: Settings | None, vocab_size: int) -> GenerationControls:
    """The demo's controls, with settings within their ranges; LabCore's rules unless others are given."""
    settings = settings or Settings(dialect="labcore", **DEMO_SETTINGS)
    changes: dict[str, Any] = {}
    for name, (low, high, _) in DEMO_SLIDERS.items():
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:
            changes[name] = min(max(value, low), high)
    controls = GenerationControls(settings.replace(**changes), vocab_size, tuple(DEMO_SLIDERS), ("use_cache",))
    for name, (low, high, step) in DEMO_SLIDERS.items():
        slider = controls.sliders[name]
        slider.min, slider.max, slider.step = low, high, step
    return controls
