"""Questions about one recorded step: break points, why this, why not that, what if; and what half a record proves."""

import math
import random

import pytest
import torch

from labkit.errors import SamplingError
from labkit.sampling import AllowedIds, Sampler, StepContext, TopK
from labkit.sampling.breaks import break_points, strip_of
from labkit.sampling.partial import Bounds, PartialLogits, PartialProbe, PartialStep
from labkit.sampling.questions import explain, what_if, why_not
from labkit.settings import Settings

V_GPT2 = 50257


def random_case(rng: random.Random, dialects=("labkit",), size=None):
    """Logits, a sampler, ids and a step; logits are often equal ones."""
    n = size or rng.choice([2, 3, 5, 10, 40, 200])
    logits = torch.randn(n, generator=torch.Generator().manual_seed(rng.randrange(1 << 30))) * rng.choice(
        [0.1, 1, 3, 8]
    )
    if rng.random() < 0.35:
        logits = (2 * logits).round() / 2
    dialect = rng.choice(dialects)
    choices = {
        "temperature": [0.3, 0.8, 1.3, 2.5],
        "top_k": [rng.randint(1, n)],
        "top_p": [0.1, 0.5, 0.9, 0.999],
        "min_p": [0.01, 0.05, 0.7],
        "repetition_penalty": [1.1, 1.5, 0.8],
        "top_n_sigma": [0.5, 2.0],
    }
    has = {
        "labkit": list(choices),
        "hf": ["temperature", "top_k", "top_p", "min_p", "repetition_penalty"],
        "nanochat": ["temperature", "top_k"],
    }.get(dialect, ["temperature", "top_k", "top_p", "repetition_penalty"])
    named = {name: rng.choice(choices[name]) for name in has if rng.random() < 0.5}
    ids = [rng.randrange(n) for _ in range(rng.randint(0, 8))]
    return logits, Sampler.from_settings(seed=rng.randrange(1 << 20), dialect=dialect, **named), ids, rng.randint(0, 3)


def chosen(sampler: Sampler, logits, ids=(), step=0) -> int:
    """The token, by the path that generation takes."""
    return sampler.choose(logits[None], StepContext([ids], [()], step))[0].id


def grid(strip, rng, n):
    """Values all along the range of a strip."""
    if strip.parameter == "top_k":
        return (
            list(range(1, int(strip.high) + 1))
            if strip.high <= n
            else [rng.randint(1, int(strip.high)) for _ in range(n)]
        )
    values = [strip.low + (strip.high - strip.low) * rng.random() for _ in range(n)]
    small = [10 ** (-4 * rng.random()) for _ in range(n // 4)]
    return [x for x in [strip.low, strip.high, *values, *small] if strip.low <= x <= strip.high]


def trace_of(named, seed=0, n=200, step=0, spread=2.0, dialect="labkit"):
    logits = spread * torch.randn(n, generator=torch.Generator().manual_seed(seed))
    return Sampler.from_settings(seed=seed, dialect=dialect, **named).trace(logits, step=step)


# --- break points


@pytest.mark.parametrize("dialect", ["labkit", "hf", "labcore", "swamla", "nanochat", "gpt2seed"])
def test_a_dense_grid_finds_no_break_point_that_was_missed_and_each_one_flips_the_token(dialect):
    rng = random.Random(dialect)
    compared = flipped = 0
    for _ in range(20 if dialect == "labkit" else 8):
        logits, sampler, ids, step = random_case(rng, (dialect,))
        for strip in break_points(sampler.trace(logits, ids, (), step)).strips:
            if not strip.exact:  # equal logits that other systems leave to their sort
                assert dialect not in ("labkit", "nanochat") and "equal logits" in strip.note
                continue

            def at(value, strip=strip, sampler=sampler, logits=logits, ids=ids, step=step):
                return chosen(sampler.replace(**{strip.parameter: value}), logits, ids, step)

            assert strip.segments[0].start == strip.low and strip.segments[-1].end == strip.high
            for value in grid(strip, rng, 40):
                for segment in strip.segments:
                    if segment.start <= value <= segment.end:
                        assert at(value) == segment.id, (sampler, strip.parameter, value)
                        compared += 1
            for before, after in zip(strip.segments, strip.segments[1:], strict=False):
                assert before.id != after.id
                away = 2e-4 if strip.parameter == "temperature" else 0.0  # how far float32 logits blur a temperature
                low, high = (x * (1 + side * away) if away else x for x, side in ((before.end, -1), (after.start, 1)))
                if low >= before.start and high <= after.end:
                    assert (at(low), at(high)) == (before.id, after.id), (sampler, strip.parameter, before, after)
                    flipped += 1
    assert compared > 300 and flipped > 2


@pytest.mark.parametrize("named", [{"temperature": 0.8, "top_k": 40, "top_p": 0.95}, {"temperature": 1.5}])
def test_break_points_of_a_large_vocabulary_hold(named):
    trace, rng = trace_of(named, seed=1, n=V_GPT2, spread=3.0, step=2), random.Random(1)
    answer = break_points(trace)
    assert answer.exact and len(answer.rows()) > 8
    for strip in answer.strips:
        for value in grid(strip, rng, 12):
            expected = [segment.id for segment in strip.segments if segment.start <= value <= segment.end]
            if expected:
                assert chosen(trace.sampler.replace(**{strip.parameter: value}), trace.logits, step=2) == expected[0]


def test_values_next_to_a_break_point_are_neighbours():
    for name, gap in (("top_k", 1), ("top_p", 2e-16), ("min_p", 2e-16), ("temperature", 2e-7)):
        seen = 0
        for seed in range(8):
            strip = break_points(trace_of({"temperature": 1.2}, seed=seed), name)[name]
            for before, after in zip(strip.segments, strip.segments[1:], strict=False):
                assert 0 < after.start - before.end <= gap * max(1, after.start)
                seen += 1
        assert seen > 3


def test_the_present_value_lies_in_the_segment_of_the_chosen_token():
    for seed in range(10):
        trace = trace_of({"temperature": 0.75, "top_k": 20, "top_p": 0.8}, seed=seed)
        for strip in break_points(trace).strips:
            value = strip.value if strip.value is not None else strip.low  # min-p is off
            (segment,) = [s for s in strip.segments if s.start <= value <= s.end]
            assert segment.id == trace.chosen


def test_greedy_has_no_break_points_and_says_so():
    answer = break_points(Sampler.from_settings(greedy=True, top_k=5).trace(torch.tensor([1.0, 3.0, 2.0])))
    assert [strip.points for strip in answer.strips] == [()] * 4
    assert all("greedy" in strip.note for strip in answer.strips)


def test_at_temperature_0_the_strip_shows_what_higher_temperatures_would_draw():
    trace = trace_of({"temperature": 0}, seed=3)
    strip = break_points(trace, "temperature")["temperature"]
    assert strip.segments[0].id == int(trace.logits.argmax()) == trace.chosen and len(strip.points) > 0
    assert chosen(trace.sampler.replace(temperature=5.0), trace.logits) == strip.segments[-1].id


@pytest.mark.parametrize(
    ("named", "dialect", "word"),
    [({"typical_p": 0.5}, "labkit", "typical_p"),
     ({"mirostat_tau": 3.0}, "labkit", "mirostat_tau"), ({"xtc_probability": 1.0}, "labkit", "xtc_probability")],
)  # fmt: skip
def test_where_no_order_of_tokens_can_be_relied_on_many_values_are_tried_and_the_answer_says_so(named, dialect, word):
    trace = trace_of(named, dialect=dialect, n=60)
    strip = break_points(trace, "temperature")["temperature"]
    assert not strip.exact and word in strip.note and "65 values were tried" in strip.note
    for segment in strip.segments:
        for value in (segment.start, segment.end):
            assert chosen(trace.sampler.replace(temperature=value), trace.logits) == segment.id


def test_a_draw_without_noise_of_each_tokens_own_has_no_break_points():
    with pytest.raises(SamplingError, match=r"llama.cpp's draw has no noise of each token's own"):
        break_points(trace_of({"top_k": 9}, dialect="llama.cpp"))


def test_other_strips_of_a_stage_without_order_can_still_be_exact():
    answer = break_points(trace_of({"typical_p": 0.5}))
    assert answer["top_p"].exact and not answer["temperature"].exact and not answer.exact


def test_equal_logits_that_a_system_leaves_to_its_sort_make_an_answer_inexact():
    logits = torch.tensor([5.0, 5.0, 4.0, 3.0, 3.0, 1.0])
    for dialect, exact in (("hf", False), ("labcore", False), ("labkit", True)):
        sampler = Sampler.from_settings(dialect=dialect, top_p=0.6, temperature=0.9, seed=2)
        assert break_points(sampler.trace(logits), "top_k").exact is exact, dialect
        assert break_points(sampler.trace(logits + torch.arange(6) / 9), "top_k").exact


def test_answers_do_not_move_the_recorded_generator():
    sampler = Sampler.from_settings(dialect="labcore", temperature=0.9, seed=4)
    state = {}
    logits = torch.randn(30, generator=torch.Generator().manual_seed(1))
    for step in range(3):
        sampler.choose(logits[None], StepContext([()], [()], step, state=state))
    trace = sampler.trace(logits, step=3, state={key: (n, g.clone_state()) for key, (n, g) in state.items()})
    once = [break_points(trace).to_dict(), str(explain(trace)), what_if(trace, top_k=3).after.chosen]
    again = [break_points(trace).to_dict(), str(explain(trace)), what_if(trace, top_k=3).after.chosen]
    assert once == again
    assert chosen(sampler, logits, step=3) == trace.chosen


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: break_points(trace_of({}), "seed"), "no break points; ask about temperature"),
        (lambda: break_points(trace_of({}, dialect="nanochat"), "top_p"), "nanochat has no such stage"),
        (lambda: break_points(Sampler([TopK(3)]).trace(torch.ones(5))), "list of stages"),
        (lambda: break_points(trace_of({}))["typical_p"], "asked about were"),
        (lambda: why_not(trace_of({}), 200), "0 … 199"),
        (lambda: why_not(trace_of({}), True), "not in the vocabulary"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(ask, words):
    with pytest.raises(SamplingError, match=words) as caught:
        ask()
    assert "\n" not in str(caught.value)


def test_a_dialect_is_asked_about_the_stages_it_has():
    assert [strip.parameter for strip in break_points(trace_of({}, dialect="labcore")).strips] == [
        "temperature", "top_k", "top_p"
    ]  # fmt: skip


def test_strips_are_plain_data():
    answer = break_points(trace_of({"top_p": 0.9}))
    assert answer.rows()[0].keys() == {"parameter", "now", "start", "end", "id", "exact"}
    assert answer.to_dict()["strips"][0]["segments"][0].keys() == {"start", "end", "id"}
    assert repr(answer).startswith("BreakPoints(temperature ") and "\n" not in repr(answer.strips[0])


# --- why not


@pytest.mark.parametrize("seed", range(6))
def test_the_way_in_is_the_smallest_change_that_lets_the_token_reach_the_draw(seed):
    rng, found = random.Random(seed), 0
    for _ in range(6):
        logits, sampler, ids, step = random_case(rng, size=60)
        trace = sampler.trace(logits, ids, (), step)
        for token in rng.sample(range(60), 4):
            answer = why_not(trace, token)
            assert (answer.removal is not None) == (not bool(trace.stages[-1].kept[token]))
            for way in answer.ways:

                def kept(value, way=way, token=token, trace=trace):
                    other = trace.sampler.replace(**{way.parameter: value})
                    return bool(other.apply(trace.logits[None], trace.context)[0, token] > -math.inf)

                if way.value is None:
                    assert not any(kept(value) for value in (way_values(way.parameter, 60)))
                    continue
                found += 1
                away = {"top_k": 1, "temperature": way.value * 1e-4}.get(way.parameter, way.value * 1e-12)
                inside, outside = (0, -away) if way.side == "≥" else (0, away)
                assert kept(way.value + inside) and not kept(way.value + outside), (sampler, way, token)
                assert way.wins == (chosen(sampler.replace(**{way.parameter: way.value}), logits, ids, step) == token)
    assert found > 0


def way_values(parameter, n):
    return {
        "temperature": [0.2, 1.0, 3.0, 20.0, 1000.0], "top_k": [1, 5, n], "top_p": [0.3, 0.9, 1.0],
        "min_p": [0.0, 0.3, 0.9], "top_n_sigma": [0.3, 2.0, 50.0],
    }[parameter]  # fmt: skip


def test_a_removed_token_names_its_stage_the_line_and_the_ways_in():
    logits = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    answer = why_not(Sampler.from_settings(top_k=2, seed=1).trace(logits), 3)
    assert answer.removal.stage == "top_k" and answer.removal.threshold == 4.0 and answer.rank == 3
    assert {way.parameter: way.value for way in answer.ways} == {
        "temperature": None, "top_k": 4, "top_p": None, "min_p": None
    }  # fmt: skip
    assert str(answer).startswith(
        "#3 (3.17 % from the model, rank 3) was removed by top-k: logit 2, must be at least 4;"
    )
    assert "top-k ≥ 4" in str(answer)


def test_bounds_are_written_rounded_to_the_side_on_which_they_hold():
    trace = Sampler.from_settings(top_p=0.5, seed=1).trace(torch.tensor([2.0, 1.0, 0.5, 0.1]))
    way = {way.parameter: way for way in why_not(trace, 3).ways}["top_p"]
    written = float(str(way).split()[-1])
    assert str(way).startswith("top-p ≥ ") and way.value <= written <= way.value + 2e-4


@pytest.mark.parametrize(
    ("named", "stage"), [({"allowed_ids": (0, 1)}, "allowed_ids"), ({"forbidden_ids": (3,)}, "forbidden_ids")]
)
def test_a_token_on_a_list_is_let_in_by_no_other_setting(named, stage):
    answer = why_not(Sampler.from_settings(top_k=2, **named).trace(torch.arange(5.0)), 3)
    assert answer.removal.stage == stage and all(way.value is None for way in answer.ways)
    assert "no single one of these settings lets it in" in str(answer)


def test_stages_that_have_a_setting_of_their_own_say_what_it_would_have_to_be():
    logits = torch.tensor([4.0, 3.0, 2.0, 0.0])
    answer = why_not(Sampler.from_settings(top_n_sigma=0.5).trace(logits), 2)
    way = answer.ways[-1]
    assert way.parameter == "top_n_sigma" and way.side == "≥"
    for value, inside in ((way.value, True), (way.value * (1 - 1e-6), False)):
        assert bool(Sampler.from_settings(top_n_sigma=value).probabilities(logits)[2] > 0) is inside


def test_a_token_that_reached_the_draw_tells_by_how_much_it_missed_and_where_it_would_win():
    for seed in range(8):
        trace = trace_of({"temperature": 0.7}, seed=seed, n=12)
        strip = break_points(trace, "temperature")["temperature"]
        for token in range(12):
            answer = why_not(trace, token)
            noise = trace.sampler.draw.noise(torch.arange(12), trace.context, 12)
            scores = (trace.logits / 0.7).double() + noise
            assert answer.missed_by == pytest.approx(float(scores.max() - scores[token]), abs=1e-6)
            wins = [segment for segment in strip.segments if segment.id == token]
            assert (answer.wins_at is not None) == (bool(wins) and token != trace.chosen)
            if answer.wins_at:
                assert chosen(trace.sampler.replace(temperature=answer.wins_at[0]), trace.logits) == token


def test_penalties_that_pushed_a_token_are_named():
    sampler = Sampler.from_settings(repetition_penalty=2.0, presence_penalty=0.5)
    answer = why_not(sampler.trace(torch.tensor([3.0, 2.0, 1.0]), [1]), 1)
    assert [(p.stage, p.before, p.after) for p in answer.pushes] == [
        ("repetition_penalty", 2.0, 1.0), ("presence_penalty", 1.0, 0.5)
    ]  # fmt: skip
    assert "repetition penalty moved its logit from 2 to 1" in str(answer)


def test_why_not_works_without_settings_and_for_the_chosen_token():
    trace = Sampler([AllowedIds((0,))]).trace(torch.tensor([1.0, 2.0]))
    assert why_not(trace, 1).removal.stage == "allowed_ids" and why_not(trace, 1).ways == ()
    assert str(why_not(trace, 0)).endswith("was chosen.")


# --- why this one


def test_a_one_percent_token_that_beats_one_of_96_percent_is_explained():
    logits = torch.cat([torch.tensor([0.96, 0.01]), torch.full((30,), 0.001)]).log()
    for seed in range(2000):
        trace = Sampler.from_settings(temperature=3.0, min_p=0.05, seed=seed).trace(logits)
        if trace.chosen == 1:
            break
    why = explain(trace, {0: "'the'", 1: "'a'"}.get)
    assert (why.id, why.favourite, why.rank, why.kept) == (1, 0, 1, 32)
    assert why.probability == pytest.approx(0.01, rel=0.02) and why.drawn_probability > 0.03
    scores = (logits / 3).double() + trace.sampler.draw.noise(torch.arange(32), trace.context, 32)
    ordered = scores.sort(descending=True).values
    assert why.margin == pytest.approx(float(ordered[0] - ordered[1]), abs=1e-6)
    assert "'a' has 1 % from the model" in str(why) and "'the', the model's favourite with 96 %" in str(why)


def test_the_stage_that_removed_the_favourite_is_named():
    logits = torch.tensor([5.0, 1.0, 0.9])
    assert "was removed by forbidden ids" in str(explain(Sampler.from_settings(forbidden_ids=(0,)).trace(logits)))
    assert "no other was left" in str(explain(Sampler.from_settings(top_k=1).trace(logits)))
    assert "the draw took it" in str(explain(Sampler.from_settings(dialect="llama.cpp", seed=3).trace(logits)))


# --- what if


def test_what_if_is_the_same_draw_under_other_settings():
    trace = trace_of({"temperature": 0.8, "top_k": 40}, seed=3, step=5)
    answer = what_if(trace, temperature=2.0)
    assert answer.changed == (("temperature", 0.8, 2.0),)
    assert answer.after.chosen == chosen(trace.sampler.replace(temperature=2.0), trace.logits, step=5)
    assert answer.before is trace and answer.same == (answer.after.chosen == trace.chosen)
    assert what_if(trace).same and what_if(trace).changed == ()


def test_a_whole_settings_object_replaces_all_settings_but_not_the_draw():
    trace = trace_of({"temperature": 0.8, "top_k": 40}, seed=3)
    answer = what_if(trace, Settings(temperature=1.0, top_k=None, top_p=0.9, seed=99))
    assert answer.after.sampler.draw == trace.sampler.draw
    assert {name for name, _, _ in answer.changed} >= {"top_k", "top_p", "temperature"}
    assert what_if(trace, greedy=True).after.chosen == int(trace.logits.argmax())


def test_a_filter_that_keeps_the_chosen_token_changes_nothing():
    for seed in range(100):
        trace = trace_of({"temperature": 1.3}, seed=seed)
        answer = what_if(trace, top_k=20, min_p=0.01)
        assert answer.same == bool(answer.after.stages[-1].kept[trace.chosen])


# --- half a record


def test_what_half_a_record_proves_is_true():
    rng = random.Random(5)
    asked = proved = 0
    for _ in range(100):
        n = rng.choice([10, 40, 200, 1000])
        logits, sampler, ids, step = random_case(rng, ("labkit", "labkit", "labkit", "hf", "labcore"), n)
        partial = PartialLogits.of(logits, rng.choice([1, 3, 8, 30, n // 2, n]), ids)
        here = PartialStep(partial, 0, sampler, StepContext([ids], [()], step, sampler.draw.seed))
        for _ in range(6):
            changes = {"temperature": rng.choice([0.1, 0.7, 1.0, 1.3, 4.0])} | {
                "top_p": rng.choice([0.1, 0.5, 0.95, 1.0])
            }
            changes |= {"top_k": rng.choice([0, rng.randint(1, n), rng.randint(1, 30)])} if rng.random() < 0.5 else {}
            if sampler.named["dialect"] == "labkit" and rng.random() < 0.3:
                changes |= rng.choice(
                    [{"min_p": 0.05}, {"typical_p": 0.5}, {"logit_bias": {0: 2.0}}, {"mirostat_tau": 2.0}]
                )
            other = sampler.replace(**changes)
            asked += 1
            if (answer := here.pick(other)) is not None:
                proved += 1
                assert answer == chosen(other, logits, ids, step), (sampler, other, len(partial.ids), n)
    assert proved > asked / 4


def test_after_a_top_k_among_the_known_everything_is_proved():
    trace = trace_of({"temperature": 0.8, "top_k": 40, "top_p": 0.95}, n=5000)
    here = PartialStep(PartialLogits.of(trace.logits, 64), trace.chosen, trace.sampler, trace.context)
    whole = break_points(trace)
    for name in ("temperature", "top_p", "min_p"):
        for half, full in zip(strip_of(here, PartialProbe(here, name)).segments, whole[name].segments, strict=True):
            assert half.id == full.id and half.start == pytest.approx(full.start, rel=1e-6)
    by_k = strip_of(here, PartialProbe(here, "top_k")).segments
    assert by_k[-1].id is None and by_k[0].id == whole["top_k"].segments[0].id


def test_a_nucleus_that_reaches_hidden_tokens_is_proved_only_where_they_cannot_win():
    sampler = Sampler.from_settings(top_p=0.99, seed=1)
    logits = torch.zeros(1000)
    logits[:3] = torch.tensor([9.0, 8.0, 7.0])
    answers = []
    for step in range(60):
        here = PartialStep(PartialLogits.of(logits, 3), 0, sampler, StepContext([()], [()], step, 1))
        answers.append((here.pick(sampler), chosen(sampler, logits, step=step)))
    assert all(proved in (None, truth) for proved, truth in answers)
    assert any(proved is None for proved, _ in answers) and any(proved is not None for proved, _ in answers)


def test_deviations_of_hidden_logits_are_not_known():
    trace = trace_of({"top_n_sigma": 1.0}, n=50)
    here = PartialStep(PartialLogits.of(trace.logits, 20), trace.chosen, trace.sampler, trace.context)
    assert Bounds(here, trace.sampler).pick() is None
    here = PartialStep(PartialLogits.of(trace.logits, 50), trace.chosen, trace.sampler, trace.context)
    assert Bounds(here, trace.sampler).pick() == trace.chosen
