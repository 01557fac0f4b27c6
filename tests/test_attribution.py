"""Direct logit attribution: the parts add up to the logit, and what does not add up is shown."""

import json

import pytest
import tiny
import torch

from labkit.errors import ConfigError, ContextError, TokenizerError
from labkit.inspection import attribute, capture
from labkit.inspection.attribution import head_parts, stream_weights

every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])


def before_softcap(lm, ids):
    """Logits of the last token without the softcap."""
    return lm.model.lm_head(lm.model.hidden(torch.tensor([ids])))[0, -1, : lm.vocab_size]


@every_model
@pytest.mark.parametrize("versus", [None, 5])
def test_the_terms_add_up_to_what_the_head_says(family, variant, versus):
    lm, ids = tiny.tiny(family, variant), tiny.random_ids(8)
    found = attribute(lm, ids, 3, versus)
    raw, logits = before_softcap(lm, ids), lm.logits(ids)[-1]
    minus = (0, 0) if versus is None else (raw[versus], logits[versus])
    total = sum(term.value for term in found.terms)
    assert abs(total - float(raw[3] - minus[0])) <= 1e-4
    assert abs(found.logit - float(logits[3] - minus[1])) <= 1e-5
    assert abs(total + found.remainder - found.logit) <= 1e-9
    assert abs(found.remainder) <= 1e-4 or family == "nanochat"


def test_the_remainder_is_what_a_softcap_takes_away():
    lm, ids = tiny.tiny("nanochat", "newest"), tiny.random_ids(8)
    raw, logits = before_softcap(lm, ids), lm.logits(ids)[-1]
    best = int(raw.argmax())
    found = attribute(lm, ids)
    assert found.target == best and abs(found.remainder - float(logits[best] - raw[best])) <= 1e-4
    assert abs(found.remainder) > 0.01


@every_model
def test_the_heads_of_a_block_and_its_bias_are_what_its_attention_writes(family, variant):
    lm, ids = tiny.tiny(family, variant), tiny.random_ids(7)
    with capture(lm, ["blocks.*.z", "blocks.*.attn_out"]) as acts:
        lm.logits(ids)
    for i, block in enumerate(lm.model.blocks):
        by_head, bias = head_parts(block.attn, acts[f"blocks.{i}.z"][0, :, -1].double())
        written = by_head.sum(dim=0) + (bias if bias is not None else 0)
        assert torch.allclose(written.float(), acts[f"blocks.{i}.attn_out"][0, -1], atol=1e-5)


@every_model
@pytest.mark.parametrize("layer", [0, -1])
def test_a_head_writes_what_is_missing_when_it_is_silent(family, variant, layer):
    """What attention adds, less what it adds without the head's columns of o_proj."""
    lm, ids = tiny.language_model(family, tiny.TINY[family][variant], seed=4), tiny.random_ids(6)
    last, head = range(len(lm.model.blocks))[layer], 1
    attn = lm.model.blocks[last].attn
    with capture(lm, [f"blocks.{last}.attn_out", f"blocks.{last}.z"]) as acts:
        lm.logits(ids)
    size = attn.o_proj.weight.shape[1] // acts[f"blocks.{last}.z"].shape[1]
    before = acts[f"blocks.{last}.attn_out"][0, -1]
    written = head_parts(attn, acts[f"blocks.{last}.z"][0, :, -1].double())[0][head]
    attn.o_proj.weight.data[:, head * size : (head + 1) * size] = 0
    with capture(lm, f"blocks.{last}.attn_out") as acts:
        lm.logits(ids)
    assert torch.allclose(before - acts[f"blocks.{last}.attn_out"][0, -1], written.float(), atol=1e-5)
    assert written.abs().max() > 1e-3


def test_the_difference_of_two_logits_is_the_difference_of_their_terms():
    lm, ids = tiny.tiny("labcore", "learned"), tiny.random_ids(8)
    one, other, both = attribute(lm, ids, 3), attribute(lm, ids, 5), attribute(lm, ids, 3, 5)
    for a, b, difference in zip(one.terms, other.terms, both.terms, strict=True):
        assert a.value - b.value == pytest.approx(difference.value, abs=1e-6) and a.name == b.name == difference.name


def test_later_tokens_change_nothing_and_a_position_is_counted_from_either_end():
    lm, ids = tiny.tiny("swa_mla", "configured"), tiny.random_ids(8)
    found = attribute(lm, ids, 3, position=4)
    assert found == attribute(lm, ids, 3, position=-4) == attribute(lm, ids[:5], 3)


def test_tables_name_every_part_once_and_add_up():
    lm = tiny.tiny("gpt2", "tied")
    found = attribute(lm, "abcd", "e", "f")
    rows = found.rows()
    assert [row["part"] for row in rows][:6] == [
        "embedding", "block 0 head 0", "block 0 head 1", "block 0 attention bias", "block 0 mlp", "block 1 head 0"
    ]  # fmt: skip
    assert rows[-2]["part"] == "norm bias" and rows[-1]["part"] == "remainder"
    assert sum(row["logit"] for row in rows) == pytest.approx(found.logit, abs=1e-3)
    sizes = [abs(row["logit"]) for row in found.top(4)]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 4
    layers = found.layers()
    assert len(layers) == 2 and layers[-1]["so_far"] == pytest.approx(found.logit - rows[-2]["logit"], abs=1e-3)
    assert repr(found) == f"Attribution('e' - 'f': {found.logit:.3f}, 10 terms, remainder 0.0)"
    json.dumps(found.to_dict())


def test_parts_that_the_wiring_scales_are_counted_as_the_final_norm_sees_them():
    """Newer nanochat scales the stream before each block and subtracts a middle one: a part counts for what is left."""
    config = tiny.TINY["nanochat"]["newest"]
    lm = tiny.language_model("nanochat", config, seed=2)
    scale, backout = lm.model.mix.residual, lm.model.backout
    weights = stream_weights(lm.model)
    assert torch.allclose(weights[-1], torch.ones(16).double())
    expected = scale[4] * scale[3] * scale[2] * scale[1] - backout * scale[2] * scale[1]
    assert torch.allclose(weights[0], expected.double().expand(16), atol=1e-5)
    assert not any(block._forward_hooks for block in lm.model.blocks)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda lm: attribute(lm, "ab", "c", "c"), ConfigError, "target and versus are both token"),
        (lambda lm: attribute(lm, "ab", "cd"), ConfigError, "'cd' is 2 tokens"),
        (lambda lm: attribute(lm, "ab", 99), TokenizerError, "id 99 is outside"),
        (lambda lm: attribute(lm, "ab", position=5), ConfigError, "no position 5; the text has 2 tokens, 0 … 1"),
        (lambda lm: attribute(lm, "ab" * 13), ContextError, "26 tokens, but the context holds 24"),
    ],
    ids=range(5),
)
def test_what_cannot_be_is_said_in_one_line(call, error, words):
    with pytest.raises(error, match=words) as refused:
        call(tiny.tiny("labcore", "learned"))
    assert "\n" not in str(refused.value)
