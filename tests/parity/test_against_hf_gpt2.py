"""GPT-2 folders of Hugging Face: the logits and the greedy tokens of transformers on the same weights."""

import json

import hf_models
import pytest
import torch
from tiny import random_ids

import labkit

FAMILY = "gpt2 (transformers)"
CONFIGS = {
    "as it comes": {},
    "exact GELU, free width": {"activation_function": "gelu", "n_inner": 40, "layer_norm_epsilon": 1e-3},
    "ReLU": {"activation_function": "relu", "n_head": 2, "n_layer": 3},
    "two matrices": {"tie_word_embeddings": False},
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    """A model of transformers, and the folder it was saved to."""
    model = hf_models.gpt2(**CONFIGS[request.param])
    return model, hf_models.save(model, tmp_path_factory.mktemp("gpt2"))


def test_logits(pair, measured, request):
    model, folder = pair
    lm, ids = labkit.load(folder), random_ids(40, vocab_size=61)
    measured(FAMILY, request.node.callspec.params["pair"], "logits", hf_models.apart(lm, model, ids), 1e-4)
    assert lm.n_parameters == model.num_parameters()


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_tokens_and_the_end(pair, use_cache, measured, request):
    model, folder = pair
    ids = random_ids(5, seed=1, vocab_size=61)
    theirs = hf_models.greedy(model, ids, 30)
    ours = labkit.generate(labkit.load(folder), ids, greedy=True, max_new_tokens=30, use_cache=use_cache)
    measured(FAMILY, request.node.callspec.params["pair"], "greedy ids wrong", ours.ids != theirs, 0)
    assert (ours.finish_reason == "eos") == (theirs[-1] == 0)


def rewritten(folder, to, change):
    """The folder's tensors in a file of another kind."""
    from safetensors.torch import load_file

    to.mkdir()
    (to / "config.json").write_text((folder / "config.json").read_text())
    change(load_file(folder / "model.safetensors"), to)
    return to


def test_all_ways_of_storing_the_weights_are_one_model(pair, tmp_path):
    model, folder = pair
    ids = random_ids(20, vocab_size=61)
    expected = labkit.load(folder).logits(ids)
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 40, 40).tril().bool() for i in range(2)}
    masks |= {f"transformer.h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(2)}
    stored = {
        "in parts": hf_models.save(model, tmp_path / "parts", max_shard_size="10KB"),
        "bin": rewritten(folder, tmp_path / "bin", lambda w, to: torch.save(w, to / "pytorch_model.bin")),
        "bin with masks": rewritten(
            folder, tmp_path / "masks", lambda w, to: torch.save(w | masks, to / "pytorch_model.bin")
        ),
        "without root": rewritten(
            folder,
            tmp_path / "bare",
            lambda w, to: torch.save(
                {k.removeprefix("transformer."): v for k, v in w.items()}, to / "pytorch_model.bin"
            ),
        ),
    }
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    for how, path in stored.items():
        assert torch.equal(labkit.load(path).logits(ids), expected), how
    part = sorted((tmp_path / "parts").glob("*.safetensors"))[0]
    assert torch.equal(labkit.load(part).logits(ids), expected)  # one part stands for all


def test_two_matrices_where_the_config_says_one_are_both_used(tmp_path):
    model = hf_models.gpt2(tie_word_embeddings=False)
    folder = hf_models.save(model, tmp_path / "untied")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    lm, ids = labkit.load(folder), random_ids(20, vocab_size=61)
    assert "two matrices" in " ".join(lm.checkpoint.notes)
    assert hf_models.apart(lm, model, ids) <= 1e-4


def test_gpt2s_own_tokenizer_is_presumed_for_its_vocabulary(tmp_path):
    folder = hf_models.save(hf_models.gpt2(vocab_size=50257, n_embd=4, n_head=2, n_layer=1), tmp_path / "gpt2")
    lm = labkit.load(folder)
    assert lm.tokenizer.encode("hello world<|endoftext|>") == [31373, 995, 50256]
    assert any("presumed" in note for note in lm.checkpoint.notes)
