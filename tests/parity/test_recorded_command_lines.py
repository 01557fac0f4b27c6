"""The reference systems' own command lines, as recorded: the same text and the same kind of end.

Compared are the text after the prompt and whether it failed; the programs' own banners and the wording of their errors
are not. A prompt is shown as it was typed, where some of them show it decoded.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from recorded import fixtures_root, is_whole, read_json

import labkit
from labkit import cli


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    try:
        cli.main(list(arguments))
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


def checkpoint_of(*parts: str) -> Path:
    """A checkpoint of the set; the models with GPT-2's vocabulary are too large for the compact one."""
    path = fixtures_root().joinpath(*parts)
    if not path.exists() and not is_whole():
        pytest.skip(f"{path.parent.name} is not in the compact set")
    return path


def filled(arguments: list[str], case: Path, checkpoint: Path) -> list[str]:
    """A recorded command line with its places filled in."""
    places = {"{case}": str(case), "<case>": str(case), "{ckpt}": str(checkpoint)}
    for place, path in places.items():
        arguments = [argument.replace(place, path) for argument in arguments]
    return arguments


def runs(system: str, folder: str) -> list[Any]:
    """Every recorded run that is no conversation."""
    found = []
    for path in sorted((fixtures_root() / system / folder).glob("*.json")):
        for n, record in enumerate(read_json(system, folder, path.name)["runs"]):
            if "--interactive" not in record["args"]:
                found.append(pytest.param(path.stem, record, id=f"{path.stem}-{n}"))
    return found


# What labkit does otherwise, and why.
PREFIXED = "the original cannot open a file with the prefixes of distributed training; labkit can"


@pytest.mark.parametrize(("case", "record"), runs("labcore", "generate_cli"))
def test_labcore_command_line(capsys, case, record):
    folder = fixtures_root() / "labcore" / case
    checkpoint = checkpoint_of("labcore", case, "ckpt_best.pt" if case.endswith("_ddp") else "ckpt_last.pt")
    status, out, err = run(capsys, "generate", "--dialect", "labcore", *filled(record["args"], folder, checkpoint))
    if case.endswith("_ddp"):
        assert record["returncode"] == 1 and status == 0, PREFIXED
        return
    assert status == record["returncode"], err
    if record["returncode"] == 0:
        banners = ("Generation seed: ", "CUDA not available")
        lines = record["stdout"].splitlines(keepends=True)
        assert out == "".join(line for line in lines if not line.startswith(banners))


@pytest.mark.parametrize(("case", "record"), runs("gpt2seed", "inference_cli"))
def test_gpt2seed_command_line(capsys, case, record):
    folder = fixtures_root() / "gpt2seed" / case
    arguments = filled(record["args"], folder, checkpoint_of("gpt2seed", case, "best_model.pth"))
    status, out, err = run(capsys, "generate", "--dialect", "gpt2seed", *arguments)
    assert status == record["returncode"], err
    if record["returncode"] == 0:
        prompt = record["args"][record["args"].index("--prompt") + 1]
        # The original ends with one blank line, and with two where it does not stream.
        assert out.rstrip("\n") == prompt + record["stdout"].partition("Generated: ")[2].rstrip("\n")


NANOCHAT = read_json("nanochat", "exp_step_002920", "expected.json")


def nanochat_arguments(record: dict[str, Any]) -> list[str]:
    """The command line of a recorded call of the original's generate function."""
    given = {f"--{name}": record.get(name) for name in ("temperature", "max_tokens", "top_k")}
    arguments = [str(part) for option in given.items() if option[1] is not None for part in option]
    if record.get("stop_on_newline"):
        arguments += ["--escape", "--stop", r"\n"]
    if "torch_manual_seed" in record:
        arguments += ["--seed", str(record["torch_manual_seed"])]
    return arguments


@pytest.mark.parametrize("record", NANOCHAT["text_greedy"] + NANOCHAT["sampled_seeded"], ids=str)
def test_nanochat_command_line(capsys, record):
    """The original prints the prompt decoded, without the characters that it dropped."""
    folder = fixtures_root() / "nanochat" / "exp_step_002920" / "step_002920"
    prompt = ("--checkpoint", str(folder), "--prompt", record["prompt"].replace("\n", r"\n"), "--escape", "--json")
    status, out, err = run(capsys, "generate", "--dialect", "nanochat", *prompt, *nanochat_arguments(record))
    if not record["prompt"]:  # the recorded function continues nothing at all; its command line refuses to
        assert status == 1 and "--prompt or --interactive" in err
        return
    assert status == 0, err
    said = json.loads(out)
    tokenizer = labkit.load(folder).require_tokenizer()
    kept = "".join(c for c in record["prompt"] if not tokenizer.unknown_in(c))
    assert kept + said["text"] == record["output"]


SWAMLA = read_json("swamla", "gpt2_vocab_bf16", "expected.json")


def swamla_generated(stdout: str) -> list[str]:
    """What the original wrote after each of its prompts."""
    parts = stdout.split("\nGenerated: ")[1:]
    return [part.partition("\n" + "=" * 80)[0] for part in parts]


@pytest.mark.parametrize("name", ["batch_prompts_file", "batch_default"])
def test_swamla_batch(capsys, tmp_path, name):
    """labkit's built-in prompts are its own, so the original's come from a file. ``--repetition_penalty`` is accepted
    and not used, as there."""
    folder = fixtures_root() / "swamla" / "gpt2_vocab_bf16"
    arguments = filled(SWAMLA[name]["argv"], folder, checkpoint_of("swamla", "gpt2_vocab_bf16", "checkpoint_1000.pt"))
    if name == "batch_default":
        (tmp_path / "prompts.txt").write_text("\n".join(SWAMLA["default_prompts"]))
        arguments += ["--prompts_file", str(tmp_path / "prompts.txt")]
    status, out, err = run(capsys, "generate", "--dialect", "swamla", *arguments, "--json")
    assert status == 0 and "--repetition-penalty is not used" in err
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["text"] for record in records] == swamla_generated(SWAMLA[name]["stdout"])
    assert all(record["settings"]["repetition_penalty"] == 1.1 for record in records)


# --- LabCore's configuration files, given to its generate command

CONFIGS = read_json("labcore", "config_loader", "expected.json")["cases"]
# Values that LabCore does not look at when it loads a file, and fails with when it samples; or that its trainer reads.
AT_SAMPLING = {"11_temp_unvalidated.toml": "top_p is 7.0"}
OF_THE_TRAINER = ("08_patience0.toml", "09_savebest_str.toml")
WORDS = {
    "04_seed_bool.toml": "seed is True",
    "05_kv_int.toml": "use_cache is 1",
    "06_sys_int.toml": "system_prompt is 3",
    "07_hist_bool.toml": "max_history_turns is True",
}


@pytest.mark.parametrize("record", CONFIGS, ids=lambda record: record["file"])
def test_labcore_configuration(capsys, record):
    """What it takes from a file, and which files it refuses; those with a mistake under [training] only LabCore's own
    loader refuses here, since generating reads nothing of it."""
    name, result = record["file"], record["result"]
    config = fixtures_root() / "labcore" / "config_loader" / name
    source = fixtures_root() / "labcore" / "char_learned_bias" / "ckpt_last.pt"
    asked = ("--checkpoint", str(source), "--prompt", "To be", "--max-new-tokens", "3", "--json")
    status, out, err = run(capsys, "generate", "--dialect", "labcore", "--config", str(config), *asked)
    if name in AT_SAMPLING or not (result["ok"] or name in OF_THE_TRAINER):
        assert status == 1 and str(config) in err and (AT_SAMPLING | WORDS)[name] in err
        return
    assert status == 0, err
    settings = json.loads(out)["settings"]
    recorded = result["value"]["generation"] if result["ok"] else {}
    for key in {"top_p", "repetition_penalty", "deterministic", "seed"} & recorded.keys():
        assert settings[key] == recorded[key] or (key == "seed" and recorded[key] is None)
    assert settings["use_cache"] is recorded.get("use_kv_cache", True)
    # These come from options alone, or from generate.py's own defaults.
    assert (settings["temperature"], settings["top_k"], settings["max_new_tokens"]) == (0.9, 40, 3)


# --- GPT-2 from scratch: its tokenizer

GPT2SEED_TOKENIZER = read_json("gpt2seed", "tokenizer", "expected.json")


def test_gpt2seed_tokenizer():
    """An id beyond the vocabulary is an empty text there, and an error here."""
    tokenizer = labkit.load(checkpoint_of("gpt2seed", "bpe_50257", "best_model.pth")).require_tokenizer()
    assert (tokenizer.vocab_size, tokenizer.eos_id) == (
        GPT2SEED_TOKENIZER["vocab_size"], GPT2SEED_TOKENIZER["eos_token_id"],
    )  # fmt: skip
    for record in GPT2SEED_TOKENIZER["encode"]:
        assert tokenizer.encode(record["text"]) == record["ids"]
    for record in GPT2SEED_TOKENIZER["stream_pieces"]:
        assert [tokenizer.decode([i]) for i in tokenizer.encode(record["text"])] == record["pieces"]
    for record in GPT2SEED_TOKENIZER["decode"]:
        if record["ids"] == [50257]:
            with pytest.raises(labkit.TokenizerError, match="id 50257 is outside"):
                tokenizer.decode(record["ids"])
        else:
            assert tokenizer.decode(record["ids"]) == record["keep_special"]


# --- LabCore: a meta file that has no vocabulary, or names a tokenizer that nobody knows

META = {"no_vocab": {"tokenizer": {"type": "char"}}, "unknown_type": {"tokenizer": {"type": "wordpiece"}}}


@pytest.mark.parametrize("name", sorted(read_json("labcore", "tokenizers", "expected.json")["load_tokenizer_errors"]))
def test_labcore_meta_without_a_tokenizer_that_works(capsys, tmp_path, name):
    meta = tmp_path / "meta.json"
    meta.write_text(json.dumps(META[name.partition("py_" if "_py_" in name else "_")[2]]))
    checkpoint = str(fixtures_root() / "labcore" / "char_learned_bias" / "ckpt_last.pt")
    status, _, err = run(capsys, "generate", "--dialect", "labcore", "--checkpoint", checkpoint, "--meta", str(meta))
    assert status == 1 and "meta.json" in err and len(err.splitlines()) == 1
