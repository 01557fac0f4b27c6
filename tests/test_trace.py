"""record, Trace and its file."""

import json
import zipfile
from pathlib import Path

import jsonschema
import pytest
import torch
from tiny import TINY, V, language_model, random_ids, tiny

import labkit
from labkit.errors import ConfigError, LabkitError, SamplingError, TokenizerError
from labkit.sampling import Gumbel, Sampler, Stage, TopK
from labkit.trace import RecordedStep, Trace, load_trace, record

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "trace.schema.json").read_text(encoding="utf-8"))
SETTINGS = {"temperature": 1.2, "top_k": 12, "top_p": 0.9, "seed": 5, "max_new_tokens": 10}
EVERYTHING = SETTINGS | {
    "min_p": 0.001, "repetition_penalty": 1.1, "frequency_penalty": 0.1, "presence_penalty": 0.1, "dry_multiplier": 0.5,
    "no_repeat_ngram_size": 3, "logit_bias": {3: 1.5}, "allowed_ids": tuple(range(30)), "forbidden_ids": (4, 5),
    "top_n_sigma": 3.0, "typical_p": 0.95, "epsilon_cutoff": 0.001, "eta_cutoff": 0.001, "xtc_probability": 0.5,
    "mirostat_tau": 3.0, "stop": ("zzz", 36), "min_new_tokens": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def lm():
    return tiny("gpt2", "tied")


@pytest.fixture(scope="module")
def trace(lm) -> Trace:
    return record(lm, "the cat", **SETTINGS)


def recorded(lm, **changes) -> Trace:
    return record(lm, "the cat", **SETTINGS | changes)


# --- recording


@pytest.mark.parametrize(
    "changes",
    [{}, {"greedy": True}, {"mirostat_tau": 1.0, "mirostat_eta": 1.0, "top_k": None, "top_p": None},
     {"min_new_tokens": 6, "stop": (3, 14, 35)}, {"xtc_probability": 0.6},
     {"dialect": "labcore"}, {"dialect": "hf"}, {"dialect": "llama.cpp"}, {"dialect": "nanochat", "top_p": 1.0}],
    ids=str,
)  # fmt: skip
def test_every_step_of_a_trace_chooses_the_token_that_the_run_chose(lm, changes):
    changes = SETTINGS | changes
    if changes.get("dialect") == "nanochat":
        del changes["top_p"]
    trace = record(lm, "the cat", **changes)
    generation = labkit.generate(lm, "the cat", **changes)
    assert (trace.ids, trace.text, trace.finish_reason) == (generation.ids, generation.text, generation.finish_reason)
    assert trace.settings == generation.settings and trace.notes == generation.notes
    for i in (len(trace) - 1, 0, *range(len(trace))):  # in any order
        assert trace.step(i).chosen == trace.ids[i], i


def test_the_logits_are_the_models_own(lm, trace):
    ids = trace.prompt_ids + trace.ids
    whole = lm.logits(ids[:-1])[len(trace.prompt_ids) - 1 :]
    for step, row in zip(trace.steps, whole, strict=True):
        assert torch.allclose(step.logits, row, atol=1e-4)


def test_rows_say_what_was_chosen_and_how_likely_it_was(trace):
    rows = trace.rows()
    assert [row["id"] for row in rows] == trace.ids and "".join(row["piece"] for row in rows) == trace.text
    assert rows[0]["p"] == pytest.approx(float(trace.step(0).stages[-1].probabilities[trace.ids[0]]), abs=1e-4)
    assert repr(trace).startswith("Trace(7 + 10 tokens, length, Sampler(") and "\n" not in repr(trace)


def test_a_sampler_of_ones_own_is_recorded(lm):
    trace = record(lm, random_ids(4), sampler=Sampler([TopK(2)], Gumbel(9)), max_new_tokens=4)
    assert [trace.step(i).chosen for i in range(4)] == trace.ids
    with pytest.raises(SamplingError, match="list of stages"):
        trace.break_points(0)


def test_an_interrupt_leaves_a_trace_of_what_there_is(lm, monkeypatch):
    calls, real = iter(range(4)), type(lm.model).hidden

    def forward(*args, **keywords):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return real(*args, **keywords)

    monkeypatch.setattr(type(lm.model), "hidden", forward)
    trace = recorded(lm)
    assert trace.finish_reason == "interrupted" and len(trace) == len(trace.steps) == 4
    assert trace.step(3).chosen == trace.ids[3]


# --- questions


def test_a_trace_answers_by_step_and_by_text(trace):
    assert trace.break_points(0)["top_k"].segments[0].start == 1
    by_text, by_id = trace.why_not(2, "a"), trace.why_not(2, trace.tokenizer.encode("a")[0])
    assert by_text == by_id and str(by_text).startswith("'a' (")
    assert str(trace.explain(-1)).startswith(repr(trace.pieces[-1]))
    assert trace.what_if(1, top_k=1).after.chosen == int(trace.steps[1].logits.argmax())


def test_a_text_that_is_no_token_names_near_ones(trace):
    with pytest.raises(TokenizerError, match="no token reads 'A'; near ones are 'a'"):
        trace.why_not(0, "A")
    with pytest.raises(TokenizerError, match="no token reads 'the'"):
        trace.why_not(0, "the")


def test_without_a_tokenizer_ids_do(lm):
    bare = language_model("gpt2", TINY["gpt2"]["tied"])
    trace = record(bare, [1, 2, 3], max_new_tokens=3, seed=1)
    assert trace.pieces == [f"#{i}" for i in trace.ids] and trace.text == ""
    assert str(trace.why_not(0, 5)).startswith("#5 (")
    with pytest.raises(TokenizerError, match="give its id"):
        trace.why_not(0, "a")


@pytest.mark.parametrize("step", [10, -11, "first", True, 1.0])
def test_a_step_that_is_not_there_is_refused(trace, step):
    with pytest.raises(ConfigError, match="0 … 9"):
        trace.step(step)


def test_what_if_of_all_steps_asks_each_by_itself(trace):
    answer = trace.what_if("all", temperature=0.3)
    assert [step.after for step in answer.steps] == [trace.what_if(i, temperature=0.3).after.chosen for i in range(10)]
    assert answer.differing and answer.differing[0].step == min(s.step for s in answer.steps if s.after != s.before)
    assert answer.exact and answer.changed == (("temperature", 1.2, 0.3),)
    assert "the history stays as it was" in str(answer) and len(answer.rows()) == len(answer.differing)
    assert trace.what_if("all").differing == ()
    assert trace.what_if("all", labkit.Settings(**SETTINGS)).differing == ()


def test_an_id_that_may_not_end_the_text_yet_was_impossible_from_the_start(lm):
    trace = recorded(lm, min_new_tokens=3, stop=(3,))
    answer = trace.why_not(0, 3)
    assert answer.removal is None and answer.missed_by is None and answer.probability == 0
    assert "had no probability to begin with" in str(answer)
    json.dumps(answer.to_dict(), allow_nan=False)


# --- the compact form


def test_steps_are_kept_in_full_until_the_memory_is_spent(lm):
    trace = recorded(lm, max_bytes=3 * 4 * V, top_m=6)
    assert trace.compact == tuple(range(3, 10)) and trace.ids == recorded(lm).ids
    assert set(trace.prompt_ids + trace.ids[:6]) <= set(trace.steps[5].logits.ids.tolist())
    for ask in (lambda: trace.step(3), lambda: trace.why_not(4, 1), lambda: trace.explain(5), lambda: trace.what_if(5)):
        with pytest.raises(SamplingError, match="needs the full record"):
            ask()


@pytest.mark.parametrize(
    "changes",
    [{"top_k": 4}, {"top_k": None}, {"min_new_tokens": 6, "stop": (3, 14, 35)}, {"forbidden_ids": (1, 2)},
     {"typical_p": 0.9}, {"mirostat_tau": 2.0}],
    ids=str,
)  # fmt: skip
def test_what_the_compact_form_proves_is_what_the_full_record_says(lm, changes):
    full, half = recorded(lm, **changes), recorded(lm, **changes, max_bytes=0, top_m=14)
    asked = proved = 0
    for other in ({}, {"temperature": 0.5}, {"temperature": 3.0}, {"top_k": 3}, {"top_p": 0.4}, {"min_p": 0.2}):
        truth, answer = full.what_if("all", **other), half.what_if("all", **other)
        for true, known in zip(truth.steps, answer.steps, strict=True):
            asked, proved = asked + 1, proved + (known.after is not None)
            assert known.after in (None, true.after)
        assert answer.exact == (not answer.unproved) and ("need the full record" in str(answer)) != answer.exact
    if "mirostat_tau" in changes:
        return
    if changes == {"top_k": 4}:
        assert proved == asked
    for strip in half.break_points(0).strips:
        assert strip.exact == (not any(s.id is None for s in strip.segments)) or "typical_p" in changes
        for segment in strip.segments:
            for value in (segment.start, segment.end):
                if segment.id is not None:
                    assert full.what_if(0, **{strip.parameter: value}).after.chosen == segment.id


# --- the file


@pytest.mark.parametrize(
    "changes",
    [{}, {"max_bytes": 3 * 4 * V, "top_m": 6}, {"dialect": "hf"}, {"dialect": "llama.cpp"}, {"dialect": "labcore"},
     {"greedy": True}, EVERYTHING, {"max_new_tokens": 0}],
    ids=["full", "compact", "hf", "llama.cpp", "labcore", "greedy", "everything", "nothing"],
)  # fmt: skip
def test_a_saved_trace_comes_back_the_same_and_as_the_same_bytes(lm, tmp_path, changes):
    trace = recorded(lm, **changes)
    trace.save(tmp_path / "a.trace")
    again = load_trace(tmp_path / "a.trace")
    again.save(tmp_path / "b.trace")
    assert (tmp_path / "a.trace").read_bytes() == (tmp_path / "b.trace").read_bytes()
    assert again.to_dict() == trace.to_dict() and again.settings == trace.settings
    assert (again.sampler.stages, again.sampler.draw) == (trace.sampler.stages, trace.sampler.draw)
    assert again.sampler.named == trace.sampler.named and again.tokenizer is None and again.pieces == trace.pieces
    for a, b in zip(again.steps, trace.steps, strict=True):
        if isinstance(b.logits, torch.Tensor):
            assert torch.equal(a.logits, b.logits)
        else:
            assert torch.equal(a.logits.logits, b.logits.logits) and a.logits.rest == b.logits.rest
    jsonschema.validate(again.to_dict(), SCHEMA)


def test_the_schema_tells_wrong_from_right(trace):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for change in ({"version": [2, 0]}, {"ids": [-1]}, {"finish_reason": "tired"}, {"steps": [{"id": 1}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(trace.to_dict() | change, SCHEMA)


def test_a_loaded_trace_answers_without_the_model(lm, trace, tmp_path):
    trace.save(tmp_path / "run.trace")
    again = load_trace(tmp_path / "run.trace")
    assert again.break_points(3).to_dict() == trace.break_points(3).to_dict()
    assert str(again.why_not(3, "a")) == str(trace.why_not(3, "a")) and str(again.explain(3)) == str(trace.explain(3))
    assert again.what_if("all", top_k=2).to_dict() == trace.what_if("all", top_k=2).to_dict()


def test_the_file_names_the_model_and_the_versions(trace):
    model = trace.to_dict()["model"]
    assert model["labkit"] == labkit.__version__ and model["torch"] == torch.__version__
    assert len(model["vocabulary_sha256"]) == 64 and model["vocab_size"] == V


def test_a_shipped_checkpoint_is_named_by_its_hash():
    lm = labkit.load("shakespeare-char")
    trace = record(lm, "To be", max_new_tokens=2, seed=1)
    assert trace.model["sha256"] == lm.checkpoint.sha256 and trace.replay(lm).equal


def rewritten(path: Path, **members: bytes | None) -> Path:
    """The file with some members replaced, or left out."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    names = {"trace": "trace.json", "logits": "logits.safetensors", "vocabulary": "vocabulary.json"}
    content |= {names[name]: data for name, data in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            if data is not None:
                archive.writestr(name, data)
    return path


def header_with(trace: Trace, **changes) -> bytes:
    return json.dumps(trace.to_dict() | changes).encode()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda p, t: p.unlink(), "there is no such file"),
        (lambda p, t: p.write_bytes(b""), "not a whole labkit trace"),
        (lambda p, t: p.write_bytes(p.read_bytes()[:-200]), "not a whole labkit trace"),
        (lambda p, t: p.write_bytes(p.read_bytes().replace(b"\x00" * 3, b"\x01" * 3, 50)), "not a whole labkit trace"),
        (lambda p, t: rewritten(p, logits=None), "'logits.safetensors' is missing"),
        (lambda p, t: rewritten(p, logits=b"x"), "not a whole labkit trace"),
        (lambda p, t: rewritten(p, vocabulary=b'["a"]'), "vocabulary has another size"),
        (lambda p, t: rewritten(p, vocabulary=None), "vocabulary is not the one"),
        (lambda p, t: rewritten(p, trace=b"{"), "not a whole labkit trace"),
        (lambda p, t: rewritten(p, trace=b"[]"), "not a whole labkit trace"),
        (lambda p, t: rewritten(p, trace=header_with(t, version=[2, 0])), "version 2.0; this labkit reads version 1.x"),
        (lambda p, t: rewritten(p, trace=header_with(t, format="x")), "format is 'x'"),
        (lambda p, t: rewritten(p, trace=header_with(t, ids=[99] * 10)), "outside the vocabulary"),
        (lambda p, t: rewritten(p, trace=header_with(t, steps=t.to_dict()["steps"][:4])), "full and compact steps"),
        (lambda p, t: rewritten(p, trace=header_with(t, ids=t.ids[::-1])), "do not agree"),
        (lambda p, t: rewritten(p, trace=header_with(t, settings={"top_p": 7})), "top_p is 7"),
        (
            lambda p, t: rewritten(p, trace=header_with(t, sampler={"named": {}, "stages": [{"kind": "os"}]})),
            "no stage",
        ),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(trace, tmp_path, broken, words):
    path = tmp_path / "run.trace"
    trace.save(path)
    broken(path, trace)
    with pytest.raises(LabkitError, match=words) as caught:
        load_trace(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_stage_that_is_not_labkits_own_cannot_be_saved(lm, tmp_path):
    class Mine(TopK):
        pass

    stages: list[Stage] = [Mine(3)]
    trace = record(lm, [1], sampler=Sampler(stages, Gumbel(1)), max_new_tokens=2)
    with pytest.raises(SamplingError, match="Mine is none of labkit's own"):
        trace.save(tmp_path / "run.trace")
    assert list(tmp_path.iterdir()) == []


# --- replay


@pytest.mark.parametrize(
    "changes", [{}, {"max_bytes": 0}, {"mirostat_tau": 1.0, "mirostat_eta": 1.0}, {"dialect": "labcore"}], ids=str
)
def test_the_same_model_replays_a_trace(lm, tmp_path, changes):
    recorded(lm, **changes).save(tmp_path / "run.trace")
    answer = load_trace(tmp_path / "run.trace").replay(lm)
    assert answer.equal and answer.steps == 10 and answer.largest <= 1e-4 and str(answer).startswith("equal: 10 tokens")


def test_another_model_is_told_by_its_logits(trace):
    answer = trace.replay(language_model("gpt2", TINY["gpt2"]["tied"], seed=1))
    assert not answer.equal and answer.step == 0 and str(answer).startswith("step 0: logits differ by ")


def test_another_token_is_told(lm, trace):
    steps = list(trace.steps)
    steps[4] = RecordedStep(**steps[4]._asdict() | {"id": (steps[4].id + 1) % V})
    other = Trace(**{name: getattr(trace, name) for name in Trace.__dataclass_fields__} | {"steps": tuple(steps)})
    answer = other.replay(lm)
    assert answer.step == 4 and f"token {trace.ids[4]} instead of {steps[4].id}" in str(answer)


def test_another_vocabulary_is_told(trace):
    assert "vocabulary of 37" in str(trace.replay(labkit.load("shakespeare-char")))


@pytest.mark.parametrize(("name", "value"), [("max_bytes", -1), ("top_m", 0), ("top_m", "many")])
def test_impossible_sizes_are_refused(lm, name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value!r}"):
        record(lm, "a", **{name: value})
