"""Views: plain data in, deterministic HTML and text out. Nothing of labkit, no torch and no ipywidgets in here."""

from .answers import what_if, why_not
from .base import View
from .branches import branch_tree
from .breaks import break_strips
from .cache_map import cache_map
from .comparison import comparison_strip
from .heads import attention_grid, head_grid
from .heat_map import heat_map
from .lens import lens_grid
from .patterns import head_pattern
from .saving import save
from .stages import stage_columns
from .timeline import run_timeline
from .together import side_by_side, stack
from .tokens import COLOURS, token_strip
from .trajectories import checkpoint_trajectory, trajectories

__all__ = [
    "COLOURS",
    "View",
    "attention_grid",
    "branch_tree",
    "break_strips",
    "cache_map",
    "checkpoint_trajectory",
    "comparison_strip",
    "head_grid",
    "head_pattern",
    "heat_map",
    "lens_grid",
    "run_timeline",
    "save",
    "side_by_side",
    "stack",
    "stage_columns",
    "token_strip",
    "trajectories",
    "what_if",
    "why_not",
]
