"""nanochat checkpoints say what the original says: logits, greedy ids with and without cache, what is inside, texts."""

import functools

import pytest
import torch
from forcing import greedy_steps, largest, wrong
from recorded import fixtures_root, model_cases, read_arrays, read_json

import labkit

FAMILY, LOGITS = "nanochat", 2e-4
CASES = model_cases("nanochat")
PROMPTS = [
    (case, i) for case in CASES for i in range(len(read_json("nanochat", case, "expected.json")["prompts"]))
]  # fmt: skip
# Its own cache forgot the windows; what it said without a cache is right.
CACHE_WAS_WRONG = {"ve_window_jan2026"}

every_case = pytest.mark.parametrize("case", CASES)
every_prompt = pytest.mark.parametrize(("case", "prompt"), PROMPTS)
expected = functools.cache(functools.partial(read_json, "nanochat"))
arrays = functools.cache(lambda case: read_arrays("nanochat", case, "expected.npz"))


def folder(case: str):
    return next(path for path in (fixtures_root() / "nanochat" / case).iterdir() if path.is_dir())


@functools.cache
def model(case: str) -> labkit.LanguageModel:
    return labkit.load(folder(case), device="cpu")


def test_the_cases_are_here():
    assert {"base_gqa_origmod", "exp_step_002920"} <= set(CASES) and len(PROMPTS) >= 10


@every_case
def test_config_and_training_facts_are_the_recorded_ones(case):
    lm, recorded = model(case), expected(case, "expected.json")
    assert {name: getattr(lm.config, name) for name in recorded["model_config"]} == recorded["model_config"]
    assert lm.config.padded_vocab_size == recorded["padded_vocab"]
    assert lm.config.rope_dtype == recorded["rope_dtype"].removeprefix("torch.")
    assert lm.checkpoint.family == "nanochat" and lm.checkpoint.losses
    assert lm.checkpoint.step == int(lm.checkpoint.path.stem.removeprefix("model_"))


@every_prompt
def test_logits(case, prompt, measured):
    logits = model(case).logits(arrays(case)[f"ids_p{prompt}"])
    measured(FAMILY, case, "logits", largest(logits, arrays(case)[f"logits_p{prompt}"]), LOGITS)


@every_prompt
@torch.inference_mode()
def test_logits_token_by_token(case, prompt, measured):
    lm, ids = model(case), torch.from_numpy(arrays(case)[f"ids_p{prompt}"])
    cache = lm.model.new_cache()
    logits = torch.cat([lm.model(i.view(1, 1), cache)[0] for i in ids])
    measured(FAMILY, case, "logits token by token", largest(logits, arrays(case)[f"logits_p{prompt}"]), LOGITS)


@every_prompt
@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
def test_greedy_ids(case, prompt, use_cache, measured):
    recorded = arrays(case)
    name = "greedy_cached_p" if use_cache and case not in CACHE_WAS_WRONG else "greedy_p"
    greedy = recorded[f"{name}{prompt}"]
    steps = greedy_steps(model(case), recorded[f"ids_p{prompt}"], len(greedy), use_cache=use_cache)
    label = "with cache" if use_cache else "without"
    measured(FAMILY, case, f"greedy ids wrong, {label}", wrong(steps, greedy), 0)


@every_case
@torch.inference_mode()
def test_what_is_inside(case, measured):
    """The residual stream after each block, and attention weights recomputed from q, k and mask."""
    lm, recorded = model(case), arrays(case)
    ids = torch.from_numpy(recorded[f"ids_p{expected(case, 'expected.json')['inspect_prompt']}"])
    hidden, weights, hooks = [], [], []

    def keep_pattern(module, inputs, output):
        q, k, _, mask = inputs
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # (B, H, S, D)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        weights.append(scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)[0])

    for block in lm.model.blocks:
        hooks.append(block.register_forward_hook(lambda module, inputs, output: hidden.append(output[0])))
        hooks.append(block.attn.core.register_forward_hook(keep_pattern))
    lm.model(ids[None])
    for hook in hooks:
        hook.remove()
    measured(FAMILY, case, "hidden states", largest(torch.stack(hidden), recorded["inspect_hidden"]), LOGITS)
    for i, found in enumerate(weights):
        measured(FAMILY, case, "attention weights", largest(found, recorded[f"inspect_attn_L{i}"]), 1e-5)


TEXTS = read_json("nanochat", "exp_step_002920", "expected.json")["text_greedy"]


@pytest.mark.parametrize("i", range(len(TEXTS)))
def test_texts_of_the_experiment(i):
    """Padding ids decode to nothing, unknown characters of the prompt do not come back, BOS stays in front."""
    record, lm = TEXTS[i], model("exp_step_002920")
    newline = lm.tokenizer.encode("\n") if record.get("stop_on_newline") else ()
    g = labkit.generate(
        lm,
        record["prompt"],
        temperature=0,
        top_k=record.get("top_k"),
        max_new_tokens=record["max_tokens"],
        stop=newline,
    )
    ended = "\n" * (g.finish_reason == "stop")  # the original keeps the newline that ended it
    assert g.prompt_ids[0] == 17 == lm.tokenizer.bos_id
    assert lm.tokenizer.decode(g.prompt_ids[1:]) + g.text + ended == record["output"]
    unknown = sorted(set(record["prompt"]) - set("0123456789+-HBL.\n"))
    assert len(g.notes) == bool(unknown) and all(repr(c) in g.notes[0] for c in unknown)
