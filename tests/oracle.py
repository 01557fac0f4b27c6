"""A second, independent implementation of every stage and of every dialect's order, in NumPy.

Written from the rules (the design, the papers, transformers' and llama.cpp's sources, the formats of the reference
systems), not from labkit's code, and for plainness, not for speed. labkit's own rules are computed in extended
precision; of a system that works in float32 the same rule is computed exactly, and where float32 may decide either
way, the token is said to be undecided.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from oracle_noise import gumbel, mt19937
from oracle_stages import (
    EXACT,
    SINGLE,
    SINGLE_MASS,
    Expected,
    History,
    Rule,
    Vector,
    allowed_ids,
    clamped_temperature,
    divide_each_time,
    divide_once,
    dry,
    epsilon,
    eta,
    exactly_top_k,
    forbidden_ids,
    frequency,
    hf_top_p,
    hf_typical,
    llama_cpp_xtc,
    log_softmax,
    logit_bias,
    min_p,
    mirostat,
    no_repeat_ngram,
    positive_temperature,
    presence,
    sign_aware_penalty,
    softmax,
    temperature,
    top_k,
    top_n_sigma,
    top_p,
    typical,
    unchecked_temperature,
    xtc,
)

__all__ = ["LABKIT", "SYSTEMS", "Expected", "History", "apply", "gumbel", "log_softmax", "mt19937", "softmax"]

NOT_LESS, GREATER = np.greater_equal, np.greater
LABKIT: dict[str, Rule] = {
    "repetition_penalty": sign_aware_penalty,
    "frequency_penalty": frequency,
    "presence_penalty": presence,
    "dry_multiplier": dry,
    "no_repeat_ngram_size": no_repeat_ngram,
    "logit_bias": logit_bias,
    "allowed_ids": allowed_ids,
    "forbidden_ids": forbidden_ids,
    "temperature": temperature,
    "top_n_sigma": top_n_sigma(EXACT),
    "top_k": top_k,
    "typical_p": typical(NOT_LESS, EXACT, EXACT),
    "top_p": top_p(NOT_LESS, EXACT),
    "min_p": min_p(EXACT),
    "eta_cutoff": eta(EXACT),
    "epsilon_cutoff": epsilon(EXACT),
    "xtc_probability": xtc,
    "mirostat_tau": mirostat,
}
SYSTEMS: dict[str, dict[str, Rule]] = {
    "labkit": LABKIT,
    "hf": {
        "logit_bias": logit_bias,
        "repetition_penalty": sign_aware_penalty,
        "no_repeat_ngram_size": no_repeat_ngram,
        "forbidden_ids": forbidden_ids,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": hf_top_p,
        "min_p": min_p(SINGLE),
        "typical_p": hf_typical,
        "epsilon_cutoff": epsilon(SINGLE),
        "eta_cutoff": eta(SINGLE),
    },
    "llama.cpp": {
        "logit_bias": logit_bias,
        "repetition_penalty": sign_aware_penalty,
        "frequency_penalty": frequency,
        "presence_penalty": presence,
        "dry_multiplier": dry,
        "top_n_sigma": top_n_sigma(SINGLE),
        "top_k": exactly_top_k,
        "typical_p": typical(GREATER, SINGLE, SINGLE_MASS),
        "top_p": top_p(NOT_LESS, SINGLE_MASS),
        "min_p": min_p(SINGLE),
        "xtc_probability": llama_cpp_xtc,
        "temperature": temperature,
    },
    "labcore": {
        "temperature": clamped_temperature,
        "repetition_penalty": divide_once,
        "top_k": top_k,
        "top_p": top_p(GREATER, SINGLE_MASS),
    },
    "swamla": {
        "repetition_penalty": divide_each_time,
        "temperature": clamped_temperature,
        "top_k": top_k,
        "top_p": top_p(GREATER, SINGLE_MASS, including_itself=True),
    },
    "nanochat": {"temperature": positive_temperature, "top_k": top_k},
    "gpt2seed": {
        "temperature": unchecked_temperature,
        "repetition_penalty": divide_once,
        "top_k": top_k,
        "top_p": top_p(GREATER, SINGLE_MASS),
    },
}
SCOPES = {"labcore": "generated", "swamla": "generated"}  # elsewhere the prompt counts too
LAST = {("llama.cpp", name): 64 for name in ("repetition_penalty", "frequency_penalty", "presence_penalty")}


def apply(dialect: str, logits: Vector, settings: Mapping[str, Any], history: History) -> Expected | None:
    """All stages of a system in its order; None if nothing is left."""
    out, undecided = logits.astype(np.float32), np.zeros(len(logits), dtype=bool)
    rules: Mapping[str, Rule] = SYSTEMS[dialect]
    if dialect == "llama.cpp" and "mirostat_tau" in settings:
        rules = {"logit_bias": logit_bias, "temperature": temperature, "mirostat_tau": mirostat}
    with np.errstate(divide="ignore", over="ignore"):
        for name, rule in rules.items():
            if name in settings:
                more = {"scope": SCOPES.get(dialect, "all"), "last": LAST.get((dialect, name)), **settings}
                out, unclear = rule(out, settings[name], more, history)
                undecided |= unclear
            if not np.isfinite(out).any():
                return None
    return Expected(out, undecided)
