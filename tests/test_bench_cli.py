"""labkit bench as people type it; the reference benchmark's options among them."""

import json
from pathlib import Path

import jsonschema
import pytest
from recorded import ROOT, fixtures_root, read_json

from labkit import cli, language_model
from labkit.benchmark import read, write

SCHEMA = json.loads((ROOT / "docs" / "bench.schema.json").read_text(encoding="utf-8"))
REFERENCE = read_json("labcore", "benchmark", "expected.json")
COLUMNS = ["engine", "rows", "prompt", "tok/s", "prefill", "decode", "first", "p50", "p99", "mem"]
QUICK = ("--gen-tokens", "3", "--iters", "2", "--warmup-tokens", "1", "--device", "cpu")


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    try:
        cli.main(["bench", *arguments])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def case() -> Path:
    """The checkpoint that the reference benchmark was recorded on."""
    return fixtures_root() / "labcore" / REFERENCE["case"]


def test_the_recorded_command_line_writes_the_recorded_facts(capsys, tmp_path, case):
    asked = REFERENCE["args"]
    status, out, err = run(
        capsys, "--dialect", "labcore", "--source", asked["source"], "--checkpoint", str(case / "ckpt_last.pt"),
        "--meta", str(case / "meta.json"), "--tokenizer", "char", "--prompt", asked["prompt"],
        "--config", str(fixtures_root() / "labcore" / "benchmark" / "config.toml"),
        "--warmup-tokens", str(asked["warmup_tokens"]), "--gen-tokens", str(asked["gen_tokens"]),
        "--iters", str(asked["iters"]), "--stream", "--device", asked["device"],
        "--json-out", str(tmp_path / "b.json"), "--md-out", str(tmp_path / "b.md"),
    )  # fmt: skip
    assert status == 0, err
    record = read(tmp_path / "b.json")
    jsonschema.validate(record, SCHEMA)
    expected = REFERENCE["static_expect"]
    assert {name: record["model"][name] for name in expected["model"]} == expected["model"]
    assert {name: record["generation"][name] for name in expected["generation"]} == expected["generation"]
    assert record["results"]["iters"] == 3 and record["generation"]["settings"]["seed"] == 7
    row = (tmp_path / "b.md").read_text(encoding="utf-8")
    assert out.endswith(row) and "| local | 0.027 | on | 24 | " in row
    assert f"JSON written to: {tmp_path / 'b.json'}" in err and f"Markdown written to: {tmp_path / 'b.md'}" in err
    assert "--stream is accepted" in err


@pytest.mark.parametrize("recorded", REFERENCE["resolve_use_kv_cache"], ids=lambda r: f"{r['source']} {r}")
def test_the_cache_is_on_where_the_reference_benchmark_has_it_on(capsys, tmp_path, monkeypatch, case, recorded):
    load = language_model.load
    path = str(case / "ckpt_last.pt")
    monkeypatch.setattr(language_model, "load", lambda source, **how: load(path, **how))
    named = ["--repo-id", "owner/name"] if recorded["source"] == "hf" else ["--checkpoint", path]
    config = []
    if recorded["config"]:
        text = f"[generation]\nuse_kv_cache = {str(recorded['config']['use_kv_cache']).lower()}\n"
        (tmp_path / "c.toml").write_text(text)
        config = ["--config", str(tmp_path / "c.toml")]
    option = {None: [], True: ["--use-kv-cache"], False: ["--no-use-kv-cache"]}[recorded["cli"]]
    asked = ["--source", recorded["source"], "--gen-tokens", "1", "--iters", "1", "--warmup-tokens", "0"]
    status, out, err = run(capsys, "--dialect", "labcore", "--prompt", "To", "--json", *named, *config, *option, *asked)
    assert status == 0, err
    record = json.loads(out)
    assert record["generation"]["use_kv_cache"] is recorded["result"]
    assert record["model"]["source"] == recorded["source"]


@pytest.mark.parametrize(
    "recorded", [r for r in REFERENCE["cli"] if "must be" in r["stderr_last_line"]], ids=lambda r: r["stderr_last_line"]
)
def test_numbers_that_the_reference_benchmark_refuses_are_usage_errors(capsys, recorded):
    status, _, err = run(capsys, *recorded["args"])
    assert status == recorded["exit"] or status == int(recorded["exit"])
    assert recorded["args"][-2] in err


def test_defaults_are_the_reference_benchmarks_in_its_dialect(capsys):
    (defaults,) = [r["namespace"] for r in REFERENCE["cli"] if r["args"] == ["--checkpoint", "x", "--meta", "m"]]
    status, out, _ = run(capsys, "shakespeare-char", "--dialect", "labcore", "--json", "--warmup-tokens", "0")
    record = json.loads(out)
    assert status == 0
    assert record["generation"]["prompt"] == defaults["prompt"]
    assert record["generation"]["gen_tokens"] == defaults["gen_tokens"]
    assert record["results"]["iters"] == defaults["iters"]
    sampling = [record["generation"][n] for n in ("temperature", "top_k", "top_p", "repetition_penalty")]
    assert sampling == REFERENCE["resolve_sampling_cfg"][0]["result"]
    assert "note" not in record["device"] and record["device"]["type"] == defaults["device"]


def test_base_toml_is_there_and_has_the_defaults_that_the_guide_presumes(capsys):
    config = str(ROOT / "configs" / "base.toml")
    status, out, _ = run(capsys, "shakespeare-char", "--config", config, "--json", *QUICK)
    generation = json.loads(out)["generation"]
    assert status == 0
    sampling = [generation[n] for n in ("temperature", "top_k", "top_p", "repetition_penalty", "use_kv_cache")]
    assert sampling == [0.9, 40, 1.0, 1.0, True]


def test_tables_for_people_name_every_case_and_end_in_the_row(capsys):
    status, out, _ = run(
        capsys, "shakespeare-char", *QUICK, "--batch-sizes", "1,3", "--contexts", "10", "--threads", "1"
    )
    lines = out.splitlines()
    assert status == 0 and lines[0].split() == COLUMNS
    assert [line.split()[:3] for line in lines[1:5]] == [
        ["labkit", "1", "6"], ["labkit", "1", "10"], ["labkit", "3", "6"], ["labkit", "3", "10"]
    ]  # fmt: skip
    assert "memory reads" in out and "threads: 1, float32" in out
    assert max(map(len, lines[:5])) <= 80
    assert lines[-1].startswith("| ") and lines[-1].count(" | ") == 6


def test_a_prompt_that_the_model_cannot_write_is_not_its_default(capsys):
    status, out, _ = run(capsys, "arithmetic", "--json", *QUICK)
    assert status == 0 and "+" in json.loads(out)["generation"]["prompt"]


def test_the_exit_status_is_1_where_something_became_slower_and_0_otherwise(capsys, tmp_path):
    old = tmp_path / "old.json"
    assert run(capsys, "shakespeare-char", *QUICK, "--json-out", str(old))[0] == 0
    record = read(old)

    def again(factor: float) -> tuple[int, str, str]:
        values = [factor * x for x in (1000, 1001, 1002)]
        record["measurements"][0]["tokens_per_sec"] |= {"mean": values[1], "values": values}
        record["measurements"][0].pop("pace", None)  # of other runs
        write(record, old)
        return run(capsys, "shakespeare-char", *QUICK, "--iters", "6", "--compare", str(old))

    status, out, err = again(1e6)
    assert status == 1 and "slower" in out
    assert err.splitlines()[-1].startswith(f"labkit: slower than {old} in 1 of 1 cases: 0.00 x (")
    status, out, err = again(1e-6)
    assert status == 0 and "faster" in out and "slower" not in err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nosuch"], 1, "nosuch: there is no such file or folder"),
        (["shakespeare-char", "--iters", "0"], 2, "0 is not in the range x>=1"),
        (["shakespeare-char", "--gen-tokens", "0"], 2, "--gen-tokens must be > 0"),
        (["shakespeare-char", "--batch-sizes", "1,x"], 2, "'1,x' is no list of whole numbers from 1"),
        (["shakespeare-char", "--contexts", "0"], 2, "'0' is no list of whole numbers from 1"),
        (["shakespeare-char", "--against", "vllm"], 1, "engine 'vllm' is unknown; there is hf"),
        (["arithmetic", "--against", "hf"], 1, "has no counterpart in transformers"),
        (["shakespeare-char", "--compare", "nosuch.json"], 1, "nosuch.json: cannot be read"),
        (["shakespeare-char", "--prompt", ""], 1, "the prompt is empty"),
        (["shakespeare-char", "--overflow", "stop", "--gen-tokens", "300"], 1, "made 251 of 300 tokens"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(capsys, arguments, status, words):
    found, _, err = run(capsys, *arguments)
    assert found == status and words in err.splitlines()[-1]


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(capsys, tmp_path):
    (tmp_path / "file").touch()
    status, out, err = run(capsys, "shakespeare-char", *QUICK, "--json-out", str(tmp_path / "file" / "b.json"))
    assert status == 1 and not out and err.count("\n") == 1 and "fault of labkit" not in err


def test_two_results_do_not_go_into_one_file(capsys, tmp_path):
    same = str(tmp_path / "b.json")
    status, _, err = run(capsys, "shakespeare-char", *QUICK, "--json-out", same, "--md-out", same)
    assert status == 2 and "name two files" in err and not Path(same).exists()
