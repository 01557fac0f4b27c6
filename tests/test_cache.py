"""The stores, one by one: what they return, what they keep, what they share."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from labkit.cache import FullStore, KVCache, LatentStore, NewestStore, Slots, WindowSlots, WindowStore
from labkit.layers.mask import Window, attend_mask, consecutive

CPU = torch.device("cpu")
HEADS, SIZE = 2, 3


def vectors(positions: Tensor, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Keys and values (B, K, T, D) that tell the position (B, T) they belong to; the values are the negated keys."""
    k = (positions.float() + shift)[:, None, :, None].expand(-1, HEADS, -1, SIZE).contiguous()
    return k, -k


def full(batch: int = 1, capacity: int = 4) -> FullStore:
    return FullStore(Slots.empty(batch, capacity, CPU))


def newest(capacity: int, batch: int = 1) -> NewestStore:
    return NewestStore(Slots.empty(batch, capacity + 1, CPU), capacity)


def window(size: int, sinks: int, batch: int = 1) -> WindowStore:
    return WindowStore(WindowSlots.empty(batch, size, sinks, CPU))


def feed(store, first: int, n: int, shift: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    positions = consecutive(torch.tensor([first]), n)
    return store.append(*vectors(positions, shift), positions)


def held(returned: tuple[Tensor, Tensor, Tensor]) -> list[int]:
    """Positions that were returned, ascending, after a check that keys and values belong to them."""
    k, v, positions = returned
    assert k.shape[2] == v.shape[2] == positions.shape[1]
    filled = positions >= 0
    for x, sign in ((k, 1), (v, -1)):
        expected = sign * positions.float()[:, None, :, None].expand(-1, HEADS, -1, x.shape[3])
        assert torch.equal(x[:, :, filled[0]], expected[:, :, filled[0]])
    return sorted(positions[filled].tolist())


@hypothesis_settings(max_examples=50)
@given(chunks=st.lists(st.integers(1, 9), min_size=1, max_size=12), capacity=st.integers(1, 16))
def test_a_full_store_returns_everything_ever_appended(chunks, capacity):
    store, n = full(capacity=capacity), 0
    for chunk in chunks:
        returned = feed(store, n, chunk)
        n += chunk
        assert returned[2][0].tolist() == list(range(n)) and held(returned) == list(range(n))
        assert store.nbytes == 2 * n * HEADS * SIZE * 4


def test_buffers_are_doubled_and_not_copied_at_every_token():
    store, buffers = full(capacity=4), set()
    for i in range(300):
        feed(store, i, 1)
        buffers.add(store.k.data_ptr())
    assert store.k.shape[2] == 512 and len(buffers) <= 8


def test_layers_that_share_slots_hand_out_the_very_same_positions_so_that_a_mask_is_made_once():
    slots = Slots.empty(1, 4, CPU)
    a, b = FullStore(slots), FullStore(slots)
    for i in range(20):
        assert feed(a, i, 1)[2] is feed(b, i, 1)[2]


def test_a_fork_shares_the_buffers_until_somebody_writes():
    store = full(capacity=16)
    feed(store, 0, 5)
    fork = store.fork(store.slots.fork())
    assert fork.k.data_ptr() == store.k.data_ptr()
    assert held(feed(fork, 5, 2)) == list(range(7))
    assert fork.k.data_ptr() != store.k.data_ptr()
    assert held(feed(store, 5, 1)) == list(range(6))
    k, _, _ = feed(store, 6, 1, shift=100.0)  # different keys at the same position
    assert k[0, 0, -1, 0] == 106 and fork.k[0, 0, 6, 0] == 6


MAKERS: dict[str, Callable] = {"full": full, "newest": lambda: newest(9), "window": lambda: window(6, 2)}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("n", [4, 30])
def test_a_fork_of_a_fork_and_its_parents_do_not_disturb_each_other(kind, n):
    store = MAKERS[kind]()
    for i in range(n):
        feed(store, i, 1)
    child = store.fork(store.slots.fork())
    grandchild = child.fork(child.slots.fork())
    after = {}
    for turn in range(12):
        for name, branch in (("parent", store), ("child", child), ("grandchild", grandchild)):
            after.setdefault(name, []).append(held(feed(branch, n + turn, 1)))
    assert after["parent"] == after["child"] == after["grandchild"]


@hypothesis_settings(max_examples=60)
@given(chunks=st.lists(st.integers(1, 9), min_size=1, max_size=12), capacity=st.integers(1, 10))
def test_the_newest_store_cuts_before_it_answers(chunks, capacity):
    """LabCore's own rule: a token of a chunk may not even see the first tokens of its chunk."""
    store, n = newest(capacity), 0
    for chunk in chunks:
        returned = feed(store, n, chunk)
        n += chunk
        assert held(returned) == list(range(max(0, n - capacity), n))
        assert store.nbytes <= 2 * capacity * HEADS * SIZE * 4


@hypothesis_settings(max_examples=80)
@given(
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=14), size=st.integers(1, 7), sinks=st.integers(0, 4)
)  # fmt: skip
def test_a_window_store_returns_all_that_the_window_lets_through_and_keeps_no_more(chunks, size, sinks):
    store, n, rule = window(size, sinks), 0, Window(size, sinks)
    for chunk in chunks:
        queries = consecutive(torch.tensor([n]), chunk)
        returned = feed(store, n, chunk)
        n += chunk
        found = held(returned)
        assert len(found) == len(set(found))
        allowed = attend_mask(queries, consecutive(torch.tensor([0]), n), rule)[0, 0].any(dim=0)
        assert set(allowed.nonzero().flatten().tolist()) <= set(found)
        per_query = attend_mask(queries, returned[2], rule)[0, 0]
        for query, row in zip(queries[0].tolist(), per_query, strict=True):
            seen = sorted(returned[2][0, row].tolist())
            assert seen == [p for p in range(query + 1) if query - p <= size or p < sinks]
        assert store.nbytes <= 2 * (size + sinks) * HEADS * SIZE * 4
    assert store.complete == (n <= size + sinks)


@pytest.mark.parametrize("padding", [0, 1, 5])
def test_a_window_store_keeps_the_right_tokens_of_rows_padded_on_the_left(padding):
    """Empty slots are given up first, whatever their place."""
    store = WindowStore(WindowSlots.empty(2, 4, 1, CPU))
    positions = torch.stack([torch.arange(8), torch.cat((torch.full((padding,), -1), torch.arange(8 - padding)))])
    store.append(*vectors(positions), positions)
    for i in range(10):
        step = torch.tensor([[8 + i], [8 - padding + i]])
        k, _, seen = store.append(*vectors(step), step)
        for row, query in enumerate(step[:, 0].tolist()):
            mask = attend_mask(step, seen, Window(4, 1))[row, 0, 0]
            expected = [p for p in range(query + 1) if query - p <= 4 or p < 1]
            assert sorted(seen[row, mask].tolist()) == expected
            assert sorted(k[row, 0, mask, 0].tolist()) == expected


def test_a_latent_store_keeps_the_values_within_the_keys():
    store = LatentStore(Slots.empty(1, 2, CPU))
    for i in range(5):
        k = torch.full((1, 1, 1, 7), float(i))
        keys, values, positions = store.append(k, k[..., :5], torch.tensor([[i]]))
        assert keys.shape == (1, 1, i + 1, 7) and torch.equal(values, keys[..., :5])
        assert values.data_ptr() == keys.data_ptr()
        assert positions[0].tolist() == list(range(i + 1))
    assert store.nbytes == 5 * 7 * 4


def cache_of(*stores, batch: int = 1) -> KVCache:
    return KVCache(list(stores), batch, CPU)


def test_only_the_models_call_advances_the_clock():
    cache = cache_of(full())
    feed(cache.stores[0], 0, 3)
    assert cache.length == 0 and cache.next_position.tolist() == [0]
    cache.advance(torch.tensor([[0, 1, 2]]))
    assert cache.length == 3 and cache.next_position.tolist() == [3]


def test_a_cache_that_has_forgotten_something_is_not_wound_back():
    for store in (newest(4), window(2, 0)):
        for i in range(9):
            feed(store, i, 1)
        with pytest.raises(ValueError, match="cannot be wound back; fork it before"):
            cache_of(store).truncate(3)
    carrying = cache_of(full())
    carrying.carried["embedding"] = torch.zeros(1, 1, 4)
    with pytest.raises(ValueError, match="fork"):
        carrying.truncate(0)


def test_forking_keeps_what_is_carried_and_the_clock():
    cache = cache_of(full())
    feed(cache.stores[0], 0, 3)
    cache.advance(torch.tensor([[0, 1, 2]]))
    cache.carried["embedding"] = torch.ones(1, 1, 4)
    fork = cache.fork()
    fork.advance(torch.tensor([[3]]))
    fork.carried["embedding"] = torch.zeros(1, 1, 4)
    assert (cache.length, fork.length) == (3, 4) and cache.next_position.tolist() == [3]
    assert cache.carried["embedding"].sum() == 4


def test_truncating_after_a_fork_leaves_the_other_side_alone():
    store = full(capacity=16)
    feed(store, 0, 6)
    cache = cache_of(store)
    cache.advance(torch.arange(6)[None])
    fork = cache.fork()
    fork.truncate(2)
    feed(fork.stores[0], 2, 4, shift=50.0)
    assert held(feed(store, 6, 1)) == list(range(7))
    assert cache.next_position.tolist() == [6] and fork.next_position.tolist() == [2]


# --- the mask


def test_a_query_sees_itself_and_what_is_before_it_and_no_empty_slot():
    mask = attend_mask(torch.tensor([[0, 1, 2]]), torch.tensor([[0, 1, 2, -1]]))[0, 0]
    assert mask.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]


def test_a_window_lets_through_its_size_besides_the_query_and_the_sinks():
    positions = torch.arange(8)[None]
    mask = attend_mask(positions, positions, Window(2, sinks=1))[0, 0]
    assert [row.nonzero().flatten().tolist() for row in mask] == [
        [0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 2, 3, 4], [0, 3, 4, 5], [0, 4, 5, 6], [0, 5, 6, 7],
    ]  # fmt: skip


def test_padding_sees_everything_so_that_its_output_stays_finite():
    mask = attend_mask(torch.tensor([[-1, 0]]), torch.tensor([[-1, 0]]))[0, 0]
    assert mask.tolist() == [[1, 1], [0, 1]]
