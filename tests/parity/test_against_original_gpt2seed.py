"""GPT-2-from-scratch checkpoints say what the original says: logits, greedy and forced steps far past the context."""

import functools

import pytest
from forcing import apart, forced_steps, greedy_steps, largest, wrong
from recorded import fixtures_root, model_cases, read_arrays, read_json

import labkit

FAMILY, LOGITS = "gpt2 (gpt2seed)", 5e-5
CASES = model_cases("gpt2seed")
PROMPTS = [
    (case, prompt["name"]) for case in CASES for prompt in read_json("gpt2seed", case, "expected.json")["prompts"]
]

every_case = pytest.mark.parametrize("case", CASES)
every_prompt = pytest.mark.parametrize(("case", "prompt"), PROMPTS)
with_and_without_cache = pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no cache"])
arrays = functools.cache(lambda case: read_arrays("gpt2seed", case, "expected.npz"))


@functools.cache
def model(case: str) -> labkit.LanguageModel:
    return labkit.load(fixtures_root() / "gpt2seed" / case, device="cpu")


def test_the_cases_are_here():
    assert {"small_bias", "small_bias_ddp", "small_nobias_eps1e-2"} <= set(CASES)
    assert len(PROMPTS) >= 12


@every_case
def test_what_the_file_says(case):
    recorded, config, facts = read_json("gpt2seed", case, "expected.json"), model(case).config, model(case).checkpoint
    theirs = {
        "vocab_size": config.vocab_size,
        "context_length": config.block_size,
        "d_model": config.n_embd,
        "num_heads": config.n_head,
        "num_layers": config.n_layer,
        "d_ff": config.n_hidden,
        "dropout": config.dropout,
        "layer_norm_epsilon": config.norm_eps,
        "use_bias": config.bias,
    }
    assert theirs.items() <= recorded["config"].items()
    assert (config.activation, config.tied, config.norm_bias) == ("gelu", True, True)
    assert (facts.family, facts.dtype, facts.losses, facts.stop_ids) == ("gpt2", "float32", {}, ())
    assert facts.sha256 == recorded["files"][recorded["checkpoint"]]
    if config.vocab_size == 50257:
        assert (model(case).tokenizer.encode("Hello<|endoftext|>"), facts.notes) == ([15496, 50256], ())
    else:
        assert model(case).tokenizer is None and "ids work, text does not" in " ".join(facts.notes)


@every_prompt
def test_logits(case, prompt, measured):
    ids = arrays(case)[f"ids_{prompt}"]
    if f"logits_{prompt}" not in arrays(case):  # longer than the context
        with pytest.raises(labkit.ContextError, match=f"{len(ids)} tokens.* holds {model(case).model.block_size}"):
            model(case).logits(ids)
        return
    measured(FAMILY, case, "logits", largest(model(case).logits(ids), arrays(case)[f"logits_{prompt}"]), LOGITS)


@every_prompt
@with_and_without_cache
def test_greedy_ids_and_the_logits_of_every_step(case, prompt, use_cache, measured):
    recorded = arrays(case)
    ids, greedy = recorded[f"ids_{prompt}"], recorded[f"greedy_{prompt}"]
    steps = greedy_steps(model(case), ids, len(greedy), overflow="recrop", use_cache=use_cache)
    measured(FAMILY, case, "greedy ids wrong", wrong(steps, greedy), 0)
    if f"steplogits_{prompt}" in recorded:
        measured(FAMILY, case, "step logits", apart(steps, recorded[f"steplogits_{prompt}"]), LOGITS)


@every_prompt
@with_and_without_cache
def test_logits_of_every_step_along_forced_ids(case, prompt, use_cache, measured):
    recorded = arrays(case)
    if "forced_ids" not in recorded:
        assert case == "bpe_50257"  # the only one without
        return
    steps = forced_steps(
        model(case), recorded[f"ids_{prompt}"], recorded["forced_ids"], overflow="recrop", use_cache=use_cache
    )
    expected = recorded[f"forced_steplogits_{prompt}"]
    measured(FAMILY, case, "logits along forced ids", apart(steps[: len(expected)], expected), LOGITS)
