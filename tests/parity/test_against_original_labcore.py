"""LabCore checkpoints say what the original says: logits, both cache modes far past the block, texts."""

import functools

import pytest
from forcing import apart, forced_steps, greedy_steps, largest, wrong
from recorded import fixtures_root, model_cases, read_arrays, read_json

import labkit

FAMILY, LOGITS = "labcore", 5e-5
CASES = model_cases("labcore")

expected = functools.cache(functools.partial(read_json, "labcore"))
PROMPTS = [(case, prompt["name"]) for case in CASES for prompt in expected(case, "expected.json")["prompts"]]

every_case = pytest.mark.parametrize("case", CASES)
every_prompt = pytest.mark.parametrize(("case", "prompt"), PROMPTS)
arrays = functools.cache(lambda case: read_arrays("labcore", case, "expected.npz"))


@functools.cache
def model(case: str) -> labkit.LanguageModel:
    return labkit.load(fixtures_root() / "labcore" / case / expected(case, "expected.json")["checkpoint"], device="cpu")


def record_of(case: str, prompt: str) -> dict:
    return next(found for found in expected(case, "expected.json")["prompts"] if found["name"] == prompt)


def test_the_cases_are_here():
    assert {"char_learned_bias", "char_rope_nobias", "char_learned_nobias_ddp"} <= set(CASES)
    assert len(PROMPTS) >= 12


@every_case
def test_config_vocabulary_and_training_facts_are_the_recorded_ones(case):
    lm, recorded = model(case), expected(case, "expected.json")
    assert {name: getattr(lm.config, name) for name in recorded["model_config"]} == recorded["model_config"]
    log = read_json("labcore", case, "train_log.json")
    assert (lm.checkpoint.step, dict(lm.checkpoint.losses)) == (log["step"], log["losses"])
    assert (lm.checkpoint.family, lm.checkpoint.dtype, lm.checkpoint.notes) == ("labcore", "float32", ())
    assert lm.checkpoint.sha256 == recorded["files"][recorded["checkpoint"]]
    assert lm.tokenizer.vocab_size == lm.vocab_size


@every_prompt
def test_logits(case, prompt, measured):
    ids = arrays(case)[f"ids_{prompt}"]
    if f"logits_{prompt}" not in arrays(case):  # longer than the context
        with pytest.raises(labkit.ContextError, match=f"{len(ids)} tokens.* holds {model(case).model.block_size}"):
            model(case).logits(ids)
        return
    measured(FAMILY, case, "logits", largest(model(case).logits(ids), arrays(case)[f"logits_{prompt}"]), LOGITS)


MODES = {
    "kv": {"overflow": "labcore"},
    "nokv": {"overflow": "recrop", "use_cache": False},
    "nokv cached": {"overflow": "recrop", "use_cache": True},
}


@every_prompt
@pytest.mark.parametrize("mode", MODES)
def test_greedy_ids_and_the_logits_of_every_step(case, prompt, mode, measured):
    recorded, name = arrays(case), mode.split()[0]
    ids, greedy = recorded[f"ids_{prompt}"], recorded[f"greedy_{name}_{prompt}"]
    steps = greedy_steps(model(case), ids, len(greedy), **MODES[mode])
    measured(FAMILY, case, f"greedy ids wrong, {mode}", wrong(steps, greedy), 0)
    if f"steplogits_{name}_{prompt}" in recorded:
        difference = apart(steps, recorded[f"steplogits_{name}_{prompt}"])
        measured(FAMILY, case, f"step logits, {mode}", difference, LOGITS)


@every_prompt
@pytest.mark.parametrize("mode", MODES)
def test_logits_of_every_step_along_forced_ids(case, prompt, mode, measured):
    recorded, name = arrays(case), mode.split()[0]
    if "forced_ids" not in recorded:
        assert case == "bpe_gpt2_rope"  # the only one without
        return
    steps = forced_steps(model(case), recorded[f"ids_{prompt}"], recorded["forced_ids"], **MODES[mode])
    difference = apart(steps, recorded[f"forced_steplogits_{name}_{prompt}"])
    measured(FAMILY, case, f"forced step logits, {mode}", difference, LOGITS)


@every_prompt
def test_crop_is_the_same_as_the_original_until_the_context_is_full(case, prompt, measured):
    """labkit's own overflow may differ only where something has to go."""
    lm, recorded = model(case), arrays(case)
    ids, greedy = recorded[f"ids_{prompt}"], recorded[f"greedy_kv_{prompt}"]
    n = lm.model.block_size - len(ids) + 1
    if n > 0:
        steps = greedy_steps(lm, ids, min(n, len(greedy)))
        measured(FAMILY, case, "greedy ids wrong, crop", wrong(steps, greedy[: len(steps)]), 0)


@every_prompt
def test_texts(case, prompt):
    lm, record = model(case), record_of(case, prompt)
    assert lm.tokenizer.encode(record["text"]) == record["ids"] == arrays(case)[f"ids_{prompt}"].tolist()
    assert lm.tokenizer.decode(record["greedy_kv"]) == record["greedy_kv_text"]
    n = len(record["greedy_kv"])
    g = labkit.generate(lm, record["text"], temperature=0, max_new_tokens=n, overflow="labcore")
    assert (g.ids, g.text, g.prompt_ids) == (record["greedy_kv"], record["greedy_kv_text"], record["ids"])
    g = labkit.generate(lm, record["text"], temperature=0, max_new_tokens=n, overflow="recrop")
    assert g.ids == record["greedy_nokv"]


@every_case
def test_the_tokenizer_is_the_one_of_the_meta_file_beside_the_model(case):
    described = read_json("labcore", case, "meta.json")["tokenizer"]
    assert described == expected(case, "expected.json")["tokenizer"]
    tokenizer = model(case).tokenizer
    if described["type"] == "char":
        assert tokenizer.pieces(range(tokenizer.vocab_size)) == described["vocab"]
    else:
        assert tokenizer.vocab_size == 50257 and tokenizer.eos_id == 50256
