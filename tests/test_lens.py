"""The logit lens: each layer read with the final norm and head, whose last row is the model's own answer."""

import json

import pytest
import tiny
import torch

import labkit
from labkit import views
from labkit.errors import ConfigError, ContextError
from labkit.inspection import capture, fit_lens, logit_lens

every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])
EVERY_TOKEN = range(tiny.V)


@every_model
def test_the_last_row_is_what_the_model_says(family, variant):
    lm, ids = tiny.tiny(family, variant), tiny.random_ids(9)
    lens, logits = logit_lens(lm, ids, tracked=EVERY_TOKEN), lm.logits(ids)
    assert (lens.tracked_logits[-1] - logits).abs().max() <= 1e-4
    assert lens.points == ("embedding", *(f"block {i}" for i in range(len(lm.model.blocks))))
    assert lens.kl[-1].max() <= 1e-6 and torch.equal(lens.top_ids[-1, :, 0], logits.argmax(dim=-1))
    expected = logits.log_softmax(dim=-1)[range(8), ids[1:]]
    assert torch.allclose(lens.next_logprob[-1, :-1], expected, atol=1e-5)
    assert lens.next_logprob[:, -1].isnan().all()


@every_model
def test_every_row_is_norm_and_head_on_the_stream_there(family, variant):
    lm, ids = tiny.tiny(family, variant), tiny.random_ids(7)
    lens = logit_lens(lm, ids, tracked=EVERY_TOKEN)
    with capture(lm, ["blocks.0.*", "resid_final"]) as acts:
        lm.logits(ids)
    for i, site in enumerate(["blocks.0.resid_pre", "blocks.0.resid_post"]):
        logits = lm.model.unembed(lm.model.norm_f(acts[site]))[0]
        p, log_p = logits.softmax(dim=-1), logits.log_softmax(dim=-1)
        own = lm.logits(ids).log_softmax(dim=-1)
        assert torch.allclose(lens.tracked_logits[i], logits, atol=1e-5)
        assert torch.allclose(lens.tracked_probabilities[i], p, atol=1e-6)
        assert torch.allclose(lens.entropy[i], -(p * log_p).sum(dim=-1), atol=1e-5)
        assert torch.allclose(lens.kl[i], (own.exp() * (own - log_p)).sum(dim=-1), atol=1e-5)
        assert torch.equal(lens.tracked_ranks[i], logits.argsort(descending=True).argsort())


def test_a_softcap_holds_in_every_row():
    lens = logit_lens(tiny.tiny("nanochat", "grouped"), tiny.random_ids(6), tracked=EVERY_TOKEN)
    assert lens.tracked_logits.abs().max() < 15


@pytest.mark.parametrize(("family", "variant"), [("nanochat", "newest"), ("swa_mla", "configured"), ("gpt2", "tied")])
def test_tokens_are_read_while_they_are_written_with_the_cache(family, variant):
    lm, prompt = tiny.tiny(family, variant), tiny.random_ids(4)
    g = labkit.generate(lm, prompt, max_new_tokens=8, seed=3)
    running = logit_lens(lm, prompt, max_new_tokens=8, seed=3, tracked=EVERY_TOKEN)
    at_once = logit_lens(lm, [*prompt, *g.ids[:-1]], tracked=EVERY_TOKEN)
    assert running.ids == at_once.ids
    assert torch.allclose(running.tracked_logits, at_once.tracked_logits, atol=1e-4)


def test_a_large_vocabulary_read_in_parts_gives_the_same(monkeypatch):
    lm, ids = tiny.tiny("llama", "grouped"), tiny.random_ids(10)
    whole = logit_lens(lm, ids, tracked=[3])
    monkeypatch.setattr("labkit.inspection.lens.CHUNK", 4 * tiny.V)
    parts = logit_lens(lm, ids, tracked=[3])
    assert parts.rows() == whole.rows() and parts.trajectory(3, 4) == whole.trajectory(3, 4)


def test_tables_hold_the_tokens_by_name_and_can_be_stored():
    lm = tiny.tiny("labcore", "learned")
    lens = logit_lens(lm, "abc d", tracked=["e", lm.tokenizer.encode("e")[0], "f"], n_top=3)
    assert lens.tracked == tuple(lm.tokenizer.encode("ef")) and lens.pieces == list("abc d")
    assert lens.trajectory("e") == lens.trajectory(lens.tracked[0], 4) and len(lens.trajectory("f")) == 3
    assert [len(row["tokens"]) for row in lens.choices(2)] == [3, 3, 3]
    assert len(lens.rows()) == 3 * 5 and [row["point"] for row in lens.layers()] == list(lens.points)
    assert lens.layers()[-1]["agrees"] == 1.0 and lens.layers()[-1]["kl"] == 0.0
    assert repr(lens) == "LogitLens(3 points, 5 tokens, 2 tracked)" and "mislead" in lens.caution
    json.dumps(lens.to_dict())


@every_model
def test_a_choice_is_settled_from_the_point_where_it_stays(family, variant):
    lens = logit_lens(tiny.tiny(family, variant), tiny.random_ids(15))
    firsts = lens.top_ids[..., 0]
    for t, point in enumerate(lens.settled()):
        assert (firsts[point:, t] == firsts[-1, t]).all() and (point == 0 or firsts[point - 1, t] != firsts[-1, t])


def test_one_token_alone_can_be_read():
    lens = logit_lens(tiny.tiny("gpt2", "tied"), [4])
    assert lens.top_ids.shape == (3, 1, 5) and lens.tracked_ranks.shape == (3, 1, 0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda lm: logit_lens(lm, "ab", tracked=["ab"]), ConfigError, r"'ab' is 2 tokens \('a', 'b'\)"),
        (lambda lm: logit_lens(lm, "ab").trajectory("a"), ConfigError, "'a' was not tracked; tracked are none"),
        (lambda lm: logit_lens(lm, "ab", tracked="a").trajectory("a", 2), ConfigError, "no position 2; the text has 2"),
        (lambda lm: logit_lens(lm, "ab" * 13), ContextError, "26 tokens, but the context holds 24"),
        (lambda lm: logit_lens(lm, "ab" * 11, max_new_tokens=9), ContextError, "longer than the context of 24"),
        (lambda lm: fit_lens(lm, ["abc"]), ConfigError, "3 tokens, the stream is 16 wide"),
        (lambda lm: fit_lens(lm, ["abc"], ridge=0), ConfigError, "ridge is 0; it must be above 0"),
    ],
    ids=range(7),
)
def test_what_cannot_be_is_said_in_one_line(call, error, words):
    with pytest.raises(error, match=words) as refused:
        call(tiny.tiny("labcore", "learned"))
    assert "\n" not in str(refused.value)


def test_a_wrapped_function_has_no_layers():
    with pytest.raises(ConfigError, match="wrapped function"):
        logit_lens(labkit.wrap(lambda ids: torch.zeros(*ids.shape, 5), vocab_size=5), [1])


TEXTS = [tiny.random_ids(24, seed=i) for i in range(12)]


@every_model
def test_a_fitted_lens_brings_every_layer_nearer_to_the_model(family, variant):
    lm = tiny.tiny(family, variant)
    fit, ids = fit_lens(lm, TEXTS), tiny.random_ids(20, seed=99)
    plain, fitted = logit_lens(lm, ids), logit_lens(lm, ids, fit=fit)
    assert fitted.kl[0].mean() < plain.kl[0].mean()
    assert torch.allclose(fitted.entropy[-1], plain.entropy[-1], atol=1e-4)  # the last map changes nothing
    assert fit.r2[-1] > 0.9999 and (fit.r2 <= 1).all() and "fitted" in fitted.caution
    assert repr(fit) == f"LensFit({len(lm.model.blocks) + 1} points, 288 tokens)" and len(fit.rows()) == len(fit.r2)
    json.dumps(fit.to_dict())


def test_the_fit_is_that_of_least_squares():
    """With next to no ridge it is what lstsq finds."""
    lm = tiny.tiny("llama", "grouped")
    fit = fit_lens(lm, TEXTS, ridge=1e-10)
    x, y = [], []
    for ids in TEXTS:
        with capture(lm, ["blocks.0.resid_pre", "norm_f"]) as acts:
            lm.logits(ids)
        x.append(lm.model.norm_f(acts["blocks.0.resid_pre"][0]))
        y.append(acts["norm_f"][0])
    one = torch.cat([torch.cat(x), torch.ones(288, 1)], dim=1).double()
    found = torch.linalg.lstsq(one, torch.cat(y).double(), driver="gelsd").solution
    ours = torch.cat(x) @ fit.weights[0] + fit.biases[0]
    assert torch.allclose(ours, (one @ found).float(), atol=1e-3)


def test_a_fit_of_another_model_is_refused():
    fit = fit_lens(tiny.tiny("gpt2", "tied"), TEXTS)
    with pytest.raises(ConfigError, match="LensFit.3 points, 288 tokens. is of another model"):
        logit_lens(tiny.tiny("nanochat", "grouped"), tiny.random_ids(5), fit=fit)


HOSTILE = "<script>alert(1)</script>\"'\u202e\n"


def cells(piece="a"):
    def row(point, t, first, p):
        return {"point": point, "position": t, "piece": piece, "first": first, "p": p, "entropy": 0.5, "kl": 2 - p}

    return [row("embedding", 0, piece, 0.25), row("embedding", 1, "c", 0.5), row("block 0", 0, "b", 1.0),
            row("block 0", 1, "c", 0.125)]  # fmt: skip


@pytest.mark.parametrize("colour", ["p", "entropy", "kl"])
def test_the_grid_marks_what_is_settled_and_is_the_same_bytes_again(colour):
    view = views.lens_grid(cells(), colour=colour, caption="here", note="mind this")
    assert view == views.lens_grid(cells(), colour=colour, caption="here", note="mind this")
    assert view.html == views.lens_grid(cells(), colour=colour, caption="here", note="mind this").html
    assert view.html.count("lk-y") - view.html.split("</style>")[0].count("lk-y") == 3
    numbers = {"p": ["25.0", "50.0"], "entropy": ["0.50"] * 2, "kl": ["1.75", "1.50"]}[colour]
    assert view.text.splitlines()[2].split() == ["embedding", "a", numbers[0], "c*", numbers[1]]
    assert "mind this" in view.text and "mind this" in view.html and view.alt == "logit lens: 2 layers, 2 tokens: here"


def test_the_grid_shows_tokens_as_text_and_nothing_else():
    view = views.lens_grid(cells(HOSTILE), caption=HOSTILE, note=HOSTILE)
    assert "<script" not in view.html and "\u202e" not in view.html + view.text and "&lt;script&gt;" in view.html


def test_the_grid_takes_a_lens_as_it_is():
    lens = logit_lens(tiny.tiny("labcore", "learned"), "abc d")
    assert len(views.lens_grid(lens.rows(), note=lens.caution).text.splitlines()) == 2 + 3 + 2
