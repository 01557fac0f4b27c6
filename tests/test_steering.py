"""Steering: a direction from texts, added while the model writes."""

import json

import pytest
import tiny
import torch

import labkit
from labkit.errors import CheckpointError, ConfigError
from labkit.inspection import SteeringVector, capture, steer, steering_effect, steering_vector

every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])
SITE = "blocks.1.resid_post"


def vector_of(lm: labkit.LanguageModel, **more) -> SteeringVector:
    return steering_vector(lm, ["abcd", "bad"], ["none", "of it"], SITE, **more)


@pytest.mark.parametrize("over", ["mean", "last"])
def test_it_is_the_difference_of_the_means(over):
    lm = tiny.tiny("labcore", "learned")

    def mean(text: str) -> torch.Tensor:
        with capture(lm, SITE) as acts:
            lm.logits(lm.tokenizer.encode(text))
        return acts[SITE][0].mean(dim=0) if over == "mean" else acts[SITE][0, -1]

    expected = (mean("abcd") + mean("bad")) / 2 - (mean("none") + mean("of it")) / 2
    assert torch.allclose(vector_of(lm, over=over).values, expected, atol=1e-6)


@every_model
def test_it_is_added_at_its_site_at_every_token_cached_or_not(family, variant):
    lm, prompt = tiny.tiny(family, variant), tiny.random_ids(4)
    vector = SteeringVector(SITE, torch.randn(16, generator=torch.Generator().manual_seed(1)), 1.0)
    with capture(lm, SITE) as plain:
        lm.logits(prompt)
    with steer(lm, vector, 2.0), capture(lm, SITE) as steered:
        lm.logits(prompt)
        cached = labkit.generate(lm, prompt, max_new_tokens=6)
        uncached = labkit.generate(lm, prompt, max_new_tokens=6, use_cache=False)
    assert cached.ids == uncached.ids
    with steer(lm, vector, 2.0), capture(lm, SITE) as steered:
        lm.logits(prompt)
    assert torch.allclose(steered[SITE] - plain[SITE], 2 * vector.values.expand(1, 4, 16), atol=1e-4)


def test_strength_0_changes_nothing_and_is_the_first_row():
    lm = tiny.tiny("labcore", "learned")
    effect = steering_effect(lm, "abc", vector_of(lm), [0, 3, -3], target="d", max_new_tokens=10)
    rows = effect.rows()
    assert [row["strength"] for row in rows] == [0.0, 3, -3]
    first = rows[0]
    assert (first["KL"], first["first change"], first["changed"], first["Δlogit"]) == (0.0, None, 0, 0.0)
    assert first["text"] == labkit.generate(lm, "abc", max_new_tokens=10).text
    assert all(row["KL"] > 0 for row in rows[1:])
    for row in rows[1:]:
        assert (row["first change"] is None) == (row["changed"] == 0)
    assert json.dumps(effect.to_dict()) and "3 strengths" in repr(effect)


def test_a_vector_is_saved_and_loaded_and_the_file_is_the_same_twice(tmp_path):
    vector = vector_of(tiny.tiny("labcore", "learned"))
    vector.save(tmp_path / "a.safetensors")
    vector.save(tmp_path / "b.safetensors")
    again = SteeringVector.load(tmp_path / "a.safetensors")
    assert again.site == vector.site and again.typical == vector.typical and torch.equal(again.values, vector.values)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("content", [b"", b"not a file of tensors", None])
def test_what_is_no_vector_is_refused(content, tmp_path):
    path = tmp_path / "v.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"v.safetensors: no steering vector can be read from it") as refused:
        SteeringVector.load(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda lm: steering_vector(lm, [], ["a"], SITE), "at least one positive and one negative"),
        (lambda lm: steering_vector(lm, ["a"], ["b"], "blocks.*.resid_post"), "must name one site"),
        (lambda lm: steering_vector(lm, ["a"], ["b"], "blocks.0.z"), "must name one site of the residual stream"),
        (lambda lm: steering_vector(lm, ["a"], ["b"], SITE, over="sum"), "over is 'sum'"),
        (lambda lm: steer(lm, SteeringVector(SITE, torch.zeros(9), 1.0)).__enter__(), "9 numbers, the stream .* 16"),
    ],
    ids=["no text", "several sites", "not the stream", "over", "another model"],
)
def test_what_cannot_steer_is_refused_in_one_line(ask, words):
    with pytest.raises(ConfigError, match=words):
        ask(tiny.tiny("labcore", "learned"))
