"""What holds for every stage in STAGES, and that each agrees with the second implementation in ``oracle``."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from labkit.errors import SamplingError
from labkit.sampling import (
    STAGES,
    AllowedIds,
    Dry,
    Epsilon,
    Eta,
    Filter,
    ForbiddenIds,
    FrequencyPenalty,
    LogitBias,
    MinP,
    Mirostat,
    NoRepeatNgram,
    PresencePenalty,
    RepetitionPenalty,
    Sampler,
    StepContext,
    Temperature,
    TopK,
    TopNSigma,
    TopP,
    Typical,
    Xtc,
)

NAN, INF = math.nan, math.inf
SEEN = [3, 3, 0, 7, 0, 3, 3]  # prompt and new ids of the tests' context


@dataclasses.dataclass
class Case:
    """How a stage is tested.

    Attributes:
        values: a strategy for its value, for a vocabulary of n.
        off: a value that switches it off; None: only leaving it out does.
        bad: values that are refused, and the words of the refusal.
        make: value -> stage.
        empties: it may leave nothing.
    """

    values: Callable[[int], st.SearchStrategy]
    off: Any
    bad: Sequence[Any]
    words: str
    make: Callable[[Any], Any] | None = None
    empties: bool = False


def numbers(low: float, high: float) -> Callable[[int], st.SearchStrategy]:
    return lambda n: st.floats(low, high)


def id_lists(n: int) -> st.SearchStrategy:
    return st.lists(st.integers(0, n - 1), max_size=12).map(tuple)


NOT_NUMBERS = [NAN, "1", True]
CASES: dict[type, Case] = {
    RepetitionPenalty: Case(numbers(0.1, 5), 1.0, [0, 0.0, -1.5, INF, *NOT_NUMBERS], "above 0"),
    FrequencyPenalty: Case(numbers(-3, 3), 0.0, [INF, -INF, *NOT_NUMBERS], "finite number"),
    PresencePenalty: Case(numbers(-3, 3), 0.0, [INF, -INF, *NOT_NUMBERS], "finite number"),
    Dry: Case(numbers(0, 3), 0.0, [-0.1, INF, *NOT_NUMBERS], "from 0"),
    NoRepeatNgram: Case(lambda n: st.integers(0, 4), 0, [-1, 1.5, *NOT_NUMBERS], "whole number from 0", empties=True),
    LogitBias: Case(
        lambda n: st.dictionaries(st.integers(0, n - 1), st.floats(-9, 9, width=32) | st.just(-INF), max_size=5),
        {}, [{0: NAN}, {0: INF}, {-1: 1.0}, {0: True}, {0: "1"}], "a table", LogitBias.of, empties=True,
    ),
    AllowedIds: Case(id_lists, None, [3, "1", (-1,), (1.5,), (True,)], "a list", empties=True),
    ForbiddenIds: Case(id_lists, (), [3, "1", (-1,), (1.5,), (True,)], "a list", empties=True),
    Temperature: Case(lambda n: st.just(0.0) | st.floats(0.05, 20), 1.0, [-0.1, INF, *NOT_NUMBERS], "from 0"),
    TopNSigma: Case(numbers(0, 5), 0.0, [-0.1, INF, *NOT_NUMBERS], "from 0"),
    TopK: Case(lambda n: st.integers(0, 60), 0, [-1, 2.5, *NOT_NUMBERS], "whole number from 0"),
    Typical: Case(numbers(1e-6, 1), 1.0, [0, 0.0, -0.2, 1.01, INF, *NOT_NUMBERS], "above 0 and at most 1"),
    TopP: Case(numbers(1e-6, 1), 1.0, [0, 0.0, -0.2, 1.01, INF, *NOT_NUMBERS], "above 0 and at most 1"),
    MinP: Case(numbers(0, 0.999), 0.0, [-0.1, 1.0, 1, 2, *NOT_NUMBERS], "from 0 .* below 1"),
    Eta: Case(numbers(0, 0.999), 0.0, [-0.1, 1.0, 2, *NOT_NUMBERS], "from 0 .* below 1"),
    Epsilon: Case(numbers(0, 0.999), 0.0, [-0.1, 1.0, 2, *NOT_NUMBERS], "from 0 .* below 1"),
    Xtc: Case(numbers(0, 1), 0.0, [-0.1, 1.1, *NOT_NUMBERS], "from 0 .* to 1"),
    Mirostat: Case(numbers(0, 9), 0.0, [-0.1, INF, *NOT_NUMBERS], "from 0"),
}  # fmt: skip
# Their further parameters, with what is refused of each.
PARAMETERS = [
    (Dry, "base", "dry_base", [0.9, INF, NAN, "2"]), (Dry, "allowed_length", "dry_allowed_length", [0, 1.5, NAN]),
    (Xtc, "threshold", "xtc_threshold", [0, 0.0, 1.1, NAN]), (Mirostat, "eta", "mirostat_eta", [0, 0.0, -1, INF, NAN]),
]  # fmt: skip
every_stage = pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
every_filter = pytest.mark.parametrize("stage", [s for s in STAGES if issubclass(s, Filter)], ids=lambda s: s.name)

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


def made(stage: type, value: Any) -> Any:
    return (CASES[stage].make or stage)(value)


def context(rows: int = 1, n: int = 8, step: int = 2) -> StepContext:
    """Ids in the history that a vocabulary of n lacks are cut."""
    prompt, generated = ([i for i in ids if i < n] for ids in (SEEN[:2], SEEN[2:]))
    return StepContext([prompt] * rows, [generated] * rows, step, stream=list(range(rows)))


def apply(stage: Any, vector: Sequence[float]) -> Tensor:
    """One row through a stage."""
    return stage(torch.tensor([vector], dtype=torch.float32), context(n=len(vector)))[0]


def test_every_stage_has_its_case():
    assert set(CASES) == set(STAGES)
    assert [stage.name for stage in STAGES] == list(oracle.LABKIT)


@every_stage
@hypothesis_settings(max_examples=80)
@given(data=st.data())
def test_it_agrees_with_the_oracle_on_any_vector_and_never_revives_a_token(stage, data):
    vector = data.draw(VECTORS)
    value = data.draw(CASES[stage].values(len(vector)))
    row, out = np.array(vector, dtype=np.float32), apply(made(stage, value), vector).numpy()
    assert out.shape == row.shape and out.dtype == np.float32
    assert not np.isnan(out).any() and not np.isposinf(out).any()
    assert np.isneginf(out[np.isneginf(row)]).all(), "a removed token came back"
    assert np.isfinite(out).any() or CASES[stage].empties
    if value == CASES[stage].off:
        return
    if stage is Mirostat and value == 0 or stage is NoRepeatNgram and value == 0:
        return
    seen = context(n=len(vector))
    history = oracle.History(seen.prompt_ids[0], seen.generated_ids[0], seen.step)
    expected, undecided = oracle.LABKIT[stage.name](row, value, {"scope": "all"}, history)
    assert (np.isneginf(out) == np.isneginf(expected))[~undecided].all()
    both = np.isfinite(out) & np.isfinite(expected)
    np.testing.assert_allclose(out[both], expected[both], rtol=1e-5, atol=1e-6)


@every_stage
@hypothesis_settings(max_examples=25)
@given(vector=VECTORS)
def test_switched_off_it_changes_nothing_and_is_not_even_there(stage, vector):
    case = CASES[stage]
    if case.off is not None:
        assert torch.equal(apply(made(stage, case.off), vector), torch.tensor(vector, dtype=torch.float32))
    assert Sampler.from_settings(**{stage.name: case.off}).stages == ()


@every_stage
@hypothesis_settings(max_examples=25)
@given(data=st.data())
def test_a_batch_gives_what_its_rows_give(stage, data):
    n = data.draw(st.integers(8, 20))
    rows = data.draw(st.lists(st.lists(TIED | ANY, min_size=n, max_size=n), min_size=2, max_size=5))
    one = made(stage, data.draw(CASES[stage].values(n)))
    of_all = context(len(rows))
    together = one(torch.tensor(rows, dtype=torch.float32), context(len(rows)))
    alone = [one(torch.tensor([row], dtype=torch.float32), of_all.row(i)) for i, row in enumerate(rows)]
    assert torch.equal(together, torch.cat(alone))


@every_stage
@hypothesis_settings(max_examples=25)
@given(data=st.data())
def test_what_it_is_given_stays_as_it_is(stage, data):
    logits = torch.tensor([data.draw(st.lists(TIED | ANY, min_size=8, max_size=20))], dtype=torch.float32)
    before, seen = logits.clone(), context()
    made(stage, data.draw(CASES[stage].values(8)))(logits, seen)
    assert torch.equal(logits, before)
    assert (seen.prompt_ids, seen.generated_ids, seen.step) == (context().prompt_ids, context().generated_ids, 2)


@every_stage
@hypothesis_settings(max_examples=25)
@given(data=st.data())
def test_it_is_a_frozen_value_with_a_name_and_a_docstring(stage, data):
    value = data.draw(CASES[stage].values(8))
    one, other = made(stage, value), made(stage, value)
    assert dataclasses.is_dataclass(stage) and stage.__doc__ and stage.name.islower()
    assert one == other and hash(one) == hash(other)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(one, dataclasses.fields(stage)[0].name, value)


@pytest.mark.parametrize(("stage", "value"), [(stage, bad) for stage, case in CASES.items() for bad in case.bad])
def test_a_bad_value_is_refused_with_the_value_and_the_range(stage, value):
    for make in (lambda: made(stage, value), lambda: Sampler.from_settings(**{stage.name: value})):
        with pytest.raises(SamplingError, match=f"^{stage.name} is .*must be .*{CASES[stage].words}") as refused:
            make()
        assert repr(value) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("stage", "field", "name", "value"), [(*p[:3], bad) for p in PARAMETERS for bad in p[3]])
def test_a_bad_parameter_is_refused_by_its_setting_s_name(stage, field, name, value):
    with pytest.raises(SamplingError, match=f"^{name} is .*must be"):
        stage(1.0, **{field: value})


@every_filter
@hypothesis_settings(max_examples=60)
@given(data=st.data())
def test_what_keeps_says_is_what_its_limit_says(stage, data):
    """``keeps`` may be a fast way; what is shown to people is the limit."""
    vector = data.draw(VECTORS)
    one = made(stage, data.draw(CASES[stage].values(len(vector))))
    logits, seen = torch.tensor([vector], dtype=torch.float32), context(n=len(vector))
    limit, there = one.limit(logits, seen), torch.isfinite(logits)
    assert limit.values.shape == logits.shape and limit.threshold.shape == (1, 1)
    kept = one.keeps(logits, seen)
    assert torch.equal(kept & there, limit.kept() & there)
    assert torch.equal(one.kept_ids(logits[0], seen), kept[0].nonzero()[:, 0])


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 4095, 4096, 4097, 60_000])
@pytest.mark.parametrize("kind", ["normal", "ties", "halves", "all equal", "steep", "gaps", "gaps and ties"])
def test_top_p_keeps_what_its_limit_says_at_every_size_of_its_fast_way(n, kind):
    rng = np.random.default_rng(n)
    for p in (1e-9, 0.1, 0.3, 0.5, 0.75, 0.9, 0.999, 1 - 1e-9, 1.0):
        row = {
            "normal": rng.normal(0, 2, n), "ties": np.round(rng.normal(0, 1, n)),
            "halves": np.log2(rng.integers(1, 3, n)), "all equal": np.zeros(n), "steep": rng.normal(0, 40, n),
            "gaps": rng.normal(0, 2, n), "gaps and ties": np.round(rng.normal(0, 1, n)),
        }[kind]  # fmt: skip
        if "gaps" in kind:
            row[rng.random(n) < 0.5] = -np.inf
            row[rng.integers(n)] = 1.0
        logits = torch.tensor(row[None], dtype=torch.float32)
        kept, limit = TopP(p).keeps(logits, context()), TopP(p).limit(logits, context())
        there = torch.isfinite(logits)
        wrong = (kept != limit.kept()) & there
        # Sums of float64 in another order may part at the very line.
        assert ((limit.values - limit.threshold).abs()[wrong] < 1e-12).all(), (p, int(wrong.sum()))
        assert torch.equal(TopP(p).kept_ids(logits[0], context()), kept[0].nonzero()[:, 0])
        assert kept.any()


@pytest.mark.parametrize(
    ("one", "logits", "kept"),
    [
        (TopK(2), [1.0, 3.0, 2.0, 2.0, 2.0], [1, 2, 3, 4]),  # all ties at the border stay
        (TopK(1), [5.0, 5.0, 1.0], [0, 1]),
        (TopP(0.5), [0.0, 0.0, 0.0, 0.0], [0, 1]),  # equal ones by smaller id
        (TopP(0.51), [0.0, 0.0, 0.0, 0.0], [0, 1, 2]),  # the one that crosses p stays
        (TopP(1e-6), [1.0, 2.0, 2.0], [1]),
        (MinP(0.5), [0.0, math.log(0.51), math.log(0.49), -9.0], [0, 1]),
        (MinP(0.999), [2.0, 2.0, 1.9], [0, 1]),
        (Temperature(0.0), [1.0, 4.0, 4.0], [1]),  # of equal ones the smallest id
        (Typical(0.5), [0.0, 0.0, 0.0, 0.0], [0, 1]),
        (Typical(0.3), [math.log(0.6), math.log(0.3), math.log(0.1)], [1]),  # 0.3 is nearest the entropy, not 0.6
        (Epsilon(0.9), [1.0, 1.0, 0.0], [0, 1]),  # the most probable ones always stay
        (Eta(0.9), [1.0, 1.0, -9.0], [0, 1]),
        (TopNSigma(1.0), [1.0, -1.0, 0.0, -INF], [0]),  # σ = √(2/3), not √1: what is removed does not count
        (TopNSigma(1.3), [1.0, -1.0, 0.0, -INF], [0, 2]),
        (Xtc(1.0, 0.2), [math.log(0.4), math.log(0.25), math.log(0.25), math.log(0.1)], [1, 2, 3]),
        (Xtc(1.0, 0.5), [math.log(0.9), math.log(0.1)], [0, 1]),  # one alone above the threshold stays
        (Mirostat(0.1), [5.0, 5.0, 1.0], [0, 1]),  # 2τ is below any surprisal here
    ],
)
def test_the_tie_rules(one, logits, kept):
    out = apply(one, logits)
    assert torch.isfinite(out).nonzero().flatten().tolist() == kept
    assert torch.equal(out[kept], torch.tensor(logits)[kept])


@pytest.mark.parametrize("size", [30, 60, 120])
def test_a_repeated_run_is_penalised_by_its_length_and_no_penalty_is_infinite(size):
    """DRY with the history a b c … a b c …: base^(n - allowed) for a run of n."""
    ids = list(range(5)) * (size // 5)
    out = Dry(1.0, 2.0, 2)(torch.zeros(1, 8), StepContext([ids], [[]]))[0]
    assert out.nonzero().flatten().tolist() == [0]  # only what comes next
    assert float(out[0]) == pytest.approx(-(2.0 ** (size - 5 - 2)), rel=1e-6)
    endless = Dry(5.0, 4.0, 1)(torch.zeros(1, 8), StepContext([[1] * 5000], [[]]))
    assert torch.isfinite(endless).all() and float(endless[0, 1]) < -1e30


@pytest.mark.parametrize("stage", [RepetitionPenalty, FrequencyPenalty, PresencePenalty])
@pytest.mark.parametrize(("scope", "changed"), [("all", {0, 3, 7}), ("prompt", {3}), ("generated", {0, 3, 7})])
def test_a_penalty_counts_what_its_scope_says(stage, scope, changed):
    out = stage(2.0, scope)(torch.ones(1, 9), context())
    assert set((out[0] != 1).nonzero().flatten().tolist()) == changed


def test_only_the_frequency_penalty_counts_every_occurrence():
    times = {0: 2, 3: 4, 7: 1}
    logits = torch.tensor([[2.0, -2.0] * 5])
    for stage, rule in (
        (RepetitionPenalty, lambda x, n: x / 2 if x > 0 else x * 2),
        (PresencePenalty, lambda x, n: x - 2),
        (FrequencyPenalty, lambda x, n: x - 2 * n),
    ):
        expected = [rule(x, times[i]) if i in times else x for i, x in enumerate(logits[0].tolist())]
        assert stage(2.0)(logits, context())[0].tolist() == expected


def test_a_penalty_may_look_back_over_the_last_ids_only():
    history = StepContext([[1, 2]], [[3, 3]])
    for stage in (RepetitionPenalty, FrequencyPenalty, PresencePenalty):
        out = stage(2.0, "all", 3)(torch.ones(1, 5), history)
        assert set((out[0] != 1).nonzero().flatten().tolist()) == {2, 3}


def test_rows_of_a_batch_have_histories_of_their_own():
    context = StepContext([[0], [1]], [[2], []], step=1, stream=[0, 0])
    out = RepetitionPenalty(4.0)(torch.ones(2, 4), context)
    assert out.tolist() == [[0.25, 1.0, 0.25, 1.0], [1.0, 0.25, 1.0, 1.0]]


@pytest.mark.parametrize(
    "one",
    [RepetitionPenalty(2.0), FrequencyPenalty(1.0), Dry(1.0, 2.0, 1), NoRepeatNgram(1), LogitBias.of({99: 1.0}),
     AllowedIds((99,)), ForbiddenIds((1, 99))],
    ids=lambda one: one.name,
)  # fmt: skip
def test_an_id_beyond_the_vocabulary_is_refused_in_one_line(one):
    with pytest.raises(SamplingError, match="^token id 99 is outside the vocabulary 0 … 3$"):
        one(torch.zeros(1, 4), StepContext([[99, 99]], [[99]]))


def test_xtc_strikes_as_often_as_it_is_told_by_a_coin_of_seed_stream_and_step():
    logits = torch.tensor([[2.0, 2.0, 0.0]]).expand(4000, -1)
    for what in ({"stream": range(4000)}, {"stream": [0] * 4000}):
        struck = torch.isneginf(Xtc(0.3, 0.1)(logits + torch.tensor([0.1, 0, 0]),
                                              StepContext([()] * 4000, [()] * 4000, **what))[:, 0])  # fmt: skip
        share = float(struck.float().mean())
        assert abs(share - 0.3) < 0.03 if "range" in repr(what) else share in (0.0, 1.0)


def test_mirostat_follows_its_error_from_step_to_step_and_may_be_asked_twice():
    """Against a plain simulation in bits: μ from 2τ, after each step μ -= η · (surprisal - τ)."""
    rng, tau, eta = np.random.default_rng(3), 2.5, 0.4
    stage, state, ids, mu = Mirostat(tau, eta), {}, [], 2 * tau
    for step in range(60):
        row = rng.normal(0, 2, 40).astype(np.float32)
        now = StepContext([[5]], [list(ids)], step, stream=[3], state=state)
        kept = stage.keeps(torch.from_numpy(row)[None], now)[0].numpy()
        bits = -oracle.log_softmax(row) / math.log(2)
        assert (kept == ((bits <= mu) | (row == row.max()))).all(), step
        assert (stage.keeps(torch.from_numpy(row)[None], now)[0].numpy() == kept).all()
        chosen = int(rng.choice(np.flatnonzero(kept)))
        left = np.where(kept, row, -np.inf).astype(np.float32)
        mu -= eta * (float(-oracle.log_softmax(left)[chosen] / math.log(2)) - tau)
        ids.append(chosen)
    assert list(state) == [("mirostat_tau", 3)]
    # A step that does not follow the last one starts anew.
    again = stage.limit(torch.zeros(1, 4), StepContext([[5]], [ids], step + 5, stream=[3], state=state))
    assert float(again.threshold) == 2 * tau
