"""The fast path: packed weights give the same model, up to the last digits of its logits."""

import copy
import json
import pickle
from dataclasses import replace

import pytest
import torch
from recorded import ROOT
from tiny import TINY, random_ids, tiny
from torch import nn

import labkit
from labkit import cli, inspection
from labkit.benchmark import benchmark
from labkit.layers import packed
from labkit.layers.packed import PackedLinear, is_packed, pack, plain
from labkit.models import CausalLM

EACH = [(family, variant) for family, variants in TINY.items() for variant in variants]


@pytest.fixture(autouse=True)
def however_small(monkeypatch):
    monkeypatch.setattr(packed, "LEAST", 1)


def packed_model(family: str = "llama", variant: str | None = None) -> labkit.LanguageModel:
    lm = tiny(family, variant or next(iter(TINY[family])))
    copied = replace(lm, model=copy.deepcopy(lm.model))  # others use the same one
    assert pack(copied.model) == sum(type(m) is nn.Linear for m in lm.model.modules())
    return copied


@pytest.mark.parametrize(("family", "variant"), EACH)
def test_every_family_computes_the_same_and_generates_the_same_tokens(family, variant):
    fast, slow = packed_model(family, variant), tiny(family, variant)
    ids = random_ids(12, 3, vocab_size=slow.vocab_size)
    assert torch.allclose(fast.logits(ids), slow.logits(ids), atol=1e-5)
    for settings in ({"greedy": True}, {"temperature": 1.2, "seed": 4}, {"use_cache": False, "seed": 2}):
        made = [labkit.generate(lm, ids[:5], max_new_tokens=20, **settings).ids for lm in (fast, slow)]
        assert made[0] == made[1], settings


def test_the_weights_are_the_same_tensors_under_the_same_names_and_tied_ones_stay_tied():
    lm = tiny("gpt2", "tied")
    model = copy.deepcopy(lm.model)
    before = dict(model.named_parameters(remove_duplicate=False))
    pack(model)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)
    assert after["lm_head.weight"] is after["embed.weight"] and isinstance(model.lm_head, PackedLinear)
    assert model.state_dict().keys() == lm.model.state_dict().keys()


def test_weights_that_are_changed_in_place_are_packed_again():
    fast, ids = packed_model(), random_ids(6)
    before = fast.logits(ids)
    with torch.no_grad():
        fast.model.get_parameter("blocks.0.mlp.down_proj.weight").mul_(3)
    changed = fast.logits(ids)
    assert not torch.allclose(before, changed, atol=1e-3)
    assert torch.allclose(changed, replace(fast, model=plain(fast.model)).logits(ids), atol=1e-5)


def test_gradients_flow_as_without_it():
    numbers = torch.Generator().manual_seed(0)
    linear = nn.Linear(8, 5, device="meta").to_empty(device="cpu")
    for parameter in linear.parameters():
        parameter.data.normal_(generator=numbers)
    layer = PackedLinear(linear)
    x = torch.randn(3, 8, requires_grad=True, generator=numbers)
    (of_x,) = torch.autograd.grad(layer(x).square().sum(), x)
    (expected,) = torch.autograd.grad(layer.plain()(x).square().sum(), x)
    assert torch.equal(of_x, expected)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


def test_hooks_see_and_change_the_same_things():
    fast, ids = packed_model(), random_ids(6)
    slow = replace(fast, model=plain(fast.model))
    for site in ("blocks.0.mlp_out", "blocks.1.q", "blocks.1.neurons"):
        seen = list[torch.Tensor]()
        for lm in (fast, slow):
            with inspection.capture(lm, site) as found:
                lm.logits(ids)
            seen.append(found[site])
        assert torch.allclose(seen[0], seen[1], atol=1e-5)
    without = [[float(one.kl) for one in inspection.ablate(lm, ids, "heads").effects] for lm in (fast, slow)]
    assert without[0] == pytest.approx(without[1], abs=1e-4) and max(without[0]) > 1e-3


def test_it_can_be_copied_saved_and_undone():
    fast, ids = packed_model(), random_ids(6)
    logits = fast.logits(ids)
    for again in (copy.deepcopy(fast.model), pickle.loads(pickle.dumps(fast.model))):
        assert is_packed(again) and torch.equal(replace(fast, model=again).logits(ids), logits)
    undone = plain(fast.model)
    assert not is_packed(undone) and is_packed(fast.model)
    assert undone.lm_head.weight is fast.model.lm_head.weight
    assert torch.equal(replace(fast, model=undone).logits(ids), tiny("llama", next(iter(TINY["llama"]))).logits(ids))


def test_in_bfloat16_it_is_as_near_as_bfloat16_is():
    lm, ids = tiny("llama", next(iter(TINY["llama"]))), random_ids(8)
    model: CausalLM = copy.deepcopy(lm.model).to(torch.bfloat16)
    rough = replace(lm, model=copy.deepcopy(model)).logits(ids)
    assert pack(model)
    assert torch.allclose(replace(lm, model=model).logits(ids), rough, atol=0.05)


def test_load_packs_what_is_large_enough_and_says_where_nothing_is(monkeypatch):
    lm = labkit.load("shakespeare-char", device="cpu", fast=True)
    assert lm.fast and not lm.checkpoint.notes
    monkeypatch.setattr(packed, "LEAST", 2**18)
    lm = labkit.load("shakespeare-char", device="cpu", fast=True)
    assert not lm.fast and "no matrix of this model is worth packing on cpu" in lm.checkpoint.notes[-1]
    assert not labkit.load("shakespeare-char", device="cpu").fast


def test_a_benchmark_says_which_path_it_measured_and_can_measure_both():
    lm = labkit.load("shakespeare-char", device="cpu", fast=True)
    record = benchmark(lm, "To be", new_tokens=4, iterations=2, warmup_tokens=1, against=["plain"])
    assert record["model"]["fast_path"] is True and record["model"]["params_m"] == pytest.approx(2.672, abs=0.001)
    assert {found["engine"] for found in record["measurements"]} == {"labkit", "plain"}
    assert not benchmark(labkit.load("shakespeare-char", device="cpu"), "To be", new_tokens=2, iterations=1)["model"][
        "fast_path"
    ]


def test_the_command_line_has_it_too(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    texts = []
    for more in ([], ["--fast"]):
        asked = ["--prompt", "ROMEO:", "--max-new-tokens", "20", "--seed", "1", "--device", "cpu", "--json", *more]
        cli.main(["generate", "shakespeare-char", *asked])
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1]
