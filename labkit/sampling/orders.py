"""Which stages run in which order with which draw, in each dialect.

What a dialect has for a field that is left out, and what it accepts, is data in ``settings.DIALECTS``.
"""

from collections.abc import Mapping
from typing import Any

from ..settings import DIALECTS, PenaltyScope, dialect_named
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
from .remembering import Mirostat, Xtc
from .stages import (
    Epsilon,
    Eta,
    MinP,
    Stage,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    Typical,
)
from .systems import (
    ClampedTemperature,
    CompoundPenalty,
    DividePenalty,
    ExactTopK,
    HfEpsilon,
    HfEta,
    HfMinP,
    HfTopP,
    HfTypical,
    LabcorePenalty,
    LlamaCppMinP,
    LlamaCppTemperature,
    LlamaCppTopP,
    LlamaCppTypical,
    LlamaCppXtc,
    PositiveTemperature,
    StrictTopP,
    UncheckedTemperature,
    UncheckedTopK,
    UnshiftedTopP,
)

# labkit's order: what looks at ids first, then temperature, then what removes tokens.
STAGES: tuple[Any, ...] = (
    RepetitionPenalty, FrequencyPenalty, PresencePenalty, Dry, NoRepeatNgram, LogitBias, AllowedIds, ForbiddenIds,
    Temperature, TopNSigma, TopK, Typical, TopP, MinP, Eta, Epsilon, Xtc, Mirostat,
)  # fmt: skip
ORDERS: Mapping[str, tuple[Any, ...]] = {
    "labkit": STAGES,
    "hf": (
        LogitBias, RepetitionPenalty, NoRepeatNgram, ForbiddenIds, Temperature, TopK, HfTopP, HfMinP, HfTypical,
        HfEpsilon, HfEta,
    ),
    "llama.cpp": (
        LogitBias, RepetitionPenalty, FrequencyPenalty, PresencePenalty, Dry, TopNSigma, ExactTopK, LlamaCppTypical,
        LlamaCppTopP, LlamaCppMinP, LlamaCppXtc, LlamaCppTemperature,
    ),
    "labcore": (ClampedTemperature, LabcorePenalty, TopK, StrictTopP),
    "swamla": (CompoundPenalty, ClampedTemperature, TopK, UnshiftedTopP),
    "nanochat": (PositiveTemperature, TopK),
    "gpt2seed": (UncheckedTemperature, DividePenalty, UncheckedTopK, StrictTopP),
}  # fmt: skip
# With mirostat, llama.cpp runs nothing else but these.
LLAMA_CPP_MIROSTAT = (LogitBias, LlamaCppTemperature, Mirostat)
LLAMA_CPP_LAST_N = 64  # how many ids its penalties look back
# What puts its candidates in order of size, and what takes some off the list. (After typical-p alone they are in order
# of typicality, for which labkit has order of id.)
LLAMA_CPP_SORTS = frozenset({"top_n_sigma", "top_k", "top_p", "mirostat_tau"})
LLAMA_CPP_SHORTENS = frozenset({"top_k", "top_p", "min_p", "typical_p", "xtc_probability", "mirostat_tau"})
TRANSFORMERS_WARPERS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")

# Further settings that a stage takes, by the name of its field.
PARAMETERS: Mapping[Any, Mapping[str, str]] = {
    Dry: {"base": "dry_base", "allowed_length": "dry_allowed_length"},
    Xtc: {"threshold": "xtc_threshold"},
    LlamaCppXtc: {"threshold": "xtc_threshold"},
    Mirostat: {"eta": "mirostat_eta"},
}
SCOPED = frozenset(
    {
        RepetitionPenalty, FrequencyPenalty, PresencePenalty, Dry, NoRepeatNgram, DividePenalty, LabcorePenalty,
        CompoundPenalty,
    }
)  # fmt: skip


def build(
    on: Mapping[str, Any], greedy: bool, seed: int, scope: PenaltyScope | None, dialect: str
) -> tuple[list[Stage], Draw]:
    """The stages for the settings that are on, in the dialect's order, and its draw."""
    order = ORDERS[dialect]
    if dialect == "llama.cpp" and "mirostat_tau" in on:
        order = LLAMA_CPP_MIROSTAT
    if dialect == "hf" and greedy:  # without do_sample, transformers runs no warper
        order = tuple(kind for kind in order if kind.name not in TRANSFORMERS_WARPERS)
    scope = scope or DIALECTS[dialect_named(dialect)].defaults.get("penalty_scope", "all")
    stages = [made(kind, on, scope, dialect) for kind in order if kind.name in on]
    if on.get("temperature") == 1:
        stages = [stage for stage in stages if stage.name != "temperature"]
    draw = draw_of(dialect, greedy, seed, on.get("temperature", 1.0))
    if isinstance(draw, LlamaCppDist):
        names = [stage.name for stage in stages]
        draw = LlamaCppDist(
            seed, LLAMA_CPP_SORTS.intersection(names) != set(), LLAMA_CPP_SHORTENS.intersection(names) != set()
        )
    return stages, draw


def made(kind: Any, on: Mapping[str, Any], scope: PenaltyScope, dialect: str) -> Stage:
    """One stage with its settings."""
    value = on[kind.name]
    if kind is LogitBias:
        return LogitBias.of(value)
    keywords = {field: on[name] for field, name in PARAMETERS.get(kind, {}).items() if name in on}
    if kind in SCOPED:
        keywords["scope"] = scope
    if dialect == "llama.cpp" and kind in (RepetitionPenalty, FrequencyPenalty, PresencePenalty):
        keywords["last"] = LLAMA_CPP_LAST_N
    return kind(value, **keywords)


def draw_of(dialect: str, greedy: bool, seed: int, temperature: float) -> Draw:
    """The dialect's own way to draw."""
    if dialect in ("gpt2seed", "nanochat") and (greedy or dialect == "nanochat" and temperature == 0):
        return SoftmaxArgmax(seed)
    if greedy or dialect == "labkit" and temperature == 0:
        return Greedy(seed)
    draws: dict[str, Any] = {"labkit": Gumbel, "llama.cpp": LlamaCppDist, "nanochat": NanochatMultinomial}
    return draws.get(dialect, TorchMultinomial)(seed)
