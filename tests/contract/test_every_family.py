"""What holds for every family in FAMILIES: shapes, names, and that the cache changes nothing."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from labkit.cache import KVCache
from labkit.generation import Step, stream, visible_from
from labkit.language_model import LanguageModel
from labkit.models import FAMILIES, CausalLM
from labkit.sampling import Draw, Sampler, StepContext

TOLERANCE = 1e-4

every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])


def test_every_family_has_a_tiny_model():
    assert set(tiny.TINY) == set(FAMILIES)


@torch.inference_mode()
def uncached(model: CausalLM, ids: Sequence[int]) -> Tensor:
    """(T, V)"""
    return model(torch.tensor([list(ids)]))[0]


@torch.inference_mode()
def feed(model: CausalLM, ids: Sequence[int], cuts: Sequence[int], cache: KVCache) -> Tensor:
    """ids in chunks that end at ``cuts`` (and at the end), on a cache: logits (T, V)."""
    ends = sorted({c for c in cuts if 0 < c < len(ids)} | {len(ids)})
    starts = [0, *ends[:-1]]
    return torch.cat([model(torch.tensor([list(ids[a:b])]), cache)[0] for a, b in zip(starts, ends, strict=True)])


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@every_model
def test_logits_are_float32_of_shape_batch_tokens_vocabulary(family, variant):
    lm = tiny.tiny(family, variant)
    with torch.inference_mode():
        logits = lm.model(torch.tensor([tiny.random_ids(7), tiny.random_ids(7, seed=1)]))
    assert logits.shape == (2, 7, lm.config.vocab_size) and logits.dtype == torch.float32
    assert torch.isfinite(logits).all() and logits.std() > 0.1
    assert lm.logits(tiny.random_ids(7)).shape == (7, lm.vocab_size)
    assert difference(lm.logits(tiny.random_ids(7)), logits[0]) <= 1e-5


@every_model
def test_the_config_is_frozen_and_a_model_is_in_eval_mode_without_gradients(family, variant):
    lm = tiny.tiny(family, variant)
    with pytest.raises(dataclasses.FrozenInstanceError):
        lm.config.vocab_size = 5
    assert not lm.model.training and not any(p.requires_grad for p in lm.model.parameters())
    assert lm.model.block_size == tiny.CONTEXT <= lm.model.n_positions


@every_model
def test_a_token_sees_nothing_of_what_comes_after_it(family, variant):
    model, ids = tiny.tiny(family, variant).model, tiny.random_ids(20)
    for n in (1, 7, 19):
        changed = [*ids[:n], *((i + 1) % tiny.V for i in ids[n:])]
        assert difference(uncached(model, changed)[:n], uncached(model, ids)[:n]) <= 1e-5


@every_model
def test_the_order_of_the_tokens_matters(family, variant):
    model, ids = tiny.tiny(family, variant).model, tiny.random_ids(10)
    swapped = [*ids[:2], ids[3], ids[2], *ids[4:]]
    assert ids[2] != ids[3] and difference(uncached(model, swapped)[-1], uncached(model, ids)[-1]) > 1e-3


@every_model
@pytest.mark.parametrize("cuts", [range(24), [1], [23], [8, 16], [], [1, 2, 3]], ids=str)
def test_cached_logits_are_the_uncached_ones_in_fixed_chunkings(family, variant, cuts):
    model, ids = tiny.tiny(family, variant).model, tiny.random_ids(24)
    assert difference(feed(model, ids, cuts, model.new_cache()), uncached(model, ids)) <= TOLERANCE


@every_model
@hypothesis_settings(max_examples=12)
@given(n=st.integers(1, tiny.CONTEXT), seed=st.integers(0, 99), cuts=st.sets(st.integers(1, tiny.CONTEXT - 1)))
def test_cached_logits_are_the_uncached_ones_in_any_chunking(family, variant, n, seed, cuts):
    model, ids = tiny.tiny(family, variant).model, tiny.random_ids(n, seed)
    cache = model.new_cache(capacity=1 + seed % 30)
    assert difference(feed(model, ids, sorted(cuts), cache), uncached(model, ids)) <= TOLERANCE
    assert cache.length == n and cache.next_position.tolist() == [n]


@dataclasses.dataclass(frozen=True)
class Forced(Draw):
    """A draw that takes given ids in turn."""

    takes_anything: ClassVar[bool] = True
    by_chance: ClassVar[bool] = False
    ids: tuple[int, ...]
    seed: int = 0

    def pick(self, ids: Tensor, logits: Tensor, context: StepContext, vocab_size: int) -> int:
        return self.ids[context.step]


def run(lm: LanguageModel, prompt: list[int], forced: list[int] | None, **changes) -> list[Step]:
    """Steps of a run that is greedy, or forced to take certain ids."""
    sampler = Sampler(draw=Forced(tuple(forced))) if forced else Sampler.from_settings(temperature=0)
    n = len(forced) if forced else 2 * tiny.CONTEXT
    return list(stream(lm, prompt, sampler=sampler, max_new_tokens=n, **changes))


@every_model
@pytest.mark.parametrize("overflow", ["crop", "recrop"])
@pytest.mark.parametrize("n_prompt", [1, 40])
def test_far_past_the_context_the_cache_changes_no_logit_and_no_greedy_id(family, variant, overflow, n_prompt):
    lm, prompt = tiny.tiny(family, variant), tiny.random_ids(n_prompt, seed=n_prompt)
    for forced in (None, tiny.random_ids(40, seed=3)):
        cached = run(lm, prompt, forced, overflow=overflow, use_cache=True)
        plain = run(lm, prompt, forced, overflow=overflow, use_cache=False)
        assert [step.id for step in cached] == [step.id for step in plain]
        assert max(difference(a.logits, b.logits) for a, b in zip(cached, plain, strict=True)) <= TOLERANCE


@every_model
@pytest.mark.parametrize("overflow", ["crop", "recrop"])
def test_every_step_sees_exactly_the_suffix_that_the_policy_names(family, variant, overflow):
    lm, prompt, forced = tiny.tiny(family, variant), tiny.random_ids(9), tiny.random_ids(30, seed=4)
    ids = prompt + forced
    for i, step in enumerate(run(lm, prompt, forced, overflow=overflow)):
        n = len(prompt) + i
        expected = lm.logits(ids[visible_from(n, lm.model.block_size, overflow) : n])[-1]
        assert difference(step.logits, expected) <= TOLERANCE


@every_model
@torch.inference_mode()
def test_rows_padded_on_the_left_equal_the_same_rows_alone(family, variant):
    model = tiny.tiny(family, variant).model
    lengths, width = [1, 4, 11, 7], 11
    rows = [tiny.random_ids(n, seed=n) for n in lengths]
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    positions = torch.tensor([[-1] * (width - n) + list(range(n)) for n in lengths])
    cache = model.new_cache(batch=len(rows))
    padded = model(ids, cache, positions)
    assert torch.isfinite(padded).all()
    for row, logits in zip(rows, padded, strict=True):
        assert difference(logits[width - len(row) :], uncached(model, row)) <= TOLERANCE
    assert cache.next_position.tolist() == lengths
    more = torch.tensor([tiny.random_ids(8, seed=50 + n) for n in lengths])
    decoded = torch.stack([model(column[:, None], cache)[:, 0] for column in more.T], dim=1)
    for row, tail, logits in zip(rows, more.tolist(), decoded, strict=True):
        assert difference(logits, uncached(model, row + tail)[len(row) :]) <= TOLERANCE


@every_model
def test_a_forked_cache_continues_on_its_own(family, variant):
    model, prefix = tiny.tiny(family, variant).model, tiny.random_ids(9)
    cache = model.new_cache(capacity=10)
    feed(model, prefix, [3], cache)
    forks = [cache.fork() for _ in range(3)]
    assert all(fork.nbytes == cache.nbytes > 0 for fork in forks)
    # turn by turn, so that one that wrote into a shared buffer would disturb the others
    tails = [tiny.random_ids(12, seed=20 + i) for i in range(4)]
    said = [
        torch.cat([feed(model, [tail[t]], [], branch) for t in range(12)])
        for branch, tail in [*zip(forks[:1], tails[:1], strict=True)]
    ]
    turns: list[list[Tensor]] = [[], [], []]
    for t in range(12):
        for turn, branch, tail in zip(turns, [cache, *forks[1:]], tails[1:], strict=True):
            turn.append(feed(model, [tail[t]], [], branch))
    said += [torch.cat(turn) for turn in turns]
    for logits, tail in zip(said, tails, strict=True):
        assert difference(logits, uncached(model, prefix + tail)[9:]) <= TOLERANCE


@every_model
@pytest.mark.parametrize("keep", [0, 1, 5, 11])
def test_a_cache_that_was_wound_back_is_like_one_that_never_went_further(family, variant, keep):
    model, ids, others = tiny.tiny(family, variant).model, tiny.random_ids(12), tiny.random_ids(12, seed=1)
    cache = model.new_cache()
    feed(model, ids, [4], cache)
    try:
        cache.truncate(keep)
    except ValueError as error:  # a window has moved on, or something else is carried from token to token
        assert "fork" in str(error)
        assert not all(store.complete for store in cache.stores) or cache.carried
        assert difference(feed(model, others, [], cache), uncached(model, ids + others)[12:]) <= TOLERANCE
        return
    logits = feed(model, others, [2], cache)
    assert difference(logits, uncached(model, ids[:keep] + others)[keep:]) <= TOLERANCE
    assert cache.length == keep + 12


@every_model
@torch.inference_mode()
def test_rows_of_a_cache_can_be_selected_and_repeated(family, variant):
    model = tiny.tiny(family, variant).model
    rows = [tiny.random_ids(8, seed=i) for i in range(3)]
    cache = model.new_cache(batch=3)
    model(torch.tensor(rows), cache)
    chosen = [2, 0, 2, 2]
    cache.select(torch.tensor(chosen))
    tails = [tiny.random_ids(5, seed=30 + i) for i in range(4)]
    logits = torch.stack([model(column[:, None], cache)[:, 0] for column in torch.tensor(tails).T], dim=1)
    for row, tail, said in zip(chosen, tails, logits, strict=True):
        assert difference(said, uncached(model, rows[row] + tail)[8:]) <= TOLERANCE


@every_model
def test_modules_have_the_canonical_names(family, variant):
    lm = tiny.tiny(family, variant)
    names = {name for name, _ in lm.model.named_modules()}
    inside = ("norm_1", "attn", "attn.core", "attn.o_proj", "norm_2", "mlp", "mlp.up_proj", "mlp.down_proj")
    blocks = {f"blocks.{i}.{name}" for i in range(lm.config.n_layer) for name in inside}
    missing = {"embed", "norm_f", "lm_head", *blocks} - names
    assert not missing
    assert len(lm.model.blocks) == lm.config.n_layer
    assert all(any("proj" in name for name in names if name.startswith(f"blocks.{i}.attn.")) for i in range(2))


@every_model
@pytest.mark.parametrize("cached", [False, True])
@torch.inference_mode()
def test_every_site_is_passed_once_per_forward_in_order_and_hooks_leave_no_trace(family, variant, cached):
    lm = tiny.tiny(family, variant)
    ids, passed, shapes = torch.tensor([tiny.random_ids(6)]), [], {}
    cache = lm.model.new_cache() if cached else None
    before = lm.model(ids, cache.fork() if cache else None)
    sites = ["embed"]
    for i in range(lm.config.n_layer):
        inside = ("norm_1", "attn.core", "attn.o_proj", "attn", "norm_2", "mlp.up_proj", "mlp.down_proj", "mlp", "")
        sites += [f"blocks.{i}.{name}".rstrip(".") for name in inside]
    sites += ["norm_f", "lm_head"]

    def note(name):
        def hook(module, inputs, output):
            passed.append(name)
            shapes[name] = tuple(inputs[0].shape), tuple(output.shape)

        return hook

    hooks = [lm.model.get_submodule(name).register_forward_hook(note(name)) for name in sites]
    with_hooks = lm.model(ids, cache)
    for hook in hooks:
        hook.remove()
    assert passed == sites
    assert torch.equal(before, with_hooks)
    width = lm.config.n_embd
    for i in range(lm.config.n_layer):
        assert shapes[f"blocks.{i}"] == ((1, 6, width), (1, 6, width))
        assert shapes[f"blocks.{i}.attn"][1] == shapes[f"blocks.{i}.mlp"][1] == (1, 6, width)
        (queries, _), z = shapes[f"blocks.{i}.attn.core"][0][:2], shapes[f"blocks.{i}.attn.core"][1]
        assert queries == 1 and z[:3] == (1, lm.config.n_head, 6)
    assert shapes["norm_f"][1] == shapes["lm_head"][0] == (1, 6, width)


@every_model
@torch.inference_mode()
def test_replacing_a_blocks_output_changes_what_follows_and_nothing_before(family, variant):
    """What editing stands on: a hook's return value is what the next block reads."""
    lm, ids = tiny.tiny(family, variant), torch.tensor([tiny.random_ids(6)])
    seen = []
    watch = lm.model.blocks[0].register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    edit = lm.model.blocks[1].attn.register_forward_hook(lambda m, i, o: torch.zeros_like(o))
    plain = uncached(lm.model, ids[0].tolist())
    edit.remove()
    edited, plain = plain, uncached(lm.model, ids[0].tolist())
    watch.remove()
    assert torch.equal(seen[0], seen[1]) and difference(edited, plain) > 1e-3


@every_model
def test_a_model_is_its_weights_and_its_config(family, variant):
    """Built anew from config and state dict it says the same; nothing is hidden in buffers or in the constructor."""
    lm = tiny.tiny(family, variant)
    again = tiny.language_model(family, lm.config)
    again.model.load_state_dict(lm.model.state_dict(), strict=True)
    assert difference(again.logits(tiny.random_ids(12)), lm.logits(tiny.random_ids(12))) == 0.0


@every_model
def test_a_cache_grows_by_the_same_bytes_for_every_token_until_a_window_is_full(family, variant):
    model = tiny.tiny(family, variant).model
    cache, sizes = model.new_cache(capacity=2), [0]
    for i in tiny.random_ids(tiny.CONTEXT):
        feed(model, [i], [], cache)
        sizes.append(cache.nbytes)
    growth = [b - a for a, b in zip(sizes, sizes[1:], strict=False)]
    assert growth[0] > 0 and growth == sorted(growth, reverse=True)
    assert growth[-1] == growth[0] or not all(store.complete for store in cache.stores)
