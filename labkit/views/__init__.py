"""Views: plain data in, deterministic HTML and text out. Nothing of labkit, no torch and no ipywidgets in here."""

from .base import View
from .stages import stage_bars
from .tokens import COLOURS, token_strip

__all__ = ["COLOURS", "View", "stage_bars", "token_strip"]
