"""Draws: their frequencies, their noise, llama.cpp's generator, and that the fast way is the plain way."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from sampling_cases import some_case, some_logits, value_of
from scipy import stats
from test_dialect_oracle import context_of

from labkit.errors import SamplingError
from labkit.sampling import (
    STAGES,
    Filter,
    Greedy,
    Gumbel,
    LlamaCppDist,
    NanochatMultinomial,
    Sampler,
    StepContext,
    TorchMultinomial,
)

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, 0.0, -1.0, -2.0, -3.0])
DRAWS = [Gumbel, TorchMultinomial, NanochatMultinomial, LlamaCppDist]
AXES = ["seed", "step", "stream"]


def at(step: int = 0, stream: int = 0, state: dict[Any, Any] | None = None) -> StepContext:
    return StepContext([()], [()], step, stream=[stream], state={} if state is None else state)


def frequencies(kind: Any, axis: str, n: int) -> list[int]:
    """Counts of n draws along seeds, steps (each after the other) or streams."""
    ids, state, counts = torch.arange(len(LOGITS)), {}, [0] * len(LOGITS)
    for i in range(n):
        where = {"seed": at(3), "step": at(i, state=state), "stream": at(3, i)}[axis]
        counts[kind(i if axis == "seed" else 11).pick(ids, LOGITS, where, len(LOGITS))] += 1
    return counts


@pytest.mark.parametrize(("kind", "axis"), [(Gumbel, "seed"), (Gumbel, "stream"), *((kind, "step") for kind in DRAWS)])
def test_twenty_thousand_draws_have_the_frequencies_of_the_softmax(kind, axis):
    n = 20_000
    expected = LOGITS.double().softmax(dim=-1).numpy() * n
    assert stats.chisquare(frequencies(kind, axis, n), expected).pvalue > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("kind", DRAWS)
def test_two_hundred_thousand_draws_have_the_frequencies_of_the_softmax(kind, axis, capsys):
    n = 200_000
    expected = LOGITS.double().softmax(dim=-1).numpy() * n
    p = stats.chisquare(frequencies(kind, axis, n), expected).pvalue
    with capsys.disabled():
        print(f"\n{kind.__name__} along {axis}: p = {p:.3f}", end="")
    assert p > 1e-3


def test_gumbels_noise_is_the_oracles():
    ids = torch.tensor([0, 1, 17, 50_256])
    for seed, stream, step in [(0, 0, 0), (1337, 2, 40), (-5, 0, 1), (2**40, 1, 9)]:
        expected = [oracle.gumbel(seed, stream, step, i) for i in ids.tolist()]
        np.testing.assert_allclose(Gumbel(seed).noise(ids, at(step, stream), 50_257).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", [Greedy, Gumbel, TorchMultinomial])
def test_the_pick_is_the_largest_of_logits_and_noise(kind):
    """Whether the generator is at hand or the steps before must be drawn again; and asking does not move it."""
    rng, state = np.random.default_rng(1), {}
    for step in range(300):
        logits = torch.from_numpy(rng.normal(0, 2, 30).astype(np.float32))
        ids = torch.from_numpy(np.sort(rng.choice(30, int(rng.integers(1, 31)), replace=False)))
        draw = kind(7)
        for where in (at(step, 1, state), *([at(step, 1)] if step % 50 == 0 else [])):
            noise = draw.noise(ids, where, 30)
            assert noise.dtype == torch.float64 and noise.shape == ids.shape
            picked = draw.pick(ids, logits[ids], where, 30)
            assert picked == int(ids[(logits[ids].double() + noise).argmax()])


def test_torchs_own_stream_goes_on_from_step_to_step_as_one_generator_does():
    """As torch.manual_seed(seed) and one multinomial a step, which is what the reference systems do."""
    rng, state, generator = np.random.default_rng(2), {}, torch.Generator().manual_seed(7 + 2)
    for step in range(50):
        logits = torch.from_numpy(rng.normal(0, 2, (1, 20)).astype(np.float32))
        expected = int(torch.multinomial(logits.softmax(dim=-1), 1, generator=generator))
        assert TorchMultinomial(7)(logits, at(step, 2, state)).tolist() == [expected]
        assert TorchMultinomial(7)(logits, at(step, 2)).tolist() == [expected]  # without the state


def test_llama_cpps_numbers_are_those_of_the_c_plus_plus_standard():
    """[rand.predef]: the 10,000th number of a default-constructed std::mt19937 is 4123659995."""
    assert oracle.mt19937(5489, 10_000)[-1] == 4123659995


@pytest.mark.parametrize(
    ("settings", "by_size", "shortens"),
    [
        ({"temperature": 0.8}, False, False),
        ({"repetition_penalty": 1.3}, False, False),
        ({"logit_bias": dict.fromkeys(range(24), -math.inf)}, False, False),  # all but one impossible, but candidates
        ({"min_p": 0.3}, False, True),
        ({"top_n_sigma": 0.6}, True, False),
        ({"top_k": 3}, True, True),
        ({"top_p": 0.5, "temperature": 1.5}, True, True),
        ({"top_k": 9, "min_p": 0.2}, True, True),
    ],
    ids=str,
)
def test_llama_cpps_draw_is_its_loop_over_the_candidates(settings, by_size, shortens):
    """A double from two 32-bit numbers, as libstdc++ makes it, against the running sum of float32 weights; over the
    candidates in the order that its samplers leave; and no number where one candidate is on the list alone."""
    rng = np.random.default_rng(4)
    for seed in (0, 1337, 2**32 - 2):
        numbers, state = iter(oracle.mt19937(seed, 200)), {}
        sampler = Sampler.from_settings(dialect="llama.cpp", seed=seed, **settings)
        for step in range(60):
            row = torch.from_numpy(rng.normal(0, 3, 25).astype(np.float32))[None]
            here = StepContext([[1, 2]], [[3] * step], step, state=state)
            left = sampler.apply(row, here)[0].numpy()
            candidates = np.argsort(-left, kind="stable") if by_size else np.arange(25)
            candidates = candidates[np.isfinite(left[candidates])]
            expected = int(candidates[0])
            if len(candidates) > 1 or not shortens:
                weights = [float(np.exp(left[i] - left.max())) for i in candidates]
                target = sum(weights) * ((next(numbers) + next(numbers) * 2.0**32) / 2.0**64)
                running = np.cumsum(weights)
                expected = int(candidates[min(int((running < target).sum()), len(candidates) - 1)])
            assert sampler.choose(row, here)[0].id == expected, step


def test_llama_cpps_draw_has_no_noise_to_ask_about():
    with pytest.raises(SamplingError, match="no noise of each token's own") as refused:
        LlamaCppDist(1).noise(torch.arange(3), at(), 3)
    assert "\n" not in str(refused.value)


# --- what a filter can change


def changes(draw: Callable[[int], Any], n: int, chunk: int = 50) -> tuple[int, int]:
    """Of n random cases: how often a filter kept the pick, and how often the pick then was another one."""
    rng = np.random.default_rng(6)
    filters = [stage for stage in STAGES if issubclass(stage, Filter)]
    survived = changed = 0
    for i in range(n // chunk):
        rows = torch.from_numpy(rng.normal(0, rng.uniform(0.3, 4), (chunk, 40)).astype(np.float32))
        rows = rows.round() if i % 4 == 0 else rows
        history = rng.integers(0, 40, (chunk, 12)).tolist()
        kind = filters[i % len(filters)]
        here = StepContext(history, [()] * chunk, i, i, range(chunk), {})
        kept = kind(value_of(kind.name, "labkit", rng, 40))(rows, here)
        before, after = (draw(i)(x, replace(here, state={})) for x in (rows, kept_or_first(kept)))
        stays = torch.isfinite(kept.gather(1, before[:, None])[:, 0])
        survived += int(stays.sum())
        changed += int((before != after)[stays].sum())
    return survived, changed


def kept_or_first(logits: torch.Tensor) -> torch.Tensor:
    """A row of which nothing is left cannot be drawn from; its first token stands for it."""
    out = logits.clone()
    out[~torch.isfinite(out).any(dim=-1), 0] = 0.0
    return out


def test_a_filter_that_keeps_the_chosen_token_never_changes_the_pick():
    survived, changed = changes(Gumbel, 5000)
    assert survived > 3000 and changed == 0


def test_with_torchs_own_stream_neither_but_for_rounding():
    """Its float32 probabilities are divided by another sum."""
    survived, changed = changes(lambda seed: TorchMultinomial(seed), 1000)
    assert survived > 600 and changed == 0


@pytest.mark.slow
def test_in_a_hundred_thousand_cases_a_filter_that_keeps_the_chosen_token_never_changes_the_pick(capsys):
    survived, changed = changes(Gumbel, 100_000)
    with capsys.disabled():
        print(f"\n{survived} picks were kept by a filter, {changed} of them changed", end="")
    assert survived > 60_000 and changed == 0


# --- the fast way is the plain way


def plainly(sampler: Sampler, logits: torch.Tensor, context: StepContext) -> tuple[list[int], list[int]] | str:
    """``apply`` and then the draw: ids and how many were left; or what was refused."""
    try:
        seen = sampler.apply(logits, context)
        ids = sampler.draw(seen, replace(context, seed=sampler.draw.seed)).tolist()
    except SamplingError as error:
        return str(error)
    return ids, (seen > float("-inf")).sum(dim=-1).tolist()


def fast(sampler: Sampler, logits: torch.Tensor, context: StepContext) -> tuple[list[int], list[int]] | str:
    try:
        chosen = sampler.choose(logits, context)
    except SamplingError as error:
        return str(error)
    return [c.id for c in chosen], [c.kept for c in chosen]


def check_fast(dialect: str, n: int) -> None:
    rng = np.random.default_rng(8)
    for _ in range(n):
        case = some_case(dialect, rng, large=0.002)
        greedy = rng.random() < 0.1
        sampler = Sampler.from_settings(dialect=dialect, seed=case.history.seed, greedy=greedy, **case.settings)
        logits = torch.from_numpy(case.logits)[None]
        expected = plainly(sampler, logits, context_of(case))
        assert fast(sampler, logits, context_of(case)) == expected, (dialect, greedy, case)
        if not isinstance(expected, str):
            history = case.history
            trace = sampler.trace(logits[0], history.prompt, history.generated, history.step, history.stream)
            assert [trace.chosen] == expected[0]
            assert [int(trace.stages[-1].kept.sum())] == expected[1]


@pytest.mark.parametrize("dialect", oracle.SYSTEMS)
def test_choose_and_trace_pick_what_apply_and_the_draw_pick(dialect):
    check_fast(dialect, 250)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", oracle.SYSTEMS)
def test_in_ten_thousand_cases_choose_and_trace_pick_what_apply_and_the_draw_pick(dialect):
    check_fast(dialect, 10_000)


@pytest.mark.parametrize("dialect", oracle.SYSTEMS)
def test_broken_logits_are_refused_or_drawn_from_the_same_way(dialect):
    """NaN, infinity, or nothing there: one line, whichever stages are on, and never another kind of error."""
    rng = np.random.default_rng(9)
    refused = 0
    for _ in range(300):
        case = some_case(dialect, rng)
        broken = case.logits.copy()
        broken[rng.integers(len(broken))] = rng.choice([np.nan, np.inf])
        if rng.random() < 0.3:
            broken[:] = rng.choice([np.nan, -np.inf])
        sampler = Sampler.from_settings(dialect=dialect, seed=case.history.seed, **case.settings)
        expected = plainly(sampler, torch.from_numpy(broken)[None], context_of(case))
        actual = fast(sampler, torch.from_numpy(broken)[None], context_of(case))
        if isinstance(expected, str) or isinstance(actual, str):
            assert isinstance(expected, str) and isinstance(actual, str), (dialect, expected, actual, broken, case)
            assert "\n" not in expected + actual
            refused += 1
    assert refused > 100 or dialect == "nanochat"


# --- batches


@pytest.mark.parametrize("greedy", [False, True])
def test_a_batch_of_eight_draws_what_each_row_alone_draws_in_any_order_of_calls(greedy):
    rng = np.random.default_rng(10)
    for i in range(60):
        names = [
            stage.name for stage in STAGES if rng.random() < 0.3 and stage.name not in ("allowed_ids", "logit_bias")
        ]
        settings = {name: value_of(name, "labkit", rng, 60) for name in names}
        sampler = Sampler.from_settings(seed=i, greedy=greedy, **settings)
        rows = torch.from_numpy(rng.normal(0, 2, (8, 60)).astype(np.float32))
        prompts, streams = rng.integers(0, 60, (8, 9)).tolist(), rng.permutation(8).tolist()
        batch = StepContext(prompts, [()] * 8, 4, stream=streams)
        together = sampler(rows, batch).tolist()
        for row in rng.permutation(8).tolist():
            alone = StepContext([prompts[row]], [()], 4, stream=[streams[row]])
            assert sampler(rows[row, None], alone).tolist() == [together[row]]


def test_logits_from_every_vocabulary_size_are_drawn_from():
    rng = np.random.default_rng(12)
    for _ in range(200):
        logits = torch.from_numpy(some_logits(rng, large=0.02))[None]
        for draw in (Greedy(), Gumbel(3), TorchMultinomial(3), LlamaCppDist(3)):
            picked = int(draw(logits, at(2))[0])
            assert torch.isfinite(logits[0, picked])
