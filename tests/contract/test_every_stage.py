"""What holds for every stage in STAGES, and that each agrees with a second, independent implementation in NumPy."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from labkit.errors import SamplingError
from labkit.sampling import STAGES, MinP, RepetitionPenalty, StepContext, Temperature, TopK, TopP

SEEN = [3, 3, 0, 7]  # prompt and new ids of the tests' context
EDGE = 1e-9  # nearer than this to a border, rounding may decide either way


class Expected(NamedTuple):
    """Logits after the stage, and where rounding may decide whether a token stays."""

    logits: np.ndarray
    undecided: np.ndarray


def sure(logits: np.ndarray) -> Expected:
    return Expected(logits, np.zeros(len(logits), dtype=bool))


def repetition_penalty(logits: np.ndarray, penalty: float) -> Expected:
    out = logits.astype(np.float64)
    for i in set(SEEN):
        if i < len(out):
            out[i] = out[i] / penalty if out[i] > 0 else out[i] * penalty
    return sure(out)


def temperature(logits: np.ndarray, temperature: float) -> Expected:
    if temperature > 0:
        return sure(logits.astype(np.float64) / temperature)
    out = np.full(len(logits), -np.inf)
    first = list(logits).index(max(logits))
    out[first] = logits[first]
    return sure(out)


def top_k(logits: np.ndarray, k: int) -> Expected:
    if k == 0 or k >= len(logits):
        return sure(logits)
    border = sorted(logits, reverse=True)[k - 1]
    return sure(np.array([x if x >= border else -np.inf for x in logits]))


def masses(logits: np.ndarray) -> np.ndarray:
    """Probabilities, by exact summation."""
    weights = [math.exp(float(x) - float(max(logits))) for x in logits]
    return np.array(weights) / math.fsum(weights)


def top_p(logits: np.ndarray, p: float) -> Expected:
    probabilities = masses(logits)
    out, undecided, taken = logits.copy(), np.zeros(len(logits), dtype=bool), []
    for i in sorted(range(len(logits)), key=lambda i: (-logits[i], i)):
        before = math.fsum(taken)
        if taken and before >= p:
            out[i] = -np.inf
        undecided[i] = bool(taken) and abs(before - p) < EDGE
        taken.append(probabilities[i])
    return Expected(out, undecided)


def min_p(logits: np.ndarray, p: float) -> Expected:
    shares = np.exp(logits.astype(np.float64) - float(max(logits)))
    return Expected(np.where(shares >= p, logits, -np.inf), np.abs(shares - p) < EDGE * max(p, EDGE))


@dataclasses.dataclass
class Case:
    """How a stage is tested.

    Attributes:
        make: value -> stage.
        values: a strategy for its value.
        off: a value that switches it off; None: it has none.
        bad: values that are refused.
        reference: the independent implementation.
    """

    make: Callable[[Any], Any]
    values: st.SearchStrategy
    off: Any
    bad: Sequence[Any]
    reference: Callable[[np.ndarray, Any], Expected]


NAN, INF = math.nan, math.inf
CASES: dict[type, Case] = {
    RepetitionPenalty: Case(
        RepetitionPenalty, st.floats(0.1, 5.0), 1.0, [0, 0.0, -1.5, NAN, INF, "2", True], repetition_penalty
    ),
    Temperature: Case(Temperature, st.just(0.0) | st.floats(0.05, 20.0), 1.0, [-0.1, NAN, INF, "1", True], temperature),
    TopK: Case(TopK, st.integers(0, 60), 0, [-1, 2.5, NAN, "3", True], top_k),
    TopP: Case(TopP, st.floats(1e-6, 1.0), 1.0, [0, 0.0, -0.2, 1.01, NAN, INF, "1", False], top_p),
    MinP: Case(MinP, st.floats(0.0, 0.999), 0.0, [-0.1, 1.0, 1, 2, NAN, "0", True], min_p),
}
every_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)

# Few different values, so that ties are everywhere; or any; some tokens may be removed already, one never is.
TIED = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, math.log(2), math.log(0.5), -7.0])
ANY = st.floats(-60, 60, width=32)
REMOVED = st.just(-math.inf)
VECTORS = st.builds(
    lambda rest, one, at: [*rest[: at % (len(rest) + 1)], one, *rest[at % (len(rest) + 1) :]],
    st.lists(TIED | REMOVED, max_size=40) | st.lists(ANY, max_size=40) | st.lists(ANY | REMOVED | TIED, max_size=40),
    TIED | ANY,
    st.integers(0, 40),
)


def context(rows: int = 1) -> StepContext:
    return StepContext([SEEN[:2]] * rows, [SEEN[2:]] * rows, step=2, stream=[0] * rows)


def apply(stage: Any, vector: Sequence[float]) -> Tensor:
    """One row through a stage; ids in the context that a short row lacks are cut."""
    n = len(vector)
    seen = StepContext([[i for i in SEEN[:2] if i < n]], [[i for i in SEEN[2:] if i < n]], step=2)
    return stage(torch.tensor([vector], dtype=torch.float32), seen)[0]


def check_against(case: Case, value: Any, vector: Sequence[float]) -> None:
    """One vector, one value: the properties of every stage, and the NumPy implementation."""
    row = np.array(vector, dtype=np.float32)
    out = apply(case.make(value), vector).numpy()
    assert out.shape == row.shape and out.dtype == np.float32
    assert not np.isnan(out).any() and not np.isposinf(out).any(), (value, vector)
    assert np.isfinite(out).any(), (value, vector)
    assert np.isneginf(out[np.isneginf(row)]).all(), "a removed token came back"
    expected, undecided = case.reference(row, value)
    decided = ~undecided
    assert (np.isneginf(out) == np.isneginf(expected))[decided].all(), (value, vector, out, expected)
    both = np.isfinite(out) & np.isfinite(expected)
    np.testing.assert_allclose(out[both], expected[both].astype(np.float32), rtol=1e-5, atol=1e-6)


def test_every_stage_has_its_case():
    assert set(CASES) == set(STAGES)
    assert len({stage.name for stage in STAGES}) == len(STAGES)


@every_stage
@hypothesis_settings(max_examples=150)
@given(data=st.data())
def test_it_agrees_with_the_numpy_implementation_on_any_vector(stage, data):
    case = CASES[stage]
    check_against(case, data.draw(case.values), data.draw(VECTORS))


@every_stage
def test_it_agrees_with_the_numpy_implementation_on_two_thousand_random_vectors(stage):
    case, rng = CASES[stage], np.random.default_rng(7)
    limits = {TopK: (0, 40), TopP: (1e-6, 1.0), MinP: (0.0, 0.99)}.get(stage, (0.1, 5.0))
    for i in range(2000):
        vector = rng.normal(0, rng.uniform(0.1, 8), rng.integers(1, 33)).astype(np.float32)
        if i % 3 == 0:
            vector = np.round(vector)  # ties
        if i % 5 == 0:
            vector[rng.random(len(vector)) < 0.3] = -np.inf
        vector[rng.integers(len(vector))] = rng.normal()
        value = int(rng.integers(*limits)) if stage is TopK else float(rng.uniform(*limits))
        check_against(case, value, vector.tolist())


@every_stage
@hypothesis_settings(max_examples=40)
@given(vector=VECTORS)
def test_switched_off_it_changes_nothing(stage, vector):
    logits = torch.tensor([vector], dtype=torch.float32)
    out = apply(CASES[stage].make(CASES[stage].off), vector)
    assert torch.equal(out, logits[0])


@every_stage
@hypothesis_settings(max_examples=40)
@given(data=st.data())
def test_a_batch_gives_what_its_rows_give(stage, data):
    case = CASES[stage]
    value, n = data.draw(case.values), data.draw(st.integers(8, 20))
    rows = data.draw(st.lists(st.lists(TIED | ANY, min_size=n, max_size=n), min_size=2, max_size=5))
    made = case.make(value)
    together = made(torch.tensor(rows, dtype=torch.float32), context(len(rows)))
    assert torch.equal(together, torch.stack([apply(made, row) for row in rows]))


@every_stage
@hypothesis_settings(max_examples=25)
@given(data=st.data())
def test_what_it_is_given_stays_as_it_is(stage, data):
    case = CASES[stage]
    logits = torch.tensor([data.draw(st.lists(TIED | ANY, min_size=8, max_size=20))], dtype=torch.float32)
    before = logits.clone()
    case.make(data.draw(case.values))(logits, context())
    assert torch.equal(logits, before)


@every_stage
def test_it_is_a_frozen_dataclass_with_a_name_and_a_docstring(stage):
    value = 0.5 if stage is not TopK else 3
    made = CASES[stage].make(value)
    assert dataclasses.is_dataclass(stage) and stage.__doc__ and stage.name.islower()
    assert made == CASES[stage].make(value) and hash(made) == hash(CASES[stage].make(value))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(stage)[0].name, value)


RANGE_WORDS = {
    RepetitionPenalty: "above 0",
    Temperature: "from 0",
    TopK: "whole number from 0",
    TopP: "above 0 and at most 1",
    MinP: "from 0 .* below 1",
}


@pytest.mark.parametrize(("stage", "value"), [(stage, bad) for stage, case in CASES.items() for bad in case.bad])
def test_a_bad_value_is_refused_with_the_value_and_the_range(stage, value):
    with pytest.raises(SamplingError, match=f"^{stage.name} is .*must be .*{RANGE_WORDS[stage]}") as refused:
        CASES[stage].make(value)
    assert repr(value) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("made", "logits", "kept"),
    [
        (TopK(2), [1.0, 3.0, 2.0, 2.0, 2.0], [1, 2, 3, 4]),  # all ties at the border stay
        (TopK(1), [5.0, 5.0, 1.0], [0, 1]),
        (TopP(0.5), [0.0, 0.0, 0.0, 0.0], [0, 1]),  # equal ones by smaller id
        (TopP(0.51), [0.0, 0.0, 0.0, 0.0], [0, 1, 2]),  # the one that crosses p stays
        (TopP(1e-6), [1.0, 2.0, 2.0], [1]),
        (MinP(0.5), [0.0, math.log(0.51), math.log(0.49), -9.0], [0, 1]),
        (MinP(0.999), [2.0, 2.0, 1.9], [0, 1]),
        (Temperature(0.0), [1.0, 4.0, 4.0], [1]),  # of equal ones the smallest id
    ],
)
def test_the_tie_rules(made, logits, kept):
    out = apply(made, logits)
    assert torch.isfinite(out).nonzero().flatten().tolist() == kept
    assert torch.equal(out[kept], torch.tensor(logits)[kept])


@pytest.mark.parametrize(("scope", "changed"), [("all", {0, 3, 7}), ("prompt", {3}), ("generated", {0, 7})])
def test_the_penalty_counts_what_its_scope_says_and_each_token_once(scope, changed):
    logits = torch.tensor([[2.0, -2.0] * 5])
    out = RepetitionPenalty(2.0, scope)(logits, context())
    expected = [(1.0 if x > 0 else -4.0) if i in changed else x for i, x in enumerate(logits[0].tolist())]
    assert out[0].tolist() == expected


def test_rows_of_a_batch_have_histories_of_their_own():
    context = StepContext([[0], [1]], [[2], []], step=1, stream=[0, 0])
    out = RepetitionPenalty(4.0)(torch.ones(2, 4), context)
    assert out.tolist() == [[0.25, 1.0, 0.25, 1.0], [1.0, 0.25, 1.0, 1.0]]
