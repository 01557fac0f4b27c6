"""Workbench without a browser: one run, and tabs that follow it."""

import json
import threading

import pytest
from widget_driver import PROMPT, eventually, small_alphabet, tiny_model

from labkit import widgets
from labkit.settings import Settings
from labkit.widgets.workbench import TABS


@pytest.fixture
def lm():
    return tiny_model(small_alphabet())


@pytest.fixture
def bench(lm):
    made = widgets.Workbench(lm, PROMPT, Settings(max_new_tokens=12, top_k=0))
    yield made
    made.close()


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_shows_the_run_of_the_first(bench, tab):
    written = bench.run()
    bench.tab = tab
    assert repr(bench.wait()) == repr(bench.parts[tab].result) != "None"
    assert bench.parts[tab].error is None
    assert bench.view().text and bench.code() and bench.papermill()
    assert bench.playground.result == written


def test_a_token_selected_in_one_tab_is_selected_in_all(bench):
    bench.run()
    for tab in TABS:
        bench.tab = tab
        bench.wait()
    bench.parts["Attention"].strip.set_state({"selected": 7})
    assert bench.playground.selection.token == 7
    assert bench.playground.strip.selected == 7 - len(PROMPT)
    assert bench.parts["Lens"].strip.selected == bench.parts["Cache"].strip.selected == 7
    assert bench.parts["Sampling"].result.index == 7 - len(PROMPT)
    bench.playground.strip.set_state({"selected": 1})
    assert bench.parts["Attention"].strip.selected == len(PROMPT) + 1


def test_a_new_run_is_what_the_open_tab_shows_and_the_others_when_they_are_opened(bench):
    bench.run()
    bench.tab = "Lens"
    before = bench.wait()
    bench.settings = bench.settings.replace(seed=9)
    bench.run()
    eventually(lambda: "Lens" in bench.parts)
    trace = bench.playground.trace
    assert bench.parts["Lens"].ids == [*trace.prompt_ids, *trace.ids]
    assert bench.result is not before and set(bench.parts) == {"Lens"}


def test_a_tab_that_is_opened_before_there_is_a_run_says_what_to_do(bench):
    bench.tab = "Attention"
    bench.wait()
    assert "press Generate" in bench.status.value and bench.parts == {}
    bench.run()
    eventually(lambda: "Attention" in bench.parts)
    assert bench.status.value == ""


def test_a_tab_that_fails_says_so_in_its_place_and_the_others_work(bench, monkeypatch, capfd):
    def breaks(lm, trace):
        raise RuntimeError("<b>boom</b>")

    monkeypatch.setitem(TABS, "Lens", breaks)
    bench.run()
    bench.tab = "Lens"
    bench.wait()
    (said,) = bench._boxes["Lens"].children
    assert "RuntimeError: &lt;b&gt;boom" in said.value
    bench.tab = "Cache"
    assert bench.wait() is not None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["html", "svg", "png", "csv", "json", "txt", "toml"])
def test_what_the_open_tab_shows_is_written_to_a_file(bench, tmp_path, suffix):
    bench.run()
    path = bench.save(tmp_path / f"run.{suffix}")
    assert path.stat().st_size > 100
    if suffix == "json":
        assert json.loads(path.read_text())["ids"] == bench.result.ids
    if suffix == "toml":
        assert Settings.read(path) == bench.settings


def test_closing_it_leaves_no_thread_behind(lm):
    before = set(threading.enumerate())
    bench = widgets.Workbench(lm, PROMPT, Settings(max_new_tokens=12))
    bench.run()
    bench.tab = "Compare"
    bench.wait()
    bench.close()
    eventually(lambda: set(threading.enumerate()) <= before)
