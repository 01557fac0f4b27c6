"""Llama folders of Hugging Face: the logits and the greedy tokens of transformers on the same weights."""

from dataclasses import replace

import hf_models
import pytest
from tiny import random_ids

import labkit
from labkit.checkpoints.convert import convert
from labkit.tokenizers.char import CharTokenizer

FAMILY = "llama (transformers)"
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
CONFIGS = {
    "grouped queries": {},
    "one key head, tied": {"num_key_value_heads": 1, "tie_word_embeddings": True, "rms_norm_eps": 1e-2},
    "all heads, biases": {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True},
    "free head size": {"head_dim": 10, "num_hidden_layers": 3},
    "Llama 3 rotation": {"rope_parameters": LLAMA3},
    "linear rotation": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    "another base": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    """A model of transformers, and the folder it was saved to."""
    model = hf_models.llama(eos_token_id=[7, 9], bos_token_id=None, **CONFIGS[request.param])
    return model, hf_models.save(model, tmp_path_factory.mktemp("llama"))


def test_logits(pair, measured, request):
    model, folder = pair
    lm, ids = labkit.load(folder), random_ids(160, vocab_size=61)
    measured(FAMILY, request.node.callspec.params["pair"], "logits", hf_models.apart(lm, model, ids), 1e-4)
    assert lm.n_parameters == model.num_parameters()


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_tokens_and_the_end(pair, use_cache, measured, request):
    model, folder = pair
    ids = random_ids(5, seed=2, vocab_size=61)
    theirs = hf_models.greedy(model, ids, 50)
    ours = labkit.generate(labkit.load(folder), ids, greedy=True, max_new_tokens=50, use_cache=use_cache)
    measured(FAMILY, request.node.callspec.params["pair"], "greedy ids wrong", ours.ids != theirs, 0)
    assert (ours.finish_reason == "eos") == (theirs[-1] in (7, 9))


def test_an_end_that_the_config_names_ends_generation_and_is_not_text(pair):
    lm = labkit.load(pair[1])
    assert lm.checkpoint.stop_ids == (7, 9)
    lm = replace(lm, tokenizer=CharTokenizer([chr(ord("A") + i) for i in range(61)]))
    # At this temperature every token is as likely as any other, so an end comes within a few hundred.
    settings = labkit.Settings(temperature=1e6, top_k=None, top_p=None, max_new_tokens=2000, overflow="crop")
    run = labkit.generate(lm, [1, 2, 3], settings)
    assert (run.finish_reason, run.ids[-1] in (7, 9)) == ("eos", True)
    assert not {7, 9} & set(run.ids[:-1]) and run.text == lm.tokenizer.decode(run.ids[:-1])
    longer = labkit.generate(lm, [1, 2, 3], settings, min_new_tokens=len(run.ids) + 5)
    assert len(longer.ids) > len(run.ids) and longer.ids[: len(run.ids) - 1] == run.ids[:-1]


PROMPTS = (
    "Once upon a time",
    "The capital of France is",
    "def fibonacci(n):",
    "1, 2, 3, 4,",
    "Water boils at",
    "<|im_start|>user\nWrite a poem about rain.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWhat is 12 times 7?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nExplain photosynthesis to a child.<|im_end|>\n<|im_start|>assistant\n",
    "Ein kurzer Satz auf Deutsch:",
    "Dear Sir or Madam,\n\n",
)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_smollm2_out_of_its_wheel(tmp_path, measured):
    """Real weights, dequantised by labkit: transformers opens the converted folder and says the same."""
    try:
        lm = labkit.load("smollm2-135m-instruct")
    except labkit.CheckpointError as error:
        pytest.skip(str(error))
    convert(lm, tmp_path / "smollm2", format="huggingface")
    model = hf_models.open_folder(tmp_path / "smollm2")
    tokenizer = hf_models.transformers.AutoTokenizer.from_pretrained(tmp_path / "smollm2", local_files_only=True)
    for prompt in PROMPTS:
        ids = lm.tokenizer.encode(prompt)
        assert ids == tokenizer(prompt)["input_ids"]
        ours = labkit.generate(lm, ids, greedy=True, min_new_tokens=200, max_new_tokens=200)
        theirs = hf_models.greedy(model, ids, 200, at_least=200)
        assert len(theirs) == 200
        measured(FAMILY, "SmolLM2-135M", "greedy ids wrong", ours.ids != theirs, 0)
        measured(FAMILY, "SmolLM2-135M", "logits", hf_models.apart(lm, model, ids + ours.ids), 1e-4)
    ours = labkit.generate(lm, PROMPTS[6], greedy=True, max_new_tokens=200)
    assert ours.finish_reason == "eos" and len(ours.ids) < 200
    assert ours.ids == hf_models.greedy(model, lm.tokenizer.encode(PROMPTS[6]), 200)
