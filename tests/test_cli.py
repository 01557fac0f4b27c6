"""The command as people type it: in processes where start-up matters, in this one otherwise."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch

import labkit
from labkit import Settings, cli
from labkit.cli import generate
from labkit.cli.options import Request, generation_options
from labkit.settings import FIELDS

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
    asked = ("--config", str(config), "--dialect", "swamla", "--prompt", "O", "--max-new-tokens", "2", "--verbose")
    _, _, err = run(capsys, "generate", SOURCE, *asked)
    assert "top_p = 0.9 (default of swamla)" in err and "temperature = 0.3 (file" in err


# What to type for every field of Settings, and what it becomes.
TYPED: dict[str, tuple[str, object]] = {
    "temperature": ("--temperature 0.5", 0.5),
    "top_k": ("--top-k 7", 7),
    "top_p": ("--top_p 0.7", 0.7),
    "min_p": ("--min-p 0.1", 0.1),
    "repetition_penalty": ("--repetition_penalty 1.3", 1.3),
    "frequency_penalty": ("--frequency-penalty -0.5", -0.5),
    "presence_penalty": ("--presence-penalty 0.5", 0.5),
    "dry_multiplier": ("--dry-multiplier 0.8", 0.8),
    "dry_base": ("--dry-base 2", 2.0),
    "dry_allowed_length": ("--dry-allowed-length 3", 3),
    "no_repeat_ngram_size": ("--no-repeat-ngram-size 3", 3),
    "logit_bias": ("--logit-bias 3=1.5 --logit-bias 4=-inf", {3: 1.5, 4: float("-inf")}),
    "allowed_ids": ("--allowed-ids 1,2,3", (1, 2, 3)),
    "forbidden_ids": ("--forbidden_ids 4", (4,)),
    "top_n_sigma": ("--top-n-sigma 1.5", 1.5),
    "typical_p": ("--typical-p 0.9", 0.9),
    "epsilon_cutoff": ("--epsilon-cutoff 0.01", 0.01),
    "eta_cutoff": ("--eta-cutoff 0.02", 0.02),
    "xtc_probability": ("--xtc-probability 0.5", 0.5),
    "xtc_threshold": ("--xtc-threshold 0.2", 0.2),
    "mirostat_tau": ("--mirostat-tau 5", 5.0),
    "mirostat_eta": ("--mirostat-eta 0.2", 0.2),
    "greedy": ("--no_sample", True),
    "seed": ("--seed 12", 12),
    "max_new_tokens": ("--max_tokens 9", 9),
    "max_length": ("--max_length 30", 30),
    "min_new_tokens": ("--min-new-tokens 2", 2),
    "stop": ("--stop a --stop-id 5 --stop b", ("a", "b", 5)),
    "use_cache": ("--no-use-kv-cache", False),
    "overflow": ("--overflow recrop", "recrop"),
    "penalty_scope": ("--penalty-scope prompt", "prompt"),
    "deterministic": ("--deterministic", True),
}


def settings_of(capsys, *arguments: str) -> Settings:
    """The settings that a command line comes to."""
    status, out, err = run(capsys, "generate", SOURCE, "--json", "--prompt", "O", *arguments)
    assert status == 0, err
    return Settings(**json.loads(out)["settings"])


def test_every_field_of_settings_is_an_option(capsys):
    assert set(TYPED) == set(FIELDS)
    arguments = [part for name, (typed, _) in TYPED.items() if name != "overflow" for part in typed.split()]
    got = settings_of(capsys, *arguments, *TYPED["overflow"][0].split())
    assert {name: getattr(got, name) for name in FIELDS} == {name: value for name, (_, value) in TYPED.items()}
    assert settings_of(capsys, "--dialect", "nanochat", "--max-new-tokens", "1").dialect == "nanochat"


@pytest.mark.parametrize("word", ["off", "none", "None"])
def test_a_word_switches_a_stage_off(capsys, word):
    names = ("top_k", "top_p", "min_p", "repetition_penalty", "typical_p", "max_length", "allowed_ids", "mirostat_tau")
    arguments = [part for name in names for part in (f"--{name}", word)]
    got = settings_of(capsys, *arguments, "--max-new-tokens", "1")
    assert [getattr(got, name) for name in names] == [None] * len(names)
    fresh = {settings_of(capsys, "--seed", word, "--max-new-tokens", "1").seed for _ in range(3)}
    assert len(fresh) == 3


def test_the_file_says_device_dtype_and_streaming_where_no_option_does(capsys, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text('[generation]\nstream = false\ndtype = "bfloat16"\ndevice = "cpu"\ndialect = "hf"\n')
    asked = request(["--config", str(config)])
    assert (asked.model.dtype, asked.model.device, asked.streaming, asked.settings.dialect) == (
        "bfloat16", "cpu", False, "hf",
    )  # fmt: skip
    asked = request(["--config", str(config), "--dtype", "float32", "--stream", "--dialect", "labkit"])
    assert (asked.model.dtype, asked.streaming, asked.settings.dialect) == ("float32", True, "labkit")
    config.write_text("[generation]\ntop_p = 7.0\n")
    status, _, err = run(capsys, "generate", SOURCE, "--config", str(config))
    assert status == 1 and f"{config}: top_p is 7.0" in err


def request(arguments: list[str]) -> Request:
    """What a command that generates makes of these arguments, without opening anything."""
    caught: list[Request] = []

    @click.command()
    @generation_options("generate")
    def command(request: Request, **_: object) -> None:
        caught.append(request)

    command.main([SOURCE, *arguments], standalone_mode=False)
    return caught[0]


def test_swa_mla_asks_for_cuda_and_bfloat16_and_takes_float32_where_there_is_no_cuda(monkeypatch):
    asked: list[tuple] = []
    monkeypatch.setattr("labkit.language_model.load", lambda source, **how: asked.append((how["device"], how["dtype"])))
    for has_cuda in (False, True):
        device = torch.device("cuda" if has_cuda else "cpu")
        monkeypatch.setattr("labkit.language_model.resolve_device", lambda wanted, device=device: (device, ()))
        for arguments in ([], ["--device", "cpu"], ["--dtype", "float16"]):
            request(["--dialect", "swamla", *arguments]).model.load("swamla")
    assert asked[:3] == [("cuda", "float32"), ("cpu", "bfloat16"), ("cuda", "float16")]
    assert asked[3:] == [("cuda", "bfloat16"), ("cpu", "bfloat16"), ("cuda", "float16")]


def test_labcore_reads_five_keys_of_the_file_and_says_what_it_does_not_use(capsys, tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("[generation]\ntemperature = 0.1\ntop_k = 3\ntop_p = 0.8\nseed = 4\nstream = false\n")
    asked = ("generate", SOURCE, "--prompt", "O", "--max-new-tokens", "2", "--config", str(config), "--json")
    status, out, err = run(capsys, *asked, "--dialect", "labcore")
    got = json.loads(out)["settings"]
    assert status == 0 and "not used: stream, temperature, top_k." in err
    assert (got["temperature"], got["top_k"], got["top_p"], got["seed"]) == (0.9, 40, 0.8, 4)
    assert json.loads(run(capsys, *asked)[1])["settings"]["temperature"] == 0.1


# --- what is continued


def test_a_prompt_comes_from_a_file_or_from_standard_input_without_its_last_line_end(capsys, tmp_path, monkeypatch):
    file = tmp_path / "p.txt"
    file.write_bytes(b"\xef\xbb\xbfROMEO:\n\n")
    asked = ("generate", SOURCE, "--max-new-tokens", "2", "--json", "--prompt-file")
    from_file = json.loads(run(capsys, *asked, str(file))[1])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ROMEO:\r\n")))
    from_stdin = json.loads(run(capsys, *asked, "-", "--unknown", "drop")[1])
    assert (from_file["prompt"], from_stdin["prompt"]) == ("ROMEO:\n", "ROMEO:")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("caf\u00e9".encode("latin-1"))))
    status, _, err = run(capsys, *asked, "-")
    assert status == 1 and err.strip() == "labkit: standard input: byte 3 is no UTF-8 text (unexpected end of data)"


def test_escapes_are_read_in_prompts_and_stops_where_asked_for(capsys):
    asked = (
        "generate",
        SOURCE,
        "--max-new-tokens",
        "1",
        "--json",
        "--prompt",
        r"ROMEO:\n\u0041\tb\\",
        "--unknown",
        "drop",
    )
    assert json.loads(run(capsys, *asked)[1])["prompt"] == r"ROMEO:\n\u0041\tb\\"
    said = json.loads(run(capsys, *asked, "--escape", "--stop", r"\n")[1])
    assert said["prompt"] == "ROMEO:\nA\tb\\" and said["settings"]["stop"] == ["\n"]


def test_without_a_prompt_there_is_one_that_the_model_can_write(capsys):
    for source, prompt in ((SOURCE, "To be"), ("arithmetic", "12+34")):
        assert json.loads(run(capsys, "generate", source, "--max-new-tokens", "1", "--json")[1])["prompt"] == prompt


def test_token_ids_are_a_prompt_too(capsys):
    text = json.loads(run(capsys, "generate", SOURCE, "--prompt", "ROMEO:", "--max-new-tokens", "4", "--json")[1])
    ids = ",".join(map(str, text["prompt_ids"]))
    status, out, _ = run(capsys, "generate", SOURCE, "--prompt-ids", ids, "--max-new-tokens", "4", "--json")
    assert status == 0 and {**json.loads(out)} == text


# --- what comes out


def test_several_continuations_come_with_a_number_or_as_json_lines_and_the_first_is_that_of_one(capsys):
    asked = ("generate", SOURCE, "--prompt", "ROMEO:", "--max-new-tokens", "8")
    one = json.loads(run(capsys, *asked, "--json")[1])
    three = [json.loads(line) for line in run(capsys, *asked, "--json", "--n", "3")[1].splitlines()]
    assert [said["continuation"] for said in three] == [0, 1, 2]
    assert three[0]["ids"] == one["ids"] and len({said["text"] for said in three}) > 1
    _, out, _ = run(capsys, *asked, "--n", "3")
    assert out == "".join(f"[{i}/3]\nROMEO:{said['text']}\n" for i, said in enumerate(three, start=1))


def test_logprobs_are_those_of_the_model_and_of_the_draw_for_every_token(capsys):
    asked = ("generate", SOURCE, "--prompt", "ROMEO:", "--max-new-tokens", "5", "--json", "--seed", "2")
    said = json.loads(run(capsys, *asked, "--logprobs", "4")[1])
    lm = labkit.load(SOURCE)
    rows = said["logprobs"]
    assert [row["id"] for row in rows] == said["ids"] and "".join(row["piece"] for row in rows) == said["text"]
    for i, row in enumerate(rows):
        log_p = lm.logits(said["prompt_ids"] + said["ids"][:i])[-1].log_softmax(dim=-1)
        assert row["raw_logprob"] == pytest.approx(float(log_p[row["id"]]), abs=1e-4)
        assert [other["id"] for other in row["top"]] == log_p.topk(4).indices.tolist()
        assert row["logprob"] >= row["raw_logprob"] - 1e-4 or row["rank"] > 0
        assert row["rank"] == int((log_p > log_p[row["id"]]).sum())
    assert "logprobs" not in json.loads(run(capsys, *asked)[1])
    assert json.loads(run(capsys, *asked, "--logprobs", "0")[1])["logprobs"][0]["top"] == []


def test_tokens_are_coloured_where_that_is_asked_for_and_there_is_a_terminal(capsys, monkeypatch):
    asked = ("generate", SOURCE, "--prompt", "ROMEO:", "--max-new-tokens", "20", "--show-probabilities")
    assert "\x1b[" not in run(capsys, *asked)[1]
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" in run(capsys, *asked)[1]
    assert "\x1b[" not in run(capsys, *asked[:-1])[1]


def test_generate_hands_over_to_the_loop_of_prompts_the_chat_and_the_batch(capsys, monkeypatch, tmp_path):
    (tmp_path / "p.txt").write_text("To be\nROMEO:\n")
    few = ("--max-new-tokens", "3", "--json", "--seed", "4")
    status, out, _ = run(
        capsys, "generate", SOURCE, "--mode", "batch", "--prompts_file", str(tmp_path / "p.txt"), "--n", "2", *few
    )
    assert status == 0 and [json.loads(line)["prompt"] for line in out.splitlines()] == ["To be"] * 2 + ["ROMEO:"] * 2
    for arguments in (["--interactive"], ["--mode", "chat"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"To be\n/quit\n")))
        status, out, err = run(capsys, "generate", "shakespeare-swa-mla", *arguments, *few, "--special", "text")
        assert status == 0, err
        said = json.loads(out)
        assert len(said["ids"]) == 3 and said["settings"]["seed"] == 4
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    swamla = ("generate", "shakespeare-swa-mla", "--dialect", "swamla", "--system_prompt", "Hi.")  # a chat, as there
    assert run(capsys, *swamla)[0] == 0


def test_text_that_a_terminal_or_a_pipe_cannot_write_is_no_failure():
    asked = ("generate", SOURCE, "--prompt", "A\u4e2d", "--unknown", "drop", "--max-new-tokens", "1")
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-m", "labkit", *asked], capture_output=True, timeout=60, env=environment)
    assert done.returncode == 0 and done.stdout.startswith(b"A?")


def test_the_help_lists_the_options_under_headings_and_hides_the_other_systems_names(capsys):
    _, out, _ = run(capsys, "generate", "--help")
    headings = ["What to continue:", "Sampling:", "Length and context:", "Output:", "Model:", "Other:"]
    assert [line for line in out.splitlines() if line in headings] == headings
    assert "--model-path" not in out and "--prompts-file" not in out and "--top-n-sigma" in out


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
        (["generate", SOURCE, "--prompt", "", "--dialect", "nanochat"], 1, "give --prompt or --interactive"),
        (["generate", SOURCE, "--dialect", "gpt2seed"], 1, "give --prompt or --interactive"),
        (["generate", SOURCE, "--dialect", "nanochat", "--prompt", "a", "--top-p", "0.5"], 1, "has no such stage"),
        (["generate", SOURCE, "--escape", "--prompt", "a\\q"], 1, r"'\\q' (position 1) is none of"),
        (["generate", SOURCE, "--prompt-file", "nosuch.txt"], 1, "nosuch.txt: cannot be read"),
        (["generate", SOURCE, "--prompt-file", "checkpoints/shakespeare-char/ckpt_last.pt"], 1, "no UTF-8 text"),
        (["generate", SOURCE, "--prompt-ids", "1,2,99999"], 1, "id 99999 is outside the vocabulary"),
        (["generate", SOURCE, "--config", "README.md"], 1, "README.md: cannot be read as TOML"),
        (["generate", SOURCE, "--logit-bias", "3=nan"], 1, "logit_bias"),
        (["generate", SOURCE, "--model-option", "softcap=20"], 1, "softcap"),
        (["generate", SOURCE, "--device", "warp"], 1, "device 'warp' is unknown"),
        (["inspect", "README.md"], 1, "README.md"),
        (["generate"], 2, "name one checkpoint"),
        (["generate", SOURCE, "--checkpoint", SOURCE], 2, "name one checkpoint"),
        (["generate", "--checkpoint", SOURCE, "--hf_model", "a/b"], 2, "name one checkpoint"),
        (["generate", SOURCE, "--prompt", "a", "--prompt-file", "b"], 2, "name one prompt"),
        (["generate", SOURCE, "--top-k", "many"], 2, "not a valid integer"),
        (["generate", SOURCE, "--allowed-ids", "1,b"], 2, "no list of token ids"),
        (["generate", SOURCE, "--logit-bias", "3"], 2, "not of the form ID=NUMBER"),
        (["generate", SOURCE, "--dialect", "klingon"], 2, "is not one of"),
        (["generate", SOURCE, "--logprobs", "3"], 2, "--logprobs is part of --json"),
        (["generate", SOURCE, "--temprature", "1"], 2, "--temperature"),
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


# The options of the reference systems' programs, under the names that those give them.
THEIR_OPTIONS = {
    "generate.py (LabCore)": "checkpoint meta config tokenizer prompt max-new-tokens temperature top-k device",
    "inference.py (SWA-MLA)": "hf_model checkpoint mode max_new_tokens temperature top_k top_p repetition_penalty "
    "system_prompt prompts_file device dtype max_length hf_repo_id hf_checkpoint chatml",
    "inference (GPT-2 from scratch)": "model_path prompt max_new_tokens temperature top_k top_p repetition_penalty "
    "no_sample no_stream stream device interactive",
    "inference (nanochat's experiment)": "checkpoint prompt max_tokens temperature top_k interactive device",
}


@pytest.mark.parametrize("program", THEIR_OPTIONS)
def test_every_option_of_the_reference_systems_is_one_of_generate(program):
    named = [name for p in generate.command.params for name in (*p.opts, *p.secondary_opts) if name.startswith("--")]
    known = {cli.canonical(name.removeprefix("--")) for name in named}
    assert {cli.canonical(name) for name in THEIR_OPTIONS[program].split()} - known == set()


@pytest.mark.parametrize(
    ("arguments", "source", "revision"),
    [
        (["hf:a/b"], "hf:a/b", None),
        (["--hf_model", "a/b"], "hf:a/b", None),
        (["--hf-model", "hf:a/b"], "hf:a/b", None),
        (["--hf_repo_id", "a/b", "--hf_checkpoint", "tokens_1M"], "hf:a/b/tokens_1M", None),
        (["--source", "hf", "--repo-id", "a/b", "--repo-revision", "v1"], "hf:a/b", "v1"),
    ],
)
def test_a_hub_model_may_be_named_as_the_reference_systems_do(capsys, monkeypatch, arguments, source, revision):
    def not_loaded(source: str, revision: str | None, **_: object) -> None:
        raise labkit.CheckpointError(f"asked for {source} at {revision}")

    monkeypatch.setattr("labkit.language_model.load", not_loaded)
    status, _, err = run(capsys, "generate", *arguments)
    assert (status, err) == (1, f"labkit: asked for {source} at {revision}\n")
