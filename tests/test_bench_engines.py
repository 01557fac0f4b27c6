"""Other engines beside labkit: the same ids on the same weights, the same stages, and a line for what they lack."""

import ctypes
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf_files
import hf_models
import jsonschema
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from tiny import random_ids, tiny

import labkit
from labkit import LabkitError, Settings
from labkit.benchmark import Labkit, Transformers, benchmark
from labkit.benchmark.llama_cpp import STAGES, LlamaCpp
from labkit.errors import ConfigError
from labkit.settings import DIALECTS

ROWS = [random_ids(6, seed, vocab_size=61) for seed in range(3)]
GREEDY = Settings(greedy=True)
SCHEMA = json.loads((Path(__file__).resolve().parent.parent / "docs" / "bench.schema.json").read_text(encoding="utf-8"))


def opened(path: Path, kind: Kind = Kind.F32, **values: Any) -> labkit.LanguageModel:
    """A small random Llama from a GGUF file, which llama.cpp reads only if it says what its tokenizer is."""
    values = {"tokenizer.ggml.model": "no_vocab", "llama.vocab_size": 61} | values
    model = hf_models.llama(seed=1, hidden_size=64, intermediate_size=96)
    return labkit.load(gguf_files.write(path, model, kind, values=values), device="cpu")


@pytest.fixture(scope="module")
def lm(tmp_path_factory) -> labkit.LanguageModel:
    return opened(tmp_path_factory.mktemp("gguf") / "small.gguf")


@pytest.fixture(scope="module")
def llama_cpp() -> Any:
    return pytest.importorskip("llama_cpp", reason="llama.cpp is not installed (llama-cpp-python)")


# --- what it makes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stages",
    [{}, {"repetition_penalty": 1.3, "frequency_penalty": 0.2}, {"top_k": 20, "typical_p": 0.9}],
    ids=lambda stages: "+".join(stages) or "greedy",
)
def test_greedy_ids_are_labkits_for_every_row_with_a_mark_after_prefill_and_each_token(llama_cpp, lm, stages):
    settings, marks = GREEDY.replace(**stages), list[int]()
    engine, ours = LlamaCpp(lm, settings), Labkit(lm, settings)
    made = engine.generate(ROWS, 60, lambda: marks.append(1))
    assert made == ours.generate(ROWS, 60)
    assert len(marks) == 61
    assert engine.generate(ROWS, 90) == ours.generate(ROWS, 90), "a second run starts from nothing"


@pytest.mark.parametrize("kind", [Kind.F16, Kind.Q8_0])
def test_files_of_other_types_are_computed_as_they_are(llama_cpp, tmp_path, kind):
    (ids,) = LlamaCpp(opened(tmp_path / "small.gguf", kind), GREEDY).generate(ROWS[:1], 20)
    assert len(ids) == 20 and all(0 <= i < 61 for i in ids)


@pytest.mark.parametrize(
    "stages",
    [
        {"temperature": 0.7, "top_k": 12, "top_p": 0.8, "min_p": 0.05},
        {"temperature": 1.3, "typical_p": 0.6},
        {"temperature": 0.9, "top_n_sigma": 1.0},
        {"repetition_penalty": 1.4, "frequency_penalty": 0.3, "presence_penalty": 0.5, "top_p": 0.9},
    ],
    ids="+".join,
)
def test_what_its_draw_sees_is_what_labkits_dialect_of_that_name_says(llama_cpp, lm, stages):
    settings = Settings(dialect="llama.cpp", **({"top_k": 0, "top_p": 1.0, "min_p": 0.0} | stages))
    logits = lm.logits(ROWS[0])[-1]
    expected = labkit.Sampler.from_settings(**settings.sampling()).probabilities(logits, prompt_ids=ROWS[0])
    assert seen_by_the_draw(llama_cpp, LlamaCpp(lm, settings), ROWS[0], logits) == pytest.approx(
        {i: float(p) for i, p in enumerate(expected) if p > 0}, rel=1e-4
    )


def seen_by_the_draw(lib: Any, engine: LlamaCpp, ids: Sequence[int], logits: torch.Tensor) -> dict[int, float]:
    """id -> probability that llama.cpp's last stage, the draw, leaves behind."""
    data = (lib.llama_token_data * len(logits))(*((i, x, 0.0) for i, x in enumerate(logits.tolist())))
    candidates = lib.llama_token_data_array(data, len(data), -1, False)
    chain = engine.sampler(ids, 0)
    lib.llama_sampler_apply(chain, ctypes.byref(candidates))
    found = {candidates.data[i].id: candidates.data[i].p for i in range(candidates.size) if candidates.data[i].p > 0}
    lib.llama_sampler_free(chain)
    return found


def test_draws_follow_the_seed_and_move_no_global_generator(llama_cpp, lm, global_random_states):
    before = global_random_states()
    made = [LlamaCpp(lm, Settings(seed=seed)).generate(ROWS[:1] * 2, 20) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    assert made[0][0] != made[0][1], "equal rows have draws of their own"
    assert global_random_states() == before


def test_it_says_nothing(llama_cpp, lm, capfd):
    LlamaCpp(lm, GREEDY).generate(ROWS, 5)
    assert capfd.readouterr() == ("", "")


def test_a_record_holds_it_beside_transformers(llama_cpp, lm):
    both = ("hf", "llama.cpp")
    found = benchmark(
        lm, ROWS[0], GREEDY, new_tokens=8, iterations=2, warmup_tokens=2, batch_sizes=(1, 2), against=both
    )
    jsonschema.validate(found, SCHEMA)
    assert {(row["against"], row["batch_size"]) for row in found["ratios"]} == {(n, b) for n in both for b in (1, 2)}
    assert found["same_ids"] == {"hf": True, "llama.cpp": True}
    assert "llama.cpp multiplies with the file's F32, labkit with float32." in found["notes"]
    assert found["versions"]["llama_cpp"] == llama_cpp.__version__
    assert all(m["bytes_per_token"] for m in found["measurements"])


def test_what_a_step_of_a_quantised_file_reads_is_not_guessed(llama_cpp, tmp_path):
    lm = opened(tmp_path / "small.gguf", Kind.Q8_0)
    found = benchmark(lm, ROWS[0], GREEDY, new_tokens=4, iterations=1, warmup_tokens=0, against=("llama.cpp",))
    assert [m["bytes_per_token"] is None for m in found["measurements"]] == [False, True]
    jsonschema.validate(found, SCHEMA)


def test_transformers_is_greedy_after_the_same_penalties(lm):
    settings = GREEDY.replace(repetition_penalty=1.5, no_repeat_ngram_size=2, top_k=5)
    assert Transformers(lm, settings).generate(ROWS, 20) == Labkit(lm, settings).generate(ROWS, 20)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_context_that_is_full_is_refused_with_the_numbers(llama_cpp, lm):
    with pytest.raises(LabkitError, match=r"llama\.cpp made 0 of 155 tokens after a prompt of 6"):
        benchmark(lm, ROWS[0], new_tokens=155, iterations=1, warmup_tokens=0, against=("llama.cpp",))


def test_more_rows_than_it_holds_are_refused_with_its_reason(llama_cpp, lm, capfd):
    with pytest.raises(ConfigError, match=r"llama\.cpp does not hold 300 rows of 160 tokens \(.*n_seq_max.*\)"):
        LlamaCpp(lm, GREEDY).generate(ROWS[:1] * 300, 1)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_it_does_not_read_is_refused_with_its_reason(llama_cpp, tmp_path, capfd):
    lm = opened(tmp_path / "odd.gguf", **{"tokenizer.ggml.model": "odd"})
    with pytest.raises(ConfigError, match=r"llama\.cpp does not read .*odd\.gguf \(.*odd.*\)"):
        LlamaCpp(lm, GREEDY)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dry_multiplier": 0.8, "xtc_probability": 0.5}, "llama.cpp has no dry_multiplier, xtc_probability"),
        ({"use_cache": False}, "llama.cpp has no use_cache=False"),
        ({"repetition_penalty": 1.2, "penalty_scope": "prompt"}, "llama.cpp has no penalty_scope='prompt'"),
    ],
)
def test_what_it_does_not_have_is_refused(lm, settings, words):
    with pytest.raises(ConfigError, match=words):
        LlamaCpp(lm, Settings(**settings))


def test_another_format_is_refused_with_what_to_measure():
    with pytest.raises(
        ConfigError, match=r"llama\.cpp reads GGUF files and nothing else, and .*; measure a \.gguf file"
    ):
        LlamaCpp(tiny("llama", "biased"), GREEDY)


def test_a_model_on_another_device_is_refused_with_what_to_choose(tmp_path):
    lm = opened(tmp_path / "small.gguf")
    lm.model.to("meta")
    with pytest.raises(ConfigError, match="measured on the CPU, and the model is on meta; take --device cpu"):
        LlamaCpp(lm, GREEDY)


def test_without_its_package_or_with_an_old_one_a_line_says_what_to_install(lm, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(ConfigError, match=r"llama\.cpp cannot be used here .*pip install 'llama-cpp-python"):
        benchmark(lm, ROWS[0], new_tokens=1, iterations=1, against=("llama.cpp",))
    monkeypatch.setitem(sys.modules, "llama_cpp", ModuleType("llama_cpp"))  # as if of a version without what is used
    with pytest.raises(ConfigError, match=r"no attribute 'llama_log_callback'.*pip install 'llama-cpp-python"):
        LlamaCpp(lm, GREEDY)


def test_every_stage_is_one_that_labkits_dialect_of_that_name_has():
    assert STAGES.keys() <= DIALECTS["llama.cpp"].rules.keys()
