"""labkit chat and labkit generate --interactive, as people and programs use them: pipes, JSON, a real terminal."""

import io
import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import labkit
from labkit import chat, cli
from labkit.cli.display import Display, Timing, visible
from labkit.cli.repl import prompts_loop
from labkit.generation import Step
from labkit.settings import Settings

SOURCE = ("shakespeare-char", "--template", "swa_mla")


def run(capsys, monkeypatch, lines: list[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of a command into which these lines are piped."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    try:
        cli.main(list(arguments))
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def talk(capsys, monkeypatch):
    """talk(lines, *options) -> (answers as JSON, stderr)."""

    def talking(lines: list[str], *options: str) -> tuple[list[dict], str]:
        status, out, err = run(
            capsys, monkeypatch, lines, "chat", *SOURCE, "--json", "--max-new-tokens", "12", *options
        )
        assert status == 0, err
        return [json.loads(line) for line in out.splitlines()], err

    return talking


@pytest.fixture
def prompts(capsys, monkeypatch):
    """prompts(lines, settings) -> (answers as JSON, stderr)."""

    def asking(lines: list[str], settings: Settings, **options) -> tuple[list[dict], str]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        prompts_loop(labkit.load("shakespeare-char"), settings, as_json=True, **options)
        said = capsys.readouterr()
        return [json.loads(line) for line in said.out.splitlines()], said.err

    return asking


# --- what is said and answered ---------------------------------------------------------------------------------------


def test_answers_go_to_stdout_and_everything_about_them_to_stderr(capsys, monkeypatch):
    status, out, err = run(capsys, monkeypatch, ["Hello", "", "/temp 0.5", "Who?"],
                           "chat", *SOURCE, "--max-new-tokens", "20")  # fmt: skip
    lm = labkit.load("shakespeare-char")
    first = chat.reply(lm, chat.begin(lm, template="swa_mla").say("Hello"), max_new_tokens=20)
    list(first)
    assert status == 0 and out.startswith(first.text + "\n")
    second = chat.reply(lm, first.conversation.say("Who?"), max_new_tokens=20, temperature=0.5, seed=1338)
    list(second)
    assert out == f"{first.text}\n{second.text}\n"
    assert "prompt 21 of 256 tokens · answer 20 · " in err and "temperature is 0.5" in err and "\x1b" not in out + err


def test_without_streaming_the_same_is_said_at_once(capsys, monkeypatch):
    asked = ("chat", *SOURCE, "--max-new-tokens", "20")
    streamed = run(capsys, monkeypatch, ["Hello"], *asked)
    assert run(capsys, monkeypatch, ["Hello"], *asked, "--no-stream")[1] == streamed[1]


def test_json_has_the_prompt_the_answer_the_counts_and_the_settings_of_each_answer(talk):
    said, _ = talk(["Hello", "Who goes there?"], "--system", "A play.", "--seed", "5")
    assert [answer["message"] for answer in said] == ["Hello", "Who goes there?"]
    assert said[1]["prompt"] == f"A play.\n\nYou: Hello\nAssistant: {said[0]['text']}\nYou: Who goes there?\nAssistant:"
    assert said[0]["prompt_tokens"] == len(said[0]["prompt"]) and said[0]["new_tokens"] == len(said[0]["ids"]) == 12
    assert [answer["settings"]["seed"] for answer in said] == [5, 6]  # every answer has a draw of its own
    assert said[0]["context"] == 256 and said[0]["finish_reason"] == "length"


def test_a_prompt_can_be_bounded_in_tokens(talk):
    said, _ = talk(["a", "b", "c"], "--max-prompt-tokens", "60")
    assert said[1]["left_out"] == 0 and said[2]["left_out"] == 2 and said[2]["prompt_tokens"] <= 60


def test_the_file_of_settings_tells_the_system_text_and_the_turns(talk, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('[generation]\nsystem_prompt = "A play."\nmax_history_turns = 1\ntop_k = 3\n')
    said, _ = talk(["a", "b", "c"], "--config", str(file))
    assert said[2]["prompt"] == f"A play.\n\nYou: b\nAssistant: {said[1]['text']}\nYou: c\nAssistant:"
    assert said[2]["left_out"] == 2 and said[0]["settings"]["top_k"] == 3
    said, _ = talk(["a"], "--config", str(file), "--system_prompt", "Other", "--max-history-turns", "0")
    assert said[0]["prompt"].startswith("Other\n\n")


def test_a_long_conversation_leaves_out_its_oldest_turns_and_says_so(capsys, monkeypatch):
    status, _, err = run(capsys, monkeypatch, ["a" * 60] * 5, "chat", *SOURCE, "--max-new-tokens", "40")
    assert status == 0 and re.search(r"prompt \d+ of 256 tokens \(\d+ oldest turns left out\)", err)


# --- commands --------------------------------------------------------------------------------------------------------


def test_settings_are_shown_and_changed_and_a_bad_value_changes_nothing(talk):
    said, err = talk([
        "/temp", "/TEMP 0.5", "/temp -1", "/temp hot", "/temp nan", "/topk 5", "/topk none", "/topk 2.5", "/topp 0.9",
        "/topp 2", "/minp 0.1", "/tokens 3", "/tokens -1", "/tokens many", "/seed 9", "/set repetition_penalty 1.5",
        "/set stop ['x']", "/set nonsense 1", "/set greedy", "/settings", "now",
    ])  # fmt: skip
    assert err.splitlines()[:-1] == [
        "temperature is 0.8",
        "temperature is 0.5",
        "temperature is -1.0; it must be a number from 0 (0 is greedy)",
        "temperature is 'hot'; it must be a number from 0 (0 is greedy)",
        "temperature is nan; it must be a number from 0 (0 is greedy)",
        "top_k is 5",
        "top_k is off",
        "top_k is '2.5'; it must be a whole number from 0 (0 is off)",
        "top_p is 0.9",
        "top_p is 2.0; it must be above 0 and at most 1 (1 is off)",
        "min_p is 0.1",
        "max_new_tokens is 3",
        "max_new_tokens is -1; it must be a whole number from 0",
        "max_new_tokens is 'many'; it must be a whole number",
        "seed is 9",
        "repetition_penalty is 1.5",
        "stop is ['x']",
        "unknown setting 'nonsense'; known are " + err.split("known are ")[1].splitlines()[0],
        "/set needs a name and a value, as in: /set repetition_penalty 1.1",
    ]
    assert err.splitlines()[-1].startswith("temperature = 0.5, top_k = 0, top_p = 0.9, min_p = 0.1, repetition_penalty")
    in_force = said[0]["settings"]
    assert (in_force["temperature"], in_force["top_k"], in_force["seed"], said[0]["new_tokens"]) == (0.5, 0, 9, 3)


def test_ranges_are_those_of_the_dialect(talk):
    said, err = talk(["/temp -1", "/minp 0.5", "/topk -5", "a"], "--dialect", "swamla")
    assert "temperature is -1.0\n" in err and "min_p: swamla has no such stage" in err and "top_k is off" in err
    assert said[0]["settings"]["temperature"] == -1.0


def test_an_unknown_command_suggests_the_nearest_and_help_lists_them_all(talk):
    _, err = talk(["/tmp 3", "/xyzzy", "/", "/help"])
    assert "/tmp is no command; did you mean /temp?" in err
    assert "/xyzzy is no command; /help lists them" in err and "/ is no command" in err
    for name in ("quit", "clear", "temp", "topk", "topp", "minp", "tokens", "seed", "system", "undo", "retry", "save",
                 "load", "edit", "history", "set"):  # fmt: skip
        assert f"\n/{name}" in err


@pytest.mark.parametrize("word", ["/quit", "/exit", "/QUIT"])
def test_quit_and_exit_leave(talk, word):
    said, _ = talk(["a", word, "b"])
    assert len(said) == 1


def test_two_slashes_say_one(talk):
    said, err = talk(["//help me"], "--unknown", "drop")
    assert said[0]["message"] == "/help me" and "Dropped from the message, not in the vocabulary: '/'" in err


def test_undo_retry_and_edit_go_back(talk):
    said, err = talk(["one", "/retry", "two", "/undo", "three", "/edit four", "/clear", "five", "/undo", "/undo"])
    one, retried, two, three, four, five = said
    assert one["prompt"] == retried["prompt"] and one["text"] != retried["text"]
    assert retried["settings"]["seed"] == one["settings"]["seed"] + 1
    assert two["prompt"].startswith(f"You: one\nAssistant: {retried['text']}\nYou: two")
    assert three["prompt"] == two["prompt"].replace("You: two", "You: three")
    assert four["prompt"] == two["prompt"].replace("You: two", "You: four")
    assert five["prompt"] == "You: five\nAssistant:"
    assert "Taken back: two" in err and err.endswith("there is nothing to take back\n")


def test_going_back_before_anything_was_said_is_one_line(talk):
    said, err = talk(["/retry", "/edit", "/undo"])
    assert said == [] and len(err.splitlines()) == 3 and "no message yet" in err


def test_the_system_text_is_shown_changed_and_taken_away(talk):
    said, err = talk(["/system", "/system A play.", "a", "/system none", "b", "/system caf\u00e9", "/system"])
    assert said[0]["prompt"].startswith("A play.\n\nYou: a") and said[1]["prompt"].startswith("You: a")
    assert err.splitlines()[0] == "no system text" and err.splitlines()[-1] == "no system text"
    assert "'\u00e9' (position 3)" in err


def test_an_unknown_character_is_one_line_and_the_conversation_goes_on_without_it(talk):
    said, err = talk(["caf\u00e9", "cafe"])
    assert len(said) == 1 and said[0]["prompt"] == "You: cafe\nAssistant:"
    assert "'\u00e9' (position 3)" in err and "Not sent: caf\u00e9" in err


def test_history_tells_who_said_what_and_how_long_it_is(talk):
    said, err = talk(["Hello", "/history"])
    assert f"{len('You: Hello') + 1:>6}  user: Hello" in err and "  assistant: " in err
    whole = f"You: Hello\nAssistant: {said[0]['text']}\n"
    assert f"{len(whole):>6}  tokens in all, of a context of 256" in err


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_saved_conversation_goes_on_where_it_was(talk, tmp_path):
    file = str(tmp_path / "talk.json")
    whole, _ = talk(["one", "two", "three"], "--system", "A play.")
    talk(["one", "two"], "--system", "A play.", "--save", file)
    rest, _ = talk(["three"], "--load", file)
    assert rest == whole[2:]
    rest, err = talk([f"/load {file}", "three"])
    assert rest == whole[2:] and f"4 turns from {file}" in err
    _, err = talk(["one", "/save", f"/save {tmp_path / 'other.json'}", "/load", "/load nowhere.json"])
    assert "/save needs the name of a file" in err and "/load needs the name of a file" in err
    assert "2 turns written to" in err and "nowhere.json: cannot be read" in err


def test_a_file_that_cannot_be_written_does_not_take_the_answer_back(talk, tmp_path):
    said, err = talk(["one", "two"], "--save", str(tmp_path))
    assert len(said) == 2 and said[0]["text"] in said[1]["prompt"] and "cannot be written" in err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["shakespeare-char"], 1, "it can write swa_mla"),
        (["shakespeare-char", "--template", "nonsense"], 1, "chat template 'nonsense' is unknown"),
        (["shakespeare-char", "--template", "nowhere.toml"], 1, "nowhere.toml: cannot be read"),
        (["shakespeare-char", "--template", "chatml"], 1, "'<', '|'"),
        ([*SOURCE, "--load", "nowhere.json"], 1, "nowhere.json: cannot be read"),
        ([*SOURCE, "--temperature", "-1"], 1, "temperature is -1.0"),
        ([*SOURCE, "--special", "parse"], 2, "always text"),
        ([*SOURCE, "--max-history-turns", "x"], 2, "not a valid integer"),
        (["nosuch"], 1, "no such file or folder"),
    ],
)
def test_what_cannot_work_is_one_line(capsys, monkeypatch, arguments, status, words):
    got, out, err = run(capsys, monkeypatch, ["a"], "chat", *arguments)
    assert got == status and out == "" and words in err and "Traceback" not in err
    assert status == 2 or len(err.strip().splitlines()) == 1


def test_bytes_that_are_no_text_are_one_line():
    asked = [sys.executable, "-m", "labkit", "chat", *SOURCE, "--max-new-tokens", "3"]
    done = subprocess.run(asked, input=b"a\n\xff\xfe\n", capture_output=True, timeout=60, env=environment())
    assert b"no UTF-8 text" in done.stderr or b"not utf-8 text" in done.stderr
    assert b"Traceback" not in done.stderr


# --- the loop of independent prompts ---------------------------------------------------------------------------------


def test_every_line_is_a_prompt_by_itself_until_a_bare_quit(prompts):
    said, err = prompts(["ROMEO:", "", "/tokens 2", "ROMEO:", "/topk none", " Quit ", "no"], Settings(max_new_tokens=5))
    assert [answer["prompt"] for answer in said] == ["ROMEO:", "ROMEO:"]
    assert said[0]["ids"][:2] == said[1]["ids"] and len(said[0]["ids"]) == 5
    assert "Type a text to continue" in err and "top_k is off" in err
    assert said[0]["ids"] == labkit.generate(labkit.load("shakespeare-char"), "ROMEO:", max_new_tokens=5).ids


def test_nanochat_leaves_at_an_empty_line_and_begins_with_100_tokens(prompts):
    said, err = prompts(["/tokens", "/tokens 3", "  To be ", "", "no"], Settings(dialect="nanochat", max_new_tokens=7))
    assert [answer["prompt"] for answer in said] == ["To be"] and len(said[0]["ids"]) == 3
    assert "max_new_tokens is 100" in err


def test_a_line_can_be_prepared(prompts):
    said, _ = prompts([r"a\nb"], Settings(max_new_tokens=1), prepare=lambda line: line.replace(r"\n", "\n"))
    assert said[0]["prompt"] == "a\nb"


def test_generate_interactive_prints_prompt_and_continuation(capsys, monkeypatch):
    status, out, err = run(capsys, monkeypatch, ["ROMEO:", "q"],
                           "generate", "shakespeare-char", "--interactive", "--max-new-tokens", "4")  # fmt: skip
    assert status == 0 and out.startswith("ROMEO:") and len(out) == len("ROMEO:") + 4 + 1
    assert "prompt 6 tokens · 4 new · " in err and "length" in err


# --- what reaches the screen -----------------------------------------------------------------------------------------


def test_no_control_character_reaches_a_terminal():
    hostile = "a\x1b[2J\r\x07\x9b31m\x7f\tb\n"
    assert visible(hostile) == "a\u241b[2J\u240d\u2407\\x9b31m\u2421\tb\n"


def test_at_a_terminal_the_models_control_characters_are_pictures_coloured_or_not(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    for color in (False, True):
        Display(color=color).show(iter([step("a\x1b[2J\x9b", -4.0)]))
        out = capsys.readouterr().out
        assert "a\u241b[2J\\x9b" in out and "\x1b[2J" not in out and "\x9b" not in out
    Display(streaming=False).text("\x07")
    assert capsys.readouterr().out == "\u2407"


def step(text: str, logprob: float) -> Step:
    fields = {"id": 0, "text": text, "logprob": logprob, "rank": 0, "entropy": 0.0, "logits": None}
    return Step(**fields | ({"raw_logprob": logprob} if "raw_logprob" in Step.__dataclass_fields__ else {}))


def test_colour_is_there_on_request_only_and_never_in_a_pipe_unless_forced(capsys, monkeypatch):
    steps = [step("sure", -0.01), step("rare", -4.0)]
    for variable in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    piped = Display(color=True)
    piped.legend()
    piped.show(iter(steps))
    assert tuple(capsys.readouterr()) == ("surerare", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    Display(color=False).show(iter(steps))
    assert capsys.readouterr().out == "surerare"
    coloured = Display(color=True)
    coloured.legend()
    coloured.show(iter(steps))
    said = capsys.readouterr()
    assert re.fullmatch("sure\x1b\\[[0-9;]+mrare\x1b\\[0m", said.out) and "probability 100 %" in said.err


def test_timing_counts_what_came_after_the_first_token():
    assert Timing(10, 2.0, False).words == "5.0 tokens/s" and Timing(0, 0.0, False).words == ""


# --- a real terminal -------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    root = Path(__file__).resolve().parent.parent
    return os.environ | {
        "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "TERM": "xterm-256color",
        "PROMPT_TOOLKIT_NO_CPR": "1",  # nobody here answers where the cursor is
        "PYTHONUTF8": "1",
    }


class Terminal:
    """A program in a pseudo-terminal of its own, as a person at a keyboard has it."""

    def __init__(self, *arguments: str):
        import pty

        self.screen, inner = pty.openpty()
        # The child makes this terminal its own, so that Ctrl-C there becomes a signal to it and to nobody else.
        code = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from labkit.cli import main; main()"
        self.program = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=inner, stdout=inner, stderr=inner, start_new_session=True, env=environment(),
        )  # fmt: skip
        os.close(inner)

    def until(self, pattern: str, seconds: float = 60) -> str:
        """What appears, up to where the pattern is found in it; without colours and cursor movements."""
        seen, end = b"", time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.screen], [], [], 0.2)[0]:
                try:
                    seen += os.read(self.screen, 65536)
                except OSError:  # the program has gone
                    break
            if re.search(pattern, plain(seen)):
                return plain(seen)
        raise AssertionError(f"{pattern!r} did not appear in {plain(seen)!r}")

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())


def plain(seen: bytes) -> str:
    return re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", seen.decode(errors="replace"))


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    opened = Terminal(*arguments)
    try:
        yield opened
    finally:
        opened.program.kill()
        opened.program.wait()
        os.close(opened.screen)


PROMPT = r">\x08?$"  # waiting for a line


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix's")
def test_at_a_terminal_lines_are_edited_ctrl_c_stops_the_answer_and_ctrl_d_leaves():
    with terminal("chat", *SOURCE, "--max-new-tokens", "100000", "--color") as person:
        assert "probability 100 %" in person.until(PROMPT)
        person.type("Helo\x1b[Dl\r")  # one to the left, then the letter that was left out
        person.until(r"Hello")
        person.until(r"\w+ \w+")  # the answer has begun
        person.type("\x03")
        stopped = person.until(r"leaves\.[\s\S]*" + PROMPT)
        assert "interrupted" in stopped
        person.type("\x1b[200~/system two\nlines\x1b[201~")  # a paste is one message, and Enter sends it
        person.type("\r")
        assert "system: two" in person.until(r"lines\s+>\x08?$")
        person.type("/hist\t")  # completed
        person.until("/history")
        person.type("\r")
        said = person.until(r"tokens in all")
        assert "user: Hello" in said and re.search(r"assistant: \w+", said)  # what there was of the answer is kept
        person.type("/edit\r")
        person.until(r"> Hello")  # the message stands there again, to be changed
        person.type("\x03\x04")
        assert person.program.wait(timeout=30) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are Unix's")
def test_at_a_terminal_a_second_ctrl_c_with_nothing_typed_leaves():
    with terminal("generate", "shakespeare-char", "--interactive") as person:
        person.until(PROMPT)
        person.type("abc\x03")  # drops what was typed
        person.until(r"> abc[\s\S]*" + PROMPT)
        person.type("\x03")
        person.until(r"leaves\.[\s\S]*" + PROMPT)
        person.type("\x03")
        assert person.program.wait(timeout=30) == 0
