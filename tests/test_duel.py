"""The duel of two checkpoints without a browser: what parts them, the selected token, settings of B, a whole run."""

import json

import pytest
import tiny
from widget_driver import eventually, move, press, small_alphabet, tiny_model

import labkit
from labkit import inspection
from labkit.inspection import compare
from labkit.widgets import CheckpointDuel

PROMPT = "ab\n"
SHORT = labkit.Settings(max_new_tokens=12, seed=3)


@pytest.fixture
def pair():
    made = [tiny.language_model("labcore", config(), small_alphabet(), seed=seed) for seed in (0, 1)]
    return made


def config():
    return tiny_model(small_alphabet()).config


@pytest.fixture
def duel(pair):
    made = CheckpointDuel(*pair, prompt=PROMPT, settings=SHORT)
    yield made
    made.close()


def other_pieces(characters: int) -> labkit.LanguageModel:
    """A model that cuts texts otherwise: one token a byte."""
    return tiny.language_model("labcore", type(config())(256, 64, 1, 2, 16), tiny.single_bytes())


def test_it_shows_what_compare_gives_and_marks_where_they_part(duel, pair):
    expected = compare(*pair, prompt=PROMPT, settings=SHORT)
    assert duel.error is None and duel.result.comparison.to_dict() == expected.to_dict()
    assert duel.result.rows() == expected.rows()
    assert expected.run.divergence.cause == "model"
    assert "parted at step" in duel.ran.value and duel.ran.value.count('class="lk-col lk-parted"') == 1
    assert "by the model" in duel.view().text


def test_at_first_the_token_is_selected_at_which_they_differ_most(duel):
    deltas = duel.result.comparison.text.delta.abs()
    assert duel.strip.picked == str(int(deltas.argmax()))
    assert "likelier to" in duel.detail.value


def test_a_click_in_one_list_selects_everywhere_and_for_other_panels(duel):
    duel.furthest.set_state({"picked": "4"})
    assert duel.selection.token == 5 and duel.strip.picked == "4"
    duel.selection.token = 2
    assert duel.strip.picked == duel.furthest.picked == "1"
    row = duel.result.rows()[1]
    assert f"{row['js']:.3f} apart" in duel.detail.value


def test_b_may_have_settings_of_its_own_and_then_the_draws_are_compared(duel, pair):
    duel.b_menu.value = duel.a_menu.value
    move(duel.differ, True)
    move(duel.controls_b.sliders["temperature"], 1.9)
    assert duel.changes_b == {"temperature": 1.9} and duel.of_b.layout.display == ""
    result = duel.run()
    expected = compare(pair[0], pair[0], prompt=PROMPT, settings=SHORT, changes_b={"temperature": 1.9})
    assert result.comparison.to_dict() == expected.to_dict()
    assert "temperature 1.9" in duel.totals.value and "changes_b={'temperature': 1.9}" in duel.code()
    move(duel.differ, False)
    assert duel.changes_b == {} and duel.run().comparison.run.divergence is None


def test_a_change_is_followed_after_a_moment_and_not_without_live(duel):
    before = duel.result
    move(duel.controls.boxes["seed"], 99)
    eventually(lambda: duel.result is not before and not duel._background.running)
    assert duel.result.comparison.run.a.settings.seed == 99
    move(duel.live, False)
    before = duel.result
    move(duel.controls.boxes["seed"], 7)
    assert not duel._moved.pending and duel.result is before


def test_a_text_of_its_own_is_read_by_both(duel, pair):
    duel.text_box.value = "abcdefgh"
    assert duel.run().comparison.text.pieces == [*"bcdefgh"]


def test_other_tokens_are_compared_between_common_borders_and_selected_by_place(pair):
    shown = CheckpointDuel(other_pieces(256), pair[0], text="ab cd", prompt="ab", settings=SHORT)
    assert shown.result.comparison.text.notes and "Different tokens" in shown.status.value
    part = (int(shown.strip.picked) + 1) % len(shown.result.rows())
    shown.strip.set_state({"picked": str(part)})
    assert shown._part() == part and shown.selection.token == part + 1
    assert "JS" not in shown.furthest.html


def test_a_trace_gives_text_prompt_settings_and_its_selection(pair):
    trace = labkit.record(pair[0], PROMPT, SHORT)
    shown = CheckpointDuel(*pair, trace)
    assert shown.result.comparison.run.a.ids == trace.ids
    assert len(shown.result.rows()) == len(trace.prompt_ids) + len(trace.ids) - 1
    assert shown.prompt_box.layout.display == "none" and shown.settings == trace.settings
    shown.selection.token = 6
    assert shown.strip.picked == "5"
    other = CheckpointDuel(pair[0], other_pieces(256), trace)
    assert other.error is None and other.selection is shown.selection


def test_show_trace_moves_on_to_another_run(duel, pair):
    trace = labkit.record(pair[0], "ba", SHORT, seed=8)
    duel.show_trace(trace)
    eventually(lambda: duel.result is not None and duel.result.comparison.run.a.ids == trace.ids)


def test_of_a_list_the_ends_meet_and_all_are_measured(pair):
    three = [*pair, tiny.language_model("labcore", config(), small_alphabet(), seed=2)]
    shown = CheckpointDuel(three, prompt=PROMPT, settings=SHORT)
    assert shown.a_menu.value != shown.b_menu.value and len(shown.result.course.rows()) == 3
    text = PROMPT + shown.result.comparison.run.a.text
    assert shown.result.course.rows() == inspection.trajectory(three, text=text).rows()
    assert "mean_surprisal" in shown.course.value and json.dumps(shown.result.to_dict())


def test_what_goes_wrong_is_a_line_and_what_was_shown_stays(duel, capfd):
    before = duel.result
    duel.prompt_box.value = "<script>é"
    assert duel.run() is None and "outside the vocabulary" in duel.error
    assert "<script>" not in duel.status.value and duel.prompt_box.value == "<script>é"
    assert duel.result is before and duel.ran.value
    duel.prompt_box.value = PROMPT
    assert duel.run() is not None and duel.error is None
    assert capfd.readouterr() == ("", "")


def test_nothing_to_compare_on_says_so(duel):
    duel.prompt_box.value = ""
    assert duel.run() is None and "nothing to compare on" in duel.error


def test_stop_ends_a_comparison_and_keeps_the_one_before(duel, pair):
    before = duel.result
    move(duel.live, False)
    move(duel.controls.sliders["max_new_tokens"], 1000)
    press(duel.run_button)
    eventually(lambda: not duel.stop_button.disabled)
    press(duel.stop_button)
    assert eventually(lambda: "stopped" in duel.status.value) < 2
    assert duel.result is before
    duel._background.wait()
    assert not duel._background.running and not any(block._forward_pre_hooks for block in pair[0].model.blocks)
    move(duel.controls.sliders["max_new_tokens"], 12)
    assert duel.run().rows() == before.rows()


def test_it_says_how_far_it_is(duel):
    told = []
    duel.status.observe(lambda change: told.append(change["new"]), "value")
    duel.run()
    shares = [words.partition("comparing … ")[2].partition("%")[0] for words in told if "%" in words]
    assert shares[0] == "8" and shares[11] == shares[-1] == "100"  # 12 tokens written, then what both read


def test_code_gives_the_same(duel, pair, capsys):
    exec(duel.code(), {"a": pair[0], "b": pair[1]})
    assert repr(duel.result.comparison.run) in capsys.readouterr().out
    assert json.loads(json.dumps(duel.parameters()))["prompt"] == PROMPT


@pytest.mark.parametrize("suffix", ["html", "csv", "json", "txt", "toml"])
def test_it_is_saved_the_same_way_twice(duel, tmp_path, suffix):
    first, second = (duel.save(tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first == second and first


def test_tokens_that_look_like_markup_stay_text(pair):
    shown = CheckpointDuel(*pair, text="abc", prompt="ab", settings=SHORT.replace(max_new_tokens=60, temperature=2.0))
    said = "".join([shown.ran.value, shown.strip.html, shown.furthest.html, shown.detail.value, shown.view().html])
    assert "<script" not in said and "&lt;script&gt;" in said
