"""Chat without kernel and browser: answers, versions of a conversation, what a prompt leaves out, files, failures."""

import io
import json
import time

import ipywidgets as ipw
import pytest
import tiny
from widget_driver import all_parts, eventually, move, press, tiny_model

import labkit
from labkit import chat, cli
from labkit.chat import Conversation, Template
from labkit.errors import ConfigError, TokenizerError
from labkit.models.labcore import LabCoreConfig
from labkit.settings import Settings
from labkit.tokenizers.char import CharTokenizer
from labkit.widgets import Chat, transcript
from labkit.widgets.chat_prompt import MOST_HISTORY
from labkit.widgets.templates import PLAIN

MARKED = Template.from_dict(
    {"user": ["u=", "\n"], "assistant": ["a= ", "\n"], "reply": "a=", "stop": ["\nu="], "system": ["", "\n"]}, "marked"
)
SHORT = Settings(max_new_tokens=12)


@pytest.fixture(scope="module")
def lm():
    """A tiny model with a context of 200 characters."""
    config = LabCoreConfig(tiny.V, block_size=200, n_layer=1, n_head=2, n_embd=16)
    return tiny.language_model("labcore", config, tiny.characters())


@pytest.fixture
def talk(lm):
    made = Chat(lm, template=MARKED, settings=SHORT)
    yield made
    made.close()
    made._background.wait()


@pytest.fixture(scope="module")
def shakespeare():
    return labkit.load("shakespeare-char")


def send(talk, text: str) -> None:
    """As the box in the browser does it."""
    talk.message.set_state({"value": text})
    talk.message._on_message(talk.message, {"type": "send", "text": text}, [])


def turns(talk) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in talk.conversation.turns]


def endless(monkeypatch, lm, seconds: float = 0.002) -> None:
    """The model takes its time."""
    hidden = type(lm.model).hidden
    monkeypatch.setattr(
        lm.model, "hidden", lambda *a, **k: (time.sleep(seconds), hidden(lm.model, *a, **k))[1], raising=False
    )


# --- answers


def test_an_answer_is_the_one_of_labkit_chat(shakespeare, talk, monkeypatch, capsys):
    messages = ["Who goes there?", "And then?", "Farewell."]
    widget = Chat(shakespeare, system="A play.", template="swa_mla", settings=Settings(max_new_tokens=20, seed=5))
    answers = [widget.say(message) for message in messages[:2]]
    answers += [widget.retry(), widget.say(messages[2])]
    lines = [*messages[:2], "/retry", messages[2]]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    options = ["--template", "swa_mla", "--system", "A play.", "--seed", "5", "--max-new-tokens", "20", "--json"]
    cli.main(["chat", "shakespeare-char", *options])
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert answers == [each["text"] for each in said]
    assert widget.dialogue.said[-1].answer.reply.settings.to_dict() == said[-1]["settings"]


def test_every_token_of_an_answer_is_shown_with_what_else_it_could_have_been(talk):
    talk.say("abc")
    answer = talk.dialogue.said[-1].answer
    assert [token["id"] for token in answer.tokens] == answer.reply.run.ids
    assert talk.strip.html.count("<span class=k") == 12
    assert "after filters" in talk.screen.card(1) and "<table>" in talk.screen.card(12)
    for index in (0, 13, 99):  # the message, the line below the answer, nothing
        assert talk.screen.card(index) == ""


def test_answers_are_painted_by_appending_only(talk, lm, monkeypatch):
    endless(monkeypatch, lm, 0.006)
    sent = []
    monkeypatch.setattr(talk.strip, "send", sent.append)
    talk.settings = Settings(max_new_tokens=50)
    sent.clear()
    for text in ("abc", "def"):
        talk.say(text)
    kinds = [message["type"] for message in sent]
    assert kinds.count("reset") == 1  # the first message takes the place of a hint
    assert kinds.count("append") >= 8 and kinds.index("append") > kinds.index("reset")
    pages = "".join(message["html"] for message in sent if message["type"] in ("reset", "append"))
    assert pages == talk.strip.html == transcript.html(talk.dialogue.said, talk.screen.turn_rows, "probability")


def test_other_colours_repaint_an_answer_that_is_being_written(talk, lm, monkeypatch):
    endless(monkeypatch, lm, 0.006)
    talk.settings = Settings(max_new_tokens=60)
    talk.say("abc", wait=False)
    eventually(lambda: talk.screen.answer is not None and talk.screen._painted > 10)
    talk.colour.value = "rank"
    talk._background.wait()
    assert talk.strip.html == transcript.html(talk.dialogue.said, talk.screen.turn_rows, "rank")
    assert "lk-cut" not in talk.strip.html  # which would have been painted anew anyway


def test_a_count_that_comes_late_does_not_take_the_answer_under_way_off_the_screen(talk, lm, monkeypatch):
    endless(monkeypatch, lm, 0.006)
    talk.settings = Settings(max_new_tokens=60)
    talk.say("abc", wait=False)
    eventually(lambda: talk.screen.answer is not None)
    talk._changed(select_last=False)  # as a slider does that was at rest just before the message was sent
    assert talk.screen.answer is not None and not talk.stop_button.disabled
    talk._background.wait()
    assert talk.screen.answer is None and talk.stop_button.disabled
    assert talk.strip.html == transcript.html(talk.dialogue.said, talk.screen.turn_rows, "probability")


def test_painting_is_a_small_part_of_the_work(talk, lm, monkeypatch):
    endless(monkeypatch, lm)
    spent = []
    paint = talk._paint_new

    def timed():
        start = time.perf_counter()
        paint()
        spent.append(time.perf_counter() - start)

    monkeypatch.setattr(talk, "_paint_new", timed)
    talk.settings = Settings(max_new_tokens=300)
    start = time.perf_counter()
    talk.say("abc")
    seconds = time.perf_counter() - start
    print(f"{len(spent) / seconds:.0f} paints a second, {100 * sum(spent) / seconds:.1f} % of the time")
    assert sum(spent) / seconds <= 0.25


def test_what_ends_an_answer_is_no_part_of_it_and_told_apart(lm):
    stops = Template.from_dict({"user": ["u=", "\n"], "assistant": ["a=", "\n"], "stop": ["e", "i", "o"]}, "vowels")
    talk = Chat(lm, template=stops, settings=Settings(max_new_tokens=200))
    text = talk.say("abc")
    answer = talk.dialogue.said[-1].answer
    assert answer.finish_reason == "stop" and not set("eio") & set(text)
    assert talk.strip.html.count("lk-end") == 1 and "met a stop" in talk.strip.html
    assert talk.strip.html.index("lk-end") > talk.strip.html.rindex(f"data-i={len(answer.tokens) - 1} ")


def test_the_next_prompt_is_shown_as_the_model_gets_it(talk, lm):
    talk.seen_button.value = True
    talk.message.set_state({"value": "hello <"})
    talk.message.set_state({"value": "hello there"})
    ids = chat.prompt(lm, talk.conversation.say("hello there"), talk.settings).ids
    assert talk.seen.value.count("<mark>") == 3 and f"{len(ids)} tokens" in talk.seen.value
    assert "</mark>hello there<mark>" in talk.seen.value


# --- versions of a conversation


def test_retry_edit_undo_and_redo_lose_nothing(talk):
    talk.say("abc")
    talk.say("def")
    first = turns(talk)
    talk.retry(0)
    assert turns(talk)[0] == ("user", "abc") and len(turns(talk)) == 2 and turns(talk)[1] != first[1]
    assert talk.settings.seed == 1338
    retried = turns(talk)
    talk.edit(0, "ghi")
    assert turns(talk)[0] == ("user", "ghi")
    talk.clear()
    assert turns(talk) == [] and talk.result is None and talk.view() is None
    for expected in ("ghi", retried, first):
        talk.undo()
        assert turns(talk)[0][1] == expected if isinstance(expected, str) else turns(talk) == expected
    assert "2 exchanges" in talk.status.value
    for _ in range(2):
        talk.undo()
    assert turns(talk) == [] and talk.undo_button.disabled
    talk.undo()
    for _ in range(9):
        talk.redo()
    assert turns(talk) == [] and talk.redo_button.disabled


def test_the_buttons_act_on_the_selected_message(talk):
    for text in ("abc", "def", "ghi"):
        talk.say(text)
    talk.strip.set_state({"selected": 1 + 12 + 1 + 3})  # a token of the second answer
    press(talk.edit_button)
    assert talk.message.value == "def" and "replaces message 2" in talk.status.value
    send(talk, "jkl")
    eventually(lambda: not talk._background.running)
    assert [text for role, text in turns(talk) if role == "user"] == ["abc", "jkl"]
    press(talk.undo_button)
    press(talk.retry_button)  # the last one, since nothing else is selected
    eventually(lambda: not talk._background.running)
    assert [text for role, text in turns(talk) if role == "user"] == ["abc", "def", "ghi"]


def test_the_up_arrow_fetches_a_message_and_escape_leaves_the_conversation_as_it_is(talk):
    talk.say("abc")
    before = turns(talk)
    talk.message._on_message(talk.message, {"type": "recall"}, [])
    assert talk.message.value == "abc" and talk._editing == 0
    talk.message._on_message(talk.message, {"type": "escape"}, [])
    send(talk, "abcd")
    eventually(lambda: not talk._background.running)
    assert turns(talk)[: len(before)] == before and len(turns(talk)) == 4


def test_asking_for_what_is_not_there_is_refused(talk):
    with pytest.raises(ConfigError, match="no message yet"):
        talk.retry()
    press(talk.retry_button)
    assert talk.error == "there is no message yet"
    talk.say("abc")
    with pytest.raises(ConfigError, match="no message 3; the last one is 0"):
        talk.edit(3, "x")


# --- what a prompt leaves out


def test_what_the_bound_leaves_out_is_said_in_turns_and_tokens(talk, lm):
    for text in ("one", "ten", "three"):
        talk.say(text)
    move(talk.history, 1)
    eventually(lambda: "leaves out" in talk.status.value)
    rows = chat.rows(lm, talk.conversation, talk.settings)
    out = [row for row in rows if not row["in prompt"]]
    assert len(out) == 4 and f"2 exchanges, {sum(row['tokens'] for row in out)} tokens" in talk.strip.html
    assert talk.result.rows()[0]["in prompt"] is False and talk.result.rows()[-1]["finish_reason"] == "length"
    talk.say("four")
    assert [turn.text for turn in talk.dialogue.said[-1].answer.reply.prompt.turns][0] == "three"
    move(talk.history, MOST_HISTORY + 1)
    eventually(lambda: "leaves out" not in talk.status.value)
    assert len(turns(talk)) == 8 and "all" in talk.history.description


def test_a_full_context_leaves_out_the_oldest(talk):
    for _ in range(9):
        talk.say("abcdefgh")
    assert "the next prompt leaves out" in talk.status.value and talk.strip.html.count("lk-cut") == 1
    assert talk.error is None and len(turns(talk)) == 18


# --- the demo


def test_the_demo_has_the_controls_of_labcores(lm):
    demo = Chat(lm, template=MARKED, demo=True)
    ranges = {name: (s.min, s.max, s.step, s.value) for name, s in demo.controls.sliders.items()}
    assert ranges == {
        "temperature": (0.1, 2.0, 0.05, 0.9),
        "top_k": (0, 200, 1, 40),
        "top_p": (0.1, 1.0, 0.01, 0.95),
        "repetition_penalty": (1.0, 2.0, 0.01, 1.0),
        "max_new_tokens": (8, 512, 8, 160),
    }
    assert (demo.history.min, demo.history.max, demo.history.value) == (0, 20, 6)
    assert demo.controls.boxes["use_cache"].value and demo.stream.value
    shown = all_parts(demo)
    assert demo.save_button not in shown and demo.open_button not in shown and demo.file_box not in shown
    assert len([p for p in shown if isinstance(p, ipw.IntSlider | ipw.FloatSlider)]) == 6
    assert demo.settings.dialect == "labcore"


def test_the_demos_settings_stay_within_its_ranges(lm):
    given = Settings(dialect="labcore", temperature=5.0, max_new_tokens=1000, repetition_penalty=0.5, top_k=7)
    demo = Chat(lm, template=MARKED, settings=given, demo=True)
    settings = demo.settings
    assert (settings.temperature, settings.max_new_tokens, settings.top_k) == (2.0, 512, 7)
    assert settings.repetition_penalty is None


def test_the_demo_forgets_what_its_prompt_left_out(lm):
    demo = Chat(lm, template=MARKED, settings=Settings(dialect="labcore", max_new_tokens=8), demo=True)
    move(demo.history, 2)
    for text in ("one", "ten", "three", "four"):
        demo.say(text)
    assert [text for role, text in turns(demo) if role == "user"] == ["ten", "three", "four"]
    assert demo.strip.html.count("lk-said") == 3


def test_without_streaming_the_answer_comes_at_once(lm, monkeypatch):
    demo = Chat(lm, template=MARKED, settings=Settings(dialect="labcore", max_new_tokens=64), demo=True)
    endless(monkeypatch, lm)
    demo.stream.value = False
    sent = []
    monkeypatch.setattr(demo.strip, "send", sent.append)
    demo.say("abc")
    assert len([message for message in sent if message["type"] == "append"]) == 1
    assert demo.strip.html.count("<span class=k") == 64


# --- templates and system texts


def test_only_templates_that_the_model_can_write_are_offered(shakespeare):
    arithmetic = Chat("arithmetic", settings=Settings(greedy=True, max_new_tokens=8, stop="\n"))
    assert arithmetic.template.options == ("plain",) and arithmetic.message.value == "12+34="
    assert arithmetic.say("12+34=") == "46" and "trained to chat" not in arithmetic.status.value
    fits = Chat(shakespeare)
    assert fits.template.options == ("swa_mla", "plain") and fits.template.value == "swa_mla"
    assert "trained to chat" in fits.status.value
    with pytest.raises(TokenizerError, match="chatml"):
        Chat(shakespeare, template="chatml")
    with pytest.raises(ConfigError, match="'nonsense' is unknown"):
        Chat(shakespeare, template="nonsense")


def test_a_plain_template_adds_nothing(lm):
    talk = Chat(lm, template="plain", settings=SHORT)
    talk.say("abc")
    assert talk.dialogue.said[-1].answer.reply.prompt.text == "abc" and talk.conversation.template == PLAIN


def test_a_templates_own_system_text_gives_way_but_not_what_somebody_wrote(lm):
    one, two = (Template.from_dict({**MARKED.to_dict(), "name": n, "default_system": n}) for n in ("one", "two"))
    talk = Chat(lm, template=one, settings=SHORT)
    talk.prompt.templates["two"] = two
    talk.template.options = ["one", "two"]
    assert talk.system_box.value == "one"
    talk.template.value = "two"
    assert talk.system_box.value == "two" == talk.conversation.system
    talk.system_box.value = "mine"
    talk.template.value = "one"
    assert talk.system_box.value == "mine"
    talk.system_box.value = ""
    talk.say("abc")
    assert talk.dialogue.said[-1].answer.reply.prompt.text == "u=abc\na="


# --- files and code


def test_a_saved_conversation_goes_on_in_the_command_line_and_back(shakespeare, tmp_path, monkeypatch, capsys):
    talk = Chat(shakespeare, system="A play.", settings=Settings(max_new_tokens=12))
    talk.say("Who goes there?")
    file = tmp_path / "chat.json"
    assert talk.save(file) == file and Conversation.load(file) == talk.conversation
    monkeypatch.setattr("sys.stdin", io.StringIO("And then?\n"))
    cli.main(["chat", "shakespeare-char", "--max-new-tokens", "12", "--json", "--load", str(file), "--save", str(file)])
    from_cli = json.loads(capsys.readouterr().out)
    assert talk.say("And then?") == from_cli["text"]
    other = Chat(shakespeare, template="plain", settings=Settings(max_new_tokens=12))
    other.file_box.value = str(file)
    press(other.open_button)
    assert turns(other) == turns(talk) and other.template.value == "swa_mla" and other.system_box.value == "A play."
    assert other.strip.html.count("lk-text") == 2
    assert other.say("Farewell.") == talk.say("Farewell.")
    other.undo()
    other.undo()
    assert turns(other) == []


def test_a_template_of_ones_own_comes_back_with_its_conversation(talk, lm, tmp_path):
    talk.say("abc")
    talk.save(tmp_path / "chat.json")
    other = Chat(lm, template="plain", settings=SHORT)
    other.load(tmp_path / "chat.json")
    assert other.conversation == talk.conversation and "marked" in other.template.options


def test_what_cannot_be_opened_is_one_line_and_changes_nothing(talk, shakespeare, tmp_path):
    talk.say("abc")
    before = talk.conversation
    for content in (None, "not JSON", "{}", json.dumps(Chat(shakespeare).conversation.say("<ABC>").to_dict())):
        file = tmp_path / "chat.json"
        if content is not None:
            file.write_text(content, encoding="utf-8")
        talk.file_box.value = str(file)
        press(talk.open_button)
        assert talk.error and "\n" not in talk.error and "lk-error" in talk.status.value
        assert talk.conversation == before and talk.template.value == "marked"


def test_it_is_written_as_page_and_as_table(talk, tmp_path):
    with pytest.raises(ConfigError, match="nothing to write"):
        talk.save(tmp_path / "chat.html")
    talk.say("abc")
    page, table = (talk.save(tmp_path / f"chat.{suffix}").read_text() for suffix in ("html", "csv"))
    assert "abc" in page and page.count("<span class=k") == 12 and "<script" not in page
    assert table.splitlines()[0] == "role,text,tokens,in prompt,finish_reason" and len(table.splitlines()) >= 3
    assert talk.view().html == talk.view().html and "tokens/s" not in talk.view().html


def test_the_code_gives_the_same_answers(shakespeare, capsys):
    talk = Chat(shakespeare, system="A play.", settings=Settings(max_new_tokens=12, temperature=0.5))
    answers = [talk.say("Who goes there?"), talk.say("And then?")]
    answers[-1] = talk.retry()
    exec(compile(talk.code(), "code", "exec"), {})
    assert capsys.readouterr().out == "".join(f"{answer}\n" for answer in answers)
    talk.copy_as.value = "Python"
    assert talk.code_box.code == talk.code()


def test_a_template_of_ones_own_is_written_out_in_the_code(talk, lm, capsys):
    answer = talk.say("abc")
    code = talk.code().replace("# lm is", "pass  # lm is")
    exec(compile(code, "code", "exec"), {"lm": lm})
    assert capsys.readouterr().out == f"{answer}\n"


# --- what goes wrong


def test_unknown_characters_are_one_line_and_the_message_stays(talk):
    send(talk, "abc <Z>")
    eventually(lambda: talk.error is not None)
    assert "outside the vocabulary" in talk.status.value and talk.message.value == "abc <Z>"
    assert talk.leave_out_button.layout.display == "" and turns(talk) == []
    press(talk.leave_out_button)
    eventually(lambda: len(turns(talk)) == 2)
    eventually(lambda: not talk._background.running)
    assert turns(talk)[0] == ("user", "abc") and talk.message.value == "" and talk.error is None


def test_a_model_that_breaks_leaves_what_it_had_written(talk, lm, monkeypatch, capfd):
    calls = []

    def breaks(*arguments, **keywords):
        calls.append(1)
        if len(calls) > 5:
            raise RuntimeError("<b>boom</b>\nwith a second line")
        return type(lm.model).hidden(lm.model, *arguments, **keywords)

    monkeypatch.setattr(lm.model, "hidden", breaks, raising=False)
    assert talk.say("abc") is None and talk.error == "RuntimeError: <b>boom</b>"
    assert "&lt;b&gt;boom" in talk.status.value and talk.strip.html.count("<span class=k") == 5
    assert talk.conversation.turns[-1].finish_reason == "interrupted"
    assert talk.say("def") is None  # it breaks at once: as if nothing had been said
    assert len(turns(talk)) == 2
    monkeypatch.undo()
    assert talk.retry() is not None and talk.error is None and len(turns(talk)) == 2
    assert capfd.readouterr() == ("", "")


def test_a_message_that_gets_no_answer_is_in_the_box_again(talk, lm, monkeypatch):
    monkeypatch.setattr(lm.model, "hidden", lambda *a, **k: 1 / 0, raising=False)
    send(talk, "abc")
    eventually(lambda: talk.error is not None and not talk._background.running)
    assert talk.message.value == "abc" and turns(talk) == [] and not talk.strip.html.count("lk-said")


def test_stop_acts_at_once_and_keeps_what_is_there(talk, lm, monkeypatch):
    endless(monkeypatch, lm)
    talk.settings = Settings(max_new_tokens=100_000)
    send(talk, "abc")
    eventually(lambda: talk.screen.answer is not None and len(talk.screen.answer.tokens) > 5)
    assert not talk.stop_button.disabled and talk.retry_button.disabled
    send(talk, "def")  # while it answers: kept, and not sent
    eventually(lambda: "Still answering" in talk.status.value)
    press(talk.stop_button)
    assert eventually(lambda: not talk._background.running) <= 0.3
    assert talk.message.value == "def" and len(turns(talk)) == 2 and "stopped" in talk.status.value
    assert talk.conversation.turns[-1].finish_reason == "interrupted"


def test_a_megabyte_is_answered_and_not_shown_in_full(talk):
    send(talk, "abcd " * 200_000)
    eventually(lambda: talk.screen.answer is not None, 60)
    eventually(lambda: not talk._background.running, 60)
    assert talk.error is None and len(turns(talk)) == 2 and talk.message.value == ""
    assert len(talk.strip.html) < 20_000 and "more characters" in talk.strip.html
    assert "the model does not see its beginning" in talk.status.value


def test_nothing_typed_becomes_markup_or_a_special_token():
    hostile = '<script>a</script>"'
    tokenizer = CharTokenizer(sorted({*hostile, *"abcdefgh \n"}))
    talk = Chat(tiny_model(tokenizer), template="plain", settings=Settings(max_new_tokens=30))
    talk.say(hostile)
    talk.message.set_state({"value": hostile})
    talk.seen_button.value = True
    for html in (talk.strip.html, talk.view().html, talk.seen.value):
        assert "<script" not in html and "&lt;script&gt;" in html


def test_two_chats_do_not_disturb_each_other(lm):
    pair = [Chat(lm, template=MARKED, settings=Settings(seed=seed, max_new_tokens=60)) for seed in (1, 2)]
    for talk in pair:
        talk.say("abc", wait=False)
    for talk, seed in zip(pair, (1, 2), strict=True):
        talk._background.wait()
        alone = Chat(lm, template=MARKED, settings=Settings(seed=seed, max_new_tokens=60))
        assert turns(talk)[1][1] == alone.say("abc")


def test_closing_ends_the_answer(lm, monkeypatch):
    endless(monkeypatch, lm)
    talk = Chat(lm, template=MARKED, settings=Settings(max_new_tokens=100_000))
    talk.say("abc", wait=False)
    eventually(lambda: talk.screen.answer is not None)
    talk.close()
    assert eventually(lambda: not talk._background.running) <= 0.3


def test_logits_are_kept_for_the_newest_tokens_only(lm, monkeypatch):
    monkeypatch.setattr("labkit.widgets.chat.LOGITS_BYTES", 4 * tiny.V * 15)
    talk = Chat(lm, template=MARKED, settings=SHORT)
    talk.say("abc")
    assert "after filters" in talk.screen.card(1)
    talk.say("def")
    assert "after filters" in talk.screen.card(1)  # it was pointed at in time
    assert "after filters" not in talk.screen.card(2) and "after filters" in talk.screen.card(14 + 12)


def test_where_the_answer_is_cut_out_of_what_was_written_it_is_shown_as_text(shakespeare):
    talk = Chat(shakespeare, settings=Settings(dialect="swamla", seed=1, max_new_tokens=30))
    answer = talk.say("Who goes there?")
    assert answer and "lk-text" in talk.strip.html and "<span class=k" not in talk.strip.html
    assert talk.strip.html == transcript.html(talk.dialogue.said, talk.screen.turn_rows, "probability")
