"""Every widget: settings in, run, and the result is what the function of labkit gives; without kernel and browser."""

import ast
import html.parser
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as ipw
import nbformat
import pytest
from hostile_text import HOSTILE
from widget_driver import PROMPT, all_parts, eventually, press, small_alphabet, tiny_model

import labkit
from labkit import widgets
from labkit.settings import Settings
from labkit.tokenizers.char import CharTokenizer


class Case(NamedTuple):
    """How to make a widget, and the call whose answer its result must be."""

    make: Callable[..., Any]
    function: Callable[..., Any]


def microscope(lm, prompt, settings=None):
    settings = settings or Settings()
    step = next(labkit.stream(lm, prompt, settings))
    trace = labkit.Sampler.from_settings(**settings.sampling()).trace(step.logits, lm.tokenizer.encode(prompt))
    return widgets.SamplingMicroscope(trace, lm.tokenizer)


def sample_board(lm, prompt, settings=None):
    board = widgets.SampleBoard(lm, prompt, settings=settings, n=2)
    board.run()  # to the end: it begins to write when it is made
    return board


def chatting(lm, prompt, settings=None):
    chat = widgets.Chat(lm, settings=settings or Settings(max_new_tokens=5))
    chat.say(prompt)
    return chat


def workbench(lm, prompt, settings=None):
    bench = widgets.Workbench(lm, prompt, settings)
    bench.tab = "Attention"
    return bench


# A new widget is tested by adding it here; to the first table too if it runs the model and has the text as its result.
RUNNING = {
    "GenerationPlayground": Case(widgets.GenerationPlayground, labkit.generate),
}
WITH_SETTINGS = {
    "GenerationPlayground": widgets.GenerationPlayground,
    "SamplingMicroscope": microscope,
    "CheckpointDuel": lambda lm, prompt, settings=None: widgets.CheckpointDuel(lm, prompt=prompt, settings=settings),
    "Chat": chatting,
    "SampleBoard": sample_board,
    "Workbench": workbench,
}
INSPECTORS = {
    name: lambda lm, prompt, settings=None, name=name: getattr(widgets, name)(lm, prompt)
    for name in ("AblationView", "AttentionBrowser", "CacheMap", "LogitLensBrowser")
}
OTHERS = {"TokenizerExplorer": lambda lm, prompt, settings=None: widgets.TokenizerExplorer([lm], prompt)}
EVERY = WITH_SETTINGS | INSPECTORS | OTHERS
every_running_widget = pytest.mark.parametrize("case", RUNNING.values(), ids=RUNNING)
every_widget = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
every_widget_with_settings = pytest.mark.parametrize("make", WITH_SETTINGS.values(), ids=WITH_SETTINGS)
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def test_no_widget_is_forgotten_here():
    assert {name for name in widgets.__all__ if isinstance(getattr(widgets, name), type)} - set(EVERY) == {
        name for name in widgets.__all__ if name.endswith("Result")
    }


def shown(make, lm, prompt=PROMPT):
    """A widget with something to show."""
    widget = make(lm, prompt, Settings(max_new_tokens=12, top_k=0, seed=3))
    if hasattr(widget, "run"):
        widget.run()
    return widget


@pytest.fixture
def lm():
    return tiny_model(small_alphabet())


@every_running_widget
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 1 / 3, "top_k": 3, "top_p": 0.55, "min_p": 0.01, "repetition_penalty": 1.3, "seed": -5},
        {"greedy": True, "use_cache": False, "overflow": "recrop", "max_new_tokens": 90},
        {"temperature": 9.5, "top_k": 5000, "top_p": 1, "seed": 2**40, "max_new_tokens": 0},
        {"stop": ("c", 3), "min_new_tokens": 3, "penalty_scope": "generated", "deterministic": True},
    ],
)
def test_set_settings_run_and_the_result_is_the_functions(case, lm, changes):
    settings = Settings(**{"max_new_tokens": 20, **changes})
    widget = case.make(lm, PROMPT)
    widget.settings = settings
    assert widget.settings == settings
    result, expected = widget.run(), case.function(lm, PROMPT, settings)
    for name in ("ids", "text", "prompt_ids", "finish_reason", "notes"):
        assert getattr(result, name) == getattr(expected, name), name
    assert result == widget.result and result.settings == settings


@every_running_widget
def test_the_result_is_plain_data(case, lm):
    result = case.make(lm, PROMPT, Settings(max_new_tokens=5)).run()
    assert json.loads(json.dumps(result.to_dict()))["ids"] == result.ids
    assert len(result.rows()) == 5 and set(result.rows()[0]) >= {"id", "piece", "probability", "rank", "entropy"}
    assert labkit.views.token_strip(result.rows()).text
    with pytest.raises(AttributeError):
        result.ids = []


@every_widget
def test_reprs_are_the_same_every_time(make, lm):
    shown = []
    for _ in range(2):
        widget = make(lm, PROMPT, Settings(max_new_tokens=5))
        before = repr(widget)
        if hasattr(widget, "run"):
            widget.run()
        shown.append((before, repr(widget.result), repr(widget), widget._repr_mimebundle_()["text/plain"]))
    assert shown[0] == shown[1]
    assert not re.search(r"0x|\n", "".join(shown[0]))


@every_widget
def test_every_control_says_what_it_does_and_nothing_is_an_output_area(make, lm):
    parts = all_parts(make(lm, PROMPT))
    controls = [
        part for part in parts if isinstance(part, ipw.ValueWidget | ipw.Button) and not isinstance(part, ipw.HTML)
    ]
    assert len(controls) >= 5
    for control in controls:
        assert re.fullmatch(r"[A-Z].+\.", control.tooltip), control
    assert not [part for part in parts if isinstance(part, ipw.Output)]


@every_running_widget
def test_a_failure_is_one_message_inside_and_nothing_typed_is_lost(case, lm, capfd):
    widget = case.make(lm, "abc<x>", Settings(max_new_tokens=5))
    assert widget.run() is None and widget.result is None
    assert "outside the vocabulary: &#x27;&lt;&#x27; (position 3)" in widget.status.value
    assert widget.prompt_box.value == "abc<x>"
    widget.prompt_box.value = "abc"
    assert widget.run() is not None and widget.error is None
    assert capfd.readouterr() == ("", "")


@every_running_widget
def test_a_model_that_breaks_while_it_runs_is_a_message_too(case, lm, monkeypatch, capfd):
    widget = case.make(lm, PROMPT, Settings(max_new_tokens=50))
    calls = []

    def breaks(*arguments, **keywords):
        calls.append(1)
        if len(calls) > 5:
            raise RuntimeError("<b>boom</b>\nwith a second line")
        return type(lm.model).hidden(lm.model, *arguments, **keywords)

    monkeypatch.setattr(lm.model, "hidden", breaks, raising=False)
    assert widget.run() is None
    assert widget.error == "RuntimeError: <b>boom</b>" and "&lt;b&gt;boom" in widget.status.value
    assert widget.strip.html.count("data-i=") == 5  # what it had written stays
    monkeypatch.undo()
    assert len(widget.run().ids) == 50
    assert capfd.readouterr() == ("", "")


@every_running_widget
def test_two_widgets_do_not_disturb_each_other(case, lm):
    settings = [Settings(seed=1, max_new_tokens=80), Settings(seed=2, temperature=1.5, max_new_tokens=60)]
    pair = [case.make(lm, PROMPT, each) for each in settings]
    for widget in pair:
        widget.run(wait=False)
    pair[0].strip.set_state({"selected": 7})
    for widget, each in zip(pair, settings, strict=True):
        widget._background.wait()
        assert widget.result.ids == case.function(lm, PROMPT, each).ids
    assert [widget.strip.selected for widget in pair] == [7, 0]


@every_widget_with_settings
def test_settings_that_are_assigned_are_the_settings(make, lm):
    widget = make(lm, PROMPT)
    for changes in ({"temperature": 1 / 3, "top_k": 5000, "min_p": 0.011}, {"greedy": True, "stop": ("a",)}):
        widget.settings = settings = Settings(**changes, seed=7)
        assert widget.settings == settings


@every_widget
def test_a_result_says_itself_as_json(make, lm):
    widget = make(lm, PROMPT, Settings(max_new_tokens=5))
    result = widget.run() if hasattr(widget, "run") else widget.result
    assert json.loads(json.dumps(result.to_dict())) and all(isinstance(row, dict) for row in result.rows())


@every_widget
@pytest.mark.parametrize("suffix", ["html", "svg", "csv", "json", "txt"])
def test_what_is_shown_is_written_to_a_file_the_same_every_time(make, lm, tmp_path, suffix):
    files = [shown(make, lm).save(tmp_path / f"{i}.{suffix}").read_text(encoding="utf-8") for i in range(2)]
    assert len(files[0]) > 20
    assert without_speed(files[0]) == without_speed(files[1])
    if suffix == "json":
        assert json.loads(files[0])
    if suffix == "html":
        assert "<script" not in files[0] and not re.search(r"https?://(?!www.w3.org/)", files[0])


def without_speed(text: str) -> str:
    """Everything but how long it took."""
    return re.sub(r"([\d.]+ (tokens/s|ms|seconds?))|(\"\w*(per_second|seconds)\": [\d.e-]+)", "", text)


@every_widget_with_settings
def test_settings_are_written_for_the_command_line(make, lm, tmp_path):
    widget = shown(make, lm)
    assert Settings.read(widget.save(tmp_path / "s.toml")) == widget.settings


@every_widget_with_settings
def test_settings_are_opened_from_a_file(make, lm, tmp_path):
    widget = shown(make, lm)
    settings = widget.settings
    widget.file_box.value = str(tmp_path / "s.toml")
    press(widget.save_button)
    widget.settings = Settings(temperature=1.3, seed=11)
    press(widget.open_button)
    assert widget.settings == settings


@every_widget_with_settings
@pytest.mark.parametrize("text", ["[generation", "[generation]\ntemperature = -1", "[generation]\nsead = 3", None])
def test_settings_that_cannot_be_opened_are_one_line_and_what_was_there_stays(make, lm, tmp_path, text, capfd):
    widget = shown(make, lm)
    settings, result = widget.settings, repr(widget.result)
    if text is not None:
        (tmp_path / "s.toml").write_text(text, encoding="utf-8")
    widget.file_box.value = str(tmp_path / "s.toml")
    press(widget.open_button)
    (said,) = [part.value for part in (widget.saved, widget.status) if "lk-error" in part.value]
    assert "s.toml: " in said and "\n" not in said
    assert widget.settings == settings and repr(widget.result) == result
    assert capfd.readouterr() == ("", "")


@every_widget_with_settings
def test_what_saves_settings_also_opens_them(make, lm):
    parts = all_parts(make(lm, PROMPT))
    assert sum(getattr(part, "description", "") == "Open" for part in parts) >= 1


@every_widget
def test_a_file_that_cannot_be_is_one_line_in_the_widget(make, lm, tmp_path, capfd):
    widget = shown(make, lm)
    for name in ("x.docx", "", str(tmp_path)):
        widget.file_box.value = name
        widget.save_button.click()
        assert "lk-error" in widget.saved.value
    assert capfd.readouterr() == ("", "")


@every_widget
def test_readers_without_a_kernel_see_what_it_shows(make, lm):
    page = shown(make, lm)._repr_mimebundle_()["text/html"]
    assert re.search(r"\d", page) and "<script" not in page


@every_widget
def test_the_papermill_line_names_a_notebook_and_parameters_that_it_has(make, lm):
    widget = shown(make, lm)
    notebook = nbformat.read(NOTEBOOKS / widget.NOTEBOOK, as_version=4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    known = {node.target.id for node in ast.parse(cell.source).body}
    assert set(widget.parameters()) <= known
    assert widget.papermill().startswith(f"papermill notebooks/{widget.NOTEBOOK} ")


@every_widget
def test_the_code_is_python(make, lm):
    assert "import labkit" in shown(make, lm).code()
    ast.parse(shown(make, lm).code())


class Markup(html.parser.HTMLParser):
    """What a browser would act on: the names of elements and attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found |= {tag, *(name for name, _ in attrs)}


@every_widget
def test_no_token_is_ever_markup(make):
    pieces = ["a", "b", "\n", *(text for text in HOSTILE if len(text) > 1)]
    widget = shown(make, tiny_model(CharTokenizer(dict.fromkeys(pieces))))
    for part in all_parts(widget):
        for text in (getattr(part, "html", ""), part.value if isinstance(part, ipw.HTML) else ""):
            found = Markup(str(text)).found
            assert not [name for name in found if name in ("script", "iframe", "object") or name.startswith("on")], part


@every_widget
def test_closing_leaves_no_thread_behind(make, lm):
    before = set(threading.enumerate())
    shown(make, lm).close()
    eventually(lambda: not [t for t in set(threading.enumerate()) - before if t.is_alive()])
