"""score: the surprisal of a given text."""

import dataclasses
import json
import math

import pytest
import tiny
import torch

import labkit
from labkit.errors import ContextError, TokenizerError
from labkit.generation import scoring, visible_from
from labkit.tokenizers.char import CharTokenizer

CONTEXT = tiny.CONTEXT
every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])


@pytest.fixture
def lm() -> labkit.LanguageModel:
    return tiny.tiny("gpt2", "tied")


@every_model
def test_every_token_is_scored_from_what_the_model_sees_before_it_far_past_the_context(family, variant):
    lm, ids = tiny.tiny(family, variant), tiny.random_ids(61, seed=2)
    result = labkit.score(lm, ids)
    assert result.logprobs[0] is result.ranks[0] is result.entropies[0] is None
    for i in range(1, len(ids)):
        log_p = lm.logits(ids[visible_from(i, CONTEXT, "crop") : i])[-1].double().log_softmax(dim=-1)
        assert result.logprobs[i] == pytest.approx(float(log_p[ids[i]]), abs=1e-4)
        assert result.ranks[i] == int((log_p > log_p[ids[i]]).sum())
        assert result.entropies[i] == pytest.approx(-float((log_p.exp() * log_p).sum()), abs=1e-4)


@pytest.mark.parametrize("n", [1, 2, CONTEXT, CONTEXT + 1, CONTEXT + 2, CONTEXT + 7, 2 * CONTEXT])
def test_texts_of_any_length_around_the_context_are_scored_whole(lm, n):
    assert len(labkit.score(lm, tiny.random_ids(n)).logprobs) == n


def test_what_was_generated_has_the_models_own_logprobs_again(lm):
    g = labkit.generate(lm, "to be", seed=3, max_new_tokens=70)
    assert labkit.score(lm, g.prompt_ids + g.ids).logprobs[5:] == pytest.approx(g.raw_logprobs, abs=1e-4)


def test_a_long_text_is_read_in_windows_with_a_stride_of_a_quarter(lm):
    lm, sizes = tiny.language_model("gpt2", tiny.TINY["gpt2"]["tied"]), []
    lm.model.embed.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[1]))
    labkit.score(lm, tiny.random_ids(CONTEXT + 2 * 6 + 1))
    assert sizes == [CONTEXT] * 3


def test_logits_are_made_a_part_at_a_time(lm, monkeypatch):
    whole = labkit.score(lm, "to be or not to be, that is")
    monkeypatch.setattr(scoring, "CHUNK", 5 * tiny.V)
    in_parts = labkit.score(lm, "to be or not to be, that is")
    assert in_parts.logprobs[1:] == pytest.approx(whole.logprobs[1:], abs=1e-6) and in_parts.ranks == whole.ranks


def test_totals_are_means_over_what_is_predicted():
    lm = labkit.wrap(lambda ids: torch.zeros(*ids.shape, 256), tokenizer=tiny.single_bytes(), vocab_size=256)
    result = labkit.score(lm, "aéb")  # four bytes, the first is not predicted
    assert result.mean_surprisal == pytest.approx(math.log(256)) and result.perplexity == pytest.approx(256)
    assert result.surprisal == pytest.approx(3 * math.log(256))
    assert (result.n_bytes, result.n_characters) == (3, 2)
    assert result.bits_per_byte == pytest.approx(8) and result.bits_per_character == pytest.approx(12)
    assert repr(result) == (
        "Score(4 tokens, mean_surprisal=5.5452, perplexity=256.0000, bits_per_byte=8.0000, bits_per_character=12.0000)"
    )


def test_with_a_bos_in_front_every_token_of_the_text_is_predicted():
    tokenizer = CharTokenizer(tiny.CHARACTERS[:36], specials=["<|bos|>"], bos="<|bos|>")
    lm = tiny.language_model("labcore", tiny.TINY["labcore"]["learned"], tokenizer)
    result = labkit.score(lm, "to be")
    assert len(result.ids) == 6 and result.n_bytes == result.n_characters == 5


def test_a_single_token_predicts_nothing(lm):
    result = labkit.score(lm, "t")
    assert result.mean_surprisal is result.perplexity is result.bits_per_byte is None
    assert repr(result) == "Score(1 tokens)" and result.rows()[0]["logprob"] is None


def test_without_a_tokenizer_ids_are_scored_and_bits_per_byte_are_not_known():
    lm = tiny.language_model("gpt2", tiny.TINY["gpt2"]["tied"])
    result = labkit.score(lm, [5, 6, 7])
    assert result.pieces == ["5", "6", "7"] and result.bits_per_byte is None and result.perplexity is not None
    with pytest.raises(TokenizerError, match="no tokenizer"):
        labkit.score(lm, "to be")


def test_a_score_is_plain_data(lm):
    result = labkit.score(lm, "to be")
    assert [row["piece"] for row in result.rows()] == list("to be")
    assert json.loads(json.dumps(result.to_dict()))["perplexity"] == result.perplexity
    assert set(result.rows()[1]) == {"index", "id", "piece", "logprob", "rank", "entropy"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.ids = []


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [("", ContextError, "empty"), ([], ContextError, "at least one"), ([99], TokenizerError, "id 99 is outside"),
     ("§", TokenizerError, "position 0")],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused(lm, text, error, words):
    with pytest.raises(error, match=words):
        labkit.score(lm, text)
