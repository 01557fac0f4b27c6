"""Capture and edit: the numbers of the forward pass, in every family, cached or not, and nothing left behind."""

import threading

import pytest
import tiny
import torch
from torch import Tensor, nn

import labkit
from labkit.errors import ConfigError, ContextError, LabkitError
from labkit.inspection import At, capture, edit, sites
from labkit.inspection.hooks import apart

every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])
EVERY_SITE = ["blocks.*", "resid_final", "norm_f"]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@every_model
def test_every_site_has_a_name_a_shape_and_is_reached(family, variant):
    lm = tiny.tiny(family, variant)
    listed = sites(lm)
    assert len({site.name for site in listed}) == len(listed) == 11 * len(lm.model.blocks) + 2
    with capture(lm, EVERY_SITE) as acts:
        lm.logits(tiny.random_ids(6))
    for site in listed:
        sizes = dict(site.sizes) | {"B": 1, "T": 6, "S": 6}
        assert tuple(acts[site.name].shape) == tuple(sizes[d] for d in site.kind.dims), site
        assert acts[site.name].numel() * 4 == site.nbytes(6)
        assert acts[site.name].dtype == torch.float32 and repr(site) == f"{site.name} {site.shape}"


@every_model
def test_the_stream_adds_up_and_the_last_site_gives_the_logits(family, variant):
    lm = tiny.tiny(family, variant)
    with capture(lm, EVERY_SITE) as acts:
        logits = lm.logits(tiny.random_ids(7))
    for i in range(len(lm.model.blocks)):
        at = {
            name: acts[f"blocks.{i}.{name}"] for name in ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")
        }
        assert torch.allclose(at["resid_pre"] + at["attn_out"], at["resid_mid"], atol=1e-5)
        assert torch.allclose(at["resid_mid"] + at["mlp_out"], at["resid_post"], atol=1e-5)
    assert torch.allclose(lm.model.unembed(acts["norm_f"])[0], logits, atol=1e-5)


@every_model
def test_a_run_with_the_cache_gives_the_picture_of_one_forward(family, variant):
    lm, prompt = tiny.tiny(family, variant), tiny.random_ids(5)
    with capture(lm, EVERY_SITE) as running:
        g = labkit.generate(lm, prompt, max_new_tokens=9)
    with capture(lm, EVERY_SITE) as at_once:
        lm.logits([*prompt, *g.ids[:-1]])
    for name in at_once:
        assert running[name].shape == at_once[name].shape, name
        assert torch.allclose(running[name], at_once[name], rtol=1e-5, atol=1e-4), name


@every_model
def test_patterns_are_distributions_over_what_is_behind(family, variant):
    lm = tiny.tiny(family, variant)
    with capture(lm, "blocks.*.pattern") as acts:
        labkit.generate(lm, tiny.random_ids(3), max_new_tokens=12)
    for pattern in acts.values():
        assert torch.allclose(pattern.sum(dim=-1), torch.ones(pattern.shape[:-1]), atol=1e-5)
        assert (pattern.triu(1) == 0).all() and (pattern >= 0).all()


@every_model
def test_an_edit_holds_at_every_generated_token_cached_or_not(family, variant):
    lm, prompt = tiny.tiny(family, variant), tiny.random_ids(4)
    plain = labkit.generate(lm, prompt, max_new_tokens=8)
    noise = torch.randn(16, generator=torch.Generator().manual_seed(0))
    last = len(lm.model.blocks) - 1
    with edit(lm, {f"blocks.{last}.mlp_out": lambda x: x + 3 * noise}):
        cached = labkit.generate(lm, prompt, max_new_tokens=8)
        uncached = labkit.generate(lm, prompt, max_new_tokens=8, use_cache=False)
        changed = lm.logits(prompt)
    assert cached.ids == uncached.ids
    assert not torch.allclose(changed, lm.logits(prompt))
    assert labkit.generate(lm, prompt, max_new_tokens=8).ids == plain.ids


def test_a_pattern_is_what_explicit_attention_gives_with_grouped_heads():
    lm = tiny.tiny("llama", "grouped")
    with capture(lm, ["blocks.1.q", "blocks.1.k", "blocks.1.v", "blocks.1.pattern", "blocks.1.z"]) as acts:
        lm.logits(tiny.random_ids(9))
    q, k, v = (acts[f"blocks.1.{name}"] for name in "qkv")
    for head in range(4):
        scores = q[0, head] @ k[0, head // 2].T / q.shape[-1] ** 0.5
        weights = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf).softmax(dim=-1)
        assert (weights - acts["blocks.1.pattern"][0, head]).abs().max() <= 1e-5
        assert (weights @ v[0, head // 2] - acts["blocks.1.z"][0, head]).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "at",
    [At("blocks.1.z", heads=(1,)), At("blocks.1.z", positions=(2, 5)), At("blocks.1.z", heads=(0, 1), positions=(3,)),
     At("blocks.1.resid_pre", positions=(4,)), At("blocks.1.v", heads=(0,), positions=(1,))],
)  # fmt: skip
def test_only_the_selected_heads_and_positions_change(at):
    lm, ids = tiny.tiny("gpt2", "tied"), tiny.random_ids(7)
    with capture(lm, at.site) as before:
        lm.logits(ids)
    with edit(lm, {at: lambda x: x + 1}), capture(lm, "blocks.1.*") as after:
        lm.logits(ids)
    if at.site.endswith("z"):
        moved = (after[at.site] - before[at.site]).abs() > 0.5  # (1, H, T, D)
        expected = torch.zeros_like(moved)
        heads = list(at.heads or range(2))
        for t in at.positions or range(7):
            expected[0, heads, t] = True
        assert torch.equal(moved, expected)
    assert torch.isfinite(after["blocks.1.resid_post"]).all()


@pytest.mark.parametrize("site", ["q", "k", "v", "z", "pattern", "resid_mid", "neurons"])
def test_only_the_selected_heads_and_positions_are_kept(site):
    lm, name = tiny.tiny("gpt2", "tied"), f"blocks.1.{site}"
    heads = (1,) if site in ("q", "k", "v", "z", "pattern") else None
    with capture(lm, [At(name, heads=heads, positions=(2, 5, 9))]) as part, capture(lm, "blocks.*") as whole:
        labkit.generate(lm, tiny.random_ids(4), max_new_tokens=8)
    expected = whole[name] if heads is None else whole[name][:, [1]]
    assert torch.equal(part[name], expected[..., [2, 5, 9], :][..., : part[name].shape[-1]])
    assert part.positions(name).tolist() == [[2, 5, 9]]


def test_a_capture_of_a_head_that_is_not_there_is_refused():
    lm = tiny.tiny("gpt2", "tied")
    with pytest.raises(ConfigError, match="heads 0 … 1; there is no head 7"), capture(lm, At("blocks.0.q", heads=(7,))):
        lm.logits(tiny.random_ids(3))
    with pytest.raises(ConfigError, match="mlp_out has no heads"), capture(lm, At("blocks.0.mlp_out", heads=(0,))):
        pass
    assert hooks(lm.model) == 0


def test_a_selected_position_is_the_same_token_with_the_cache_and_without():
    lm, prompt = tiny.tiny("swa_mla", "configured"), tiny.random_ids(4)
    with edit(lm, {At("blocks.*.v", positions=(1, 6)): torch.zeros_like}):
        cached = labkit.generate(lm, prompt, max_new_tokens=10)
        uncached = labkit.generate(lm, prompt, max_new_tokens=10, use_cache=False)
    assert cached.ids == uncached.ids


@pytest.mark.parametrize("how", ["leaves", "raises", "is interrupted", "is nested", "is refused"])
def test_no_hook_is_left_behind_and_the_output_is_bit_for_bit_what_it_was(how):
    lm, ids = tiny.tiny("nanochat", "newest"), tiny.random_ids(6)
    before, n = lm.logits(ids), hooks(lm.model)

    def fail(x: Tensor) -> Tensor:
        raise KeyboardInterrupt if how == "is interrupted" else RuntimeError("no")

    try:
        if how == "is nested":
            with capture(lm, "blocks.0.q"), edit(lm, {"blocks.1.z": lambda x: x * 2}), capture(lm, "blocks.*"):
                lm.logits(ids)
        elif how == "is refused":
            with edit(lm, {"blocks.0.z": lambda x: x, "blocks.0.patern": lambda x: x}):
                pass
        elif how == "leaves":
            with capture(lm, EVERY_SITE):
                lm.logits(ids)
        else:
            with edit(lm, {"blocks.1.z": fail}):
                lm.logits(ids)
    except (RuntimeError, KeyboardInterrupt, ConfigError):
        pass
    assert hooks(lm.model) == n == 0
    assert torch.equal(lm.logits(ids), before)


def test_what_is_captured_inside_an_edit_is_the_edited():
    lm, ids = tiny.tiny("labcore", "learned"), tiny.random_ids(5)
    with edit(lm, {"blocks.0.z": torch.zeros_like}), capture(lm, "blocks.0.z") as acts:
        lm.logits(ids)
    assert (acts["blocks.0.z"] == 0).all()


def test_of_several_prompts_the_last_one_is_there():
    lm = tiny.tiny("labcore", "learned")
    with capture(lm, "norm_f") as acts:
        lm.logits(tiny.random_ids(9))
        lm.logits(tiny.random_ids(4))
    assert acts["norm_f"].shape[1] == 4 and acts.positions("norm_f").tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("names", "words"),
    [("blocks.0.zz", "did you mean blocks.0.z"), ("blocks.9.z", "no site is called 'blocks.9.z' in these 2 blocks"),
     ("attention", "no site is called 'attention'"), (["blocks.0.q", "resid"], "no site is called 'resid'")],
)  # fmt: skip
def test_of_an_unknown_site_the_nearest_are_named(names, words):
    lm = tiny.tiny("gpt2", "tied")
    with pytest.raises(ConfigError, match=words) as refused, capture(lm, names):
        pass
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"blocks.0.z": lambda x: x[..., :1]}, r"the edit of blocks.0.z gave \(1, 2, 5, 1\)"),
        ({"blocks.0.z": lambda x: x.double()}, "float64; it must give .* torch.float32"),
        ({"blocks.0.z": lambda x: None}, "gave NoneType"),
        ({"blocks.0.pattern": lambda x: x}, "only read; edit q, k, v or z"),
        ({At("blocks.0.z", heads=(2,)): torch.zeros_like}, "heads 0 … 1; there is no head 2"),
        ({At("blocks.0.mlp_out", heads=(0,)): torch.zeros_like}, "blocks.0.mlp_out has no heads"),
    ],
    ids=range(6),
)
def test_an_edit_that_cannot_be_is_refused_in_one_line(edits, words):
    lm = tiny.tiny("gpt2", "tied")
    with pytest.raises(ConfigError, match=words) as refused, edit(lm, edits):
        lm.logits(tiny.random_ids(5))
    assert "\n" not in str(refused.value)


def test_a_capture_that_would_not_fit_is_refused_with_the_number_after_the_first_layer():
    lm, ids = tiny.tiny("swa_mla", "configured"), tiny.random_ids(20)
    reached = []
    counting = lm.model.blocks[1].register_forward_hook(lambda *_: reached.append(1))
    whole = sum(site.nbytes(20) for site in sites(lm) if site.layer is not None)
    reached.clear()
    words = r"would take about 0 MiB, and may take 0; capture fewer sites"
    with pytest.raises(ContextError, match=words), capture(lm, "blocks.*", max_bytes=whole // 2):
        lm.logits(ids)
    with capture(lm, "blocks.*", max_bytes=2 * whole):
        lm.logits(ids)
    counting.remove()
    assert reached == [1] and hooks(lm.model) == 0  # the first was refused before block 1


@every_model
def test_a_capture_that_fits_is_not_refused_however_many_steps_it_takes(family, variant):
    lm, prompt = tiny.tiny(family, variant), tiny.random_ids(4)
    with capture(lm, "blocks.*.resid_post") as acts:
        labkit.generate(lm, prompt, max_new_tokens=18)
    taken = sum(acts[name].numel() * 4 for name in acts)
    with capture(lm, "blocks.*.resid_post", max_bytes=taken) as again:
        labkit.generate(lm, prompt, max_new_tokens=18)
    assert list(again) == list(acts)
    with pytest.raises(ContextError, match="capture fewer"), capture(lm, "blocks.*.resid_post", max_bytes=taken - 1):
        labkit.generate(lm, prompt, max_new_tokens=18)


def test_layers_of_which_different_sites_are_captured_are_counted_as_they_are():
    lm, names = tiny.tiny("gpt2", "tied"), ["blocks.0.pattern", "blocks.0.z", "blocks.1.z"]
    with capture(lm, names) as acts:
        lm.logits(tiny.random_ids(20))
    taken = sum(acts[name].numel() * 4 for name in acts)
    with capture(lm, names, max_bytes=taken):
        lm.logits(tiny.random_ids(20))
    with pytest.raises(ContextError, match="capture fewer"), capture(lm, names, max_bytes=taken - 1):
        lm.logits(tiny.random_ids(20))


def test_a_capture_of_what_is_behind_the_blocks_is_bounded_too():
    lm = tiny.tiny("gpt2", "tied")
    with pytest.raises(ContextError, match="capture fewer sites"), capture(lm, "norm_f", max_bytes=100):
        lm.logits(tiny.random_ids(20))


def test_what_is_padded_on_the_left_is_as_if_it_ran_alone():
    for family, variant in tiny.CASES:
        lm, ids = tiny.tiny(family, variant), tiny.random_ids(6)
        positions = torch.tensor([[-1, -1, *range(6)], list(range(8))])
        with capture(lm, "blocks.*") as together, torch.inference_mode():
            lm.model.hidden(torch.tensor([[0, 0, *ids], tiny.random_ids(8, seed=2)]), None, positions)
        with capture(lm, "blocks.*") as alone:
            lm.logits(ids)
        for name in alone:
            padded = together[name][:1]
            padded = padded[..., 2:, :6] if name.endswith("pattern") else padded[..., 2:, :]
            assert torch.allclose(padded, alone[name], rtol=1e-4, atol=1e-4), (family, variant, name)


def test_a_wrapped_function_has_no_inside():
    lm = labkit.wrap(lambda ids: torch.zeros(*ids.shape, 5), vocab_size=5)
    with pytest.raises(LabkitError, match="wrapped function"):
        sites(lm)


def test_what_was_not_captured_is_named():
    lm = tiny.tiny("gpt2", "tied")
    with capture(lm, "blocks.0.q") as acts:
        with pytest.raises(ConfigError, match=r"nothing has run through blocks.0.q yet"):
            acts["blocks.0.q"]
        lm.logits(tiny.random_ids(3))
    with pytest.raises(ConfigError, match=r"'blocks.0.k' was not captured; captured are blocks.0.q"):
        acts["blocks.0.k"]


def test_what_labkits_own_functions_edit_is_seen_by_no_other_thread_that_runs_the_model():
    lm = tiny.tiny(*tiny.CASES[0])
    ids, seen, done = [1, 2, 3, 4], [], threading.Event()
    alone = lm.logits(ids)

    def look():
        while not done.is_set():
            seen.append(torch.equal(lm.logits(ids), alone))

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(20):
        labkit.inspection.ablate(lm, ids, "heads", progress=False)
        labkit.inspection.attention(lm, ids)
    done.set()
    thread.join()
    assert len(seen) > 5 and all(seen)


def test_an_edit_holds_within_labkits_own_functions_too():
    lm = tiny.tiny(*tiny.CASES[0])
    plain = labkit.inspection.logit_lens(lm, [1, 2, 3])
    with labkit.edit(lm, {"blocks.0.mlp_out": lambda x: x + 1}):
        edited = labkit.inspection.logit_lens(lm, [1, 2, 3])
        with apart():
            twice = labkit.inspection.logit_lens(lm, [1, 2, 3])
    assert not torch.equal(plain.kl, edited.kl)
    assert torch.equal(edited.kl, twice.kl)
