"""Sampler, trace and the recorded draw."""

import itertools
import math
import pickle

import numpy as np
import oracle
import pytest
import torch
from sampling_cases import some_case, stages_of
from scipy import stats

from labkit.errors import SamplingError
from labkit.sampling import (
    STAGES,
    AllowedIds,
    Dry,
    Epsilon,
    Eta,
    ForbiddenIds,
    FrequencyPenalty,
    Greedy,
    Gumbel,
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
from labkit.sampling.noise import MASK_64, gumbel_noise, splitmix
from labkit.sampling.stages import largest

NAMED = {
    "repetition_penalty": (1.3, RepetitionPenalty(1.3)),
    "frequency_penalty": (0.5, FrequencyPenalty(0.5)),
    "presence_penalty": (-0.5, PresencePenalty(-0.5)),
    "dry_multiplier": (0.8, Dry(0.8)),
    "no_repeat_ngram_size": (3, NoRepeatNgram(3)),
    "logit_bias": ({4: 1.5, 2: -1.0}, LogitBias(((2, -1.0), (4, 1.5)))),
    "allowed_ids": ([1, 2], AllowedIds((1, 2))),
    "forbidden_ids": ((7,), ForbiddenIds((7,))),
    "temperature": (0.7, Temperature(0.7)),
    "top_n_sigma": (1.5, TopNSigma(1.5)),
    "top_k": (5, TopK(5)),
    "typical_p": (0.9, Typical(0.9)),
    "top_p": (0.9, TopP(0.9)),
    "min_p": (0.05, MinP(0.05)),
    "eta_cutoff": (0.001, Eta(0.001)),
    "epsilon_cutoff": (0.002, Epsilon(0.002)),
    "xtc_probability": (0.5, Xtc(0.5)),
    "mirostat_tau": (3.0, Mirostat(3.0)),
}


def logits_of(n: int = 50, seed: int = 0, spread: float = 2.0) -> torch.Tensor:
    return spread * torch.randn(n, generator=torch.Generator().manual_seed(seed))


def at(step: int, stream: int = 0) -> StepContext:
    return StepContext([()], [()], step, stream=[stream])


def pick(seed: int, logits: torch.Tensor, step: int = 0, stream: int = 0) -> int:
    return int(Gumbel(seed)(logits[None], at(step, stream))[0])


# --- from_settings


def test_without_settings_there_is_no_stage_and_the_draw_is_gumbel():
    sampler = Sampler.from_settings()
    assert sampler.stages == () and sampler.draw == Gumbel(0)
    assert torch.equal(sampler.probabilities(logits_of()), logits_of().softmax(dim=-1))


@pytest.mark.parametrize("n", [1, 2, len(NAMED)])
def test_only_the_named_stages_are_there_in_labkits_order_however_they_are_written(n):
    order = [stage.name for stage in STAGES]
    for names in itertools.combinations(NAMED, n):
        sampler = Sampler.from_settings(**{name: NAMED[name][0] for name in reversed(names)}, seed=9)
        assert sampler.stages == tuple(NAMED[name][1] for name in sorted(names, key=order.index))
        assert sampler.draw == Gumbel(9)


def test_a_stage_s_further_parameters_reach_it():
    settings = {"dry_multiplier": 1.0, "dry_base": 2.0, "dry_allowed_length": 3, "xtc_probability": 0.5,
                "xtc_threshold": 0.2, "mirostat_tau": 2.0, "mirostat_eta": 0.3}  # fmt: skip
    assert Sampler.from_settings(**settings).stages == (Dry(1.0, 2.0, 3), Xtc(0.5, 0.2), Mirostat(2.0, 0.3))
    alone = {name: value for name, value in settings.items() if name not in NAMED}
    assert Sampler.from_settings(**alone).stages == ()  # a parameter switches nothing on


@pytest.mark.parametrize(
    "off",
    [
        {"top_k": 0}, {"top_k": None}, {"top_p": 1.0}, {"top_p": 1}, {"top_p": None}, {"min_p": 0}, {"min_p": 0.0},
        {"repetition_penalty": 1.0}, {"repetition_penalty": 1}, {"repetition_penalty": None}, {"temperature": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_means_off_adds_no_stage(off):
    assert Sampler.from_settings(**off).stages == ()


@pytest.mark.parametrize("scope", ["all", "generated", "prompt"])
def test_the_penalty_scope_reaches_the_stage(scope):
    sampler = Sampler.from_settings(repetition_penalty=2.0, penalty_scope=scope)
    assert sampler.stages == (RepetitionPenalty(2.0, scope),)
    p = sampler.probabilities(torch.ones(3), prompt_ids=[0], generated_ids=[1])
    assert [bool(x < p[2]) for x in p[:2]] == [scope != "generated", scope != "prompt"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1), ("temperature", math.nan), ("top_k", -2), ("top_k", 1.5), ("top_p", 0), ("top_p", 1.2),
     ("min_p", 1.0), ("repetition_penalty", 0), ("repetition_penalty", -1)],
)  # fmt: skip
def test_a_bad_setting_is_refused_at_construction_with_name_value_and_range(name, value):
    with pytest.raises(SamplingError, match=f"^{name} is .*must be"):
        Sampler.from_settings(**{name: value})


def test_the_draw_is_greedy_when_asked_and_at_temperature_0():
    assert Sampler.from_settings(greedy=True, seed=3).draw == Greedy()
    assert Sampler.from_settings(temperature=0).draw == Greedy()
    assert Sampler.from_settings(temperature=0.0, top_k=3).stages == (Temperature(0.0), TopK(3))


# --- what the draw sees


def test_temperature_0_is_one_hot_on_the_largest_logit_and_of_equal_ones_the_smallest_id():
    p = Sampler.from_settings(temperature=0).probabilities(torch.tensor([1.0, 5.0, 5.0, 2.0]))
    assert p.tolist() == [0.0, 1.0, 0.0, 0.0] and p.dtype == torch.float32


def test_greedy_takes_the_largest_of_what_the_stages_leave_but_keeps_their_distribution():
    sampler = Sampler.from_settings(greedy=True, temperature=0.5, repetition_penalty=100.0)
    logits = torch.tensor([1.0, 5.0, 4.0])
    assert sampler.trace(logits, generated_ids=[1]).chosen == 2
    assert int((sampler.probabilities(logits, generated_ids=[1]) > 0).sum()) == 3


@pytest.mark.parametrize("dialect", oracle.SYSTEMS)
def test_in_a_trace_the_masses_add_up_and_its_end_is_what_probabilities_says(dialect):
    rng, seen = np.random.default_rng(13), 0
    for _ in range(60):
        case = some_case(dialect, rng)
        logits, ids = torch.from_numpy(case.logits), (case.history.prompt, case.history.generated)
        if oracle.apply(dialect, case.logits, case.settings, case.history) is None:
            continue
        sampler = Sampler.from_settings(dialect=dialect, **case.settings, seed=case.history.seed)
        trace = sampler.trace(logits, *ids, step=len(ids[1]))
        assert [stage.name for stage in trace.stages] == ["model", *(stage.name for stage in sampler.stages)]
        for before, after in zip(trace.stages, trace.stages[1:], strict=False):
            removed = before.kept & ~after.kept
            assert abs(after.kept_mass + float(before.probabilities.double()[removed].sum()) - 1) < 1e-6
            assert after.kl >= 0 and after.entropy >= 0 and 0 <= after.kept_mass <= 1
            assert not (after.kept & ~before.kept).any()
        for stage in trace.stages:
            assert stage.kept.dtype == torch.bool and stage.probabilities.dtype == torch.float32
            assert abs(float(stage.probabilities.double().sum()) - 1) < 1e-5
            assert (stage.probabilities[~stage.kept] == 0).all()
            p = stage.probabilities.double().numpy()
            assert abs(stage.entropy - float(stats.entropy(p))) < 1e-4
        end = sampler.probabilities(logits, *ids)
        assert torch.allclose(trace.stages[-1].probabilities, end, atol=1e-6)
        assert trace.stages[-1].kept[trace.chosen]
        seen += 1
    assert seen > 50


def test_kl_and_kept_mass_of_a_filter_are_two_names_of_one_thing():
    """Removing tokens and renormalising moves the distribution by exactly -log(kept mass)."""
    trace = Sampler.from_settings(top_k=4).trace(logits_of())
    assert trace.stages[1].kl == pytest.approx(-math.log(trace.stages[1].kept_mass), abs=1e-9)


def test_the_trace_picks_what_the_sampler_picks_at_that_step_and_stream():
    sampler = Sampler.from_settings(temperature=1.5, top_p=0.9, seed=4)
    picked = set()
    for step, stream in itertools.product(range(6), range(3)):
        trace = sampler.trace(logits_of(), step=step, stream=stream)
        assert trace.chosen == int(sampler(logits_of()[None], at(step, stream))[0])
        picked.add(trace.chosen)
    assert len(picked) > 3


def test_a_trace_is_printable_plain_data():
    trace = Sampler.from_settings(top_k=2, seed=1).trace(torch.tensor([0.0, 1.0, 2.0]))
    assert repr(trace) == f"SamplingTrace(chosen={trace.chosen}, kept: model 3 → top_k 2)"
    rows = trace.rows()
    assert [row["stage"] for row in rows] == ["model", "top_k"] and [row["kept"] for row in rows] == [3, 2]
    assert trace.to_dict() == {"chosen": trace.chosen, "stages": rows}
    assert all(type(value) in (str, int, float) for row in rows for value in row.values())


@pytest.mark.parametrize("logits", [[math.nan, 1.0], [math.inf, 1.0], [-math.inf, -math.inf], [math.nan] * 3], ids=str)
def test_logits_that_cannot_be_sampled_from_are_refused_in_one_line(logits):
    for draw in (Greedy(), Gumbel(0)):
        with pytest.raises(SamplingError, match="NaN or infinity, or no token is left") as refused:
            Sampler(draw=draw).trace(torch.tensor(logits))
        assert "\n" not in str(refused.value)


def test_half_precision_logits_are_sampled_in_float32():
    logits = logits_of().bfloat16()
    sampler = Sampler.from_settings(temperature=0.7, top_p=0.9)
    assert torch.equal(sampler.probabilities(logits), sampler.probabilities(logits.float()))


# --- the recorded draw


def test_the_noise_is_the_published_generator_read_at_the_token_id():
    """SplitMix64's own test vectors, and the same numbers through the tensor path."""
    state, vector = 1234567, []
    for _ in range(5):
        state = (state + 0x9E3779B97F4A7C15) & MASK_64
        vector.append(splitmix(state))
    assert vector == [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
                      16408922859458223821]  # fmt: skip
    for seed, stream, step in [(0, 0, 0), (1337, 2, 40), (-5, 0, 1), (2**63 + 11, 7, 123456)]:
        key = 0
        for part in (seed, stream, step):
            key = splitmix((key ^ (part & MASK_64)) + 0x9E3779B97F4A7C15)
        ids = torch.tensor([0, 1, 50256, 2**31])
        expected = []
        for i in ids.tolist():
            bits = splitmix((key + (i + 1) * 0x9E3779B97F4A7C15) & MASK_64) >> 12
            expected.append(-math.log(-math.log((bits + 0.5) * 2.0**-52)))
        np.testing.assert_allclose(gumbel_noise(seed, stream, step, ids).numpy(), expected, rtol=1e-12)


def test_the_recorded_draw_never_changes():
    """Traces and notebooks hold ids drawn with a seed: the numbers behind it are part of the contract."""
    picks = [pick(1337, torch.zeros(1000), step) for step in range(8)]
    assert picks == [268, 673, 693, 72, 518, 558, 691, 790]


def test_noise_is_finite_for_every_id_and_follows_the_gumbel_distribution():
    noise = gumbel_noise(7, 0, 0, torch.arange(400_000))
    assert torch.isfinite(noise).all()
    assert stats.kstest(noise.numpy(), stats.gumbel_r.cdf).pvalue > 1e-3
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.01)


@pytest.mark.parametrize("neighbour", [(1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=["seed", "stream", "step"])
def test_neighbouring_seeds_streams_and_steps_are_independent(neighbour):
    ids = torch.arange(100_000)
    for base in [(0, 0, 0), (1, 2, 3), (1337, 0, 99)]:
        other = [a + b for a, b in zip(base, neighbour, strict=True)]
        a, b = gumbel_noise(*base, ids), gumbel_noise(*other, ids)
        assert abs(stats.pearsonr(a, b).statistic) < 0.015
        assert abs(stats.pearsonr(a[1:], b[:-1]).statistic) < 0.015


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_two_hundred_thousand_draws_have_the_frequencies_of_the_softmax(temperature):
    """The maximum of logits and noise, for noise that is read along the ids of a very large vocabulary."""
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, 0.0, -1.0, -2.0, -3.0]) / temperature
    n = 200_000
    noise = gumbel_noise(11, 0, 0, torch.arange(n * len(logits))).view(n, -1)
    counts = torch.bincount((logits.double() + noise).argmax(dim=-1), minlength=len(logits))
    expected = logits.double().softmax(dim=-1) * n
    assert stats.chisquare(counts.numpy(), expected.numpy()).pvalue > 1e-3


def test_a_draw_is_the_same_in_any_batch_in_any_order_and_at_any_time():
    rows = torch.stack([logits_of(seed=i) for i in range(8)])
    streams = [0, 0, 1, 2, 0, 5, 5, 0]
    alone = [pick(3, row, step=7, stream=stream) for row, stream in zip(rows, streams, strict=True)]
    for order in (list(range(8)), list(reversed(range(8))), [3, 3, 0]):
        context = StepContext([()] * len(order), [()] * len(order), 7, stream=[streams[i] for i in order])
        assert Gumbel(3)(rows[order], context).tolist() == [alone[i] for i in order]
    assert [pick(3, row, step=7, stream=stream) for row, stream in zip(rows, streams, strict=True)] == alone


def test_seed_stream_and_step_all_matter():
    flat = torch.zeros(10_000)
    picks = {pick(*key[:1], flat, *key[1:]) for key in itertools.product(range(4), repeat=3)}
    assert len(picks) > 60


@pytest.mark.parametrize("dialect", oracle.SYSTEMS)
def test_neither_stages_nor_draws_nor_traces_touch_a_global_generator(dialect, global_random_states):
    before, rng = global_random_states(), np.random.default_rng(14)
    for name in stages_of(dialect):
        case = some_case(dialect, rng, name)
        if name not in ("allowed_ids", "forbidden_ids", "logit_bias", "no_repeat_ngram_size"):  # may leave nothing
            sampler = Sampler.from_settings(dialect=dialect, seed=1, **case.settings)
            sampler.trace(torch.from_numpy(case.logits), case.history.prompt, case.history.generated, 1)
            sampler.probabilities(torch.from_numpy(case.logits), case.history.prompt)
    assert global_random_states() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_noise_and_picks_are_the_same_on_the_gpu():
    ids = torch.arange(50_000)
    here, there = gumbel_noise(5, 1, 2, ids), gumbel_noise(5, 1, 2, ids.cuda()).cpu()
    assert float((here - there).abs().max()) < 1e-12
    for i in range(300):
        logits = logits_of(500, seed=i)
        sampler = Sampler.from_settings(temperature=1.2, top_p=0.95, seed=i)
        assert sampler(logits[None].cuda(), at(i)).tolist() == sampler(logits[None], at(i)).tolist()


@pytest.mark.parametrize("kind", ["distinct", "tied", "mostly removed"])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (50, 50), (9_000, 5), (50_257, 41), (50_257, 256), (60_001, 1)])
def test_the_largest_of_a_long_row_are_found_by_chunks(n, k, kind):
    row = torch.randn(n, generator=torch.Generator().manual_seed(n + k))
    row = row.round(decimals=1) if kind == "tied" else row
    if kind == "mostly removed":
        row[torch.rand(n, generator=torch.Generator().manual_seed(1)) < 0.999] = -torch.inf
        row[0] = 0.0
    values, ids = largest(row, k)
    assert torch.equal(values, row.topk(k).values) and torch.equal(row[ids], values) and len(set(ids.tolist())) == k
    kept = TopK(k).kept_ids(row, at(0))
    assert torch.equal(kept, TopK(k).keeps(row[None], at(0))[0].nonzero().squeeze(-1))


def test_a_trace_that_was_asked_about_removed_tokens_can_still_be_pickled():
    trace = Sampler.from_settings(temperature=0.8, top_k=2, seed=1).trace(torch.tensor([3.0, 2.0, 1.0, 0.0]))
    asked = [trace.removal(i) for i in range(4)]
    again = pickle.loads(pickle.dumps(trace))
    assert [again.removal(i) for i in range(4)] == asked and asked[3] is not None
