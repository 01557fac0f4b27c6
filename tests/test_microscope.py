"""SamplingMicroscope without kernel and browser: what it shows is what labkit says, on the same draw."""

import math
import re
import time

import pytest
import torch
from widget_driver import eventually, move, press, small_alphabet, tiny_model

import labkit
from labkit import widgets
from labkit.sampling import Gumbel, Sampler, Temperature, TopK
from labkit.sampling.questions import what_if, why_not
from labkit.settings import Settings
from labkit.widgets import facts
from labkit.widgets.background import Debounced
from labkit.widgets.microscope import SETTLE_SECONDS
from labkit.widgets.selection import Selection
from labkit.widgets.steps import settings_of

TOKENIZER = small_alphabet()
LOGITS = torch.tensor([3.0, 2.5, 2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, -3.0, -1.5, -4.0])
SETTINGS = Settings(temperature=0.8, top_k=8, top_p=0.9, seed=3)


def trace_of(settings=SETTINGS, logits=LOGITS, **context):
    return Sampler.from_settings(**settings.sampling()).trace(logits, **context)


@pytest.fixture
def microscope():
    made = widgets.SamplingMicroscope(trace_of(), TOKENIZER)
    yield made
    made.close()


# the data that the columns are drawn from


def random_traces(n=60):
    generator = torch.Generator().manual_seed(1)
    for seed in range(n):
        logits = 3 * torch.randn(40, generator=generator)
        choice = {"temperature": (0.3, 1.0, 2.0)[seed % 3], "min_p": (0, 0.05)[seed % 2], "top_k": (0, 12, 5)[seed % 3]}
        yield Sampler.from_settings(**choice, seed=seed, dialect=("labkit", "hf")[seed % 2]).trace(logits, step=seed)


def test_the_best_score_is_the_chosen_token_and_log_p_plus_noise():
    for trace in random_traces():
        data = facts.stage_columns(trace)
        scored = [c for c in data["candidates"] if c["score"] is not None]
        assert max(scored, key=lambda c: c["score"])["id"] == trace.chosen == data["chosen"]
        for candidate in scored:
            log_p = candidate["score"] - candidate["noise"]
            assert log_p == pytest.approx(math.log(candidate["probabilities"][-1]), abs=1e-4)


def test_the_runner_up_is_shown_whatever_its_probability():
    for trace in random_traces():
        best = facts.Scores.of(trace).best(2)
        assert set(best) <= {c["id"] for c in facts.stage_columns(trace, n=1)["candidates"]}


def test_every_removed_token_says_its_stage_and_a_comparison_that_holds():
    seen = 0
    for trace in random_traces():
        for candidate in facts.stage_columns(trace, n=40)["candidates"]:
            if candidate["removed_by"] is None:
                assert candidate["because"] == "" and candidate["score"] is not None
                continue
            value, sign, line = re.match(r"([−\d.e+]+) ([<≤>≥]) ([−\d.e+]+), ", candidate["because"]).groups()
            value, line = (float(x.replace("−", "-")) for x in (value, line))
            assert {"<": value <= line, "≥": value >= line, ">": value >= line, "≤": value <= line}[sign]  # as rounded
            seen += 1
    assert seen > 500


def test_a_min_p_removal_is_told_in_shares():
    data = facts.stage_columns(trace_of(Settings(temperature=1.0, top_k=0, top_p=1, min_p=0.25, seed=1)))
    gone = data["candidates"][4]  # e^(0.5 − 3) of the largest
    assert gone["because"] == "0.0821 < 0.25, share of the largest probability"


def test_a_draw_without_noise_of_each_token_has_no_scores():
    trace = Sampler.from_settings(temperature=0.8, seed=4, dialect="llama.cpp").trace(LOGITS)
    data = facts.stage_columns(trace, TOKENIZER)
    assert all(c["score"] is None for c in data["candidates"])
    assert "the draw took it" in data["sentence"]
    assert labkit.views.stage_columns(**data).html


def test_the_sentence_names_winner_runner_up_and_margin():
    trace = trace_of()
    scores = facts.Scores.of(trace)
    first, second = (facts.named(TOKENIZER, i) for i in scores.best(2))
    ahead = scores.row(scores.best(2)[0])["score"] - scores.row(scores.best(2)[1])["score"]
    sentence = facts.stage_columns(trace, TOKENIZER)["sentence"]
    assert sentence.startswith(f"{first} has ") and f"it beat {second} by {ahead:.4g}" in sentence


def test_the_columns_take_every_kind_of_stage():
    everything = Settings(
        temperature=0.9, top_k=10, top_p=0.99, min_p=0.001, repetition_penalty=1.1, frequency_penalty=0.1,
        presence_penalty=0.1, dry_multiplier=0.8, no_repeat_ngram_size=4, logit_bias={1: 0.5}, forbidden_ids=(11,),
        allowed_ids=tuple(range(12)), top_n_sigma=4, typical_p=0.99, epsilon_cutoff=1e-4, eta_cutoff=1e-4,
        xtc_probability=0.5, mirostat_tau=3.0, seed=1,
    )  # fmt: skip
    trace = trace_of(everything, prompt_ids=[1, 2, 1, 2], generated_ids=[1], step=1)
    data = facts.stage_columns(trace, TOKENIZER)
    assert {stage["setting"] for stage in data["stages"]} >= {"", "0.9", "1 tokens", "12 tokens", "3"}
    assert widgets.SamplingMicroscope(trace, TOKENIZER).result.trace == trace


def test_what_if_lists_the_settings_that_differ_and_both_winners():
    recorded, other = trace_of(), {"temperature": 2.0, "top_k": 0, "min_p": 0.01}
    now = trace_of(SETTINGS.replace(**other))
    data = facts.what_if(what_if(recorded, **other), TOKENIZER)
    assert set(data["changes"]) == {("temperature", "0.8", "2"), ("top_k", "8", "off"), ("min_p", "off", "0.01")}
    assert data["chosen"] == (recorded.chosen, now.chosen)
    assert {recorded.chosen, now.chosen} <= {c["id"] for c in data["candidates"]}
    assert data["caption"].startswith("The same draw")
    another = facts.what_if(what_if(recorded, seed=4), TOKENIZER)
    assert another["caption"].startswith("Another draw") and another["changes"] == [("seed", "3", "4")]
    greedy = facts.what_if(what_if(recorded, temperature=0.0), TOKENIZER)
    assert greedy["caption"].startswith("Without chance it") and greedy["changes"] == [("temperature", "0.8", "0")]


def test_of_a_draw_without_noise_no_break_points_are_asked_and_a_line_says_so():
    trace = Sampler.from_settings(temperature=0.8, seed=4, dialect="llama.cpp").trace(LOGITS)
    microscope = widgets.SamplingMicroscope(trace, TOKENIZER)
    assert "no noise of each token" in microscope.status.value and microscope.error is None
    assert all(html.value == "" for html in microscope.strips.values())
    microscope.controls.boxes["dialect"].value = "labkit"
    microscope.wait()
    assert microscope.result.trace.sampler.draw.seed == 4


# the widget


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 1.9), ("temperature", 0.0), ("top_k", 2), ("top_k", 0), ("top_p", 0.3), ("top_p", 1.0),
     ("min_p", 0.4), ("repetition_penalty", 1.5), ("typical_p", 0.5), ("xtc_probability", 1.0), ("top_n_sigma", 1.0)],
)  # fmt: skip
def test_a_slider_asks_what_the_same_draw_would_have_given(microscope, name, value):
    shown = microscope.columns.value
    move(microscope.controls.sliders[name], value)
    expected = trace_of(SETTINGS.replace(**{name: value}))
    assert microscope.result.trace.chosen == expected.chosen
    assert microscope.result.trace.rows() == expected.rows()
    assert microscope.columns.value != shown
    shown = f"{value:g}" if value != labkit.settings.OFF.get(name) else "off"
    assert microscope.compared.layout.display == "" and f"→ {shown}<" in microscope.compared.value
    assert microscope.result.recorded.rows() == trace_of().rows()


def test_as_it_was_recorded_there_is_nothing_to_compare(microscope):
    assert microscope.compared.layout.display == "none"
    assert microscope.settings.sampling() == SETTINGS.sampling()
    assert microscope.result.trace is microscope.result.recorded


@pytest.mark.parametrize("dialect", ["hf", "llama.cpp", "labcore", "swamla", "nanochat", "gpt2seed"])
def test_in_another_dialect_the_draw_stays_and_what_it_lacks_is_off_and_disabled(microscope, dialect):
    move(microscope.controls.sliders["min_p"], 0.05)
    microscope.controls.boxes["dialect"].value = dialect
    rules = labkit.settings.DIALECTS[dialect].rules
    assert microscope.error is None
    assert microscope.result.trace.sampler.draw == Gumbel(3)
    stages = [stage.name for stage in microscope.result.trace.stages[1:]]
    assert sorted(stages) == sorted({"temperature", "top_k", "top_p", "min_p"} & set(rules))
    for name, slider in microscope.controls.sliders.items():
        assert slider.disabled == (name not in rules and name != "temperature")
    microscope.controls.boxes["dialect"].value = "labkit"
    assert microscope.settings.min_p == 0.05 and microscope.settings.top_p == 0.9


def test_a_recording_in_another_dialect_is_shown_with_its_own_settings():
    sampler = Sampler.from_settings(temperature=3.0, min_p=0.02, seed=5, dialect="llama.cpp")
    trace = Sampler(sampler.stages, Gumbel(5), sampler.named).trace(LOGITS)
    microscope = widgets.SamplingMicroscope(trace, TOKENIZER)
    assert microscope.settings == settings_of(trace.sampler)
    assert (microscope.settings.dialect, microscope.settings.top_k, microscope.settings.min_p) == (
        "llama.cpp",
        None,
        0.02,
    )
    assert [stage.name for stage in microscope.result.trace.stages] == ["model", "min_p", "temperature"]


def test_another_seed_is_another_draw(microscope):
    press(microscope.controls.new_seed)
    seed = microscope.settings.seed
    assert seed != 3 and microscope.result.trace.chosen == trace_of(SETTINGS.replace(seed=seed)).chosen
    assert "Another draw" in microscope.compared.value


def test_undo_goes_back_one_change_that_came_to_rest_and_as_recorded_all_of_them(microscope):
    for value in (0.9, 1.0, 1.1):  # one gesture
        move(microscope.controls.sliders["temperature"], value)
    microscope.wait()
    move(microscope.controls.sliders["top_k"], 3)
    microscope.wait()
    assert not microscope.undo_button.disabled
    press(microscope.undo_button)
    assert (microscope.settings.temperature, microscope.settings.top_k) == (1.1, 8)
    microscope.wait()
    press(microscope.undo_button)
    microscope.wait()
    assert microscope.settings.sampling() == SETTINGS.sampling() and microscope.undo_button.disabled
    microscope.settings = SETTINGS.replace(min_p=0.1, top_p=0.5)
    press(microscope.recorded_button)
    assert microscope.settings.sampling() == SETTINGS.sampling()
    microscope.wait()
    assert microscope.recorded_button.disabled


def test_what_a_dialect_refuses_is_one_line_and_the_next_move_is_fine(microscope, capfd):
    microscope.controls.boxes["dialect"].value = "hf"
    move(microscope.controls.sliders["temperature"], 0)
    assert "temperature is 0" in microscope.error and microscope.result is None
    assert microscope.status.value.count("lk-error") == 1 and "temperature is 0" in microscope.status.value
    microscope.wait()
    press(microscope.undo_button)
    assert microscope.error is None and microscope.settings.temperature == 0.8
    move(microscope.controls.sliders["temperature"], 0)
    press(microscope.recorded_button)
    assert microscope.error is None and microscope.settings.dialect == "labkit"
    move(microscope.controls.sliders["temperature"], 0.5)
    assert microscope.error is None and microscope.status.value == ""
    assert microscope.result.trace.stages
    assert capfd.readouterr() == ("", "")


def test_bare_logits_and_a_tokenizer_are_enough():
    microscope = widgets.SamplingMicroscope(LOGITS, TOKENIZER, SETTINGS)
    assert microscope.result.trace.rows() == trace_of().rows()
    assert ">a<" in microscope.columns.value
    assert "&lt;0&gt;" in widgets.SamplingMicroscope(LOGITS).columns.value  # without one, ids
    with pytest.raises(labkit.SamplingError, match=r"shape \(V,\), not \(1, 12\)"):
        widgets.SamplingMicroscope(LOGITS[None])


def recorded_run(**limits):
    return labkit.record(tiny_model(TOKENIZER), "abc", SETTINGS, max_new_tokens=12, **limits)


@pytest.mark.parametrize("how", ["trace", "steps", "file"])
def test_the_tokens_of_a_run_can_be_chosen_and_each_is_its_own_step(how, tmp_path):
    run = recorded_run()
    traces = [run.step(i) for i in range(12)]
    assert len(set(run.ids)) > 1
    if how == "file":  # opened without the model, and without its tokenizer
        run.save(tmp_path / "run.trace")
        microscope = widgets.SamplingMicroscope(labkit.load_trace(tmp_path / "run.trace"))
    else:
        microscope = widgets.SamplingMicroscope(
            run if how == "trace" else traces, TOKENIZER if how == "steps" else None
        )
    assert microscope.strip.html.count("data-i=") == 12 and microscope.strip.html.count("lk-p") == 3
    for index in (0, 5, 11):
        microscope.strip.set_state({"selected": index})
        microscope.wait()
        assert microscope.result.trace.chosen == traces[index].chosen and microscope.result.index == index
        assert f"Token {index + 1} of 12" in microscope.columns.value
        move(microscope.controls.sliders["temperature"], 1.9)
        expected = what_if(traces[index], temperature=1.9).after
        assert microscope.result.trace.rows() == expected.rows()
        assert microscope.result.recorded.chosen == traces[index].chosen
        press(microscope.recorded_button)
    assert microscope.strip.card(3).count("<tr") > 5


def test_a_step_that_was_not_kept_in_full_is_a_line_and_the_one_before_stays():
    run = recorded_run(max_bytes=5 * 12 * 4, top_m=3)
    microscope = widgets.SamplingMicroscope(run)
    shown = microscope.columns.value
    microscope.strip.set_state({"selected": 9})
    assert "needs the full record" in microscope.status.value and microscope.columns.value == shown
    assert "<table>" in microscope.strip.card(9) and microscope.result.index == 0  # a card without alternatives
    microscope.strip.set_state({"selected": 3})
    assert microscope.status.value == "" and "Token 4 of 12" in microscope.columns.value


def test_a_run_without_tokens_is_refused():
    with pytest.raises(labkit.SamplingError, match="no token was written"):
        widgets.SamplingMicroscope([], TOKENIZER)


def test_a_sampler_made_of_stages_is_shown_without_controls():
    trace = Sampler([Temperature(0.7), TopK(3)], Gumbel(3)).trace(LOGITS)
    microscope = widgets.SamplingMicroscope(trace, TOKENIZER)
    assert "no settings to turn" in microscope.status.value
    assert microscope.controls.sliders["temperature"] not in microscope.children
    assert microscope.result.trace is trace


@pytest.mark.parametrize(
    ("text", "token"), [("c", 2), (" ", 8), ("␣", 8), ("↵", 9), ("\n", 9), ("<script>", 10), ("<7>", 7), ("7", 7)]
)
def test_a_token_is_named_by_its_piece_as_it_is_or_as_it_is_shown_or_by_its_id(microscope, text, token):
    assert microscope.steps.names.id_of(text) == token


def test_an_unknown_token_is_one_line_with_near_ones(microscope):
    microscope.why_box.value = "scrip"
    assert "no token is &#x27;scrip&#x27;; near ones are &lt;script&gt;" in microscope.why.value
    microscope.why_box.value = "€"
    assert "write it as it is shown, or its id as &lt;17&gt;" in microscope.why.value
    microscope.why_box.value = ""
    assert microscope.why.value == "" and microscope.result.why_not is None


def test_asking_in_the_box_and_in_code_is_the_same_question(microscope):
    microscope.why_box.value = "h"
    answer = microscope.result.why_not
    assert answer == why_not(trace_of(), 7) == microscope.ask("h") == microscope.ask(7)
    assert "lk-why" in microscope.why.value
    before = microscope.why.value
    microscope.settings = SETTINGS.replace(top_k=0, top_p=1.0)
    assert microscope.why.value != before  # the answer follows the settings


def test_the_strips_follow_when_the_slider_rests(microscope):
    before = {name: html.value for name, html in microscope.strips.items()}
    assert all("lk-band" in html for html in before.values())
    microscope._settle = Debounced(microscope._settled, 60)  # however slow the machine, a slider is not at rest
    for value in (0.9, 1.0, 1.1, 1.2):
        move(microscope.controls.sliders["temperature"], value)
        assert {name: html.value for name, html in microscope.strips.items()} == before
    microscope._settle = Debounced(microscope._settled, SETTLE_SECONDS)
    move(microscope.controls.sliders["temperature"], 1.3)
    eventually(lambda: microscope.strips["temperature"].value != before["temperature"], 10 * SETTLE_SECONDS)


def test_tokens_are_never_markup_anywhere():
    logits = torch.zeros(12)
    logits[10] = 5.0  # <script>
    microscope = widgets.SamplingMicroscope(logits, TOKENIZER, SETTINGS)
    microscope.ask("<script>")
    microscope.settings = SETTINGS.replace(temperature=2.0, top_k=5)
    parts = [microscope.columns, microscope.compared, microscope.why, *microscope.strips.values()]
    assert all("<script>" not in part.value and "script" in part.value for part in parts)


def test_a_trace_is_looked_at_together_with_other_panels():
    run = recorded_run()
    microscope = widgets.SamplingMicroscope(run)
    shared = Selection.of(run)
    shared.token = 3 + 5
    assert microscope.strip.selected == 5 and "Token 6 of 12" in microscope.columns.value
    microscope.strip.set_state({"selected": 2})
    assert shared.token == 3 + 2 and widgets.SamplingMicroscope(run).result.index == 2
    shared.token = 1  # of the prompt
    assert microscope.result.index == 2


@pytest.mark.parametrize("kind", ["trace", "traces", "trace of one step", "logits"])
def test_the_code_gives_what_is_shown(kind, capsys):
    run = recorded_run()
    given = {"trace": run, "traces": [run.step(i) for i in range(12)], "trace of one step": run.step(4)}
    microscope = widgets.SamplingMicroscope(given.get(kind, LOGITS), TOKENIZER, SETTINGS)
    if kind in ("trace", "traces"):
        microscope.strip.set_state({"selected": 4})
    for changes in ({}, {"temperature": 1.9, "top_k": 0}):
        microscope.settings = microscope.settings.replace(**changes)
        microscope.ask(7)
        scope = {"run": run, "traces": given["traces"], "trace": given["trace of one step"], "logits": LOGITS}
        exec(microscope.code(), scope)
        now = scope["answer"].after if changes else scope["trace"]
        assert now.rows() == microscope.result.trace.rows()
        assert str(why_not(now, 7)).partition(" (")[2] in capsys.readouterr().out


def test_what_is_shown_is_a_view_and_can_be_saved(microscope, tmp_path):
    assert "lk-columns" in microscope.view().html and "lk-if" not in microscope.view().html
    microscope.settings = SETTINGS.replace(temperature=2.0)
    microscope.ask("h")
    view = microscope.view()
    assert "lk-if" in view.html and "lk-why" in view.html and "what if" in view.text
    assert microscope._repr_mimebundle_()["text/html"] == view.html
    for suffix in ("html", "svg", "csv", "json", "toml"):
        assert microscope.save(tmp_path / f"step.{suffix}").stat().st_size > 100
    assert Settings.read(tmp_path / "step.toml").temperature == 2.0
    assert microscope.parameters() == {"seed": 3, "temperature": 2.0, "min_p": 0.0}


def test_two_microscopes_do_not_disturb_each_other():
    trace = trace_of()
    pair = [widgets.SamplingMicroscope(trace, TOKENIZER) for _ in range(2)]
    alone = pair[1].columns.value, pair[1].settings
    pair[0].settings = SETTINGS.replace(temperature=1.7, top_k=2)
    pair[0].ask("h")
    assert (pair[1].columns.value, pair[1].settings) == alone and pair[1].why.value == ""


def test_a_slider_repaints_a_large_vocabulary_at_once():
    logits = 3 * torch.randn(50_257, generator=torch.Generator().manual_seed(1))
    microscope = widgets.SamplingMicroscope(logits, settings=Settings(temperature=0.8, top_k=40, top_p=0.95, seed=1))
    seconds = []
    for value in (0.5, 0.6, 0.7, 0.9, 1.0):
        start = time.perf_counter()
        move(microscope.controls.sliders["temperature"], value)
        seconds.append(time.perf_counter() - start)
    microscope.wait()
    print(f"slider to columns, 50,257 tokens: {1000 * min(seconds):.1f} ms")
    assert min(seconds) <= 0.1


def test_a_way_in_is_said_without_repeating_its_setting():
    trace = Sampler.from_settings(temperature=0.8, min_p=0.5, top_k=3, seed=4).trace(LOGITS)
    removed = next(i for i in range(len(LOGITS)) if not trace.stages[-1].kept[i])
    ways = dict(facts.why_not(trace.why_not(removed))["ways"])
    said = [words for words in ways.values() if words]
    assert said and all(words[0] in "≥≤" for words in said), ways
