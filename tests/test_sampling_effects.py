"""What settings do to text: measures that can be counted by hand, and grids on a real model."""

import math

import pytest
from widget_driver import PROMPT, small_alphabet, tiny_model

import labkit
from labkit.benchmark import effects
from labkit.benchmark.effects import repeated, sampling_effects
from labkit.errors import ConfigError, LabkitError
from labkit.generation import Generation
from labkit.settings import Settings


@pytest.fixture(scope="module")
def lm():
    return tiny_model(small_alphabet())


def text(ids, surprisal=1.0):
    logprobs = [-surprisal] * len(ids)
    return Generation(list(ids), [], "length", (), Settings(), None, logprobs, logprobs)


def test_measures_are_what_one_counts_by_hand():
    found = effects.measures([text([1, 2, 1, 2, 1, 2], math.log(8)), text([1, 2, 3, 4, 5, 6], math.log(2))])
    # 12 21 12 21 12 | 12 23 34 45 56
    assert found["distinct"].values == (2 / 5, 1.0)
    assert found["own"].values == (2 / 5, 4 / 5)
    assert found["repeated"].values == pytest.approx((1 / 3, 0.0))  # 1212 2121 1212
    assert found["surprisal"].values == pytest.approx((3.0, 1.0))


def test_a_text_that_says_everything_twice_repeats_half():
    assert repeated([1, 2, 3, 4] * 2 + [1, 2, 3]) == pytest.approx(0.5)


def test_every_point_of_the_grid_has_the_same_draws_and_an_interval(lm):
    grid = {"temperature": [0.5, 1.0, 2.0], "top_p": [0.9, 1.0]}
    found = sampling_effects(lm, PROMPT, grid, n=4, max_new_tokens=24, top_k=0, progress=False)
    rows = found.rows()
    assert [(row["temperature"], row["top_p"]) for row in rows] == [(t, p) for t in (0.5, 1.0, 2.0) for p in (0.9, 1.0)]
    assert rows[0]["n"] == 4 and all(row["surprisal_within"] > 0 for row in rows)
    assert rows[-1]["surprisal"] > rows[0]["surprisal"]  # hotter text surprises more
    same = labkit.generate_batch(lm, [PROMPT], temperature=2.0, top_p=1.0, top_k=0, n=4, max_new_tokens=24)[0]
    assert effects.measures(same) == found.points[-1][1]
    assert found.rows() == sampling_effects(lm, PROMPT, grid, n=4, max_new_tokens=24, top_k=0, progress=False).rows()
    assert repr(found) == "SamplingEffects(6 settings of temperature, top_p)"


@pytest.mark.parametrize(
    ("grid", "options", "said"),
    [
        ({}, {}, "the grid is empty"),
        ({"temperature": []}, {}, "the grid is empty"),
        ({"temperature": [1.0]}, {"n": 1}, "n is 1; an interval needs at least 2 texts"),
        ({"temperature": [1.0]}, {"max_new_tokens": 2}, "too few texts are long enough to measure repeated"),
        ({"temprature": [1.0]}, {}, "temprature"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(lm, grid, options, said):
    with pytest.raises(ConfigError, match=said):
        sampling_effects(lm, PROMPT, grid, progress=False, **{"max_new_tokens": 20} | options)


def test_a_setting_that_is_wrong_at_the_end_of_the_grid_is_refused_before_the_model_writes():
    asked = []

    def never(ids):
        asked.append(ids)
        raise AssertionError("nothing should run")

    lm = labkit.wrap(never, tokenizer=small_alphabet(), vocab_size=small_alphabet().vocab_size)
    with pytest.raises(LabkitError, match="top_p is 0"):
        sampling_effects(lm, PROMPT, {"top_p": [1.0, 0.0]}, progress=False)
    assert not asked
