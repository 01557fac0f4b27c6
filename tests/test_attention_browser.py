"""AttentionBrowser without a browser: every family, selection, locking, honesty, and what can be taken away."""

import json
import time

import pytest
import tiny
from inspector_cases import TEXT, recorded, run_code, words_of
from widget_driver import eventually, move, tiny_model

import labkit
from labkit import inspection
from labkit.errors import ConfigError
from labkit.tokenizers.char import CharTokenizer
from labkit.widgets import AttentionBrowser, LogitLensBrowser


def browser(family="labcore", variant="learned", text=TEXT, **keywords):
    return AttentionBrowser(tiny.tiny(family, variant), text, **keywords)


@pytest.mark.parametrize(("family", "variant"), tiny.CASES)
def test_it_shows_what_inspection_finds_in_every_family(family, variant):
    widget = browser(family, variant)
    maps = inspection.attention(tiny.tiny(family, variant), TEXT)
    assert widget.error is None
    assert repr(widget.result.heads()) == repr(maps.heads())  # NaN is not itself
    layer, head = widget.locked
    best = maps.top_heads("previous", 1)[0]
    assert (layer, head) == (best["layer"], best["head"])
    said = widget.view().text
    for found in maps.looks_at(layer, head, widget.token, n=3):
        assert f"{found['weight']:.3f}" in said


def test_a_click_locks_a_head_and_pointing_shows_another_only_for_the_time():
    widget = browser()
    widget.grid.set_state({"picked": "1.3"})
    assert widget.locked == widget.shown == (1, 3)
    assert (widget.layer.value, widget.head.value) == (1, 3)
    assert "layer 1, head 3" in words_of(widget.pattern.html)
    widget.grid.set_state({"pointed": "0.2"})
    assert widget.locked == (1, 3) and widget.shown == (0, 2)
    assert "layer 0, head 2" in words_of(widget.pattern.html)
    widget.grid.set_state({"pointed": ""})
    assert "layer 1, head 3" in words_of(widget.pattern.html)


def test_sliders_go_through_layers_and_heads():
    widget = browser()
    widget.lock(0, 1)
    move(widget.layer, 1)
    assert widget.locked == (1, 1)
    move(widget.head, 3)
    assert widget.locked == (1, 3) and widget.grid.picked == "1.3"


def test_a_token_picked_anywhere_is_selected_and_its_row_is_shown():
    widget = browser()
    widget.pattern.set_state({"picked": "7"})
    assert widget.selection.token == widget.strip.selected == 7
    assert "token 7, r, reads" in words_of(widget.reads.html)
    widget.reads.set_state({"picked": "2"})
    assert widget.token == 2 and "token 2, ␣, reads" in words_of(widget.reads.html)
    widget.strip.set_state({"selected": 4})
    assert widget.selection.token == 4


def test_panels_of_one_run_move_together():
    lm = tiny.tiny("labcore", "learned")
    trace = recorded(lm)
    one, other, third = AttentionBrowser(lm, trace), LogitLensBrowser(lm, trace), AttentionBrowser(lm, TEXT)
    one.strip.set_state({"selected": 6})
    assert other.token == 6 and third.token == len(TEXT) - 1
    other.strip.set_state({"selected": 3})
    assert one.token == 3 and "token 3" in words_of(one.reads.html)
    assert one.ids == [*trace.prompt_ids, *trace.ids]


def test_all_heads_at_once_on_demand():
    widget = browser()
    assert widget.all_heads.html == ""
    move(widget.all_button, True)
    assert widget.all_heads.html.count("<img") == len(widget.result.heads())
    assert "<img" in widget.view().html
    widget.all_heads.set_state({"picked": "0.1"})
    assert widget.locked == (0, 1)


def test_too_many_tokens_for_all_heads_is_one_line_and_one_head_still_works():
    config = tiny.LabCoreConfig(tiny.V, block_size=400, n_layer=1, n_head=2, n_embd=16)
    lm = tiny.language_model("labcore", config, tiny.characters())
    widget = AttentionBrowser(lm, "to be " * 50)
    move(widget.all_button, True)
    assert widget.error == (
        "all heads at once are shown of up to 256 tokens, and the text has 300; look at them one by one"
    )
    move(widget.all_button, False)
    assert widget.error is None and "300 tokens" in widget.status.value
    widget.grid.set_state({"picked": "0.1"})
    assert "layer 0, head 1" in words_of(widget.pattern.html)


@pytest.mark.parametrize(
    ("family", "variant", "sentence"),
    [
        ("swa_mla", "configured", "has a window: a token sees itself, the 10 before it and the first 2; all else is 0"),
        ("nanochat", "newest", "has a window: a token sees itself, the 3 before it; all else is 0"),
        ("swa_mla", "executed", "keeps one latent for all heads instead of keys"),
    ],
)
def test_windows_and_latents_are_said_where_they_are(family, variant, sentence):
    widget = browser(family, variant)
    said = []
    for layer in range(widget.result.n_layer):
        widget.lock(layer, 0)
        said.append(words_of(widget.note.value))
    assert any(sentence in note for note in said), said
    assert not all(sentence in note for note in said)
    assert all("not what it makes of" in note for note in said)


def test_a_head_that_rests_on_the_first_token_is_said_to():
    widget = browser("swa_mla", "configured")
    share = {at: head["first"] for at, head in widget._heads.items()}
    for at, first in share.items():
        widget.lock(*at)
        assert ("rests on the first token" in widget.note.value) == (first >= 0.5), at


def test_the_code_gives_the_same():
    lm = tiny.tiny("labcore", "learned")
    for text in (TEXT, recorded(lm)):
        widget = AttentionBrowser(lm, text)
        names = run_code(widget.code(), lm)
        assert repr(names["maps"].heads()) == repr(widget.result.heads())


def test_an_unknown_character_is_one_line_and_the_text_stays(capfd):
    widget = browser()
    before = widget.result
    widget.text_box.value = "abc<x>"
    eventually(lambda: widget.error)
    assert "outside the vocabulary" in widget.status.value and widget.text_box.value == "abc<x>"
    assert widget.result is before
    widget.text_box.value = "to be"
    eventually(lambda: widget.error is None and len(widget.ids) == 5)
    assert capfd.readouterr() == ("", "")


def test_a_text_longer_than_the_context_is_one_line():
    widget = browser(text="to be " * 20)
    assert "context" in widget.error and widget.result is None and widget.view() is None
    assert repr(widget) == "AttentionBrowser()"


def test_an_unknown_property_is_refused():
    with pytest.raises(ConfigError, match="'sharpness' is no property of a head; they are entropy, distance"):
        browser(value="sharpness")


def test_hostile_tokens_stay_text():
    lm = tiny_model(CharTokenizer([*"abcdefgh \n", "<script>", '"><img src=x onerror=alert(1)>']))
    widget = AttentionBrowser(lm, [10, 11, 3, 10, 11])
    move(widget.all_button, True)
    everything = "".join([widget.view().html, widget.strip.html, widget.pattern.html, widget.reads.html])
    assert "<script" not in everything and "<img src=x" not in everything and "&lt;script" in everything


@pytest.mark.parametrize("suffix", ["html", "svg", "png", "csv", "json", "txt"])
def test_it_saves_what_it_shows(tmp_path, suffix):
    widget = browser()
    path = widget.save(tmp_path / f"attention.{suffix}")
    assert path.stat().st_size > 100
    if suffix == "json":
        assert len(json.loads(path.read_text())["heads"]) == 8
    if suffix == "csv":
        assert path.read_text().splitlines()[0].startswith("layer,head,entropy")


def test_two_of_them_show_the_same_bytes():
    first, second = browser(), browser()
    assert first.view() == second.view() and repr(first) == repr(second)
    assert "\n" not in repr(first) and "0x" not in repr(first)


def test_144_heads_over_256_tokens_are_small_and_quick():
    config = tiny.LabCoreConfig(tiny.V, block_size=256, n_layer=12, n_head=12, n_embd=48)
    lm = tiny.language_model("labcore", config, tiny.characters())
    widget = AttentionBrowser(lm, ("to be or not to be, " * 13)[:256])
    start = time.perf_counter()
    move(widget.all_button, True)
    seconds = time.perf_counter() - start
    assert widget.error is None and widget.all_heads.html.count("<img") == 144
    megabytes = len(widget.all_heads.html) / 1e6
    print(f"all heads: {megabytes:.1f} MB, {seconds:.2f} s")
    assert megabytes <= 7 and seconds < 10


def test_1024_tokens_head_by_head():
    config = tiny.LabCoreConfig(tiny.V, block_size=1024, n_layer=2, n_head=2, n_embd=16)
    lm = tiny.language_model("labcore", config, tiny.characters())
    widget = AttentionBrowser(lm, ("to be or not to be, " * 52)[:1024])
    start = time.perf_counter()
    widget.lock(1, 1) if widget.locked != (1, 1) else widget.lock(0, 0)
    seconds = time.perf_counter() - start
    print(f"one head of 1,024 tokens: {seconds:.2f} s, {len(widget.pattern.html) / 1e6:.1f} MB")
    assert widget.error is None and seconds < 10


def test_ids_are_looked_at_as_they_are():
    ids = inspection.repeated(tiny.tiny("labcore", "learned"), 8)
    widget = browser(text=ids, value="induction")
    assert widget.ids == ids and widget.text_box.layout.display == "none"
    assert run_code(widget.code(), widget.lm)["maps"].ids == ids


def test_a_model_that_cannot_be_opened_is_an_error_and_leaves_nothing_behind():
    with pytest.raises(labkit.LabkitError, match="nowhere"):
        AttentionBrowser("nowhere")


def test_without_a_tokenizer_ids_are_typed():
    config = tiny.TINY["labcore"]["learned"]
    widget = AttentionBrowser(tiny.language_model("labcore", config), [3, 1, 4, 1, 5])
    assert widget.ids == [3, 1, 4, 1, 5] and widget.result.pieces[0] == "3"


def test_a_model_that_is_only_a_function_says_so():
    lm = labkit.wrap(lambda ids: tiny.tiny("gpt2", "tied").model(ids), vocab_size=tiny.V, tokenizer=tiny.characters())
    widget = AttentionBrowser(lm, TEXT)
    assert widget.error and "\n" not in widget.error
