"""Ablation: what the model does without a part, read from the logit, the distribution and the recorded draw."""

import copy
import json

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import labkit
from labkit.errors import ConfigError, ContextError, TokenizerError
from labkit.inspection import At, ablate, capture, edit, effect
from labkit.inspection.effects import redrawn
from labkit.sampling import StepContext

every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])
TEXT = tiny.random_ids(40, seed=5)


def silent(lm, part):
    """The same model with the part's own weights at zero."""
    model = copy.deepcopy(lm.model)
    for layer, module, head, size in part:
        projection = model.blocks[layer].get_submodule(module)
        columns = slice(None) if head is None else slice(head * size, (head + 1) * size)
        projection.weight[:, columns] = 0
        if head is None and projection.bias is not None:
            projection.bias.zero_()
    return model


@every_model
def test_without_a_head_or_an_mlp_the_model_is_the_one_with_zeros_in_its_weights(family, variant):
    lm, ids = tiny.tiny(family, variant), tiny.random_ids(7)
    heads, mlps = ablate(lm, ids, "heads", target=3), ablate(lm, ids, "mlps", target=3)
    n_head = {part.site: sum(other.site == part.site for other in heads.parts) for part in heads.parts}
    clean = lm.logits(ids)[-1]
    for found, one in [(heads, "attn.o_proj"), (mlps, "mlp.down_proj")]:
        for part, result in zip(found.parts, found.effects, strict=True):
            layer = int(part.site.split(".")[1])
            size = lm.model.blocks[layer].get_submodule(one).weight.shape[1] // n_head.get(part.site, 1)
            head = part.heads[0] if part.heads else None
            with torch.inference_mode():
                without = silent(lm, [(layer, one, head, size)])(torch.tensor([ids]))[0, -1]
            p, q = clean.log_softmax(dim=-1), without.log_softmax(dim=-1)
            assert result.delta_logit[0] == pytest.approx(float(without[3] - clean[3]), abs=1e-4)
            assert result.kl[0] == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-4)
            assert result.rank[0] == int((without > without[3]).sum()) and result.first[0] == int(without.argmax())
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lm.model.modules())


@every_model
@pytest.mark.parametrize("what", ["heads", "attention", "mlps", "positions"])
def test_a_text_that_stands_in_for_itself_changes_nothing(family, variant, what):
    lm, ids = tiny.tiny(family, variant), tiny.random_ids(6)
    for how in ("mean", "resample"):
        found = ablate(lm, ids, what, how, reference=ids)
        assert max(float(one.kl.max()) for one in found.effects) <= 1e-8
        assert all(float(one.redrawn.max()) <= 1e-4 and (one.drawn == one.drawn_before).all() for one in found.effects)


def test_the_mean_is_that_of_each_position_over_the_pieces_of_the_reference():
    lm, ids = tiny.tiny("llama", "grouped"), tiny.random_ids(7)
    found = ablate(lm, ids, At("blocks.1.z", heads=(2,)), "mean", reference=TEXT, target=3)
    with capture(lm, "blocks.1.z") as acts:
        seen = []
        for i in range(0, 35, 7):
            lm.logits(TEXT[i : i + 7])
            seen.append(acts["blocks.1.z"][:, 2:3])
    mean = torch.stack(seen).mean(dim=0)
    with edit(lm, {At("blocks.1.z", heads=(2,)): lambda z: mean}):
        expected = lm.logits(ids)[-1, 3] - found.effects[0].delta_logit[0]
    assert float(expected) == pytest.approx(float(lm.logits(ids)[-1, 3]), abs=1e-5)


def test_a_resampled_position_is_that_of_the_donor_and_the_seed_chooses_it():
    lm, ids = tiny.tiny("swa_mla", "configured"), tiny.random_ids(7)
    donors = {tuple(ablate(lm, ids, "mlps", "resample", reference=TEXT, seed=s).donor) for s in range(20)}
    assert donors == {tuple(TEXT[i : i + 7]) for i in range(0, 35, 7)}
    found = ablate(lm, ids, "positions", "resample", reference=TEXT, seed=1, target=3)
    with capture(lm, "blocks.*.v") as acts:
        lm.logits(found.donor)
    swapped = {At(name, positions=(2,)): lambda v, name=name: acts[name][:, :, 2:3] for name in acts}
    with edit(lm, swapped):
        without = lm.logits(ids)[-1, 3]
    assert found.effects[2].delta_logit[0] == pytest.approx(float(without - lm.logits(ids)[-1, 3]), abs=1e-5)
    assert found.rows() == ablate(lm, ids, "positions", "resample", reference=TEXT, seed=1, target=3).rows()


def test_of_two_tokens_the_difference_is_what_changes():
    lm, ids = tiny.tiny("llama", "biased"), tiny.random_ids(6)
    both = ablate(lm, ids, "mlps", target=3, versus=5)
    one, other = ablate(lm, ids, "mlps", target=3), ablate(lm, ids, "mlps", target=5)
    for a, b, difference in zip(one.effects, other.effects, both.effects, strict=True):
        assert float(a.delta_logit - b.delta_logit) == pytest.approx(float(difference.delta_logit), abs=1e-5)


def test_several_prompts_at_once_are_the_same_prompts_one_by_one():
    lm, prompts = tiny.tiny("nanochat", "newest"), [tiny.random_ids(6, seed=s) for s in range(3)]
    together = ablate(lm, prompts, "heads", target=[3, 4, 5], versus=6)
    for i, prompt in enumerate(prompts):
        alone = ablate(lm, prompt, "heads", target=3 + i, versus=6)
        for both, one in zip(together.effects, alone.effects, strict=True):
            for name in ("delta_logit", "kl", "rank", "drawn", "redrawn"):
                assert torch.allclose(getattr(both, name)[i].float(), getattr(one, name)[0].float(), atol=1e-4), name


def test_the_draw_is_the_one_that_generate_makes():
    """With the same seed the first token of a generation inside the edit is the drawn one."""
    lm, ids = tiny.tiny("gpt2", "tied"), tiny.random_ids(6)
    changed = 0
    for seed in range(12):
        sampler = labkit.Sampler.from_settings(temperature=1.5, top_k=20, seed=seed)
        found = ablate(lm, ids, "mlps", sampler=sampler)
        chosen = {"temperature": 1.5, "top_k": 20, "top_p": None, "seed": seed, "max_new_tokens": 1}
        for part, one in zip(found.parts, found.effects, strict=True):
            assert [int(one.drawn_before[0])] == labkit.generate(lm, ids, **chosen).ids
            with edit(lm, {part: torch.zeros_like}):
                assert [int(one.drawn[0])] == labkit.generate(lm, ids, **chosen).ids
            changed += int(one.drawn[0] != one.drawn_before[0])
    assert 0 < changed < 24


@given(st.integers(0, 2**31), st.integers(2, 12), st.floats(0.1, 6))
def test_the_share_of_redrawn_seeds_is_the_formula_summed_over_all_pairs(seed, n, spread):
    generator = torch.Generator().manual_seed(seed)
    p, q = (spread * torch.randn(2, 1, n, generator=generator).double()).softmax(dim=-1)
    ratio = torch.maximum(p[0, None, :] / p[0, :, None], q[0, None, :] / q[0, :, None])  # (i, j)
    assert float(redrawn(p, q)) == pytest.approx(float(1 - (1 / ratio.sum(dim=1)).sum()), abs=1e-6)


def test_the_share_of_redrawn_seeds_is_what_counting_gives():
    logits = torch.randn(2, 15, generator=torch.Generator().manual_seed(0)) * 1.5
    before, after = logits[:1], logits[1:]
    sampler = labkit.Sampler.from_settings(top_k=9)
    args = {"sampler": sampler, "context": StepContext([[1]], [[]])}
    expected = float(effect(before, after, [0], **args).redrawn)
    changed = 0
    for seed in range(1500):
        args["sampler"] = labkit.Sampler.from_settings(top_k=9, seed=seed)
        picks = [int(args["sampler"](x, args["context"])) for x in (before, after)]
        changed += picks[0] != picks[1]
    assert changed / 1500 == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 1500) ** 0.5)


def test_distributions_without_a_common_token_are_always_redrawn_and_equal_ones_never():
    p, q = torch.tensor([[0.5, 0.5, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.3, 0.7]])
    assert redrawn(p, q) == 1 and redrawn(p, p) == 0
    assert redrawn(torch.cat([p, q]), torch.cat([q, q])).tolist() == [1, 0]


def test_for_a_greedy_sampler_redrawn_is_whether_the_first_choice_changed():
    lm, ids = tiny.tiny("labcore", "learned"), tiny.random_ids(6)
    found = ablate(lm, ids, "attention", sampler=labkit.Sampler.from_settings(greedy=True))
    for one in found.effects:
        assert one.drawn == one.first and one.redrawn == float(one.first != one.first_before)


def test_an_earlier_position_is_looked_at_as_if_the_text_ended_there():
    lm, ids = tiny.tiny("llama", "biased"), tiny.random_ids(9)
    found = ablate(lm, ids, "positions", position=4)
    assert found.rows() == ablate(lm, ids[:5], "positions").rows() and len(found.parts) == 5


def test_one_long_reference_keeps_the_first_token_that_the_format_puts_in_front():
    lm = labkit.load("arithmetic")
    found = ablate(lm, "12+34=", "mlps", "resample", reference="11+22=33 44+55=99 12+13=25")
    bos = lm.tokenizer.bos_id
    assert found.prompts[0][0] == found.donor[0] == bos and bos not in found.donor[1:] and len(found.donor) == 7


def test_tables_name_the_parts_and_sort_by_what_is_asked():
    lm = tiny.tiny("gpt2", "tied")
    found = ablate(lm, "abcd", "heads", target="e")
    rows = found.rows()
    assert [row["part"] for row in rows] == [f"block {i} head {h}" for i in range(2) for h in range(2)]
    assert found.target_pieces == ["e"] and repr(found) == "Ablation(zero, 4 parts, 1 prompts)"
    assert [row["kl"] for row in found.top(2)] == sorted((row["kl"] for row in rows), reverse=True)[:2]
    assert found.top(1, "delta_logit")[0]["delta_logit"] == min(row["delta_logit"] for row in rows)
    two = ablate(lm, "abcd", [At("blocks.*.z", heads=(0, 1), positions=(1,)), At("blocks.0.neurons")])
    assert two.labels == ("blocks.*.z head 0, 1 position 1", "blocks.0.neurons")
    assert ablate(lm, "ab", "mlps").labels == ("block 0 mlp", "block 1 mlp")
    assert ablate(lm, "ab", "positions").labels == ("position 0", "position 1")
    assert repr(found.effects[0]).startswith("Effect(delta_logit=")
    json.dumps(found.to_dict())


@pytest.mark.parametrize("what", ["heads", "attention", "mlps", "positions"])
def test_a_wrapped_function_has_no_parts(what):
    lm = labkit.wrap(lambda ids: torch.zeros(*ids.shape, 5), vocab_size=5)
    with pytest.raises(ConfigError, match="wrapped function"):
        ablate(lm, [1, 2], what)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda lm: ablate(lm, ["abc", "ab"]), ConfigError, r"the prompts have \[2, 3\] tokens; give prompts of equal"),
        (lambda lm: ablate(lm, "abc", "layers"), ConfigError, "'layers' is nothing to ablate; heads, attention, mlps"),
        (lambda lm: ablate(lm, "abc", how="noise"), ConfigError, "how='noise' is unknown; zero, mean or resample"),
        (lambda lm: ablate(lm, "abc", how="mean"), ConfigError, "needs reference=: prompts of 3 tokens"),
        (lambda lm: ablate(lm, "abc", how="mean", reference="ab"), ConfigError, "has 2 tokens and the prompt 3"),
        (lambda lm: ablate(lm, "abc", target=["a", "b"]), ConfigError, "2 tokens for 1 prompts"),
        (lambda lm: ablate(lm, "abc", target=77), TokenizerError, "id 77 is outside the vocabulary"),
        (lambda lm: ablate(lm, "abc", At("blocks.0.z", heads=(7,))), ConfigError, "there is no head 7"),
        (lambda lm: ablate(lm, "abc", At("blocks.9.z")), ConfigError, "no site is called 'blocks.9.z'"),
        (lambda lm: ablate(lm, "abc", At("blocks.0.pattern")), ConfigError, "only read"),
        (lambda lm: ablate(lm, "abc", position=3), ConfigError, "no position 3"),
        (lambda lm: ablate(lm, "abcd" * 7), ContextError, "28 tokens, but the context holds 24"),
        (lambda lm: ablate(lm, "abc").top(by="size"), ConfigError, "'size' is no column; they are delta_logit, kl"),
        (lambda lm: ablate(lm, []), ContextError, "no tokens"),
    ],
    ids=range(14),
)
def test_what_cannot_be_is_said_in_one_line(call, error, words):
    with pytest.raises(error, match=words) as refused:
        call(tiny.tiny("labcore", "learned"))
    assert "\n" not in str(refused.value)
