"""From labkit's results to the plain data that views draw.

Each function is named after its view: ``views.stage_columns(**facts.stage_columns(trace, lm))``.
"""

from .answers import break_strips, what_if, why_not
from .base import HasPieces, Source, alternatives, named, pieces
from .stages import Scores, noise, stage_columns

__all__ = [
    "HasPieces",
    "Scores",
    "Source",
    "alternatives",
    "break_strips",
    "named",
    "noise",
    "pieces",
    "stage_columns",
    "what_if",
    "why_not",
]
