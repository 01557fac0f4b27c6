"""Every widget: settings in, run, and the result is what the function of labkit gives; without kernel and browser."""

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import ipywidgets as ipw
import pytest
from widget_driver import PROMPT, all_parts, small_alphabet, tiny_model

import labkit
from labkit import widgets
from labkit.settings import Settings


class Case(NamedTuple):
    """How to make a widget, and the call whose answer its result must be."""

    make: Callable[..., Any]
    function: Callable[..., Any]


def microscope(lm, prompt, settings=None):
    settings = settings or Settings()
    step = next(labkit.stream(lm, prompt, settings))
    trace = labkit.Sampler.from_settings(**settings.sampling()).trace(step.logits, lm.tokenizer.encode(prompt))
    return widgets.SamplingMicroscope(trace, lm.tokenizer)


# A new widget is tested by adding it here; to the first table too if it runs the model.
RUNNING = {
    "GenerationPlayground": Case(widgets.GenerationPlayground, labkit.generate),
}
EVERY = {
    "GenerationPlayground": widgets.GenerationPlayground,
    "SamplingMicroscope": microscope,
}
every_running_widget = pytest.mark.parametrize("case", RUNNING.values(), ids=RUNNING)
every_widget = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


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
    assert len(controls) >= 10
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


@every_widget
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
