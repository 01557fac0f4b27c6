"""From labkit's results to views: what is drawn is what the result says, for every family."""

import pytest
import torch
from tiny import CASES, tiny

import labkit
from labkit import inspection, views
from labkit.sampling import Sampler
from labkit.widgets import facts

TEXT = "abc dab c ab"
every_model = pytest.mark.parametrize(("family", "variant"), CASES)


@pytest.fixture(scope="module")
def lm():
    return tiny("labcore", "learned")


def traced(**settings):
    logits = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -4.0])
    return Sampler.from_settings(**settings, seed=1).trace(logits, prompt_ids=[0])


@every_model
def test_the_heads_and_a_pattern_of_every_family_can_be_drawn(family, variant):
    maps = inspection.attention(tiny(family, variant), TEXT)
    grid = views.head_grid(**facts.head_grid(maps), value="first")
    assert [row["first"] for row in grid.rows] == [row["first"] for row in maps.heads()]
    view = views.head_pattern(**facts.head_pattern(maps, 1, 0, -1))
    n = len(maps.ids)
    assert f"what token {n - 1} looks at" in view.html and len(view.rows) == n
    strongest = view.rows[-1]["looks at"][0]
    assert strongest["weight"] == pytest.approx(maps.looks_at(1, 0, -1, n=1)[0]["weight"], abs=1e-4)
    page = views.attention_grid(**facts.attention_grid(maps))
    assert page.html.count("<img ") == len(maps.heads()) == len(page.rows)


def test_a_property_that_no_token_defines_is_a_dash(lm):
    maps = inspection.attention(lm, "abcde")  # nothing is there twice
    view = views.head_grid(**facts.head_grid(maps), value="duplicate")
    assert all(row["duplicate"] is None for row in view.rows) and view.text.count("–") == len(view.rows)


@every_model
def test_the_cache_of_every_family_can_be_drawn(family, variant):
    model = tiny(family, variant)
    report = inspection.cache_report(model, TEXT)
    view = views.cache_map(**facts.cache_map(report, list(TEXT)))
    assert [row["bytes"] for row in view.rows] == [layer.nbytes for layer in report.layers]
    gone = sum(len(layer.evicted) for layer in report.layers)
    assert view.html.count("class=lk-gone") == gone == sum(row["evicted"] for row in view.rows)


def test_tracked_tokens_are_followed_through_the_layers(lm):
    lens = inspection.logit_lens(lm, TEXT, tracked=["a", "b"])
    view = views.trajectories(**facts.trajectories(lens, 3))
    assert [row["p"] for row in view.rows if row["piece"] == "b"] == [v["p"] for v in lens.trajectory("b", 3)]
    assert {row["piece"] for row in views.trajectories(**facts.trajectories(lens, tokens=["b"])).rows} == {"b"}
    assert views.trajectories(**facts.trajectories(lens)).alt.startswith("2 tokens over")


def test_a_run_has_a_timeline(lm):
    trace = labkit.record(lm, TEXT, max_new_tokens=5, seed=3, top_k=5)
    view = views.run_timeline(**facts.run_timeline(trace))
    rows = trace.rows()
    assert [row["probability"] for row in view.rows] == [row["p_model"] for row in rows]
    assert [row["drawn_from"] for row in view.rows] == [row["p"] for row in rows]
    assert [row["rank"] for row in view.rows] == [row["rank"] for row in rows]


def test_a_tree_shows_where_each_branch_left_and_how_it_goes_on(lm):
    tree = labkit.BranchTree(labkit.generate(lm, TEXT, max_new_tokens=12, seed=1))
    other = next(i for i in range(lm.vocab_size) if i != tree.generation.ids[3])
    tree.add(labkit.branch(lm, tree.generation, 3, other, max_new_tokens=12), 3)
    view = views.branch_tree(**facts.branch_tree(tree, lm))
    assert [(row["at"], row["parent"], row["current"]) for row in view.rows] == [(0, None, False), (3, 0, True)]
    assert view.rows[1]["begins"] == lm.tokenizer.decode(tree.generation.ids[3:11])


def test_two_runs_part_where_the_comparison_says(lm):
    compared = inspection.compare(lm, tiny("labcore", "rope_nobias"), prompt=TEXT, max_new_tokens=8, seed=1)
    view = views.comparison_strip(**facts.comparison_strip(compared.run, ("old", "new")))
    step = compared.run.divergence.step
    assert f"first difference at token {step}" in view.alt and view.text.splitlines()[0] == compared.run.verdict
    own = [row["logprob"] for row in view.rows if row["side"] == "old"]
    assert own == pytest.approx([round(p, 4) for p in compared.run.a.logprobs])


def test_one_text_is_coloured_by_how_much_likelier_it_is_to_the_second(lm):
    compared = inspection.compare(lm, tiny("labcore", "rope_nobias"), TEXT)
    view = views.comparison_strip(**facts.comparison_strip(compared.text, ("old", "new")))
    assert [row["delta"] for row in view.rows] == [row["delta"] for row in compared.text.rows()]
    assert {row["side"] for row in view.rows} == {"old → new"}


def test_checkpoints_of_a_run_are_drawn_by_step():
    models = [labkit.load(name) for name in ("arithmetic/step_000200", "arithmetic/step_001800")]
    course = inspection.trajectory(models, text="1+2=3\n")
    view = views.checkpoint_trajectory(**facts.checkpoint_trajectory(course))
    assert [row["mean_surprisal"] for row in view.rows] == [row["mean_surprisal"] for row in course.rows()]


@pytest.mark.parametrize(
    ("settings", "headings"),
    [
        ({}, ["model", "after penalties", "after temperature", "after filters"]),
        ({"temperature": 0.7, "top_k": 3}, ["model", "after penalties", "after temperature", "after filters"]),
        (
            {"dialect": "llama.cpp", "temperature": 0.7, "top_k": 3, "repetition_penalty": 1.3},
            ["model", "after penalties", "after filters", "after temperature"],
        ),
    ],
)
def test_a_card_has_its_columns_in_the_order_of_the_stages(settings, headings):
    trace = traced(**settings)
    (first, *_) = facts.alternatives(None, trace)
    assert list(first["probabilities"]) == headings
    assert list(first["probabilities"].values())[-1] == pytest.approx(
        float(trace.stages[-1].probabilities[0]), abs=1e-6
    )


def test_a_card_shows_each_probability_up_to_the_stage_that_removed_the_token():
    trace = traced(temperature=0.5, top_k=2, forbidden_ids=(1,))
    by_piece = {each["piece"]: each for each in facts.alternatives(None, trace)}
    assert by_piece["<1>"]["removed_by"] == "forbidden_ids" and list(by_piece["<1>"]["probabilities"]) == ["model"]
    assert by_piece["<3>"]["removed_by"] == "top_k"
    assert list(by_piece["<3>"]["probabilities"]) == ["model", "after penalties", "after temperature"]
    assert by_piece["<0>"]["removed_by"] is None and len(by_piece["<0>"]["probabilities"]) == 4
