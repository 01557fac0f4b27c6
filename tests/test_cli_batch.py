"""labkit batch: what goes in, what comes out, and that killing it at any moment loses and repeats nothing."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import labkit
from labkit import cli
from labkit.cli import batch
from labkit.cli.prompts import BUILT_IN
from labkit.cli.records import record_file

SOURCE = "shakespeare-char"
PROMPTS = ["To be", "ROMEO:", "O", "What is", "My lord, the king", "A horse", "Enter", "Exeunt all", "Come"]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """labkit batch with few tokens, in a folder of its own -> exit status, stdout, stderr."""

    def labkit_batch(*arguments: str | Path, tokens: int = 6) -> tuple[int, str, str]:
        try:
            cli.main(["batch", SOURCE, *map(str, arguments), "--max-new-tokens", str(tokens)])
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        said = capsys.readouterr()
        return status, said.out, said.err

    shipped = str(labkit.language_model.shipped_folder().resolve())
    monkeypatch.setenv("LABKIT_CHECKPOINTS", shipped)
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    return labkit_batch


def records(path: str | Path = "out.jsonl") -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write_lines(name: str, *lines: dict | str) -> None:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    Path(name).write_text("\n".join(text) + "\n", encoding="utf-8")


# --- in and out


def test_every_prompt_is_one_record_in_order_with_what_generate_gives(run):
    status, out, err = run("prompts.txt", "--out", "out.jsonl", "--seed", "5")
    assert (status, out, err) == (0, "", "")
    lm = labkit.load(SOURCE)
    for index, (record, prompt) in enumerate(zip(records(), PROMPTS, strict=True)):
        alone = labkit.generate(lm, prompt, seed=5, max_new_tokens=6)
        assert (record["index"], record["line"], record["prompt"]) == (index, index + 1, prompt)
        assert (record["text"], record["ids"], record["prompt_ids"]) == (alone.text, alone.ids, alone.prompt_ids)
        assert record["finish_reason"] == "length" and record["settings"] == alone.settings.to_dict()
        assert record["model"] == {"sha256": lm.checkpoint.sha256, "dtype": "float32"}


@pytest.mark.parametrize("dialect", ["labkit", "swamla", "llama.cpp"])
def test_the_batch_size_changes_nothing(run, dialect):
    written = set()
    for size in ("1", "2", "8"):
        run("prompts.txt", "--out", f"{size}.jsonl", "--batch-size", size, "--dialect", dialect, "--seed", "3")
        written.add(Path(f"{size}.jsonl").read_bytes())
    assert len(written) == 1 and len(records("1.jsonl")) == len(PROMPTS)


def test_a_text_file_has_one_prompt_a_line_without_the_blanks_around_it_and_blank_lines_are_none(run):
    mark = b"\xef\xbb\xbf"  # some editors begin a file with it
    Path("p.txt").write_bytes(mark + b"  To be \r\n\n \t\n# no comment\r\n")
    assert run("p.txt", "--out", "out.jsonl", "--unknown", "drop")[0] == 0
    assert [(r["line"], r["prompt"]) for r in records()] == [(1, "To be"), (4, "# no comment")]


def test_json_lines_carry_ids_settings_of_their_own_and_token_ids(run):
    write_lines(
        "p.jsonl",
        {"prompt": " To be ", "id": "first", "temperature": 0, "max_new_tokens": 2},
        {"prompt": [1, 2, 3], "id": {"any": "thing"}},
        {"prompt": "ROMEO:", "stop": [" "], "seed": 77},
    )
    assert run("p.jsonl", "--out", "out.jsonl")[0] == 0
    first, second, third = records()
    assert (first["id"], len(first["ids"]), first["settings"]["temperature"]) == ("first", 2, 0)
    assert (first["prompt"], first["prompt_ids"][0]) == (" To be ", 1)
    assert (second["prompt_ids"], second["id"]) == ([1, 2, 3], {"any": "thing"})
    assert (third["settings"]["seed"], third["settings"]["stop"]) == (77, [" "])


def test_json_lines_or_text_is_said_by_the_name_or_the_first_line_of_stdin_or_an_option(run, monkeypatch):
    line = '{"prompt": "To be"}\n'
    for file, text, option, prompt in [
        ("-", line, "auto", "To be"),
        ("-", "To be\n", "auto", "To be"),
        ("p.txt", line, "jsonl", "To be"),
        ("p.txt", line, "auto", line.strip()),
        ("-", line, "text", line.strip()),
    ]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        Path("p.txt").write_text(text)
        _, out, err = run(file, "--input-format", option, "--json", "--unknown", "drop")
        assert out, err
        assert json.loads(out)["prompt"] == prompt


def test_escapes_are_read_where_asked_for(run):
    write_lines("p.txt", r"ROMEO:\nO")
    assert run("p.txt", "--escape", "--out", "out.jsonl")[0] == 0
    assert records()[0]["prompt_ids"] == labkit.load(SOURCE).require_tokenizer().encode("ROMEO:\nO")


def test_without_out_results_are_shown_and_without_a_file_there_are_prompts_to_try(run):
    status, out, _ = run()
    assert status == 0
    assert [line for line in out.splitlines() if line.startswith("[")] == [
        f"[{i}/5] {prompt}" for i, prompt in enumerate(BUILT_IN[:5], start=1)
    ]


def test_the_checkpoint_may_be_an_option_and_then_the_argument_is_the_file(capsys, tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("To be\n")
    for arguments in (["--checkpoint", SOURCE, str(file)], [SOURCE, "--prompts_file", str(file)]):
        cli.main(["batch", *arguments, "--json", "--max-new-tokens", "2", "--mode", "batch"])
        assert json.loads(capsys.readouterr().out)["prompt"] == "To be"


def test_n_continuations_are_one_record_each_and_the_first_is_that_of_a_single_run(run):
    run("prompts.txt", "--out", "one.jsonl")
    run("prompts.txt", "--out", "three.jsonl", "--n", "3")
    three = records("three.jsonl")
    assert [(r["index"], r["continuation"]) for r in three] == [(i, c) for i in range(len(PROMPTS)) for c in range(3)]
    assert [r["ids"] for r in three[::3]] == [r["ids"] for r in records("one.jsonl")]
    assert len({tuple(r["ids"]) for r in three[:3]}) > 1


def test_one_seed_is_for_all_prompts_or_counts_up_from_prompt_to_prompt(run):
    write_lines("same.txt", *["To be"] * 4)
    run("same.txt", "--out", "same.jsonl", "--seed", "10")
    run("same.txt", "--out", "counted.jsonl", "--seed", "10", "--seed-per-line")
    assert len({r["text"] for r in records("same.jsonl")}) == 1
    assert [r["settings"]["seed"] for r in records("counted.jsonl")] == [10, 11, 12, 13]
    assert len({r["text"] for r in records("counted.jsonl")}) > 1


def test_progress_is_shown_on_a_terminal_and_nowhere_else(run, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert run("prompts.txt", "--json")[0] == 0
        assert ("9/9" in stream.getvalue()) is shown


# --- what is broken


def test_a_line_that_cannot_be_done_is_reported_with_its_number_and_the_rest_is_done(run):
    good = '{"prompt": "To be"}'
    bad = [
        ('{"prompt": "To be"', "is no JSON"),
        ('{"text": "To be"}', 'no JSON object with "prompt"'),
        ('{"prompt": 7}', "must be a text or a list of token ids"),
        ('{"prompt": "To be", "temprature": 1}', "did you mean temperature"),
        ('{"prompt": "To be", "top_p": 7}', "top_p is 7"),
        ('{"prompt": "caf\u00e9"}', "'\u00e9' (position 3)"),
        ('{"prompt": ""}', "the prompt is empty"),
        ('{"prompt": [1, 99999]}', "id 99999 is outside the vocabulary"),
        ('{"prompt": "To be", "max_new_tokens": "x"}', "max_new_tokens is 'x'"),
        ('{"prompt": "To be", "temperature": NaN}', "temperature is nan"),
        ('{"prompt": "To be", "stop": null}', ""),
        ('{"prompt": "To be", "dialect": []}', ""),
        (r'{"prompt": "half \ud800 a pair"}', "position 5"),
        ("[" * 100000, "is no JSON"),
    ]
    write_lines("p.jsonl", good, *(line for line, _ in bad), good)
    with Path("p.jsonl").open("ab") as file:
        file.write(b'{"prompt": "\xff"}\n')
    for attempt in range(2):  # the second one finds everything done, and says the same at the end
        status, out, err = run("p.jsonl", "--out", "out.jsonl")
        assert (status, out) == (1, "") and "Traceback" not in err
        assert err.splitlines()[-1] == f"labkit: {len(bad) + 1} of {len(bad) + 3} prompts failed (p.jsonl)"
        if attempt == 0:
            for number, (_, words) in enumerate(bad, start=2):
                assert any(f"p.jsonl, line {number}: " in line and words in line for line in err.splitlines()), words
    found = records()
    assert ["error" in record for record in found] == [False] + [True] * len(bad) + [False, True]
    assert [record["line"] for record in found] == list(range(1, len(found) + 1))


def test_a_line_that_fails_while_it_runs_does_not_take_its_neighbours_with_it(run):
    write_lines("p.jsonl", {"prompt": "To be"}, {"prompt": "O", "allowed_ids": [99999]}, {"prompt": "ROMEO:"})
    status, _, err = run("p.jsonl", "--out", "out.jsonl")
    assert status == 1 and "p.jsonl, line 2: " in err and "prompts[" not in err
    assert ["error" in record for record in records()] == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["absent.txt"], 1, "absent.txt: cannot be read"),
        (["empty.txt"], 1, "empty.txt: there are no prompts in it"),
        (["prompts.txt", "--top-p", "7"], 1, "top_p is 7.0"),
        (["prompts.txt", "--out", "prompts.txt/x"], 1, "cannot be written"),
        (["prompts.txt", "--out", "prompts.txt"], 1, "line 1 is no record of labkit batch"),
        (["prompts.txt", "--prompts-file", "prompts.txt"], 2, "name one file of prompts"),
        (["prompts.txt", "--batch-size", "0"], 2, "x>=1"),
        (["prompts.txt", "--stop", "\\q", "--escape"], 1, "--escape"),
    ],
)
def test_bad_input_is_one_line(run, arguments, status, words):
    Path("empty.txt").write_text(" \n\n")
    got, out, err = run(*arguments)
    assert (got, out) == (status, "") and words in err and "Traceback" not in err
    assert status == 2 or len(err.splitlines()) == 1
    assert Path("prompts.txt").read_text().split("\n") == PROMPTS


# --- going on


@pytest.fixture
def whole(run) -> bytes:
    """The output of a run that nobody interrupted: two continuations of each prompt."""
    run("prompts.txt", "--out", "whole.jsonl", "--n", "2")
    return Path("whole.jsonl").read_bytes()


def test_a_run_cut_anywhere_goes_on_to_the_very_same_file(run, whole):
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    cuts = [0, 1, 9, ends[0] - 1, *ends[:3], ends[2] + 5, ends[4] - 20, ends[-2] + 400, len(whole) - 1, len(whole)]
    for cut in cuts:
        Path("out.jsonl").write_bytes(whole[:cut])
        assert run("prompts.txt", "--out", "out.jsonl", "--n", "2", "--batch-size", "3")[::2] == (0, ""), cut
        assert Path("out.jsonl").read_bytes() == whole, cut
    assert not list(Path().glob(".*"))  # nothing is left beside it


def test_nothing_that_is_there_is_done_again(run, whole, monkeypatch):
    Path("out.jsonl").write_bytes(whole)
    monkeypatch.setattr("labkit.cli.batch.stream_batch", None)
    assert run("prompts.txt", "--out", "out.jsonl", "--n", "2")[0] == 0


def test_prompts_added_at_the_end_are_done_and_the_others_are_not(run, whole):
    Path("out.jsonl").write_bytes(whole)
    write_lines("prompts.txt", *PROMPTS, "Once more")
    assert run("prompts.txt", "--out", "out.jsonl", "--n", "2")[0] == 0
    after = Path("out.jsonl").read_bytes()
    assert after.startswith(whole) and [r["prompt"] for r in records()[-2:]] == ["Once more"] * 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--temperature", "0.5"], "line 1 is from other settings (temperature 0.8, now 0.5)"),
        (["--seed", "9"], "line 1 is from other settings (seed 1337, now 9)"),
        (["--dtype", "bfloat16"], "line 1 is from other weights"),
        (["--n", "3"], "line 3 is from other prompts or another --n"),
        (["--n", "1"], "line 2 is from other prompts or another --n"),
        (["--input-format", "jsonl"], "line 1 is from other prompts"),
    ],
)
def test_a_run_with_other_settings_weights_or_prompts_is_refused_and_the_file_left_alone(run, whole, change, words):
    Path("out.jsonl").write_bytes(whole[:-30])
    status, _, err = run("prompts.txt", "--out", "out.jsonl", "--n", "2", *change)
    assert status == 1 and words in err and len(err.splitlines()) == 1
    assert len(records_whole := Path("out.jsonl").read_bytes()) <= len(whole) and whole.startswith(records_whole)


def test_other_weights_and_other_prompts_are_told_apart(run, whole, tmp_path):
    Path("out.jsonl").write_bytes(whole)
    write_lines("other.txt", *PROMPTS[:3], "another", *PROMPTS[4:])
    assert "line 7 is from other prompts" in run("other.txt", "--out", "out.jsonl", "--n", "2")[2]
    write_lines("fewer.txt", *PROMPTS[:3])
    assert "more than the 3 prompts" in run("fewer.txt", "--out", "out.jsonl", "--n", "2")[2]
    forged = whole.replace(b'"sha256": "', b'"sha256": "0')
    Path("out.jsonl").write_bytes(forged)
    assert "line 1 is from other weights" in run("prompts.txt", "--out", "out.jsonl", "--n", "2")[2]
    assert Path("out.jsonl").read_bytes() == forged


@pytest.mark.parametrize("content", ["hello", '{"a": 1}\n', '{"index": 0, "prompt"\n', "one\ntwo\n"])
def test_a_file_that_is_not_ours_is_left_alone(run, content):
    Path("out.jsonl").write_text(content)
    status, _, err = run("prompts.txt", "--out", "out.jsonl")
    assert status == 1 and "name another --out" in err and Path("out.jsonl").read_text() == content


@pytest.mark.parametrize("seeds", [[], ["--seed-per-line"]])
def test_a_seed_that_nobody_chose_stays_the_one_of_the_first_run(run, seeds):
    asked = ("prompts.txt", "--out", "out.jsonl", "--dialect", "labcore", *seeds)
    run(*asked)
    whole = Path("out.jsonl").read_bytes()
    Path("out.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))
    assert run(*asked)[0] == 0 and Path("out.jsonl").read_bytes() == whole


# The same process imports everything once, and every run is a child that is really killed.
KILLER = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from labkit import cli
from labkit.cli import batch
from labkit.cli import batch
out, *arguments = sys.argv[1:]
delays = random.Random(0)
size = lambda: os.path.getsize(out) if os.path.exists(out) else 0
for attempt in range(6):
    before = size()
    child = os.fork()
    if not child:
        cli.main(arguments)
        os._exit(0)
    give_up = time.monotonic() + 20
    while size() == before and time.monotonic() < give_up:
        time.sleep(0.001)
    time.sleep(delays.random() * 0.03)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, attempt
    print(size(), flush=True)
"""


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="kills forked processes")
def test_killed_six_times_it_loses_and_repeats_nothing(run):
    write_lines("many.txt", *(f"{prompt} {word}" for prompt in PROMPTS for word in ("and", "or", "the", "of")))
    asked = ("many.txt", "--batch-size", "2", "--seed", "8")
    arguments = ["batch", SOURCE, *asked, "--out", "killed.jsonl", "--max-new-tokens", "8"]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, "killed.jsonl", *arguments], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    sizes = [int(size) for size in done.stdout.split()]
    assert len(sizes) == 6 and sizes == sorted(set(sizes)) and sizes[0] > 0
    run(*asked, "--out", "whole.jsonl", tokens=8)
    whole = Path("whole.jsonl").read_bytes()
    assert sizes[-1] < len(whole), "the last kill came too late to show anything"
    assert run(*asked, "--out", "killed.jsonl", tokens=8)[0] == 0
    assert Path("killed.jsonl").read_bytes() == whole


def test_two_processes_do_not_write_one_file(run):
    with record_file(Path("out.jsonl")):
        status, _, err = run("prompts.txt", "--out", "out.jsonl")
    assert status == 1 and "another labkit batch is writing it" in err


def test_ctrl_c_leaves_whole_lines_and_says_how_to_go_on(run, monkeypatch):
    real, calls = batch.stream_batch, []

    def interrupted_third_time(*arguments, **words):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **words)

    monkeypatch.setattr(batch, "stream_batch", interrupted_third_time)
    status, _, err = run("prompts.txt", "--out", "out.jsonl", "--batch-size", "2")
    assert status == 130 and "4 of 9 prompts are done" in err and len(records()) == 4
