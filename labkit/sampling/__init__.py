"""From logits to the next token: stages, draws, and the record of both."""

from .draws import Greedy, Gumbel
from .sampler import Sampler, SamplingTrace, StageRecord
from .stages import STAGES, MinP, RepetitionPenalty, StepContext, Temperature, TopK, TopP

__all__ = [
    "STAGES", "Greedy", "Gumbel", "MinP", "RepetitionPenalty", "Sampler", "SamplingTrace", "StageRecord", "StepContext",
    "Temperature", "TopK", "TopP",
]  # fmt: skip
