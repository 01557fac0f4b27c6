"""The cache map without a browser: the moment, the selected token, the audit."""

import json
import time

import pytest
import tiny
from widget_driver import PROMPT, eventually, move, press, small_alphabet, tiny_model

import labkit
from labkit.errors import ConfigError
from labkit.inspection import audit_cache, cache_report
from labkit.language_model import wrap
from labkit.widgets import CacheMap

TEXT = "to be, or not to be that"


@pytest.fixture
def windowed():
    return tiny.tiny("swa_mla", "configured")


@pytest.fixture
def cache_map(windowed):
    made = CacheMap(windowed, TEXT)
    yield made
    made.close()


def test_it_opens_at_the_end_of_the_text_and_says_what_the_report_says(cache_map, windowed):
    assert cache_map.moment.value == cache_map.moment.max == len(TEXT)
    assert cache_map.result.report == cache_report(windowed, TEXT)
    assert cache_map.result.rows() == cache_report(windowed, TEXT).rows()
    gone = sum(len(layer.evicted) for layer in cache_map.result.report.layers)
    assert gone and cache_map.map.html.count("class=lk-gone") == gone


def test_the_slider_goes_back_in_time_at_once(cache_map, windowed):
    start = time.perf_counter()
    move(cache_map.moment, 9)
    assert time.perf_counter() - start < 0.3
    assert cache_map.result.report == cache_report(windowed, TEXT[:9])
    assert "the cache after 9 tokens" in cache_map.map.html and cache_map.map.html.count("<i ") == 9 * 5


def test_picking_a_place_selects_its_token_and_tells_how_long_it_is_held(cache_map):
    cache_map.map.set_state({"picked": "3.4"})
    assert cache_map.selection.token == cache_map.strip.selected == 4
    assert "Token 4" in cache_map.life.value and "until 15 tokens were read" in cache_map.life.value
    cache_map.selection.token = 1
    assert cache_map.map.picked == "0.1" and "until" not in cache_map.life.value


def test_another_text_moves_the_slider_along_only_if_it_stood_at_the_end(cache_map):
    cache_map.text_box.value = TEXT[:12]
    cache_map.run()
    assert cache_map.moment.value == 12
    move(cache_map.moment, 5)
    cache_map.text_box.value = TEXT
    cache_map.run()
    assert (cache_map.moment.value, cache_map.moment.max) == (5, len(TEXT))


def test_the_audit_is_that_of_labkit_tells_how_far_it_is_and_gives_its_verdict(cache_map, windowed):
    told = []
    cache_map.verdict.observe(lambda change: told.append(change["new"]), "value")
    move(cache_map.audit_tokens, 16)
    assert cache_map.audit() == audit_cache(windowed, TEXT, max_new_tokens=16, every=8)
    assert sum("auditing" in words for words in told) > 10 and "100%" in told[-2]
    assert "healthy: 3 checks" in told[-1] and cache_map.result.audit.ok
    assert "healthy" in cache_map.view().text


def test_a_faulty_cache_is_named(cache_map, monkeypatch):
    import labkit.inspection.cache as module

    monkeypatch.setattr(module, "held_positions", lambda store: [0, 1])
    assert not cache_map.audit().ok
    assert "lk-error" in cache_map.verdict.value and "holds positions 0–1" in cache_map.verdict.value


def test_an_audit_is_stopped_at_once(cache_map):
    move(cache_map.audit_tokens, 512)
    press(cache_map.audit_button)
    eventually(lambda: not cache_map.stop_button.disabled)
    press(cache_map.stop_button)
    assert eventually(lambda: "audit stopped" in cache_map.verdict.value) < 2
    cache_map._auditing.wait()
    assert cache_map.result.audit is None and not cache_map.audit_button.disabled


def test_a_long_text_that_is_no_longer_wanted_is_not_read_to_its_end(cache_map):
    said = []

    def watch(change):
        said.append(change["new"])
        if len(said) == 3:
            cache_map.text_box.value = TEXT[:5]
            cache_map.run(wait=False)

    cache_map.status.observe(watch, "value")
    cache_map.run(wait=False)
    eventually(lambda: cache_map.result.report.n_tokens == 5)
    assert "reading … 12%" in said[2] and "reading … 20%" in said[3] and cache_map.error is None


def test_growth_is_measured_up_to_the_context_and_not_beyond(cache_map):
    assert [row["tokens"] for row in cache_map.result.growth] == [tiny.CONTEXT]


def test_a_text_longer_than_the_context_counts_from_what_is_left_of_it():
    shown = CacheMap(tiny.tiny("gpt2", "tied"), "a" * (tiny.CONTEXT + 1))
    assert shown.moment.max == tiny.CONTEXT + 1 - tiny.CONTEXT // 4
    shown.selection.token = 2
    assert "was cropped" in shown.life.value
    shown.map.set_state({"picked": "0.0"})
    assert shown.selection.token == tiny.CONTEXT // 4


@pytest.mark.parametrize(("family", "variant"), tiny.CASES)
def test_every_family_can_be_looked_at(family, variant):
    shown = CacheMap(tiny.tiny(family, variant), TEXT)
    assert shown.error is None and len(shown.result.rows()) == len(shown.lm.model.blocks)
    move(shown.audit_tokens, 8)
    assert json.dumps(shown.result.to_dict()) and shown.audit().ok


def test_a_trace_is_shown_whole_and_its_selection_is_shared(windowed):
    trace = labkit.record(windowed, "to be", max_new_tokens=6, seed=1)
    pair = [CacheMap(windowed, trace) for _ in range(2)]
    assert pair[0].moment.max == 11
    pair[0].strip.set_state({"selected": 3})
    assert pair[1].selection.token == 3 and "Token 3" in pair[1].life.value
    assert "to be" in pair[0].parameters()["text"]


def test_what_can_go_wrong_is_a_line_in_the_panel_and_the_text_stays(cache_map, capfd):
    cache_map.text_box.value = "<script>"
    assert cache_map.run() is None and "outside the vocabulary" in cache_map.error
    assert "&lt;" in cache_map.status.value and cache_map.text_box.value == "<script>"
    function = wrap(lambda ids: tiny.torch.zeros(*ids.shape, 5), vocab_size=5)
    shown = CacheMap(function, [1, 2])
    assert "wrapped function" in shown.error and shown.result is None and shown.view() is None
    with pytest.raises(ConfigError, match="nothing to write"):
        shown.save("x.html")
    assert capfd.readouterr() == ("", "")


def test_code_gives_the_same(cache_map, windowed, capsys):
    move(cache_map.moment, 7)
    exec(cache_map.code(), {"lm": windowed})
    assert str(cache_map.result.rows()[0]) in capsys.readouterr().out


def test_tokens_that_look_like_markup_stay_text():
    shown = CacheMap(tiny_model(small_alphabet()), PROMPT + "abc")
    for picture in (shown.map.html, shown.life.value, shown.strip.html, shown.view().html):
        assert "<script" not in picture


@pytest.mark.parametrize("suffix", ["html", "svg", "csv", "json", "txt"])
def test_it_is_saved_the_same_way_twice(cache_map, tmp_path, suffix):
    first, second = (cache_map.save(tmp_path / f"{name}.{suffix}").read_bytes() for name in "ab")
    assert first == second and first
    with pytest.raises(ConfigError, match="is not saved as"):
        cache_map.save(tmp_path / "x.doc")
