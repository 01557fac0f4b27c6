"""Random logits, histories and settings for the tests of sampling: ties, gaps, repeats, every vocabulary size."""

import math
from typing import Any, NamedTuple

import numpy as np
from oracle import SYSTEMS, History

LARGE = 50_257
PARAMETERS = {
    "dry_multiplier": ("dry_base", "dry_allowed_length"),
    "xtc_probability": ("xtc_threshold",),
    "mirostat_tau": ("mirostat_eta",),
}


class Case(NamedTuple):
    logits: np.ndarray
    settings: dict[str, Any]
    history: History


def some_logits(rng: np.random.Generator, large: float = 0.0) -> np.ndarray:
    """float32 (V,), V from 1 to 200 and sometimes 50,257; one in three is full of ties, one in five has gaps."""
    if rng.random() < large:
        return rng.normal(0, rng.uniform(0.5, 5), LARGE).astype(np.float32)
    n = int(rng.choice([rng.integers(1, 4), rng.integers(4, 41), rng.integers(41, 201)], p=[0.1, 0.6, 0.3]))
    out = rng.normal(0, rng.uniform(0.1, 8), n)
    match rng.integers(6):
        case 0:
            out = np.round(out)
        case 1:
            out = rng.choice([0.0, -0.0, 1.0, -2.5, math.log(2), 7.0], n)
        case 2:
            out += 30 * rng.normal()
    if rng.random() < 0.2:
        out[rng.random(n) < 0.3] = -np.inf
        out[rng.integers(n)] = rng.normal()
    return out.astype(np.float32)


def some_history(rng: np.random.Generator, n: int) -> History:
    """Ids of a vocabulary of n, few of them, so that they repeat."""
    prompt, generated = (
        rng.choice(rng.integers(0, n, int(rng.integers(1, 6))), int(rng.integers(0, 60))).tolist() for _ in range(2)
    )
    return History(prompt, generated, len(generated) % 8, int(rng.integers(3)), int(rng.integers(4)))


def value_of(name: str, dialect: str, rng: np.random.Generator, n: int) -> Any:
    """A value that switches the stage on."""
    labkit = dialect == "labkit"
    match name:
        case "temperature":
            if dialect not in ("hf", "gpt2seed") and rng.random() < 0.05:
                return 0.0 if labkit else float(rng.choice([0.0, -1.0]))
            return float(rng.uniform(0.1, 3))
        case "top_k":
            return int(rng.integers(1, 60))
        case "top_p":
            if not labkit and dialect != "labcore" and rng.random() < 0.02:
                return 0.0
            return float(rng.choice([rng.uniform(0.01, 0.999), rng.choice([0.25, 0.5, 0.75, 0.9])]))
        case "min_p" | "typical_p" | "xtc_probability":
            return float(rng.uniform(0.001, 0.99))
        case "repetition_penalty":
            return float(rng.choice([rng.uniform(0.5, 2), 1.3]))
        case "frequency_penalty" | "presence_penalty":
            return float(rng.uniform(-2, 2))
        case "dry_multiplier":
            return float(rng.uniform(0.1, 2))
        case "dry_base":
            return float(rng.uniform(1, 2.5))
        case "dry_allowed_length" | "no_repeat_ngram_size":
            return int(rng.integers(1, 6))
        case "logit_bias":
            ids = rng.integers(0, n, int(rng.integers(1, 6))).tolist()
            return {i: float(rng.choice([rng.normal(0, 3), -math.inf], p=[0.9, 0.1])) for i in ids}
        case "allowed_ids" | "forbidden_ids":
            return tuple(rng.integers(0, n, int(rng.integers(1, 20))).tolist())
        case "top_n_sigma":
            return float(rng.uniform(0.1, 4))
        case "epsilon_cutoff" | "eta_cutoff":
            return float(10 ** rng.uniform(-4, -0.1))
        case "xtc_threshold":
            return float(rng.uniform(0.01, 0.6))
        case "mirostat_tau":
            return float(rng.uniform(0.2, 5))
        case "mirostat_eta":
            return float(rng.uniform(0.05, 0.5))
    raise KeyError(name)


def stages_of(dialect: str) -> list[str]:
    return [*SYSTEMS[dialect], *(["mirostat_tau"] if dialect == "llama.cpp" else [])]


def some_case(dialect: str, rng: np.random.Generator, only: str | None = None, large: float = 0.0) -> Case:
    """Logits, history, and settings of one stage or of a random handful."""
    logits = some_logits(rng, large)
    names = [only] if only else [name for name in stages_of(dialect) if rng.random() < 0.35]
    settings = {}
    for name in names:
        settings[name] = value_of(name, dialect, rng, len(logits))
        for parameter in PARAMETERS.get(name, ()):
            if rng.random() < 0.7:
                settings[parameter] = value_of(parameter, dialect, rng, len(logits))
    return Case(logits, settings, some_history(rng, len(logits)))
