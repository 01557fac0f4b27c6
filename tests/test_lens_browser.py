"""LogitLensBrowser without a browser: every family, the selected place, followed tokens, the fitted lens."""

import json
import time

import pytest
import tiny
from inspector_cases import TEXT, recorded, run_code, settled, words_of
from widget_driver import eventually, move, press

import labkit
from labkit import inspection
from labkit.inspection.lens import CAUTION, FITTED
from labkit.widgets import LogitLensBrowser


def browser(family="labcore", variant="learned", text=TEXT, **keywords):
    return LogitLensBrowser(tiny.tiny(family, variant), text, **keywords)


@pytest.mark.parametrize(("family", "variant"), tiny.CASES)
def test_it_shows_what_inspection_finds_in_every_family(family, variant):
    widget = browser(family, variant)
    lens = inspection.logit_lens(tiny.tiny(family, variant), TEXT)
    assert widget.error is None
    assert widget.result.rows() == lens.rows()
    said = words_of(widget.grid.html)
    assert all(point in said for point in lens.points) and CAUTION in said


@pytest.mark.parametrize(("family", "variant"), tiny.CASES)
def test_the_fitted_lens_says_so_in_every_family(family, variant):
    widget = browser(family, variant)
    widget.lens.value = "fitted"
    settled(widget)
    assert widget.error is None and widget.result.fitted
    assert FITTED in words_of(widget.grid.html) and CAUTION not in words_of(widget.grid.html)
    assert widget.result.rows()[-1] == inspection.logit_lens(widget.lm, TEXT).rows()[-1]  # the last layer is itself


def test_the_selected_token_is_looked_at_where_it_was_arrived_at():
    widget = browser()
    assert widget.column == len(TEXT) - 1  # none is selected: what comes next
    widget.strip.set_state({"selected": 6})
    assert widget.column == 5 and widget.grid.picked == f"{len(widget.result.points) - 1}.5"
    p = float(widget.result.next_logprob[-1, 5].exp())
    assert f"“{TEXT[6]}”, which comes, has {100 * p:.1f} %" in words_of(widget.choices.html)


def test_a_click_on_a_cell_selects_the_token_after_it_and_shows_its_choices():
    widget = browser()
    widget.grid.set_state({"picked": "1.4"})
    assert widget.selection.token == 5 and widget.column == 4
    said = words_of(widget.choices.html)
    assert "block 0 after “to be”" in said
    best = widget.result.choices(4)[1]
    assert f"{best['p'][0]:.3f}" in said
    widget.grid.set_state({"picked": f"0.{len(TEXT) - 1}"})
    assert widget.selection.token == -1 and widget.column == len(TEXT) - 1
    assert "embedding after" in words_of(widget.choices.html)


def test_unasked_the_first_choice_and_the_token_that_comes_are_followed():
    widget = browser()
    last = int(widget.lm.logits(widget.ids)[-1].argmax())
    assert widget.result.tracked == (last,)
    widget.strip.set_state({"selected": 6})
    settled(widget)
    first = int(widget.lm.logits(widget.ids[:6])[-1].argmax())
    assert widget.result.tracked == tuple(dict.fromkeys([widget.ids[6], first]))


def test_clicking_choices_pins_and_unpins_them():
    widget = browser()
    wanted = widget.result.top_ids[-1, -1].tolist()
    for place in (1, 3):
        widget.choices.set_state({"picked": str(place)})
        settled(widget)
    assert widget.result.tracked == (wanted[1], wanted[3])
    assert words_of(widget.choices.html).count("●") == 2
    shown = words_of(widget.paths.value)
    for token in widget.result.tracked:
        for step in widget.result.trajectory(token, -1):
            assert f"{step['p']:.4f}" in shown
    widget.choices.set_state({"picked": "1"})
    assert settled(widget).result.tracked == (wanted[3],)
    widget.strip.set_state({"selected": 4})
    assert settled(widget).result.tracked == (wanted[3],)  # pins stay where one looks next
    press(widget.forget)
    assert wanted[3] not in settled(widget).pins and widget.pins == []


def test_a_token_that_is_typed_is_followed_and_what_is_no_token_is_one_line():
    widget = browser()
    move(widget.track, "z" if "z" in tiny.CHARACTERS else "q")
    assert settled(widget).result.tracked == tuple(widget.pins) != ()
    assert widget.track.value == ""
    move(widget.track, "to be")
    assert "'to be' is 5 tokens" in words_of(widget.track_error.value)
    assert widget.track.value == "to be" and widget.error is None
    move(widget.track, "<b>")
    assert "outside the vocabulary" in words_of(widget.track_error.value) and "<b>" not in widget.track_error.value


def test_colours_are_of_what_is_asked():
    widget, shown = browser(), set()
    for colour in ("p", "entropy", "kl"):
        widget.colour.value = colour
        shown.add(widget.grid.html)
    assert len(shown) == 3


def test_a_long_text_is_shown_around_the_selected_token():
    config = tiny.LabCoreConfig(tiny.V, block_size=300, n_layer=2, n_head=2, n_embd=16)
    lm = tiny.language_model("labcore", config, tiny.characters())
    widget = LogitLensBrowser(lm, "to be or not to be, " * 12)
    columns = widget._columns()
    assert columns.stop == 240 and len(columns) == 28
    assert "tokens 212 … 239 of 240" in words_of(widget.grid.html)
    widget.strip.set_state({"selected": 100})
    columns = widget._columns()
    assert 99 in columns and len(columns) == 28
    widget.grid.set_state({"picked": f"1.{columns.start}"})
    assert widget._columns() == columns  # what was clicked stays under the mouse
    start = time.perf_counter()
    widget.repaint()
    print(f"lens repaint: {1000 * (time.perf_counter() - start):.0f} ms")


def test_of_a_run_it_reads_all_tokens_and_the_code_gives_the_same():
    lm = tiny.tiny("labcore", "learned")
    trace = recorded(lm)
    widget = LogitLensBrowser(lm, trace, tracked=["b"])
    assert widget.ids == [*trace.prompt_ids, *trace.ids] and widget.text_box.layout.display == "none"
    names = run_code(widget.code(), lm)
    assert names["lens"].rows() == widget.result.rows() and names["lens"].tracked == widget.result.tracked


def test_the_code_of_a_fitted_lens_fits_the_same():
    widget = browser()
    widget.lens.value = "fitted"
    names = run_code(settled(widget).code(), widget.lm)
    assert names["lens"].fitted and names["lens"].rows() == widget.result.rows()


def test_a_lens_that_was_fitted_elsewhere_is_used():
    lm = tiny.tiny("labcore", "learned")
    texts = [tiny.random_ids(20, seed) for seed in range(10)]
    fit = inspection.fit_lens(lm, texts)
    widget = LogitLensBrowser(lm, TEXT, fit=fit)
    assert widget.result.rows() == inspection.logit_lens(lm, TEXT, fit=fit).rows()
    assert "fit is the one you gave" in widget.code()


def test_an_unknown_character_is_one_line_and_the_text_stays(capfd):
    widget = browser()
    before = widget.result
    widget.text_box.value = "abc<x>"
    eventually(lambda: widget.error)
    assert "outside the vocabulary" in widget.status.value and widget.text_box.value == "abc<x>"
    assert widget.result is before
    assert capfd.readouterr() == ("", "")


def test_one_token_is_enough():
    widget = browser(text="t")
    assert widget.error is None and widget.column == 0
    widget.strip.set_state({"selected": 0})
    assert settled(widget).error is None


@pytest.mark.parametrize("suffix", ["html", "svg", "csv", "json", "txt"])
def test_it_saves_what_it_shows(tmp_path, suffix):
    widget = browser(tracked=["b"])
    path = widget.save(tmp_path / f"lens.{suffix}")
    assert path.stat().st_size > 100
    if suffix == "json":
        assert set(json.loads(path.read_text())) == {"pieces", "cells", "tracked", "caution"}
    if suffix == "txt":
        assert CAUTION in path.read_text()


def test_two_of_them_show_the_same_bytes():
    first, second = browser(), browser()
    assert first.view() == second.view() and repr(first) == repr(second)
    assert "\n" not in repr(first) and "0x" not in repr(first)


def test_what_papermill_is_told_are_parameters_of_its_notebook():
    widget = LogitLensBrowser(labkit.load("shakespeare-char"), "ROMEO:\n")
    assert widget.parameters() == {"checkpoint": "shakespeare-char", "text": "ROMEO:\n"}
