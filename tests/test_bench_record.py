"""The record of labkit bench: its schema, the reference benchmark's records and rows, the comparison of two."""

import copy
import json
import subprocess
from pathlib import Path

import jsonschema
import pytest
from recorded import ROOT, fixtures_root, read_json
from tiny import tiny

import labkit
from labkit.benchmark import benchmark, compare, markdown, read, write
from labkit.benchmark.record import HEADER, prompts
from labkit.errors import ConfigError, LabkitError

SCHEMA = json.loads((ROOT / "docs" / "bench.schema.json").read_text(encoding="utf-8"))
REFERENCE = read_json("labcore", "benchmark", "expected.json")
REPORT = read_json("labcore", "benchmark", "report.json")


@pytest.fixture(scope="module")
def lm() -> labkit.LanguageModel:
    return labkit.load("shakespeare-char", device="cpu")


@pytest.fixture(scope="module")
def record(lm) -> dict:
    return benchmark(
        lm, "To be", new_tokens=8, iterations=3, warmup_tokens=2, batch_sizes=(1, 2), contexts=(20,), load_seconds=0.5
    )


# --- what a record holds ----------------------------------------------------------------------------------------------


def test_a_record_is_valid_and_survives_a_file(record, tmp_path):
    jsonschema.validate(record, SCHEMA)
    write(record, tmp_path / "b.json")
    assert read(tmp_path / "b.json") == record


def test_the_reference_benchmarks_record_is_valid_and_has_no_key_that_ours_lacks(record):
    jsonschema.validate(REPORT, SCHEMA)
    for section, value in REPORT.items():
        assert section in record
        if isinstance(value, dict):
            assert set(value) <= set(record[section])
    assert set(REPORT["results"]["tokens_per_sec"]) <= set(record["results"]["tokens_per_sec"])
    assert set(REFERENCE["static_expect"]["results_keys"]) <= set(record["results"])


def test_the_schema_tells_wrong_from_right(record):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for path, wrong in (
        (("commit",), "abc"),
        (("results", "tokens_per_sec", "mean"), 0),
        (("results", "iters"), 0),
        (("generation", "stream"), True),
        (("model", "source"), "elsewhere"),
        (("measurements", 0, "decode_tokens_per_sec"), {"mean": 1}),
        (("measurements",), []),
        (("platform", "other_programs"), 1.5),
    ):
        changed = copy.deepcopy(record)
        place = changed
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = wrong
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(changed, SCHEMA)
    for missing in ("measurements", "ratios"):
        ours = {name: value for name, value in record.items() if name != missing}
        if missing == "measurements":
            jsonschema.validate(ours, SCHEMA)
        else:
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(ours, SCHEMA)


def test_every_batch_size_and_prompt_length_is_measured_and_the_first_is_the_result(record):
    found = [(m["batch_size"], m["prompt_tokens"], m["new_tokens"]) for m in record["measurements"]]
    assert found == [(1, 5, 8), (1, 20, 8), (2, 5, 8), (2, 20, 8)]
    assert record["results"]["tokens_per_sec"] == record["measurements"][0]["tokens_per_sec"]
    assert all(len(m["tokens_per_sec"]["values"]) == 3 for m in record["measurements"])


def test_model_and_commit_are_those_of_the_files(record, lm):
    assert record["model"]["sha256"] == lm.checkpoint.sha256
    assert record["model"]["params_m"] == lm.n_parameters / 1e6
    assert record["model"]["load_seconds"] == 0.5
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
        assert record["commit"] == head
    assert record["results"]["rss_peak_mib"] > record["model"]["weight_mib"]


def test_a_token_reads_the_weights_and_its_share_of_the_bandwidth_follows(record):
    first, batch = record["measurements"][0], record["measurements"][2]
    weights = record["model"]["weight_mib_read_per_step"] * 2**20
    assert weights < first["bytes_per_token"] < 1.1 * weights
    assert batch["bytes_per_token"] < 0.6 * first["bytes_per_token"]  # two rows share one reading
    bandwidth = record["results"]["memory_bandwidth_gb_per_sec"]["values"]
    rates = first["decode_tokens_per_sec"]["values"]
    expected = [r * first["bytes_per_token"] / (b * 1e9) for r, b in zip(rates, bandwidth, strict=True)]
    assert first["bandwidth_share"]["values"] == pytest.approx(expected)


def test_without_a_cache_nothing_is_said_about_bandwidth(lm):
    found = benchmark(lm, "To be", labkit.Settings(use_cache=False), new_tokens=3, iterations=1, warmup_tokens=0)
    assert found["generation"]["use_kv_cache"] is False
    assert found["measurements"][0]["bandwidth_share"] is None
    assert found["results"]["tokens_per_sec"]["ci95"] is None  # a single run has no interval
    jsonschema.validate(found, SCHEMA)


def test_a_full_context_is_a_note(lm):
    found = benchmark(lm, [1] * 250, new_tokens=10, iterations=1, warmup_tokens=0)
    assert any("260 tokens in a context of 256" in note for note in found["notes"])


def test_rows_of_a_batch_differ_and_begin_with_the_prompt(lm):
    rows = prompts(lm, [1, 2, 3], 4, 6)
    assert rows[0][:3] == (1, 2, 3) and {len(row) for row in rows} == {6} and len(set(rows)) == 4
    assert rows == prompts(lm, [1, 2, 3], 4, 6) and prompts(lm, [1, 2, 3], 1, 2) == ((1, 2),)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"batch_sizes": (0,)}, "batch_sizes is 0"),
        ({"contexts": (2.5,)}, "contexts is 2.5"),
        ({"new_tokens": 0}, "new_tokens is 0"),
        ({"threads": -1}, "threads is -1"),
        ({"against": ("vllm",)}, "engine 'vllm' is unknown; there is hf"),
        ({"iterations": 0}, "iterations is 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(lm, how, words):
    with pytest.raises(ConfigError, match=words):
        benchmark(lm, "To be", **how)


def test_a_wrapped_function_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match="benchmark.measure"):
        benchmark(labkit.wrap(lambda ids: ids[..., None].float(), vocab_size=1), [0])


def test_against_transformers_every_rate_has_a_ratio_and_greedy_tokens_are_compared(tmp_path):
    import hf_models

    lm = labkit.load(hf_models.save(hf_models.gpt2(), tmp_path / "gpt2"), device="cpu")
    greedy = labkit.Settings(greedy=True)
    found = benchmark(lm, [1, 2, 3], greedy, new_tokens=5, iterations=2, warmup_tokens=1, against=("hf",))
    jsonschema.validate(found, SCHEMA)
    assert [m["engine"] for m in found["measurements"]] == ["labkit", "hf"]
    assert [row["rate"] for row in found["ratios"]] == [
        "tokens_per_sec", "prefill_tokens_per_sec", "decode_tokens_per_sec"
    ]  # fmt: skip
    assert all(row["low"] <= row["ratio"] <= row["high"] for row in found["ratios"])
    assert found["same_ids"] == {"hf": True}
    ours, theirs = (m["tokens_per_sec"]["values"] for m in found["measurements"])
    assert found["ratios"][0]["ratio"] == pytest.approx((ours[0] * ours[1] / theirs[0] / theirs[1]) ** 0.5)


def test_a_context_that_transformers_cannot_hold_is_refused_with_the_numbers(tmp_path):
    import hf_models

    lm = labkit.load(hf_models.save(hf_models.gpt2(), tmp_path / "gpt2"), device="cpu")
    with pytest.raises(LabkitError, match="hf made 0 of 39 tokens after a prompt of 3"):
        benchmark(lm, [1, 2, 3], new_tokens=39, iterations=1, warmup_tokens=0, against=("hf",))


# --- the row ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorded", REFERENCE["render_cases"], ids=lambda case: case["payload"]["device"]["name"])
def test_the_row_is_the_reference_benchmarks_to_the_character(recorded):
    assert markdown(recorded["payload"]) == recorded["markdown"]


def test_the_row_of_the_recorded_run_is_the_recorded_row():
    assert markdown(REPORT) == (fixtures_root() / "labcore" / "benchmark" / "report.md").read_text(encoding="utf-8")


def test_the_row_of_our_own_record_has_the_columns_of_the_table(record):
    header, _, row = markdown(record).splitlines()
    assert row.count(" | ") == header.count(" | ") and row.endswith("| on | 8 | " + row.split(" | ")[-2] + " | N/A |")


def test_the_community_table_has_rows_of_that_table():
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert HEADER in page
    rows = page.partition(HEADER)[2].partition("\n\n")[0].splitlines()
    assert rows and all(row.count(" | ") == HEADER.splitlines()[0].count(" | ") for row in rows)


# --- two records ------------------------------------------------------------------------------------------------------


def with_rates(record: dict, factor: float, spread: float = 0.01, pace: float = 1.0) -> dict:
    """The record with made-up runs: 1000 tokens a second times the factor, while the pace was 50 times ``pace``."""
    changed = copy.deepcopy(record)
    values = [1000 * factor * (1 + spread * x) for x in (-1, 0, 1, -1, 0, 1)]
    for found in changed["measurements"]:
        found["tokens_per_sec"] |= {"mean": sum(values) / 6, "values": values}
        found["pace"] |= {"mean": 50 * pace, "values": [50 * pace] * 6}
    changed["results"]["tokens_per_sec"] = changed["measurements"][0]["tokens_per_sec"]
    return changed


@pytest.mark.parametrize(
    ("factor", "spread", "verdict"),
    [
        (1.2, 0.01, "faster"), (0.8, 0.01, "slower"), (1.0, 0.01, "within noise"), (0.97, 0.001, "within noise"),
        (1.2, 0.3, "within noise"), (0.8, 0.3, "within noise"),
    ],
)  # fmt: skip
def test_a_verdict_weighs_the_difference_against_the_noise(record, factor, spread, verdict):
    rows, differences = compare(with_rates(record, 1, spread), with_rates(record, factor, spread))
    assert [row["verdict"] for row in rows] == [verdict] * 4 and differences == []
    assert rows[0]["ratio"] == pytest.approx(factor)
    assert (rows[0]["batch_size"], rows[0]["prompt_tokens"]) == (1, 5)


def test_what_goes_with_the_machines_pace_is_no_difference_of_the_code(record):
    rows, _ = compare(with_rates(record, 1), with_rates(record, 0.6, pace=0.6))
    assert [row["verdict"] for row in rows] == ["within noise"] * 4
    assert rows[0]["ratio"] == pytest.approx(1) and rows[0]["pace"] == pytest.approx(0.6)
    assert (rows[0]["old"], rows[0]["new"]) == pytest.approx((1000, 600))  # as measured
    rows, _ = compare(with_rates(record, 1), with_rates(record, 0.6))
    assert rows[0]["verdict"] == "slower" and rows[0]["pace"] == 1


def test_the_more_the_pace_differs_the_wider_is_the_interval(record):
    def width(pace: float) -> float:
        (row, *_), _ = compare(with_rates(record, 1), with_rates(record, 1, pace=pace))
        return row["high"] / row["low"]

    assert width(1) < width(0.9) < width(0.5) and width(0.9) == pytest.approx(width(1 / 0.9))


@pytest.mark.parametrize(("section", "name"), [("torch", "version"), ("torch", "threads"), ("device", "name")])
def test_on_another_machine_or_torch_a_pace_explains_nothing(record, section, name):
    new = with_rates(record, 0.6, pace=0.6)
    new[section][name] = "another"
    (row, *_), differences = compare(with_rates(record, 1), new)
    assert row["verdict"] == "slower" and row["pace"] is None and len(differences) == 1


def test_records_without_a_pace_are_compared_as_measured(record):
    old = with_rates(record, 1)
    for found in old["measurements"]:
        del found["pace"]
    (row, *_), _ = compare(old, with_rates(record, 0.6, pace=0.6))
    assert row["verdict"] == "slower" and row["pace"] is None


def test_a_case_that_alone_became_slower_is_found(record):
    new = with_rates(record, 1)
    new["measurements"][3] = with_rates(record, 0.5)["measurements"][3]
    rows, _ = compare(with_rates(record, 1), new)
    assert [row["verdict"] for row in rows] == ["within noise"] * 3 + ["slower"]


def test_the_reference_benchmarks_record_has_no_single_runs_so_there_is_no_verdict(record):
    rows, differences = compare(REPORT, record)
    assert len(rows) == 1 and rows[0]["verdict"] == "unclear" and rows[0]["old"] == pytest.approx(4628.55, abs=0.01)
    assert "generation.gen_tokens was 24 and is 8" in differences


def test_conditions_that_differ_are_named(record):
    other = with_rates(record, 1)
    other["torch"]["threads"] += 1
    other["generation"]["settings"]["top_k"] = 3
    _, differences = compare(with_rates(record, 1), other)
    assert differences[0].startswith("torch.threads was") and differences[1] == "the setting top_k was 40 and is 3"
    assert len(differences) == 2


def test_the_fast_path_is_named_and_compared_at_one_pace(record):
    fast = with_rates(record, 1.5)
    fast["model"]["fast_path"] = True
    (row, *_), differences = compare(with_rates(record, 1), fast)
    assert row["verdict"] == "faster" and row["pace"] == 1
    assert differences == ["model.fast_path was False and is True"]


def test_records_without_a_case_in_common_are_refused(record):
    other = with_rates(record, 1)
    other["measurements"] = [m | {"prompt_tokens": 99} for m in other["measurements"]]
    with pytest.raises(ConfigError, match="no case in common"):
        compare(record, other)


NO_RECORDS = ["", "[]", '{"results": {}}', '{"results": {"tokens_per_sec": {"mean": null}}}', "[" * 99999]


@pytest.mark.parametrize("text", NO_RECORDS, ids=range(len(NO_RECORDS)))
def test_what_is_no_record_is_refused(tmp_path: Path, text):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is not the JSON of a benchmark"):
        read(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "missing.json")


def test_the_tiny_models_of_every_family_have_bytes_to_read():
    from labkit.benchmark.record import step_bytes

    for family in ("gpt2", "labcore", "llama", "nanochat", "swa_mla"):
        lm = tiny(family, {"gpt2": "tied", "labcore": "learned", "swa_mla": "executed"}.get(family, "grouped"))
        assert step_bytes(lm, labkit.Settings(), 2, 5, 8) > step_bytes(lm, labkit.Settings(), 1, 5, 8) > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_the_record_says_the_threads_it_was_measured_with(lm, threads):
    found = benchmark(lm, "To be", new_tokens=3, iterations=1, warmup_tokens=0, threads=threads)
    assert found["torch"]["threads"] == threads


@pytest.mark.parametrize(
    "damage",
    [
        lambda r: r["measurements"][0]["tokens_per_sec"].update(values=[]),
        lambda r: r["measurements"][0]["tokens_per_sec"].update(values=[1.0, 0.0]),
        lambda r: r["measurements"][0]["tokens_per_sec"].update(values=[1.0, -3.0]),
        lambda r: r["measurements"][0]["tokens_per_sec"].update(values=[1.0, float("nan")]),
        lambda r: r["measurements"][0]["tokens_per_sec"].update(values=["1", "2"]),
        lambda r: r["measurements"][0].update(tokens_per_sec=None),
        lambda r: r["measurements"][0].update(pace={"mean": 0}),
        lambda r: r["measurements"][0].pop("batch_size"),
        lambda r: r.update(measurements=7),
        lambda r: r.pop("device"),
        lambda r: r.update(generation=[]),
    ],
)
def test_a_record_that_was_damaged_is_refused(record, tmp_path, damage):
    damaged = copy.deepcopy(record)
    damage(damaged)
    (tmp_path / "old.json").write_text(json.dumps(damaged))
    with pytest.raises(ConfigError, match="is not the JSON of a benchmark"):
        read(tmp_path / "old.json")


@pytest.mark.parametrize("tolerance", [-0.1, 1.5, float("nan")])
def test_a_tolerance_is_a_share(record, tolerance):
    with pytest.raises(ConfigError, match="it must be a share from 0 to 1"):
        compare(record, record, tolerance)


def test_what_can_never_be_held_or_only_waits_is_refused_before_it_is_made(lm):
    with pytest.raises(ConfigError, match="100000000000 rows of 261 tokens have .* MiB of keys and values"):
        benchmark(lm, "To be", batch_sizes=(10**11,))
    with pytest.raises(ConfigError, match="threads is 100000; with more than"):
        benchmark(lm, "To be", threads=100_000)
