"""GenerationPlayground without kernel and browser: Stop, live sliders, painting, cards, presets, code."""

import _thread
import threading
import time

import pytest
from widget_driver import PROMPT, eventually, move, press, small_alphabet, tiny_model

import labkit
from labkit import settings as settings_module
from labkit import widgets
from labkit.settings import Settings
from labkit.tokenizers.bpe import GPT2Tokenizer
from labkit.tokenizers.char import CharTokenizer
from labkit.widgets.background import Debounced
from labkit.widgets.generation import SETTLE_SECONDS


@pytest.fixture
def lm():
    return tiny_model(small_alphabet())


@pytest.fixture
def playground(lm):
    made = widgets.GenerationPlayground(lm, PROMPT, Settings(max_new_tokens=20))
    yield made
    made.stop()
    made._background.wait()


def test_stop_stops_a_long_run(playground):
    playground.settings = playground.settings.replace(max_new_tokens=100_000)
    press(playground.generate_button)
    eventually(lambda: playground.strip._parts and not playground.stop_button.disabled)
    time.sleep(0.1)
    assert playground.result is None  # not half of it
    press(playground.stop_button)
    assert eventually(lambda: not playground._background.running) <= 0.3
    result = playground.result
    assert result.finish_reason == "interrupted" and 0 < len(result.ids) < 100_000
    assert playground.strip.html.count("data-i=") == len(result.ids)
    assert "stopped" in playground.status.value and playground.stop_button.disabled


def test_an_interrupted_cell_stops_the_run_and_keeps_what_is_there(playground):
    playground.settings = Settings(max_new_tokens=100_000)
    threading.Timer(0.3, _thread.interrupt_main).start()
    result = playground.run()
    assert result.finish_reason == "interrupted" and 0 < len(result.ids) < 100_000


def test_generate_while_it_writes_begins_anew(playground):
    playground.settings = Settings(max_new_tokens=100_000)
    press(playground.generate_button)
    eventually(lambda: playground.screen.recording is not None)
    playground.settings = Settings(max_new_tokens=7, seed=3)
    assert playground.run().ids == labkit.generate(playground.lm, PROMPT, playground.settings).ids


def test_a_slider_repaints_the_distribution_without_the_model_and_the_text_follows(playground, monkeypatch):
    playground.run()
    playground.live.value = False
    monkeypatch.setattr(playground.lm.model, "hidden", lambda *_: pytest.fail("the model ran"), raising=False)
    before, text = playground.bars.value, playground.strip.html
    move(playground.controls.sliders["temperature"], 0.3)
    assert playground.bars.value != before and "0.3" in playground.bars.value
    assert playground.strip.html == text


def test_the_same_draw_says_what_the_new_settings_would_pick(playground):
    playground.run()
    for index in range(20):
        playground.strip.set_state({"selected": index})
        move(playground.controls.sliders["temperature"], 2.0)
        settings = playground.settings
        sampler = labkit.Sampler.from_settings(**settings.sampling())
        recording = playground.screen.recording
        ids = recording.ids[:index]
        logits = playground.lm.logits([*recording.prompt_ids, *ids])[-1]
        now = sampler.trace(logits, recording.prompt_ids, ids, step=index).chosen
        assert ("the same draw picks" in playground.bars.value) == (now != recording.ids[index])
        move(playground.controls.sliders["temperature"], 0.8)


@pytest.mark.parametrize("tokenizer", [CharTokenizer("abcdefgh \n"), GPT2Tokenizer()], ids=["10", "50257"])
def test_slider_to_repainted_distribution_within_100_ms(tokenizer):
    playground = widgets.GenerationPlayground(tiny_model(tokenizer), PROMPT, Settings(max_new_tokens=5))
    playground.run()
    playground.live.value = False
    seconds = []
    for value in (0.5, 0.6, 0.7, 0.8, 0.9):
        start, before = time.perf_counter(), playground.bars.value
        move(playground.controls.sliders["temperature"], value)
        seconds.append(time.perf_counter() - start)
        assert playground.bars.value != before
    print(f"slider to distribution, {tokenizer.vocab_size} tokens: {1000 * min(seconds):.1f} ms")
    assert min(seconds) <= 0.1


def test_a_storm_of_moves_is_one_run_with_the_last_value(playground):
    playground.run()
    runs = []
    playground._rerun = Debounced(lambda: runs.append(playground.settings.temperature), SETTLE_SECONDS)
    for i in range(50):
        move(playground.controls.sliders["temperature"], round(0.5 + i / 50, 2))
    eventually(lambda: bool(runs))
    time.sleep(2 * SETTLE_SECONDS)
    assert runs == [1.48]


def test_a_debounced_call_can_be_called_off():
    calls = []
    debounced = Debounced(lambda: calls.append(1), 0.02)
    debounced()
    debounced.cancel()
    time.sleep(0.06)
    assert calls == []


def test_a_debounced_call_is_pending_until_it_has_been_made_even_if_it_cancels_itself():
    seen = []
    debounced = Debounced(lambda: (debounced.cancel(), seen.append(debounced.pending)), 0.01)
    debounced()
    eventually(lambda: seen == [True] and not debounced.pending)


@pytest.mark.parametrize(("live", "length", "reruns"), [(True, 20, True), (False, 20, False), (True, 201, False)])
def test_only_short_live_runs_follow_the_sliders_and_the_others_say_so(playground, live, length, reruns):
    playground.settings = Settings(max_new_tokens=length)
    playground.live.value = live
    first = playground.run()
    move(playground.controls.sliders["temperature"], 1.9)
    assert ("press Generate" in playground.status.value) is not reruns
    time.sleep(2 * SETTLE_SECONDS)
    playground._background.wait()
    assert (playground.result.settings != first.settings) is reruns
    move(playground.controls.sliders["temperature"], 0.8)
    if not reruns:
        assert "press Generate" not in playground.status.value


def test_another_prompt_waits_for_generate(playground):
    playground.run()
    playground.prompt_box.value = "abcd"
    assert "press Generate" in playground.status.value
    time.sleep(2 * SETTLE_SECONDS)
    assert playground.result.prompt == PROMPT
    playground.prompt_box.value = PROMPT
    assert "press Generate" not in playground.status.value


def test_the_selected_token_stays_selected_while_the_text_is_written_anew(playground):
    playground.run()
    playground.strip.set_state({"selected": 15})
    assert "Token 16 of 20" in playground.bars.value
    for length, shown in ((5, "Token 5 of 5"), (20, "Token 16 of 20")):
        playground.settings = Settings(max_new_tokens=length)
        playground.run()
        assert shown in playground.bars.value and playground.strip.selected == 15


def test_a_paint_sends_new_tokens_only_and_not_too_often(playground, monkeypatch):
    sent = []
    monkeypatch.setattr(playground.strip, "send", sent.append)
    playground.settings = Settings(max_new_tokens=400)
    start = time.perf_counter()
    playground.run()
    seconds = time.perf_counter() - start
    assert [message["type"] for message in sent] == ["reset", *["append"] * (len(sent) - 1)]
    assert sum(message["html"].count("data-i=") for message in sent) == 400
    assert len(sent) <= 29 * seconds + 3
    assert len(playground.strip.html) <= 150 * 400


def test_pointing_at_a_token_asks_for_its_card(playground, monkeypatch):
    result = playground.run()
    sent = []
    monkeypatch.setattr(playground.strip, "send", sent.append)
    version = playground.strip.version
    playground.strip._handle_custom_msg({"type": "card", "index": 3, "version": version}, [])
    playground.strip._handle_custom_msg({"type": "card", "index": 3, "version": version - 1}, [])  # of a run long gone
    playground.strip._handle_custom_msg({"type": "card", "index": 300, "version": version}, [])
    assert [(message["index"], "<table>" in message["html"]) for message in sent] == [(3, True), (300, False)]
    assert result.rows()[3]["alternatives"] == playground.screen.recording.token(3)["alternatives"]


def test_a_view_that_appears_writes_once_and_a_later_one_gets_what_is_there(playground, monkeypatch):
    ready = {"type": "ready"}
    playground.strip._handle_custom_msg(ready, [])
    playground._background.wait()
    first = playground.screen.recording
    assert first is not None and playground.strip.html
    playground.strip._handle_custom_msg(ready, [])
    playground._background.wait()
    assert playground.screen.recording is first


def test_the_code_runs_as_it_is(capsys):
    playground = widgets.GenerationPlayground("shakespeare-char", "ROMEO:\n", Settings(max_new_tokens=12, top_k=5))
    playground.copy_as.value = "Python"
    move(playground.controls.sliders["temperature"], 0.5)
    assert "max_new_tokens=12" in playground.code_box.code and "top_p" not in playground.code_box.code
    assert "labkit.load('shakespeare-char')" in playground.code_box.code
    exec(playground.code_box.code, {})
    assert capsys.readouterr().out == playground.run().text + "\n"


@pytest.mark.parametrize("name", [*settings_module.presets()])
def test_every_preset_can_be_chosen(playground, name):
    playground.controls.preset.value = name
    values, _ = settings_module.read_table(settings_module.presets()[name])
    assert playground.settings == Settings(**{"seed": 1337, **values})
    playground.settings = Settings()
    move(playground.controls.sliders["top_k"], 7)
    assert playground.controls.preset.value not in settings_module.presets()


def test_the_code_does_not_pretend_to_open_a_model_that_is_no_file(playground):
    playground.copy_as.value = "Python"
    assert "labkit.load" not in playground.code_box.code and "labkit.generate(lm, 'ab\\n'" in playground.code_box.code
    exec(playground.code_box.code, {"lm": playground.lm})


def test_characters_the_model_does_not_know_can_be_left_out(playground):
    playground.prompt_box.value = "aXbYc"
    assert playground.leave_out_button.layout.display == "none"
    playground.run()
    assert playground.leave_out_button.layout.display == ""
    press(playground.leave_out_button)
    playground._background.wait()
    assert playground.prompt_box.value == "abc" and playground.result.prompt == "abc"
    assert playground.leave_out_button.layout.display == "none"


def test_a_browser_that_rounds_to_the_sliders_steps_changes_nothing(playground):
    playground.settings = Settings(top_p=0.9, temperature=1 / 3, max_new_tokens=20)
    first = playground.run()
    move(playground.controls.sliders["top_p"], 0.9000000000000001)
    move(playground.controls.sliders["temperature"], 0.33)
    assert not playground._rerun.pending and playground.settings == first.settings
    move(playground.controls.sliders["temperature"], 0.34 + 1e-16)
    assert playground._rerun.pending and playground.settings.temperature == 0.34


def test_labels_say_what_is_off(playground):
    labels = {name: slider.description for name, slider in playground.controls.sliders.items()}
    assert labels["min_p"] == "min-p · off" and labels["top_k"] == "top-k"
    move(playground.controls.sliders["temperature"], 0)
    assert playground.controls.sliders["temperature"].description == "temperature · greedy"


def test_a_new_seed_is_another_one(playground):
    before = playground.settings.seed
    press(playground.controls.new_seed)
    assert playground.settings.seed != before


def test_logits_are_kept_for_as_many_tokens_as_fit(playground, monkeypatch):
    monkeypatch.setattr("labkit.widgets.recording.LOGITS_BYTES", 0)  # the least is 16 tokens
    result = playground.run()
    assert all(token["alternatives"] for token in result.rows())
    assert "no longer kept" in playground.bars.value
    playground.strip.set_state({"selected": 19})
    assert "lk-columns" in playground.bars.value


def test_a_model_without_tokenizer_takes_ids(lm):
    without = labkit.LanguageModel(lm.model, lm.config, None, lm.checkpoint)
    playground = widgets.GenerationPlayground(without, [1, 2, 3], Settings(max_new_tokens=4))
    assert playground.run().ids == labkit.generate(without, [1, 2, 3], max_new_tokens=4).ids
    playground.prompt_box.value = "abc"
    assert playground.run() is None and "ids" in playground.error


def test_another_model_is_chosen_from_the_menu_and_the_prompt_stays():
    playground = widgets.GenerationPlayground("shakespeare-char", "12", labkit.Settings(max_new_tokens=5, greedy=True))
    assert {"arithmetic/step_001800", "smollm2-135m-instruct"} <= set(playground.model.options)
    playground.model.value = "arithmetic/step_001800"
    playground._background.wait()
    expected = labkit.generate(labkit.load("arithmetic/step_001800"), "12", playground.settings)
    assert playground.error is None and playground.result.ids == expected.ids
    assert playground.prompt_box.value == "12"


def test_a_model_that_cannot_be_loaded_is_a_message_and_the_old_one_stays():
    playground = widgets.GenerationPlayground("arithmetic/step_001800", "12", labkit.Settings(max_new_tokens=5))
    playground.model.options = [*playground.model.options, "nosuch"]
    playground.model.value = "nosuch"
    playground._background.wait()
    assert "no such file or folder" in playground.error and playground.lm.checkpoint.family == "nanochat"
    assert playground.run().ids
