"""Activation patching: what a clean run knew, put into a corrupt one."""

import pytest
import tiny
import torch

import labkit
from labkit.errors import ConfigError, ContextError, LabkitError
from labkit.inspection import At, capture, edit, patch

every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])
# In the newest nanochat an embedding also reaches the next token, and the values, by ways of their own.
PLAIN = [case for case in tiny.CASES if case != ("nanochat", "newest")]
CLEAN = tiny.random_ids(8)
CORRUPT = [*CLEAN[:3], (CLEAN[3] + 1) % 37, *CLEAN[4:]]


@every_model
def test_a_patch_is_what_one_edit_at_a_time_gives(family, variant):
    lm = tiny.tiny(family, variant)
    result = patch(lm, CLEAN, CORRUPT, target=5, versus=6, progress=False)
    with capture(lm, "blocks.1.resid_pre") as acts:
        clean = lm.logits(CLEAN)[-1]
    corrupt = lm.logits(CORRUPT)[-1]
    for place in (3, 7):
        value = acts["blocks.1.resid_pre"][:, [place]]
        with edit(lm, {At("blocks.1.resid_pre", positions=(place,)): lambda x, value=value: value}):
            patched = lm.logits(CORRUPT)[-1]
        apart = [float(x[5] - x[6]) for x in (clean, corrupt, patched)]
        expected = (apart[2] - apart[1]) / (apart[0] - apart[1])
        assert float(result.restored[1, place]) == pytest.approx(expected, abs=1e-3)
    assert result.clean == pytest.approx(apart[0], abs=1e-5) and result.corrupt == pytest.approx(apart[1], abs=1e-5)


@pytest.mark.parametrize(("family", "variant"), PLAIN, ids=["-".join(case) for case in PLAIN])
def test_the_whole_stream_of_the_changed_token_brings_everything_back_in_layer_0(family, variant):
    lm = tiny.tiny(family, variant)
    result = patch(lm, CLEAN, CORRUPT, target=5, progress=False)
    assert float(result.restored[0, 3]) == pytest.approx(1, abs=1e-3)
    assert result.restored[0, :3].abs().max() < 1e-3  # before the changed token nothing differs
    assert result.differs == tuple(i == 3 for i in range(8))


@pytest.mark.parametrize("site", ["q", "k", "v", "z"])
def test_heads_are_patched_one_at_a_time(site):
    lm = tiny.tiny("llama", "grouped")
    result = patch(lm, CLEAN, CORRUPT, target=5, versus=2, site=site, by="head", progress=False)
    n = 2 if site in "kv" else 4
    assert result.restored.shape == (2, n) and result.columns == tuple(map(str, range(n)))
    with capture(lm, f"blocks.0.{site}") as acts:
        lm.logits(CLEAN)
    kept = acts[f"blocks.0.{site}"]
    with edit(lm, {At(f"blocks.0.{site}", heads=(1,)): lambda x: kept[:, [1]]}):
        logits = lm.logits(CORRUPT)[-1]
    expected = (float(logits[5] - logits[2]) - result.corrupt) / (result.clean - result.corrupt)
    assert float(result.restored[0, 1]) == pytest.approx(expected, abs=1e-3)


def test_more_places_than_fit_one_batch_are_the_same_places(monkeypatch):
    lm = tiny.tiny("gpt2", "tied")
    at_once = patch(lm, CLEAN, CORRUPT, target=5, progress=False)
    monkeypatch.setattr("labkit.inspection.patching.MOST_ROWS", 3)
    assert torch.allclose(at_once.restored, patch(lm, CLEAN, CORRUPT, target=5, progress=False).restored, atol=1e-5)


def test_every_patch_says_whether_the_recorded_draw_takes_another_token():
    lm, settings = tiny.tiny("gpt2", "tied"), labkit.Settings(temperature=1.5, top_k=0, top_p=1, seed=4)
    result = patch(lm, CLEAN, CORRUPT, target=5, settings=settings, progress=False)
    sampler = labkit.Sampler.from_settings(**settings.sampling())
    plain = sampler.trace(lm.logits(CORRUPT)[-1]).chosen
    with capture(lm, "blocks.1.resid_pre") as acts:
        lm.logits(CLEAN)
    for place in range(8):
        value = acts["blocks.1.resid_pre"][:, [place]]
        with edit(lm, {At("blocks.1.resid_pre", positions=(place,)): lambda x, value=value: value}):
            drawn = sampler.trace(lm.logits(CORRUPT)[-1]).chosen
        assert int(result.effects[1].drawn_before[place]) == plain and int(result.effects[1].drawn[place]) == drawn


def test_the_carry_of_an_addition_is_found():
    lm = labkit.load("arithmetic")
    result = patch(lm, "128+256=3", "121+256=3", target="8", versus="7", progress=False)
    # It stands with the digit that makes it, until the last block reads it at the end.
    best = result.largest(1)[0]
    assert (best["layer"], best["position"], best["of"], best["restored"]) == (0, 3, "8", 1.0)
    assert best["rank"] == 0 and best["drawn_changed"] and best["delta_logit"] > 10 and best["kl"] > 1
    assert result.restored[3, -1] > 0.9 and result.restored[2, -1] < 0.1
    assert result.rows()[0]["3 ‹8›"] == 1.0
    assert repr(result).startswith("PatchResult(resid_pre, 4 layers × 10 positions")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"site": "pattern"}, "site 'pattern' cannot be patched; one of resid_pre"),
        ({"site": "norm_f"}, "site 'norm_f' cannot be patched"),
        ({"site": "mlp_out", "by": "head"}, "mlp_out has no heads"),
        ({"by": "layer"}, "by is 'layer'; it must be position or head"),
        ({"corrupt": CLEAN}, "both prompts give .* nothing to bring back"),
        ({"corrupt": CLEAN[:-1]}, "the prompts have 8 and 7 tokens"),
        ({"target": 99}, "id 99 is outside the vocabulary"),
        ({"target": "ab"}, "'ab' is 2 tokens"),
    ],
    ids=range(8),
)
def test_what_cannot_be_patched_is_refused_in_one_line(changes, words):
    lm = tiny.tiny("labcore", "learned")
    asked = {"clean": CLEAN, "corrupt": CORRUPT, "target": 5, "progress": False} | changes
    with pytest.raises(LabkitError, match=words) as refused:
        patch(lm, **asked)
    assert isinstance(refused.value, ConfigError | ContextError | labkit.TokenizerError)
    assert "\n" not in str(refused.value)
