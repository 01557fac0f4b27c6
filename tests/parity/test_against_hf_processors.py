"""transformers' own logits processors, in the order in which its generate builds them, against dialect "hf"."""

import math
import warnings
from typing import Any

import hf_models
import numpy as np
import oracle
import pytest
import torch
from sampling_cases import Case, some_case
from transformers.generation import logits_process as theirs

from labkit.sampling import Sampler, StepContext

PROCESSORS = {
    "logit_bias": lambda value: theirs.SequenceBiasLogitsProcessor({(i,): b for i, b in value.items()}),
    "repetition_penalty": theirs.RepetitionPenaltyLogitsProcessor,
    "no_repeat_ngram_size": theirs.NoRepeatNGramLogitsProcessor,
    "forbidden_ids": theirs.SuppressTokensLogitsProcessor,
    "temperature": theirs.TemperatureLogitsWarper,
    "top_k": theirs.TopKLogitsWarper,
    "top_p": theirs.TopPLogitsWarper,
    "min_p": theirs.MinPLogitsWarper,
    "typical_p": theirs.TypicalLogitsWarper,
    "epsilon_cutoff": theirs.EpsilonLogitsWarper,
    "eta_cutoff": theirs.EtaLogitsWarper,
}
RENAMED = {"logit_bias": "sequence_bias", "forbidden_ids": "suppress_tokens"}
MADE_OF = {
    theirs.SequenceBiasLogitsProcessor: "sequence_bias",
    theirs.SuppressTokensLogitsProcessor: "suppress_tokens",
    **{made: name for name, made in PROCESSORS.items() if name not in RENAMED},
}


def processed(case: Case) -> torch.Tensor | None:
    """(V,) after their processors; None where they leave nothing."""
    ids = torch.tensor([[*case.history.prompt, *case.history.generated]], dtype=torch.long)
    scores = torch.from_numpy(case.logits)[None].clone()
    for name, made in PROCESSORS.items():
        if name in case.settings:
            scores = made(case.settings[name])(ids, scores)
            if not torch.isfinite(scores).any():
                return None
    return scores[0]


def labkits(case: Case, dialect: str = "hf") -> torch.Tensor:
    context = StepContext([case.history.prompt], [case.history.generated])
    return Sampler.from_settings(dialect=dialect, **case.settings).apply(torch.from_numpy(case.logits)[None], context)[
        0
    ]


def cases(n: int, *names: str, near_ties: bool = True) -> list[Case]:
    """As the oracle's, and one in four with logits a rounding step apart. Their penalties need a history."""
    rng = np.random.default_rng(11)
    out = []
    while len(out) < n:
        case = some_case("hf", rng, *names, large=0.002)
        if not case.history.prompt and not case.history.generated:
            continue
        if near_ties and rng.random() < 0.25:
            steps = rng.integers(0, 4, len(case.logits))
            base = np.float32(rng.choice([0.0, 0.25, 1.5, 12.0]) * rng.choice([-1, 1]))
            case = case._replace(logits=np.float32(base + steps * np.spacing(np.float32(base or 1e-8))))
        out.append(case)
    return out


def check(n: int, *names: str) -> None:
    compared = 0
    for case in cases(n, *names):
        expected = processed(case)
        if expected is not None:
            ours = labkits(case)
            assert torch.equal(ours, expected), (case, ours, expected)
            compared += 1
    assert compared > 0.85 * n


@pytest.mark.parametrize("name", PROCESSORS)
def test_each_stage_gives_the_very_same_float32_numbers(name):
    check(400, name)


def test_all_stages_in_their_order_give_the_very_same_float32_numbers():
    check(2000)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PROCESSORS, None])
def test_ten_thousand_cases_give_the_very_same_float32_numbers(name):
    check(10_000, *([name] if name else []))


def test_their_generate_builds_them_in_this_order(monkeypatch):
    """The order is theirs and not this file's."""
    model, built = hf_models.gpt2(), []
    build = model._get_logits_processor
    monkeypatch.setattr(model, "_get_logits_processor", lambda **given: built.append(build(**given)) or built[-1])
    values: dict[str, Any] = {name: 0.5 for name in PROCESSORS if name not in RENAMED}
    values |= {"no_repeat_ngram_size": 2, "top_k": 5, "sequence_bias": {(1,): 1.0}, "suppress_tokens": [2]}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.generate(torch.tensor([[3, 4]]), do_sample=True, max_new_tokens=1, **values)
    order = [RENAMED.get(name, name) for name in PROCESSORS]
    kinds = [MADE_OF[type(processor)] for processor in built[0]]
    assert sorted(kinds) == sorted(order)
    # Suppressing comes later there, which is the same: nothing before the temperature depends on it.
    assert [k for k in kinds if k != "suppress_tokens"] == [k for k in order if k != "suppress_tokens"]
    assert kinds.index("suppress_tokens") < kinds.index("temperature")


@pytest.mark.parametrize("name", [name for name in PROCESSORS if name in oracle.LABKIT])
def test_labkits_own_rules_agree_with_theirs_away_from_ties_and_borders(name):
    """For these stages labkit's rule is theirs, but for ties (and the largest, which an epsilon does not remove)."""
    compared = 0
    for case in cases(400, name, near_ties=False):
        finite = case.logits[np.isfinite(case.logits)]
        if len(np.unique(finite)) < len(finite) or case.settings[name] == 0:
            continue
        exact = oracle.apply("hf", case.logits, case.settings, case.history)
        expected = processed(case)
        if expected is None or exact is None or exact.undecided.any():
            continue
        torch.testing.assert_close(labkits(case, "labkit"), expected, rtol=1e-6, atol=1e-6)
        compared += 1
    assert compared > 130


def test_greedy_search_of_theirs_runs_no_warper():
    sampler = Sampler.from_settings(dialect="hf", greedy=True, temperature=0.5, top_k=1, repetition_penalty=2.0)
    assert [stage.name for stage in sampler.stages] == ["repetition_penalty"]
    assert not math.isnan(sampler.apply(torch.zeros(1, 3), StepContext([[0]], [[]]))[0, 0])
