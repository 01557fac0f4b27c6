"""The loss on a text of any length by a sliding window, and questions with one right answer."""

import json
import math

import pytest
import tiny
import torch
from test_cli import run

import labkit
from labkit.errors import ConfigError, TokenizerError
from labkit.inspection import Answers, evaluate_answers, evaluate_text, read_questions

every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])
LONG = "so it has, 12 of 34\n" * 5  # 100 characters, four times the tiny models' context


@every_model
def test_the_default_window_gives_the_numbers_of_score_in_every_family(family, variant):
    lm = tiny.tiny(family, variant)
    loss, score = evaluate_text(lm, LONG), labkit.score(lm, LONG)
    assert loss.surprisal == pytest.approx(score.surprisal, rel=1e-5)
    assert loss.perplexity == pytest.approx(score.perplexity, rel=1e-5)
    assert loss.bits_per_byte == pytest.approx(score.bits_per_byte, rel=1e-5)
    assert (loss.n_tokens, loss.n_bytes, loss.n_characters) == (99, 99, 99)


@pytest.mark.parametrize("stride", [1, 5, 6, 23, 24])
def test_every_token_is_predicted_once_from_the_window_that_the_stride_says(stride):
    lm = tiny.tiny("gpt2", "tied")
    ids, block = lm.tokenizer.encode(LONG), lm.model.block_size
    expected, first, start = 0.0, 1, 0
    while first < len(ids):
        end = min(len(ids), start + block + 1)
        log_p = lm.logits(ids[start : end - 1]).double().log_softmax(dim=-1)
        expected -= sum(float(log_p[t - 1 - start, ids[t]]) for t in range(first, end))
        first, start = end, start + stride
    assert evaluate_text(lm, LONG, stride=stride).surprisal == pytest.approx(expected, rel=1e-6)


def test_a_text_within_the_context_is_one_window_whatever_the_stride():
    lm = tiny.tiny("llama", "grouped")
    ids = lm.tokenizer.encode(LONG)[:20]
    own = torch.tensor(ids[1:])[:, None]
    expected = -float(lm.logits(ids)[:-1].double().log_softmax(-1).gather(1, own).sum())
    for stride in (1, 7, 24):
        assert evaluate_text(lm, ids, stride=stride).surprisal == pytest.approx(expected, rel=1e-6)


def test_bytes_are_counted_not_characters():
    config = type(tiny.TINY["labcore"]["learned"])(256, block_size=24, n_layer=2, n_head=4, n_embd=16)
    loss = evaluate_text(tiny.language_model("labcore", config, tiny.single_bytes()), "na\u00efve \u20ac")
    assert (loss.n_tokens, loss.n_bytes, loss.n_characters) == (9, 9, 6)
    assert loss.bits_per_byte == pytest.approx(loss.surprisal / math.log(2) / 9)


def test_without_a_tokenizer_ids_work_and_bits_per_byte_are_not_known():
    lm = labkit.wrap(lambda ids: torch.zeros(*ids.shape, 8), vocab_size=8)
    loss = evaluate_text(lm, [1, 2, 3, 4])
    assert loss.perplexity == pytest.approx(8) and loss.bits_per_byte is None and "bits" not in repr(loss)
    with pytest.raises(TokenizerError, match="no tokenizer"):
        evaluate_text(lm, "text")


def test_a_stride_or_text_that_makes_no_sense_is_refused_with_the_numbers():
    lm = tiny.tiny("gpt2", "tied")
    for stride in (0, 25, 2.0):
        with pytest.raises(ConfigError, match="from 1 to 24"):
            evaluate_text(lm, LONG, stride=stride)
    with pytest.raises(ConfigError, match="one token"):
        evaluate_text(lm, "s")


# --- questions --------------------------------------------------------------------------------------------------------

SUMS = [("123+456=", "579"), ("512+300=", "812"), ("5+5=", "11")]


@pytest.fixture(scope="module")
def adder():
    return labkit.load("arithmetic/step_001800")


def test_an_answer_is_right_when_it_is_said_and_nothing_else(adder):
    found = evaluate_answers(adder, SUMS)
    assert found.said == ["579", "812", "10"] and found.right == [True, True, False]
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.rows()[2] == {"prompt": "5+5=", "answer": "11", "said": "10", "right": False}
    assert found.to_dict()["right"] == 2


def test_an_answer_that_goes_on_is_wrong_although_it_begins_rightly(adder):
    found = evaluate_answers(adder, [("123+456=", "57"), ("512+300=", "8")])
    assert found.right == [False, False] and all(len(said) > 1 for said in found.said)


def test_batches_change_nothing_and_settings_can(adder):
    questions = [(f"{a}+{b}=", str(a + b)) for a in (17, 234, 805) for b in (5, 66, 123)]
    whole, small = evaluate_answers(adder, questions), evaluate_answers(adder, questions, batch_size=2)
    assert whole.said == small.said
    hot = evaluate_answers(adder, questions, greedy=False, temperature=5.0, seed=1)
    assert hot.accuracy < whole.accuracy
    with pytest.raises(ConfigError, match="temperature"):
        evaluate_answers(adder, questions, temprature=1)


def test_the_interval_holds_the_accuracy_and_shrinks_with_more_questions():
    few, many = (Answers([("", "a")] * n, ["a"] * (n - n // 4) + ["b"] * (n // 4)) for n in (8, 800))
    for answers in (few, many):
        assert answers.interval[0] < answers.accuracy == 0.75 < answers.interval[1]
    assert many.interval[1] - many.interval[0] < 0.07 < few.interval[1] - few.interval[0]
    all_right = Answers([("", "a")] * 10, ["a"] * 10)
    assert all_right.interval == (pytest.approx(0.7225, abs=1e-3), 1.0)


def test_questions_are_read_from_lines_of_json_and_from_tabs(tmp_path):
    tsv, jsonl = tmp_path / "q.tsv", tmp_path / "q.jsonl"
    tsv.write_bytes(b"1+1=\t2\r\n\n2+2=\t4\n")
    jsonl.write_text('{"prompt": "1+1=", "answer": "2"}\n{"prompt": "2+2=", "answer": "4", "id": 7}\n')
    assert read_questions(tsv) == read_questions(jsonl) == [("1+1=", "2"), ("2+2=", "4")]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("q.tsv", b"1+1=\t2\n1+1=2\n", "line 2: has 0 tabs"),
        ("q.tsv", b"\n \n", "no questions"),
        ("q.jsonl", b'{"prompt": "1"}\n', 'line 1: is no JSON object with the texts "prompt" and "answer"'),
        ("q.jsonl", b'{"prompt": "1", "answer": 2}\n', "line 1: is no JSON object with the texts"),
        ("q.jsonl", b"{\n", "line 1: is no JSON "),
        ("q.tsv", b"\xff\t1\n", "byte 0 is no UTF-8 text"),
    ],
)
def test_a_file_that_is_not_of_this_form_is_refused_with_the_line(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=complaint):
        read_questions(tmp_path / name)


# --- the command ------------------------------------------------------------------------------------------------------


def test_eval_measures_a_text(capsys, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("First Citizen:\nBefore we proceed any further, hear me speak.\n" * 5)
    status, out, _ = run(capsys, "eval", "shakespeare-char", str(file), "--json", "--stride", "200")
    loss = evaluate_text(labkit.load("shakespeare-char"), file.read_text(), stride=200)
    assert status == 0 and json.loads(out) == json.loads(json.dumps(loss.to_dict()))
    status, out, _ = run(capsys, "eval", "shakespeare-char", str(file), "--stride", "200")
    assert status == 0 and f"bits per byte: {loss.bits_per_byte:.4f}".rstrip("0") in out


def test_eval_asks_questions(capsys, tmp_path):
    file = tmp_path / "sums.tsv"
    file.write_text("".join(f"{question}\t{answer}\n" for question, answer in SUMS))
    status, out, _ = run(capsys, "eval", "arithmetic/step_001800", str(file))
    assert status == 0 and out.startswith("2 of 3 right: 66.7%") and "'5+5=': '11', not '10'" in out
    status, out, _ = run(capsys, "eval", "--checkpoint", "arithmetic/step_001800", str(file), "--json")
    assert status == 0 and json.loads(out)["accuracy"] == 0.6667
    status, out, _ = run(capsys, "eval", "arithmetic/step_001800", str(file), "--as", "text", "--unknown", "drop")
    assert status == 2


def test_eval_says_what_is_missing(capsys, tmp_path):
    assert run(capsys, "eval", "arithmetic")[0] == 2
    status, _, err = run(capsys, "eval", "arithmetic", str(tmp_path / "none.txt"))
    assert status == 1 and "none.txt: cannot be read" in err and err.count("\n") == 1
