"""AblationView without a browser: every family, every kind of part, the recorded draw, Stop, and before and after."""

import json
import threading

import pytest
import tiny
from inspector_cases import TEXT, recorded, run_code, settled, words_of
from widget_driver import eventually, press

import labkit
from labkit import inspection
from labkit.widgets import AblationView, LogitLensBrowser
from labkit.widgets.ablated import VALUES


def ablation(family="labcore", variant="learned", text=TEXT, **keywords):
    return AblationView(tiny.tiny(family, variant), text, **keywords)


@pytest.mark.parametrize(("family", "variant"), tiny.CASES)
def test_it_shows_what_inspection_finds_in_every_family(family, variant):
    lm = tiny.tiny(family, variant)
    widget = ablation(family, variant)
    for what in ("heads", "attention", "mlps", "positions"):
        move_to(widget, what)
        assert widget.error is None
        assert widget.result.rows() == inspection.ablate(lm, TEXT, what, progress=False).rows(), what
        assert widget.grid.picked == str(strongest(widget.result))
    move_to(widget, "layers")
    whole = [inspection.At(f"blocks.{i}.*_out") for i in range(len(lm.model.blocks))]
    expected = inspection.ablate(lm, TEXT, whole, progress=False)
    assert [row | {"part": ""} for row in settled(widget).result.rows()] == [
        row | {"part": ""} for row in expected.rows()
    ]
    assert widget.result.labels[0] == "block 0"


def move_to(widget, what):
    widget.what.value = what
    settled(widget)


def strongest(result):
    kls = [float(one.kl[0]) for one in result.effects]
    return kls.index(max(kls))


@pytest.mark.parametrize("how", ["mean", "resample"])
@pytest.mark.parametrize(("family", "variant"), [("gpt2", "tied"), ("swa_mla", "configured"), ("nanochat", "newest")])
def test_stand_ins_come_from_what_the_model_writes_unless_a_text_is_given(family, variant, how):
    widget = ablation(family, variant, how=how)
    assert widget.error is None and widget.result.how == how
    names = run_code(widget.code(), widget.lm)
    assert names["ablation"].rows() == widget.result.rows()
    widget.reference.value = "or not to be, " * 6
    settled(widget)
    given = inspection.ablate(widget.lm, TEXT, "heads", how, reference="or not to be, " * 6, progress=False)
    assert widget.result.rows() == given.rows()
    assert run_code(widget.code(), widget.lm)["ablation"].rows() == given.rows()


def test_the_code_gives_the_same_for_every_kind():
    widget = ablation(target="b", versus="e")
    for what in ("heads", "layers", "positions"):
        move_to(widget, what)
        names = run_code(settled(widget).code(), widget.lm)
        assert [one.row() for one in names["ablation"].effects] == [one.row() for one in widget.result.effects]


def test_target_and_versus_are_the_ones_typed_and_a_wrong_one_is_one_line():
    widget = ablation()
    first = int(widget.lm.logits(widget.ids)[-1].argmax())
    assert widget.result.targets == [first]
    widget.target.value = "b"
    assert settled(widget).result.target_pieces == ["b"]
    plain = widget.result.rows()
    widget.versus.value = "e"
    assert settled(widget).result.rows() != plain
    widget.versus.value = "to be"
    assert "'to be' is 5 tokens" in settled(widget).error and widget.versus.value == "to be"
    widget.versus.value = ""
    assert settled(widget).error is None and widget.result.rows() == plain


def test_the_selected_token_is_the_target_and_the_text_before_it_is_read():
    widget = ablation()
    widget.strip.set_state({"selected": 6})
    settled(widget)
    assert widget.result.prompts == [widget.ids[:6]] and widget.result.targets == [widget.ids[6]]
    assert widget.result.rows() == inspection.ablate(
        widget.lm, TEXT[:6], "heads", target=TEXT[6], progress=False
    ).rows()  # fmt: skip


def test_of_a_run_it_is_the_recorded_draw_that_is_repeated():
    lm = tiny.tiny("labcore", "learned")
    trace = recorded(lm)
    widget = AblationView(lm, trace)
    for step in (0, 3, 7):
        widget.selection.token = len(trace.prompt_ids) + step
        settled(widget)
        assert all(int(one.drawn_before[0]) == trace.ids[step] for one in widget.result.effects)
        answer = widget._compared[2]
        assert answer.before.chosen == trace.ids[step]
        assert answer.after.chosen == int(widget.result.effects[widget._picked].drawn[0])
    assert any(int(one.drawn[0]) != trace.ids[7] for one in widget.result.effects)


def test_a_click_shows_the_distribution_before_and_after():
    widget = ablation()
    widget.grid.set_state({"picked": "5"})
    part = widget.result.labels[5]
    assert part == "block 1 head 1" and f"without {part}" in words_of(widget.numbers.value)
    with labkit.edit(widget.lm, {inspection.At("blocks.1.z", heads=(1,)): lambda z: 0 * z}):
        after = widget.lm.logits(widget.ids)[-1].softmax(-1)
    answer = widget._compared[2]
    assert (answer.after.stages[0].probabilities - after).abs().max() < 1e-6
    drawn = [int(ids[0]) for ids in (widget.result.effects[5].drawn_before, widget.result.effects[5].drawn)]
    assert [answer.before.chosen, answer.after.chosen] == drawn
    row = widget.result.rows()[5]
    assert f"{row['kl']:.3f}" in words_of(widget.numbers.value)


def test_every_number_that_may_colour_the_grid_is_in_it():
    widget = ablation()
    for name, value in VALUES.items():
        widget.value.value = name
        said = words_of(widget.grid.html)
        for one in widget.result.rows():
            assert f"{round(value(one), 2) + 0.0:.2f}" in said, name
        assert "-0.00" not in said


def test_stop_ends_long_work_and_shows_what_has_been_measured():
    config = tiny.LabCoreConfig(tiny.V, block_size=24, n_layer=16, n_head=4, n_embd=16)
    lm = tiny.language_model("labcore", config, tiny.characters())
    widget = AblationView(lm, TEXT)
    assert len(widget.result.parts) == 64
    waiting, may_go_on, said = threading.Event(), threading.Event(), []
    whole = widget.result.rows()

    def watch(change):
        said.append(words_of(change["new"]).strip())
        if said[-1].startswith("24 of 64"):
            waiting.set()
            assert may_go_on.wait(10)

    assert widget.stop_button.disabled
    widget.status.observe(watch, "value")
    widget.run(wait=False)
    assert waiting.wait(10) and not widget.stop_button.disabled
    press(widget.stop_button)
    may_go_on.set()
    widget._background.wait()
    assert said[:25] == [f"{i} of 64 parts taken out …" for i in range(25)] and "25 of 64" not in " ".join(said)
    assert len(widget.result.parts) == 24 and widget.error is None and widget.stop_button.disabled
    assert widget.result.rows() == whole[:24]
    widget.status.unobserve(watch, "value")
    assert widget.run().rows() == whole


def test_the_cell_that_opens_it_does_not_wait_for_long_work(monkeypatch):
    may_go_on, real = threading.Event(), inspection.ablate

    def slow(*arguments, **keywords):
        assert may_go_on.wait(10)
        return real(*arguments, **keywords)

    monkeypatch.setattr("labkit.widgets.ablation_view.ablate", slow)
    monkeypatch.setattr("labkit.widgets.inspector.FIRST_SECONDS", 0.05)
    widget = ablation()
    assert widget.result is None and "0 of 8 parts taken out" in widget.status.value and widget.view() is None
    assert repr(widget) == "AblationView(None)"
    may_go_on.set()
    eventually(lambda: widget.result is not None)


def test_panels_of_one_model_that_work_at_once_do_not_see_each_others_edits():
    lm = tiny.language_model("gpt2", tiny.TINY["gpt2"]["tied"], tiny.characters())
    taking_out, looking = AblationView(lm, TEXT, what="positions"), LogitLensBrowser(lm, TEXT)
    expected = inspection.logit_lens(lm, TEXT, tracked=looking.result.tracked, n_top=8).rows()
    for _ in range(5):
        taking_out.run(wait=False)
        for _ in range(4):
            assert looking.run().rows() == expected
    assert settled(taking_out).result.rows() == inspection.ablate(lm, TEXT, "positions", progress=False).rows()


def test_an_unknown_character_is_one_line_and_the_text_stays(capfd):
    widget = ablation()
    before = widget.result
    widget.text_box.value = "abc<x>"
    eventually(lambda: widget.error)
    assert "outside the vocabulary" in widget.status.value and widget.text_box.value == "abc<x>"
    assert widget.result is before
    assert capfd.readouterr() == ("", "")


def test_a_model_that_breaks_is_a_message_and_the_next_one_works(monkeypatch, capfd):
    lm = tiny.language_model("labcore", tiny.TINY["labcore"]["learned"], tiny.characters())
    widget = AblationView(lm, TEXT)

    def breaks(*arguments, **keywords):
        raise RuntimeError("<b>boom</b>\nwith a second line")

    monkeypatch.setattr(lm.model, "hidden", breaks, raising=False)
    assert widget.run() is None
    assert widget.error == "RuntimeError: <b>boom</b>" and "&lt;b&gt;boom" in widget.status.value
    monkeypatch.undo()
    assert widget.run() is not None and widget.error is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", ["html", "svg", "csv", "json", "txt"])
def test_it_saves_what_it_shows(tmp_path, suffix):
    path = ablation().save(tmp_path / f"ablation.{suffix}")
    assert path.stat().st_size > 100
    if suffix == "json":
        assert len(json.loads(path.read_text())["parts"]) == 8
    if suffix == "csv":
        assert path.read_text().splitlines()[0].startswith("part,delta_logit,kl")


def test_two_of_them_show_the_same_bytes():
    first, second = ablation(), ablation()
    assert first.view() == second.view() and repr(first) == repr(second)
    assert "\n" not in repr(first) and "0x" not in repr(first)


def test_without_a_tokenizer_tokens_are_ids():
    lm = tiny.language_model("labcore", tiny.TINY["labcore"]["learned"])
    widget = AblationView(lm, [3, 1, 4, 1, 5], target="9")
    assert widget.error is None and widget.result.targets == [9]
    widget.target.value = "b"
    assert settled(widget).error == "this model has no tokenizer: write a token as its id, not 'b'"


def test_one_token_is_enough():
    widget = ablation(text="t", how="mean")
    assert widget.error is None and len(widget.result.parts) == 8
