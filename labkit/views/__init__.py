"""Views: plain data in, deterministic HTML and text out. Nothing of labkit, no torch and no ipywidgets in here."""

from .answers import what_if, why_not
from .base import View
from .breaks import break_strips
from .heat_map import heat_map
from .lens import lens_grid
from .stages import stage_columns
from .tokens import COLOURS, token_strip

__all__ = [
    "COLOURS",
    "View",
    "break_strips",
    "heat_map",
    "lens_grid",
    "stage_columns",
    "token_strip",
    "what_if",
    "why_not",
]
