"""GenerationPlayground's branches: another token here, on from there, back again; runs that outlive their kernel."""

import gc
import json
import threading

import pytest
from widget_driver import PROMPT, eventually, move, press, small_alphabet, tiny_model

import labkit
from labkit import widgets
from labkit.sampling.partial import PartialLogits
from labkit.settings import Settings
from labkit.widgets.selection import Selection

SETTINGS = Settings(max_new_tokens=20, temperature=1.2)


@pytest.fixture
def lm():
    return tiny_model(small_alphabet())


@pytest.fixture
def playground(lm):
    made = widgets.GenerationPlayground(lm, PROMPT, SETTINGS)
    made.run()
    yield made
    made.close()
    made._background.wait()


def other(token_id: int) -> int:
    return (token_id + 1) % 12


def say(playground, **message):
    playground.strip._handle_custom_msg({"version": playground.strip.version, **message}, [])


def settled(playground):
    playground._background.wait()
    return playground.result


# choosing another token


@pytest.mark.parametrize("at", [0, 1, 12, 19, 20])
def test_another_token_gives_what_branch_gives(playground, at):
    whole = labkit.generate(playground.lm, PROMPT, SETTINGS)
    token = other(whole.ids[min(at, 19)])
    result = playground.branch(at, token)
    expected = labkit.branch(playground.lm, whole, at, token)
    for name in ("ids", "text", "prompt_ids", "finish_reason", "notes", "settings"):
        assert getattr(result, name) == getattr(expected, name), name
    assert playground.history.current.generation == expected
    assert result.given == at + 1 and playground.strip.html.count("data-i=") == len(result.ids)


def test_a_branch_goes_on_from_the_cache_of_the_run_it_leaves(playground):
    read = []
    playground.lm.model.embed.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].shape[1]))
    playground.branch(12, other(playground.result.ids[12]))
    assert read == [1] * len(read) and len(read) == 8  # one to choose behind, seven that are drawn


def test_the_sliders_hold_for_what_is_drawn_behind_the_chosen_token(playground):
    whole = playground.history.current.generation
    playground.live.value = False
    move(playground.controls.sliders["temperature"], 0.4)
    result = playground.branch(7, other(whole.ids[7]))
    assert result.ids == labkit.branch(playground.lm, whole, 7, other(whole.ids[7]), temperature=0.4).ids
    assert result.settings.temperature == 0.4


def test_a_line_of_the_card_is_a_choice(playground):
    token = playground.screen.recording.token(5)
    pieces = [each["piece"] for each in token["alternatives"]]
    line = next(i for i, piece in enumerate(pieces) if piece != token["piece"])
    say(playground, type="choose", index=5, line=line)
    result = settled(playground)
    assert result.rows()[5]["piece"] == pieces[line] and result.given == 6
    for nonsense in ({"index": 500, "line": 1}, {"index": 5, "line": 99}, {"index": 5, "line": 1, "version": 0}):
        say(playground, type="choose", **nonsense)
    assert not playground._background.running and len(playground.tree.nodes) == 2


def test_the_token_that_is_there_anyway_is_no_branch(playground):
    token = playground.screen.recording.token(5)
    pieces = [each["piece"] for each in token["alternatives"]]
    say(playground, type="choose", index=5, line=pieces.index(token["piece"]))
    assert len(playground.tree.nodes) == 1


@pytest.mark.parametrize(
    ("text", "ids"), [("h", [7]), ("␣", [8]), ("<script>", [10]), ("<9>", [9]), ("dab", [3, 0, 1])]
)
def test_any_token_and_any_words_can_be_typed(playground, text, ids):
    playground.strip.selected = 4
    playground.instead_box.value = text
    result = settled(playground)
    assert result.ids[4 : 4 + len(ids)] == ids and result.given == 4 + len(ids)
    assert playground.instead_box.value == ""
    expected = playground.tree.nodes[0].generation
    for i, token in enumerate(ids):
        expected = labkit.branch(playground.lm, expected, 4 + i, token)
    assert result.ids == expected.ids


def test_what_is_no_token_is_one_line_and_stays_in_the_box(playground):
    before = playground.strip.html
    playground.instead_box.value = "€"
    assert "no token is '€'" in playground.error and "&#x27;€&#x27;" in playground.status.value
    assert playground.instead_box.value == "€" and playground.strip.html == before


def test_choosing_while_it_writes_stops_and_branches_from_what_was_there(playground):
    playground.settings = SETTINGS.replace(max_new_tokens=100_000)
    playground.run(wait=False)
    eventually(lambda: playground.screen.recording is not None and len(playground.screen.recording.tokens) > 40)
    token = other(playground.screen.recording.steps[30].id)
    playground.settings = SETTINGS.replace(max_new_tokens=50)
    result = playground.branch(30, token)
    assert len(result.ids) == 50 and result.ids[30] == token
    assert [node.generation.finish_reason for node in playground.tree.nodes] == ["length", "interrupted", "length"]


def test_stop_stops_a_branch(playground):
    playground.settings = SETTINGS.replace(max_new_tokens=100_000)
    playground.branch(3, other(playground.screen.recording.steps[3].id), wait=False)
    eventually(lambda: len(playground.screen.recording.tokens) > 30)
    press(playground.stop_button)
    assert eventually(lambda: not playground._background.running) <= 0.3
    assert playground.result.finish_reason == "interrupted" and len(playground.result.ids) > 30


@pytest.mark.parametrize("changes", [{"mirostat_tau": 3.0, "top_k": 0, "top_p": 1.0}, {"dialect": "llama.cpp"}])
def test_a_sampler_that_remembers_branches_as_well(lm, changes):
    playground = widgets.GenerationPlayground(lm, PROMPT, SETTINGS.replace(**changes))
    whole = playground.run()
    expected = labkit.branch(lm, playground.history.current.generation, 9, other(whole.ids[9]))
    assert playground.branch(9, other(whole.ids[9])).ids == expected.ids
    for index in (0, 8, 15):  # the stage records know what was remembered
        recorded = playground.trace.step(index)
        assert recorded.chosen == expected.ids[index]


# going on


def test_continue_goes_on_from_the_end_as_a_longer_run_would(playground):
    result = playground.more(30)
    assert result.ids == labkit.generate(playground.lm, PROMPT, SETTINGS.replace(max_new_tokens=50)).ids
    assert playground.settings.max_new_tokens == 50 and "press Generate" not in playground.status.value
    press(playground.more_button)
    assert len(settled(playground).ids) == 150


def test_continue_goes_on_behind_a_stop(lm):
    playground = widgets.GenerationPlayground(lm, PROMPT, SETTINGS.replace(stop=("a",)))
    first = playground.run()
    assert first.finish_reason == "stop"
    longer = playground.more(5)
    assert longer.ids[: len(first.ids)] == first.ids and len(longer.ids) > len(first.ids)


# the way back


def test_nothing_is_lost_and_undo_and_redo_go_through_it(playground):
    texts = [playground.result]
    playground.live.value = False
    texts.append(playground.branch(5, other(texts[0].ids[5])))
    move(playground.controls.boxes["seed"], 7)
    texts.append(playground.run())
    playground.prompt_box.value = "cab"
    texts.append(playground.run())
    assert playground.redo_button.disabled and not playground.undo_button.disabled
    for expected in texts[-2::-1]:
        assert playground.undo() == expected
        assert playground.settings == expected.settings and playground.prompt_box.value == expected.prompt
        assert playground.strip.html.count("data-i=") == len(expected.ids)
    assert playground.undo_button.disabled and playground.undo() == texts[0]
    for expected in texts[1:]:
        assert playground.redo() == expected
    assert playground.redo_button.disabled


def test_the_tree_shows_every_branch_and_a_click_makes_one_current(playground):
    first = playground.result
    assert playground.branches.layout.display == "none"
    for at in (5, 9):
        playground.branch(at, other(playground.result.ids[at]))
    assert playground.branches.html.count("data-pick=") == 3 and playground.branches.picked == "2"
    assert [(node.parent, node.at) for node in playground.tree.nodes] == [(None, 0), (0, 5), (1, 9)]
    playground.branches.set_state({"picked": "0"})
    assert settled(playground) == first and playground.tree.current == 0
    assert "instead of" in playground.tree.nodes[1].label
    playground.go(99)
    assert "there are 0 … 2" in playground.error


def test_a_slider_that_moves_on_keeps_one_branch_and_the_text_before_it(playground):
    asked = playground.result
    for value in (0.5, 0.7, 0.9):
        move(playground.controls.sliders["temperature"], value)
        eventually(lambda: not playground._rerun.pending)
        settled(playground)
    assert len(playground.tree.nodes) == 2 and playground.result.settings.temperature == 0.9
    assert playground.undo() == asked


def test_a_slider_writes_a_branch_anew_and_keeps_what_was_chosen(playground):
    whole = playground.history.current.generation
    token = other(whole.ids[6])
    playground.branch(6, token)
    move(playground.controls.sliders["temperature"], 0.3)
    eventually(lambda: not playground._rerun.pending)
    assert settled(playground).ids == labkit.branch(playground.lm, whole, 6, token, temperature=0.3).ids


def test_the_same_run_again_is_not_another_one(playground):
    playground.run()
    assert len(playground.tree.nodes) == 1


def test_only_the_logits_and_caches_of_what_was_looked_at_last_are_kept(playground, monkeypatch):
    monkeypatch.setattr("labkit.widgets.history.LOGITS_BYTES", 30 * 12 * 4)
    playground.live.value = False
    for seed in range(6):
        move(playground.controls.boxes["seed"], seed)
        playground.run()
    first = playground.history._recordings[0][0]
    assert all(isinstance(step.logits, PartialLogits) for step in first.steps)
    assert first.generation._cache is None and playground.screen.recording.generation._cache is not None
    playground.go(0)
    assert "no longer kept" in playground.bars.value
    whole = labkit.generate(playground.lm, PROMPT, SETTINGS)
    assert playground.branch(3, 1).ids == labkit.branch(playground.lm, whole, 3, 1).ids


# as a trace


def test_the_trace_is_the_one_that_record_makes_and_costs_no_run(playground, tmp_path, monkeypatch):
    monkeypatch.setattr(playground.lm.model, "hidden", lambda *_: pytest.fail("the model ran"), raising=False)
    trace = playground.trace
    monkeypatch.undo()
    recorded = labkit.record(playground.lm, PROMPT, SETTINGS)
    assert trace.to_dict() == recorded.to_dict() and trace is playground.trace
    for name, made in (("own", trace), ("recorded", recorded)):
        made.save(tmp_path / f"{name}.trace")
    assert (tmp_path / "own.trace").read_bytes() == (tmp_path / "recorded.trace").read_bytes()


def test_a_branch_is_saved_opened_and_replayed_and_goes_on(playground, tmp_path):
    least = int(playground.screen.recording.steps[8].logits.argmin())  # removed by a filter, and chosen all the same
    playground.live.value = False
    playground.settings = SETTINGS.replace(top_k=3)
    result = playground.branch(8, least)
    playground.save(tmp_path / "branch.trace")
    json.loads(json.dumps(playground.trace.to_dict()), parse_constant=pytest.fail)  # no infinity in JSON
    opened = labkit.load_trace(tmp_path / "branch.trace")
    assert opened.given == 9 and opened.replay(playground.lm).equal
    again = widgets.GenerationPlayground(playground.lm, trace=opened)
    assert again.result.ids == result.ids and again.result.text == result.text
    assert again.settings == result.settings and again.prompt_box.value == PROMPT
    assert again.strip.html == playground.strip.html and again.trace is opened
    token = other(result.ids[12])
    expected = labkit.branch(playground.lm, playground.history.current.generation, 12, token)
    assert again.branch(12, token).ids == expected.ids


def test_a_trace_of_another_model_is_refused_in_one_line(playground, tmp_path):
    playground.save(tmp_path / "run.trace")
    other_model = widgets.GenerationPlayground("shakespeare-char", "A", SETTINGS)
    other_model.file_box.value = str(tmp_path / "run.trace")
    press(other_model.open_button)
    assert "a vocabulary of 12, the model one of 65" in other_model.saved.value
    other_model.file_box.value = str(tmp_path / "nosuch.trace")
    press(other_model.open_button)
    assert "there is no such file" in other_model.saved.value and other_model.history.tree is None


def test_settings_are_saved_and_read(playground, tmp_path):
    playground.file_box.value = str(tmp_path / "mine.toml")
    press(playground.save_button)
    playground.settings = Settings(temperature=0.1)
    press(playground.open_button)
    assert playground.settings == SETTINGS and "read:" in playground.saved.value
    assert Settings.read(tmp_path / "mine.toml") == SETTINGS


@pytest.mark.parametrize("kind", ["html", "svg", "csv", "json", "txt", "trace"])
def test_what_is_shown_is_saved_as_what_the_suffix_says(playground, tmp_path, kind):
    path = playground.save(tmp_path / f"run.{kind}")
    data = path.read_bytes()
    assert data
    if kind == "json":
        assert json.loads(data)["ids"] == playground.result.ids
    if kind == "csv":
        assert len(data.decode().splitlines()) >= 21


def test_whoever_wants_to_know_is_told_of_every_run_and_branch(playground):
    traces = []
    playground.on_trace(traces.append)
    playground.run()
    playground.branch(3, other(playground.result.ids[3]))
    playground.undo()
    assert [trace.given for trace in traces] == [0, 4, 0]
    assert traces[-1] is playground.trace


def test_the_selection_is_shared_with_everybody_who_looks_at_the_trace(playground):
    shared = Selection.of(playground.trace)
    playground.strip.set_state({"selected": 6})
    assert shared.token == len(PROMPT) + 6 and playground.selection is shared
    shared.token = len(PROMPT) + 11
    assert playground.strip.selected == 11 and "Token 12 of 20" in playground.bars.value
    shared.token = 1  # a token of the prompt, which nobody drew
    assert playground.strip.selected == 11
    playground.branch(3, other(playground.result.ids[3]))
    playground.strip.set_state({"selected": 2})
    assert shared.token == 1
    playground.undo()
    shared.token = len(PROMPT) + 8
    assert playground.strip.selected == 8


def test_the_timeline_is_drawn_when_it_is_open_and_moves_the_selection(playground):
    assert playground.timeline.html == "" and playground.timeline.layout.display == "none"
    playground.timeline_button.value = True
    assert playground.timeline.html.count("data-pick=") == 20
    playground.timeline.set_state({"picked": "13"})
    assert playground.strip.selected == 13 and playground.timeline.picked == "13"
    playground.strip.set_state({"selected": 4})
    assert playground.timeline.picked == "4"


# as code, and at rest


def test_the_code_of_a_branch_of_a_branch_gives_it(playground):
    playground.live.value = False
    playground.branch(5, other(playground.result.ids[5]))
    playground.settings = playground.settings.replace(temperature=0.5, top_k=4)
    playground.strip.selected = 9
    playground.instead_box.value = "dab"
    settled(playground)
    result = playground.more(15)
    scope = {"lm": playground.lm}
    exec(playground.code(), scope)
    assert scope["generation"].ids == result.ids and "temperature=0.5" in playground.code()


def test_before_the_first_run_it_shows_how_the_first_token_is_chosen_and_afterwards_the_text(lm):
    playground = widgets.GenerationPlayground(lm, PROMPT, SETTINGS)
    before = playground._repr_mimebundle_()["text/html"]
    assert "The first token after the prompt" in before and "lk-columns" in before
    playground.run()
    playground.strip.selected = 3
    after = playground._repr_mimebundle_()["text/html"]
    assert after.count('class="lk-t ') == 20 and "Token 4 of 20" in after and "<script>" not in after
    playground.prompt_box.value = "€"
    assert "text/html" in playground._repr_mimebundle_()
    playground.screen.recording = None
    assert "text/html" not in playground._repr_mimebundle_()  # nothing can be shown, and nothing breaks


def test_parameters_are_those_of_the_notebook(playground):
    assert set(playground.parameters()) <= {
        "checkpoint", "prompt", "seed", "max_new_tokens", "temperature", "top_k", "top_p",
    }  # fmt: skip
    assert "papermill notebooks/10_generate_text.ipynb" in playground.papermill()


# much of it


def test_a_hundred_rounds_leave_nothing_behind(lm):
    playground = widgets.GenerationPlayground(lm, PROMPT, SETTINGS.replace(max_new_tokens=4))
    playground.run()

    def objects_after(rounds):
        for i in range(rounds):
            move(playground.controls.sliders["temperature"], 0.5 + (i % 10) / 10)
            playground._rerun.cancel()
            if i % 5 == 0:
                playground._run_again()
                playground._background.wait()
            playground.strip.set_state({"selected": i % 4})
            say(playground, type="card", index=i % 4)
        gc.collect()
        return len(gc.get_objects())

    before = objects_after(20)
    assert objects_after(100) - before < 300
    assert threading.active_count() < 20


def test_a_pasted_megabyte_is_written_on_from_and_a_line_says_what_the_model_sees(lm):
    playground = widgets.GenerationPlayground(lm, "abc defg\n" * 120_000, SETTINGS)
    result = playground.run()
    assert len(result.ids) == 20 and len(result.prompt_ids) == 1_080_000
    assert "The prompt has 1,080,000 tokens; the model can look at no more than the last 64." in playground.status.value
    assert playground.strip.html.count("lk-p") <= 402 and len(playground.strip.html) < 100_000
    playground.prompt_box.value += "€"
    assert playground.run() is None and "'€' (position 1080000)" in playground.error
