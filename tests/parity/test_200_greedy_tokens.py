"""Ten prompts, 200 greedy tokens each: random GPT-2 and Llama models against transformers on the same weights."""

import hf_models
import pytest
from test_against_hf_gpt2 import CONFIGS as GPT2
from test_against_hf_llama import CONFIGS as LLAMA
from tiny import random_ids

import labkit

CASES = [("gpt2", name) for name in GPT2] + [("llama", name) for name in LLAMA]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), CASES)
def test_ten_prompts_give_the_same_200_greedy_tokens(family, name, measured, tmp_path):
    if family == "gpt2":
        model = hf_models.gpt2(**{**GPT2[name], "n_positions": 256})
    else:
        model = hf_models.llama(**{**LLAMA[name], "max_position_embeddings": 256})
    lm = labkit.load(hf_models.save(model, tmp_path / "model"))
    for seed in range(10):
        ids = random_ids(5 + seed, seed=seed, vocab_size=61)
        theirs = hf_models.greedy(model, ids, 200, at_least=200)
        ours = labkit.generate(lm, ids, greedy=True, min_new_tokens=200, max_new_tokens=200).ids
        assert len(theirs) == len(ours) == 200
        measured(family, name, "200 greedy tokens wrong", ours != theirs, 0)
        measured(family, name, "logits after them", hf_models.apart(lm, model, ids + ours), 1e-4)
