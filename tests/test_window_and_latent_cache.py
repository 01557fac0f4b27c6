"""What a window keeps, and that attention over latents is attention over the keys and values they unfold to."""

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from labkit.cache import FullStore, LatentStore, WindowSlots, WindowStore
from labkit.layers.mask import AttentionContext
from labkit.layers.rotary import rotate

CPU = torch.device("cpu")


def marked(positions: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys (B, 2, T, 3) and values that tell which position, row, head and layer they are of."""
    rows = torch.arange(len(positions))[:, None, None, None]
    heads = torch.arange(2)[None, :, None, None]
    k = (positions[:, None, :, None] + 1000 * rows + 10_000 * heads + 100_000 * layer).expand(-1, -1, -1, 3)
    return k.float(), -k.float()


def kept_by_rule(positions: list[int], size: int, sinks: int) -> set[int]:
    """Of the positions 0 … seen so far in one row: the first ``sinks`` and the last ``size``."""
    real = [p for p in positions if p >= 0]
    return {p for p in real if p < sinks or p > real[-1] - size}


@given(
    size=st.integers(1, 6),
    sinks=st.integers(0, 4),
    padding=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=9),
)
def test_a_window_store_shows_what_it_kept_and_all_new_ones_and_keeps_what_the_rule_says(size, sinks, padding, chunks):
    chunks = [max(padding) + 1, *chunks]  # padding is in the first call, and every row has a token there
    batch = len(padding)
    slots = WindowSlots.empty(batch, size, sinks, CPU)
    stores = [WindowStore(slots), WindowStore(slots)]
    seen: list[list[int]] = [[] for _ in padding]
    for n in chunks:
        before = [kept_by_rule(row, size, sinks) if row and row[-1] >= 0 else set() for row in seen]
        start = len(seen[0])
        positions = torch.tensor([[max(-1, t - pad) for t in range(start, start + n)] for pad in padding])
        for row, new in zip(seen, positions.tolist(), strict=True):
            row += new
        shown = []
        for layer, store in enumerate(stores):
            k, v, k_positions = store.append(*marked(positions, layer), positions)
            shown.append(k_positions)
            real = (k_positions >= 0)[:, None, :, None]
            wanted_k, wanted_v = marked(k_positions, layer)
            assert torch.equal(k * real, wanted_k * real) and torch.equal(v * real, wanted_v * real)
        assert shown[0] is shown[1]  # one mask for all layers with this window
        for row, (kept, all_seen) in enumerate(zip(before, seen, strict=True)):
            found = [p for p in shown[0][row].tolist() if p >= 0]
            assert len(found) == len(set(found))
            assert set(found) == kept | {p for p in all_seen[start:] if p >= 0}
            held = [p for p in slots.positions[row].tolist() if p >= 0]
            assert len(held) == len(set(held)) and set(held) == kept_by_rule(all_seen, size, sinks)
        n_kept = min(len(seen[0]), size + sinks)
        assert stores[0].nbytes == 2 * 4 * batch * 2 * 3 * n_kept
        assert stores[0].complete == (len(seen[0]) <= size + sinks)


def test_a_window_step_moves_nothing_in_memory():
    store, n = WindowStore(WindowSlots.empty(1, size=4, sinks=1, device=CPU)), 0
    places = set()
    for t in range(40):
        positions = torch.tensor([[t]])
        k, _, _ = store.append(*marked(positions, 0), positions)
        n, places = k.shape[2], places | {k.data_ptr()} if t > 12 else set()
    assert n == 6 and len(places) == 1


@pytest.mark.parametrize("variant", ["executed", "configured"])
@torch.inference_mode()
def test_attention_over_latents_is_attention_over_unfolded_keys_and_values(variant):
    """DeepSeek-V2's equations as they are written: every head's own keys and values, from the latent by kv_b_proj."""
    model = tiny.tiny("swa_mla", variant).model
    config = model.config
    attn = next(block.attn for i, block in enumerate(model.blocks) if config.is_latent(i))
    x = torch.randn(2, 9, config.n_embd, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(9).expand(2, 9)
    context = model.new_context(torch.zeros(2, 9, dtype=torch.long), positions)
    of_queries, of_keys = context.latent_rotations
    rank = attn.kv_norm.normalized_shape[0]
    latent, key = attn.kv_a_proj(x).split([rank, config.qk_rope_head_dim], dim=-1)
    unfolded = attn.kv_b_proj(attn.kv_norm(latent)).unflatten(-1, (config.n_head, -1)).transpose(1, 2)
    k_plain, v = unfolded.split([config.qk_nope_head_dim, config.v_head_dim], dim=-1)
    q_plain, q_turned = attn.queries(x).split([config.qk_nope_head_dim, config.qk_rope_head_dim], dim=-1)
    q = torch.cat((q_plain, rotate(q_turned, of_queries, "interleaved")), dim=-1)
    key = rotate(key[:, None], of_keys, "interleaved").expand(-1, config.n_head, -1, -1)
    z = F.scaled_dot_product_attention(q, torch.cat((k_plain, key), dim=-1), v, is_causal=True)
    expanded = attn.o_proj(z.transpose(1, 2).flatten(2))
    assert float((attn(x, context) - expanded).abs().max()) <= 1e-5 * float(expanded.abs().max())


@torch.inference_mode()
def test_a_latent_cache_holds_one_latent_and_one_key_a_token():
    lm = tiny.tiny("swa_mla", "executed")
    cache = lm.model.new_cache()
    lm.model(torch.tensor([tiny.random_ids(11)]), cache)
    kinds = [type(store) for store in cache.stores]
    assert kinds == [FullStore, FullStore, LatentStore]
    config = lm.config
    assert cache.stores[2].nbytes == 4 * 11 * (config.kv_lora_rank + config.qk_rope_head_dim)
    assert cache.stores[0].nbytes == 4 * 11 * 2 * config.n_embd // config.ratio_kv
    assert cache.stores[0].slots is cache.stores[2].slots


@torch.inference_mode()
def test_layers_with_one_window_share_their_slots_and_others_do_not():
    lm = tiny.tiny("swa_mla", "configured")
    slots = {}
    for i, store in enumerate(lm.model.new_cache().stores):
        kind = "latent" if lm.config.is_latent(i) else lm.config.window_at(i)
        slots.setdefault(kind, set()).add(id(store.slots))
    assert len(slots) > 2 and all(len(shared) == 1 for shared in slots.values())


def test_head_numbers_in_the_place_of_positions_rotate_queries_alike_at_every_position():
    executed, configured = (tiny.tiny("swa_mla", variant).model for variant in ("executed", "configured"))
    for model, alike in ((executed, True), (configured, False)):
        context: AttentionContext = model.new_context(torch.zeros(1, 5, dtype=torch.long), torch.arange(5)[None])
        (q_cos, _), (k_cos, _) = context.latent_rotations
        assert (q_cos.shape == (1, model.config.n_head, 1, k_cos.shape[-1])) == alike
        assert torch.equal(q_cos, k_cos) == (not alike)
