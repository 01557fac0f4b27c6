"""The command as people type it: in processes where start-up matters, in this one otherwise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from labkit import cli

SOURCE = "shakespeare-char"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    try:
        cli.main(list(arguments))
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_generate_prints_prompt_and_continuation_and_the_same_for_the_same_seed(capsys):
    asked = ("generate", SOURCE, "--prompt", "ROMEO:", "--max-new-tokens", "20", "--seed")
    first, again, other = run(capsys, *asked, "3"), run(capsys, *asked, "3", "--no-stream"), run(capsys, *asked, "4")
    assert first[0] == 0 and first[1].startswith("ROMEO:") and len(first[1].rstrip("\n")) >= 26 - 1
    assert first[1] == again[1] != other[1]


def test_underscores_and_dashes_are_one_option_and_the_reference_names_work(capsys):
    dashed = run(capsys, "generate", SOURCE, "--max-new-tokens", "5", "--top-k", "3", "--json")
    underscored = run(capsys, "generate", "--checkpoint", SOURCE, "--max_new_tokens", "5", "--top_k", "3", "--json")
    assert json.loads(dashed[1])["ids"] == json.loads(underscored[1])["ids"]


def test_json_output_is_one_object_with_text_ids_and_settings(capsys):
    status, out, _ = run(capsys, "generate", SOURCE, "--prompt", "To be", "--greedy", "--max-new-tokens", "8", "--json")
    said = json.loads(out)
    assert status == 0 and len(said["ids"]) == 8 and said["finish_reason"] == "length"
    assert said["settings"]["greedy"] is True and len(said["text"]) == 8


def test_an_option_beats_the_file_and_verbose_says_where_each_setting_comes_from(capsys, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[generation]\ntemperature = 0.3\ntop_k = 7\nuse_kv_cache = false\nseed = null\n")
    status, _, err = run(
        capsys, "generate", SOURCE, "--config", str(config), "--top-k", "9", "--max-new-tokens", "3", "--verbose"
    )
    assert status == 0
    assert f"temperature = 0.3 (file {config})" in err
    assert "top_k = 9 (option)" in err
    assert "use_cache = False (file" in err
    assert "top_p = 0.95 (default)" in err


def test_stop_text_ends_generation(capsys):
    asked = ("--prompt", "ROMEO:\n", "--stop", " ", "--json", "--max-new-tokens", "99")
    _, out, _ = run(capsys, "generate", SOURCE, *asked)
    said = json.loads(out)
    assert said["finish_reason"] == "stop" and " " not in said["text"]


def test_characters_outside_the_vocabulary_are_named_and_can_be_dropped(capsys):
    status, _, err = run(capsys, "generate", SOURCE, "--prompt", "caf\u00e9 = 3", "--max-new-tokens", "3")
    assert status == 1 and "'\u00e9' (position 3)" in err and "--unknown drop" in err
    status, out, err = run(
        capsys, "generate", SOURCE, "--prompt", "caf\u00e9 = 3", "--max-new-tokens", "3", "--unknown", "drop"
    )
    assert status == 0 and "Dropped from the prompt" in err


def test_inspect_tells_the_facts_in_words_and_as_json(capsys):
    status, out, _ = run(capsys, "inspect", SOURCE)
    assert status == 0 and "LabCore checkpoint" in out and "sha256" in out
    facts = json.loads(run(capsys, "inspect", SOURCE, "--json")[1])
    assert facts["family"] == "labcore" and facts["config"]["vocab_size"] == 65 and len(facts["sha256"]) == 64


def test_inspect_of_a_run_lists_its_checkpoints_and_marks_the_best(capsys):
    rows = json.loads(run(capsys, "inspect", "arithmetic", "--json")[1])
    losses = {row["checkpoint"]: row["losses"]["val"] for row in rows}
    assert [row["checkpoint"] for row in rows if row["best"]] == [min(losses, key=losses.__getitem__)]
    assert "best" in run(capsys, "inspect", "arithmetic")[1]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["generate", "nosuch"], 1, "no such file or folder"),
        (["generate", "shakespear-char"], 1, "did you mean shakespeare-char"),
        (["generate", SOURCE, "--temperature", "-1"], 1, "temperature is -1.0; it must be a number from 0"),
        (["generate", SOURCE, "--top-p", "1.5"], 1, "top_p is 1.5"),
        (["generate", SOURCE, "--config", "nosuch.toml"], 1, "nosuch.toml"),
        (["generate", SOURCE, "--prompt", ""], 1, "the prompt is empty"),
        (["generate", SOURCE, "--device", "warp"], 1, "device 'warp' is unknown"),
        (["inspect", "README.md"], 1, "README.md"),
        (["generate"], 2, "name one checkpoint"),
        (["generate", SOURCE, "--top-k", "many"], 2, "not a valid integer"),
        (["nonsense"], 2, "No such command"),
        (["train", "nosuch.toml", "--out", "x"], 1, "nosuch.toml"),
    ],
)
def test_what_goes_wrong_is_one_line_on_stderr_and_an_exit_status(capsys, arguments, status, words):
    got, out, err = run(capsys, *arguments)
    assert got == status and words in err and "Traceback" not in err
    if status == 1:
        assert len(err.strip().splitlines()) == 1 and out.strip() == ""


def test_help_is_there_without_importing_torch():
    code = "import sys; from labkit.cli import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert "generate" in said and said.strip().endswith("False")


def test_python_dash_m_labkit_is_the_command():
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-m", "labkit", "--version"], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0 and "0.1.0" in done.stdout


def test_convert_writes_reads_back_and_refuses_a_folder_that_is_there(capsys, tmp_path):
    status, out, _ = run(capsys, "convert", "step_000200", str(tmp_path / "copy"), "--dtype", "bfloat16")
    assert status == 0 and "every weight compared" in out
    facts = json.loads(run(capsys, "inspect", str(tmp_path / "copy"), "--json")[1])
    assert facts["dtype in file"] == "bfloat16" and facts["family"] == "nanochat" and facts["step"] == 200
    status, _, err = run(capsys, "convert", "step_000200", str(tmp_path / "copy"))
    assert status == 1 and "exists already" in err
