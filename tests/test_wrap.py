"""``labkit.wrap``: any function from ids to logits is a model to labkit."""

import pytest
import torch
from tiny import CHARACTERS, V, characters, tiny

import labkit
from labkit.errors import ConfigError, ContextError, TokenizerError


def test_a_wrapped_model_generates_and_traces_like_the_model_itself():
    lm = tiny("labcore", "learned")
    wrapped = labkit.wrap(lm.model, tokenizer=characters(), vocab_size=V, block_size=lm.model.block_size)
    prompt = CHARACTERS[:5]
    assert torch.equal(wrapped.logits([1, 2, 3]), lm.logits([1, 2, 3]))
    runs = [list(labkit.stream(model, prompt, seed=4, max_new_tokens=40)) for model in (lm, wrapped)]
    assert [step.id for step in runs[0]] == [step.id for step in runs[1]]
    assert "".join(step.text for step in runs[0]) == "".join(step.text for step in runs[1])


def test_a_plain_function_without_tokenizer_works_by_ids():
    def successor(ids: torch.Tensor) -> torch.Tensor:
        return 9.0 * torch.nn.functional.one_hot((ids + 1) % 10, 10)

    lm = labkit.wrap(successor, vocab_size=10)
    assert labkit.generate(lm, [3], greedy=True, max_new_tokens=4).ids == [4, 5, 6, 7]
    with pytest.raises(TokenizerError, match="no tokenizer"):
        labkit.generate(lm, "text")


def test_what_does_not_fit_is_said():
    with pytest.raises(TokenizerError, match=f"{V} entries, the logits have 10"):
        labkit.wrap(lambda ids: ids, tokenizer=characters(), vocab_size=10)
    with pytest.raises(ConfigError, match="were expected"):
        labkit.wrap(lambda ids: ids.float(), vocab_size=10).logits([1])
    with pytest.raises(ContextError, match="the context holds 2"):
        labkit.wrap(lambda ids: torch.zeros(*ids.shape, 10), vocab_size=10, block_size=2).logits([1, 2, 3])
