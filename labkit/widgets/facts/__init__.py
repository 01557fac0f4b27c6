"""From labkit's results to the plain data that views draw.

Each function is named after its view: ``views.stage_columns(**facts.stage_columns(trace, lm))``.
"""

from .answers import break_strips, what_if, why_not
from .base import HasPieces, Source, alternatives, named, pieces
from .inside import attention_grid, cache_map, head_grid, head_pattern, trajectories
from .runs import branch_tree, checkpoint_trajectory, comparison_strip, run_timeline
from .stages import Scores, noise, stage_columns

__all__ = [
    "HasPieces",
    "Scores",
    "Source",
    "alternatives",
    "attention_grid",
    "branch_tree",
    "break_strips",
    "cache_map",
    "checkpoint_trajectory",
    "comparison_strip",
    "head_grid",
    "head_pattern",
    "named",
    "noise",
    "pieces",
    "run_timeline",
    "stage_columns",
    "trajectories",
    "what_if",
    "why_not",
]
