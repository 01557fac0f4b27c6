"""The explorer without a browser: texts cut side by side, tokens picked, merges, the vocabulary searched."""

import json
import re

import pytest
import tiny
from widget_driver import eventually, small_alphabet

from labkit.inspection.tokenization import tokenization
from labkit.tokenizers.bpe import GPT2Tokenizer
from labkit.widgets import TokenizerExplorer

GPT2, LETTERS = GPT2Tokenizer(), small_alphabet()
TEXT = "abé cab"


@pytest.fixture
def explorer():
    made = TokenizerExplorer({"letters": LETTERS, "GPT-2": GPT2}, TEXT)
    yield made
    made.close()


def test_each_tokenizer_says_its_counts_what_it_lost_and_whether_the_text_comes_back(explorer):
    letters, gpt2 = explorer.cuts.html.split("</section>")[:2]
    assert "6 tokens · 1.17 characters a token" in letters and "✗ does not give the text back" in letters
    assert "Unknown, left out: &#x27;é&#x27; (position 2)" in letters
    assert "✓ gives the text back" in gpt2 and "vocabulary of 50,257" in gpt2 and "Unknown" not in gpt2
    assert explorer.result.tokenizations["GPT-2"] == tokenization(GPT2, TEXT)


def test_rows_have_a_token_of_a_tokenizer_each(explorer):
    rows = explorer.result.rows()
    assert len(rows) == 6 + len(GPT2.encode(TEXT)) and rows[0]["tokenizer"] == "letters"
    assert json.loads(json.dumps(explorer.result.to_dict()))["text"] == TEXT
    for row in rows:
        assert str(row["id"]) in explorer.view().text


def test_tokens_of_the_same_characters_are_linked_in_all_tokenizers(explorer):
    shared = [re.findall(r'data-c="([^"]*)"', part) for part in explorer.cuts.html.split("</section>")[:2]]
    assert shared[0] == ["0", "1", "3", "4", "5", "6"]
    assert " ".join(shared[1]).split() == [*map(str, range(7))]
    rule = r'\.(lk-\w+):has\(\[data-c~="3"\]:is\(:hover,:focus\)\) \[data-c~="3"\]'
    found = re.search(rule, explorer.cuts.html)
    assert found and f'class="lk lk-cuts {found[1]}"' in explorer.cuts.html


def test_at_first_the_token_is_shown_that_took_most_merges(explorer):
    assert explorer.cuts.picked.startswith("1:") and "learned as merge" in explorer.merges.value


def test_picking_a_token_tells_its_bytes_and_its_merges(explorer):
    explorer.cuts.set_state({"picked": "1:2"})
    (row,) = [row for row in tokenization(GPT2, TEXT).rows() if row["index"] == 2]
    assert str(row["id"]) in explorer.token.value and row["bytes"] in explorer.token.value
    explorer.cuts.set_state({"picked": "0:0"})
    assert "No merges give this token" in explorer.merges.value


def test_a_search_finds_tokens_in_every_vocabulary_and_they_can_be_picked(explorer):
    explorer.find_box.value = "hether"
    eventually(lambda: "Whether" in explorer.found.html)
    assert "letters: no tokens for" in explorer.found.html and "GPT-2: 4 tokens" in explorer.found.html
    assert [row["id"] for row in explorer.result.found["GPT-2"]] == [15354, 25356, 1771, 10127]
    explorer.found.set_state({"picked": "1#1771"})
    assert "␣whether" in explorer.token.value and "Ġ" in explorer.merges.value
    explorer.find_box.value = ""
    eventually(lambda: explorer.found.html == "")


def test_a_shorter_text_forgets_a_token_that_is_gone(explorer):
    explorer.text_box.value = ""
    assert explorer.run().rows() == [] and explorer.token.value == ""


def test_typing_is_followed(explorer):
    explorer.text_box.value = "bad"
    eventually(lambda: explorer.result.text == "bad")


def test_a_huge_paste_shows_its_beginning_and_counts_all(explorer):
    explorer.text_box.value = "abc " * 20_000
    assert len(explorer.run().tokenizations["letters"].ids) == 80_000
    assert "… 78,800 more tokens" in explorer.cuts.html and len(explorer.cuts.html) < 600_000


def test_hostile_tokens_and_names_stay_text():
    shown = TokenizerExplorer(
        {"<script>alert(1)</script>": LETTERS, "bytes": tiny.single_bytes()}, 'a<script>"\u202e\0'
    )
    shown.find_box.value = "<script>"
    eventually(lambda: shown.found.html)
    said = "".join([shown.cuts.html, shown.found.html, shown.token.value, shown.merges.value, shown.view().html])
    assert "<script" not in said and "\u202e" not in said and "\0" not in said


def test_tokenizers_come_as_models_names_and_lists():
    lm = tiny.tiny("gpt2", "tied")
    shown = TokenizerExplorer([lm, GPT2, "shakespeare-char"], "to be")
    assert repr(shown) == "TokenizerExplorer(tiny, 2 GPT2Tokenizer, shakespeare-char)"
    assert len(shown.result.tokenizations) == 3


def test_code_gives_the_same(capsys):
    shown = TokenizerExplorer({"GPT-2": GPT2, "characters": "shakespeare-char"}, "to be")
    exec(shown.code())
    said = capsys.readouterr().out
    assert all(str(cut.totals()) in said for cut in shown.result.tokenizations.values())


@pytest.mark.parametrize("suffix", ["html", "csv", "json", "txt"])
def test_it_is_saved_the_same_way_twice(explorer, tmp_path, suffix):
    first, second = (explorer.save(tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first == second and first
