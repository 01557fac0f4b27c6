"""The logit lens on the residual streams of transformers, with its own norm and head, on the same weights."""

import hf_models
import pytest
import torch
from tiny import random_ids

import labkit
from labkit.inspection import logit_lens

CASES = {
    "GPT-2": (hf_models.gpt2, {"n_layer": 4}, "transformer.ln_f"),
    "Llama, grouped heads": (hf_models.llama, {"num_hidden_layers": 3}, "model.norm"),
    "Llama, tied": (hf_models.llama, {"tie_word_embeddings": True}, "model.norm"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_layer(case, tmp_path, measured):
    make, fields, norm = CASES[case]
    model = make(**fields)
    lm, ids = labkit.load(hf_models.save(model, tmp_path)), random_ids(30, vocab_size=61)
    with torch.inference_mode():
        *streams, last = model(torch.tensor([ids]), output_hidden_states=True).hidden_states  # the last one is normed
        expected = torch.stack([model.lm_head(x)[0] for x in [*map(model.get_submodule(norm), streams), last]])
    lens = logit_lens(lm, ids, tracked=range(61))
    measured(case, "logit lens", "logits", float((lens.tracked_logits - expected).abs().max()), 1e-4)
