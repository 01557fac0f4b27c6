"""What labkit shows of the inside: recorded attention weights and residual streams of the originals, and those of
transformers on the same weights."""

import functools
import json

import hf_models
import pytest
import torch
from forcing import largest
from recorded import fixtures_root, model_cases, read_arrays, read_json
from tiny import random_ids

import labkit
from labkit.inspection import attention, capture

PATTERNS, STREAM = 2e-4, 2e-4


def recorded_cases() -> list[tuple[str, str]]:
    found = [(system, case) for system in ("swamla", "nanochat") for case in model_cases(system)]
    return [(s, c) for s, c in found if "inspect_prompt" in read_json(s, c, "expected.json")]


@functools.cache
def recorded(system: str, case: str):
    """(lm, ids, arrays) of a case."""
    folder = fixtures_root() / system / case
    if system == "nanochat":
        folder = next(path for path in folder.iterdir() if path.is_dir())
    arrays = read_arrays(system, case, "expected.npz")
    ids = arrays[f"ids_p{read_json(system, case, 'expected.json')['inspect_prompt']}"].tolist()
    return labkit.load(folder, device="cpu"), ids, arrays


every_case = pytest.mark.parametrize(("system", "case"), recorded_cases())


def test_the_cases_are_here():
    assert len(recorded_cases()) >= 6


@every_case
def test_attention_maps_are_the_recorded_weights(system, case, measured):
    lm, ids, arrays = recorded(system, case)
    maps = attention(lm, ids)
    for layer in range(maps.n_layer):
        theirs = torch.tensor(arrays[f"inspect_attn_L{layer}"])
        measured(system, case, "attention maps", largest(maps.pattern(layer), theirs.numpy()), PATTERNS)
        for head in range(maps.n_head(layer)):
            assert torch.allclose(maps.pattern(layer, head), maps.pattern(layer)[head], atol=1e-6)


@every_case
def test_the_stream_after_every_block_is_the_recorded_one(system, case, measured):
    lm, ids, arrays = recorded(system, case)
    with capture(lm, "blocks.*.resid_post") as acts:
        lm.logits(ids)
    stream = torch.cat([acts[f"blocks.{i}.resid_post"] for i in range(len(lm.model.blocks))])
    measured(system, case, "resid_post", largest(stream, arrays["inspect_hidden"]), STREAM)


MODELS = {
    "gpt2": lambda: hf_models.gpt2(),
    "gpt2 exact GELU": lambda: hf_models.gpt2(activation_function="gelu", n_head=2, n_layer=3),
    "llama grouped": lambda: hf_models.llama(),
    "llama free head size": lambda: hf_models.llama(head_dim=10, num_hidden_layers=3),
}


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_attention_and_stream_are_those_of_transformers(name, measured, tmp_path):
    model = MODELS[name]()
    lm, ids = labkit.load(hf_models.save(model, tmp_path)), random_ids(30, vocab_size=61)
    model.config._attn_implementation = "eager"
    theirs = model(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
    maps = attention(lm, ids)
    with capture(lm, ["blocks.*.resid_pre", "norm_f"]) as acts:
        lm.logits(ids)
    for layer, weights in enumerate(theirs.attentions):
        measured("inspection", name, "attention", largest(maps.pattern(layer), weights[0].numpy()), 1e-4)
        stream = largest(acts[f"blocks.{layer}.resid_pre"], theirs.hidden_states[layer].numpy())
        measured("inspection", name, "resid_pre", stream, 1e-4)
    measured("inspection", name, "final norm", largest(acts["norm_f"], theirs.hidden_states[-1].numpy()), 1e-4)


def test_the_whole_is_plain_data():
    lm, ids, _ = recorded(*recorded_cases()[0])
    assert json.dumps(attention(lm, ids).to_dict())
