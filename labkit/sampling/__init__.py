"""From logits to the next token: stages, draws, dialects, and the record of all that."""

from . import dialects
from .breaks import BreakPoints
from .draws import Draw, Greedy, Gumbel, LlamaCppDist, NanochatMultinomial, SoftmaxArgmax, TorchMultinomial
from .history import (
    AllowedIds,
    Dry,
    ForbiddenIds,
    FrequencyPenalty,
    LogitBias,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
)
from .orders import STAGES
from .questions import WhatIf, Why, WhyNot
from .remembering import Mirostat, Xtc
from .sampler import Chosen, Removal, Sampler, SamplingTrace, StageRecord
from .stages import (
    Epsilon,
    Eta,
    Filter,
    Limit,
    MinP,
    Stage,
    StepContext,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    Typical,
)

__all__ = [
    "STAGES", "AllowedIds", "BreakPoints", "Chosen", "Draw", "Dry", "Epsilon", "Eta", "Filter", "ForbiddenIds",
    "FrequencyPenalty", "Greedy", "Gumbel", "Limit", "LlamaCppDist", "LogitBias", "MinP", "Mirostat",
    "NanochatMultinomial", "NoRepeatNgram", "PresencePenalty", "Removal", "RepetitionPenalty", "Sampler",
    "SamplingTrace", "SoftmaxArgmax", "Stage", "StageRecord", "StepContext", "Temperature", "TopK", "TopNSigma", "TopP",
    "TorchMultinomial", "Typical", "WhatIf", "Why", "WhyNot", "Xtc", "dialects",
]  # fmt: skip
