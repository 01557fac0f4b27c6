"""How fast a model is, and how sure that is: rounds in turns, runs as the unit, intervals with every number."""

from .comparison import compare, read
from .effects import MEASURES, SamplingEffects, sampling_effects
from .engines import ENGINES, Labkit, Plain, Transformers
from .intervals import Ratio, Summary, paired, unpaired
from .llama_cpp import LlamaCpp
from .machine import cache_bytes, weight_bytes
from .record import benchmark, markdown, prompts, write
from .timing import Case, Engine, Measurement, Run, measure

__all__ = [
    "ENGINES", "MEASURES", "Case", "Engine", "Labkit", "LlamaCpp", "Measurement", "Plain", "Ratio", "Run",
    "SamplingEffects", "Summary", "Transformers", "benchmark", "cache_bytes", "compare", "markdown", "measure",
    "paired", "prompts", "read", "sampling_effects", "unpaired", "weight_bytes", "write",
]  # fmt: skip
