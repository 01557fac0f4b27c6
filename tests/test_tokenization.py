"""A text as tokenizers cut it, their vocabularies searched, and tokens merged step by step."""

import json
from itertools import pairwise

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.inspection.tokenization import tokenization
from labkit.inspection.vocabulary import Vocabulary
from labkit.tokenizers.bpe import GPT2Tokenizer
from labkit.tokenizers.char import CharTokenizer
from labkit.tokenizers.hf import HFTokenizer

GPT2 = GPT2Tokenizer()
LETTERS = CharTokenizer([*"abc déf"])


def sentencepiece() -> HFTokenizer:
    """A small tokenizer.json in the manner of SentencePiece: ▁ for a space, one in front."""
    pieces = ["▁", "a", "b", "c", "▁a", "bc", "▁abc", "<0xC3>", "<0xA9>"]
    merges = ["▁ a", "b c", "▁a bc"]
    described = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}]},
        "model": {"type": "BPE", "byte_fallback": True, "vocab": {p: i for i, p in enumerate(pieces)},
                  "merges": merges},
    }  # fmt: skip
    return HFTokenizer(json.dumps(described))


def test_every_token_knows_the_characters_it_has_a_part_in():
    cut = tokenization(GPT2, "naïve 漢!")
    assert [(p, span) for p, span in zip(cut.pieces, cut.spans, strict=True)] == [
        ("na", (0, 2)), ("ïve", (2, 5)), (" \\xe6", (5, 7)), ("\\xbc", (6, 7)), ("\\xa2", (6, 7)), ("!", (7, 8)),
    ]  # fmt: skip
    assert cut.round_trip and not cut.unknown
    assert cut.totals() == {
        "tokens": 6, "characters": 8, "characters a token": 1.33, "bytes a token": 1.83, "vocabulary": 50257,
        "unknown": 0, "round trip": True,
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30))
def test_spans_cover_the_text_in_order_whatever_it_is(text):
    spans = tokenization(tiny.single_bytes(), text).spans
    assert spans is not None
    assert all(a[0] <= b[0] <= a[1] for a, b in pairwise(spans))
    assert {i for start, end in spans for i in range(start, end)} == set(range(len(text)))


def test_unknown_characters_are_named_and_the_others_keep_their_places():
    cut = tokenization(LETTERS, "a€b?c")
    assert cut.unknown == ((1, "€"), (3, "?"))
    assert cut.spans == ((0, 1), (2, 3), (4, 5)) and cut.decoded == "abc" and not cut.round_trip
    assert repr(cut) == "Tokenization(5 characters, 3 tokens, does not give the text back)"


def test_a_space_that_the_tokenizer_adds_belongs_to_no_character():
    cut = tokenization(sentencepiece(), "abc é")
    assert cut.pieces == (" abc", " ", "\\xc3", "\\xa9")
    assert cut.spans == ((0, 3), (3, 4), (4, 5), (4, 5)) and cut.round_trip


def test_an_empty_text_has_no_tokens_and_a_result_is_json():
    assert tokenization(GPT2, "").totals()["characters a token"] is None
    said = json.loads(json.dumps(tokenization(GPT2, "hi there").to_dict()))
    assert said["tokens"][1] == {
        "index": 1,
        "id": 612,
        "piece": " there",
        "bytes": "20 74 68 65 72 65",
        "start": 2,
        "end": 8,
    }


def test_tokens_are_found_by_text_id_and_bytes():
    vocabulary = Vocabulary(GPT2)
    assert [row["piece"] for row in vocabulary.find("HETHER")] == ["Whether", "whether", " whether", " Whether"]
    assert vocabulary.find("#17") == [{"id": 17, "piece": "2", "bytes": "32"}]
    assert vocabulary.find("#99999999") == vocabulary.find("") == vocabulary.find("\0\0nothing") == []
    for way in ("0xe2 82 ac", "0xe2 0x82 0xac", "\\xe2\\x82\\xac", "0xE282AC"):
        assert [row["piece"] for row in vocabulary.find(way)] == ["€", " €"]
    assert {row["piece"] for row in vocabulary.find("É", most=3)} == {"é", "É", "és"}
    assert Vocabulary(LETTERS).find("é")[0]["id"] == 5


def test_merges_rebuild_a_token_in_the_order_in_which_they_were_learned():
    steps = Vocabulary(GPT2).merge_steps(GPT2.encode(" Whether")[0])
    assert steps is not None
    assert [f"{step.left}+{step.right}" for step in steps] == [
        "h+e", "h+e", "Ġ+W", "he+r", "t+her", "ĠW+he", "ĠWhe+ther",
    ]  # fmt: skip
    assert steps[-1].parts == ("ĠWhether",) and steps[0].rank == 2
    assert [step.parts[-1] for step in Vocabulary(sentencepiece()).merge_steps(6) or ()] == ["c", "bc", "▁abc"]


def test_every_token_of_gpt2_comes_about_by_its_merges_and_what_was_not_merged_says_so():
    vocabulary = Vocabulary(GPT2)
    wrong = [
        i
        for i in range(0, 50256, 53)
        if (steps := vocabulary.merge_steps(i)) is None or len(steps) != len(GPT2.token_bytes(i)) - 1
    ]
    assert wrong == []
    assert vocabulary.merge_steps(50256) is None and vocabulary.merge_steps(64) == ()
    assert Vocabulary(LETTERS).merge_steps(1) is None


def test_within_a_word_a_token_is_merged_by_the_same_steps():
    text, vocabulary = "unbelievable antidisestablishmentarianism", Vocabulary(GPT2)
    for token_id in GPT2.encode(text):
        assert vocabulary.merge_steps(token_id) is not None


@pytest.mark.parametrize("tokenizer", [GPT2, LETTERS, sentencepiece()], ids=["gpt2", "characters", "sentencepiece"])
def test_reprs_have_no_addresses(tokenizer):
    assert "0x" not in repr(Vocabulary(tokenizer)) + repr(tokenization(tokenizer, "abc"))
