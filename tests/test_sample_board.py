"""The sample board without a browser: what fills it, where rows part, and going on from a continuation."""

import json
import time

import pytest
from widget_driver import PROMPT, eventually, move, press, small_alphabet, tiny_model

import labkit
from labkit.errors import ConfigError
from labkit.widgets import SampleBoard

SHORT = labkit.Settings(max_new_tokens=12, seed=3)
COLUMNS = [{"temperature": 0.5}, {"temperature": 1.5}, {"temperature": 0.5, "top_k": 2}]


@pytest.fixture
def lm():
    return tiny_model(small_alphabet())


@pytest.fixture
def board(lm):
    made = SampleBoard(lm, PROMPT, COLUMNS, settings=SHORT, n=3)
    made._background.wait()
    yield made
    made.close()


def test_every_column_is_a_batch_under_its_settings_on_the_same_draws(board, lm):
    for c, changes in enumerate(COLUMNS):
        [expected] = labkit.generate_batch(lm, [PROMPT], SHORT, n=3, **changes)
        assert [board.result.cell(r, c).generation for r in range(3)] == expected
    assert len(board.result.rows()) == 9 and json.dumps(board.result.to_dict())


def test_the_first_difference_from_the_first_column_is_counted_and_marked(board):
    for cell in board.result.cells:
        first, own = board.result.cell(cell.row, 0).generation.ids, cell.generation.ids
        assert first[: cell.parted] == own[: cell.parted]
        assert cell.parted is None or first[cell.parted] != own[cell.parted]
    parted = [cell for cell in board.result.cells if cell.parted is not None]
    assert parted and board.board.html.count("<mark>") == len(parted)
    assert all(cell.column for cell in parted)


def test_numbers_are_those_of_the_model_and_of_pairs(board):
    cell = board.result.cell(1, 1)
    ids = cell.generation.ids
    assert cell.mean_logprob == round(sum(cell.generation.raw_logprobs) / len(ids), 4)
    assert cell.distinct == round(len(set(zip(ids, ids[1:], strict=False))) / (len(ids) - 1), 4)
    assert [total["settings"] for total in board.result.totals()] == ["temperature 0.5", "temperature 1.5",
                                                                     "temperature 0.5, top-k 2"]  # fmt: skip
    assert board.result.totals()[0]["as the first"] == 3


def test_it_fills_while_it_writes_and_stop_keeps_what_is_there(board):
    move(board.controls.sliders["max_new_tokens"], 1000)
    painted = []
    board.board.observe(lambda change: painted.append(change["new"]), "html")
    press(board.run_button)
    eventually(lambda: len(painted) > 1)
    assert "writing" in board.status.value and board.result.rows()[0]["finish_reason"] == "interrupted"
    start = time.perf_counter()
    press(board.stop_button)
    board._background.wait()
    assert time.perf_counter() - start < 1.5
    lengths = {row["tokens"] for row in board.result.rows()}
    assert 0 < max(lengths) < 1000 and max(lengths) - min(lengths) <= 1
    assert "writing" not in board.status.value and board.stop_button.disabled


def test_columns_can_be_the_values_of_one_setting(board):
    board.vary.value = "top_k"
    assert board.values_box.value == "6, 12, 18" or board.values_box.value
    board.values_box.value = "1, 5 12"
    assert board.columns == [{"top_k": 1}, {"top_k": 5}, {"top_k": 12}]
    assert [name for name, _ in board.run().columns] == ["top-k 1", "top-k 5", "top-k 12"]
    for wrong, said in (("x", "could not convert"), ("", "at least one"), ("-3", "top_k")):
        board.values_box.value = wrong
        assert board.run() is None and (said in board.error or "invalid literal" in board.error)
    assert board.result is not None  # what was there stays


def test_going_on_from_a_continuation_hands_over_exactly_its_ids(board):
    handed = []
    board._on_continue = handed.append
    assert board.continue_button.disabled
    board.board.set_state({"picked": "2,1"})
    assert not board.continue_button.disabled
    chosen = board.result.cell(2, 1).generation
    press(board.continue_button)
    board._background.wait()
    ids = [*chosen.prompt_ids, *chosen.ids]
    assert board.continued == ids == handed[0] == board.result.prompt_ids == board.prompt
    assert board.prompt_box.value == PROMPT + chosen.text
    board.prompt_box.value += "a"
    assert isinstance(board.prompt, str)


def test_other_controls_than_those_it_was_written_with_are_said(board):
    assert "other settings" not in board.status.value
    for control, value in ((board.n, 2), (board.controls.sliders["top_p"], 0.5)):
        before = control.value
        move(control, value)
        assert "other settings" in board.status.value
        move(control, before)
        assert "other settings" not in board.status.value
    board.prompt_box.value = "abc"
    assert "other settings" in board.status.value


def test_what_goes_wrong_is_a_line_and_what_was_there_stays(board, capfd):
    before = board.result
    board.prompt_box.value = "<b>é"
    assert board.run() is None and "outside the vocabulary" in board.error
    assert "<b>" not in board.status.value.replace("<b></b>", "") and board.prompt_box.value == "<b>é"
    assert board.result == before
    board.prompt_box.value = PROMPT
    assert board.run() == before and board.error is None
    assert capfd.readouterr() == ("", "")


def test_a_model_that_breaks_while_it_writes_is_a_line_too(board, lm, monkeypatch):
    calls = []

    def breaks(*arguments, **keywords):
        calls.append(1)
        if len(calls) > 6:
            raise RuntimeError("boom")
        return type(lm.model).hidden(lm.model, *arguments, **keywords)

    monkeypatch.setattr(lm.model, "hidden", breaks, raising=False)
    assert board.run() is None and board.error == "RuntimeError: boom"
    assert "boom" in board.status.value and board.result.rows()[0]["tokens"] > 0


def test_code_gives_the_same(board, lm, capsys):
    code = board.code()
    exec(code, {"lm": lm})
    assert str([board.result.cell(r, 1).generation.text for r in range(3)]) in capsys.readouterr().out


def test_a_model_without_tokenizer_is_asked_in_ids():
    lm = tiny_model(small_alphabet())
    bare = labkit.LanguageModel(lm.model, lm.config, None, lm.checkpoint)
    board = SampleBoard(bare, [1, 2], COLUMNS[:2], settings=SHORT, n=2)
    board._background.wait()
    board.board.set_state({"picked": "0,0"})
    board.go_on()
    board._background.wait()
    assert board.error is None and board.result.prompt_ids == board.continued and board.continued[:2] == [1, 2]


def test_tokens_that_look_like_markup_stay_text(lm):
    board = SampleBoard(lm, PROMPT, settings=SHORT.replace(max_new_tokens=60), columns=[{"temperature": 2.0}], n=4)
    board._background.wait()
    assert "<script" not in board.board.html and "&lt;script&gt;" in board.board.html


def test_nothing_written_is_nothing_to_save(lm, tmp_path):
    board = SampleBoard(lm, "é", settings=SHORT)
    board._background.wait()
    assert board.result is None and board.view() is None
    with pytest.raises(ConfigError, match="nothing to write"):
        board.save(tmp_path / "x.html")


@pytest.mark.parametrize("suffix", ["html", "csv", "json", "txt", "toml"])
def test_it_is_saved_the_same_way_twice(board, tmp_path, suffix):
    first, second = (board.save(tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first == second and first
