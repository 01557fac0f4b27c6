"""What a cache holds, and an audit that passes every healthy family and finds what was broken on purpose."""

import pytest
import tiny
import torch

import labkit
from labkit.cache import KVCache, WindowSlots
from labkit.errors import ConfigError
from labkit.inspection import audit_cache, cache_growth, cache_report
from labkit.inspection.cache import spans

every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])


@every_model
def test_every_healthy_family_passes_beyond_its_window_and_its_context(family, variant):
    audit = audit_cache(tiny.tiny(family, variant), tiny.random_ids(5), max_new_tokens=40, every=3)
    assert audit.ok and audit.largest <= 1e-4 and audit.first_flip is None, audit.faults
    assert len(audit.rows()) == 15 and "healthy" in repr(audit)


@every_model
def test_a_report_counts_the_bytes_that_are_there(family, variant):
    lm = tiny.tiny(family, variant)
    report = cache_report(lm, tiny.random_ids(18))
    cache = lm.model.new_cache()
    with torch.inference_mode():
        for token_id in tiny.random_ids(18):
            lm.model(torch.tensor([[token_id]]), cache)
    assert report.nbytes == cache.nbytes and report.n_tokens == 18
    for layer in report.layers:
        assert sorted(layer.kept + layer.evicted) == list(range(18))
        assert len(layer.key_norms) == len(layer.value_norms) == 18 and min(layer.key_norms) > 0
        assert layer.nbytes <= layer.nbytes_full


def test_a_window_forgets_what_is_behind_it_but_not_its_sinks():
    lm = tiny.tiny("swa_mla", "configured")
    for layer, block in zip(cache_report(lm, tiny.random_ids(20)).layers, lm.model.blocks, strict=True):
        if block.attn.window is None:
            assert layer.kind.startswith("latent of") and layer.evicted == ()
        else:
            window = block.attn.window
            first = 20 - window.size
            assert layer.kept == (*range(window.sinks), *range(first, 20))
            assert layer.kind == f"window {window.size} + {window.sinks} sinks"


def test_a_latent_cache_is_compared_with_the_keys_and_values_of_every_head():
    lm = tiny.tiny("swa_mla", "executed")
    config, layer = lm.config, 2
    report = cache_report(lm, tiny.random_ids(10)).layers[layer]
    whole = config.n_head * (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim)
    assert report.nbytes_full == 10 * whole * 4
    assert report.nbytes == 10 * (config.kv_lora_rank + config.qk_rope_head_dim) * 4


def test_full_caches_grow_with_the_text_and_windows_stop():
    full = cache_growth(tiny.tiny("gpt2", "tied"), [4, 8, 16])
    assert [row["a token"] for row in full] == [full[0]["a token"]] * 3
    window = cache_growth(tiny.tiny("swa_mla", "configured"), [4, 16, 24])
    assert window[2]["a token"] < window[0]["a token"]
    with pytest.raises(ConfigError, match="length 25 is not from 1 to the context of 24"):
        cache_growth(tiny.tiny("gpt2", "tied"), [4, 25])


# --- faults, planted in the caches that a model makes


class Keeps(WindowSlots):
    """Nothing leaves the window."""

    def _append(self, positions):
        self.into = self.kept = None
        self.seen = self.positions = torch.cat((self.positions, positions), dim=1)


class OffByOne(KVCache):
    """From the second forward on, every token is one place too far."""

    def advance(self, positions):
        super().advance(positions)
        self.next_position = self.next_position + (self.length == positions.shape[1])


class WrongLayer(KVCache):
    """After the prefill, two layers write into each other's store."""

    def advance(self, positions):
        super().advance(positions)
        if positions.shape[1] > 1:
            self.stores[0], self.stores[1] = self.stores[1], self.stores[0]


class StaleFork(KVCache):
    """Another continuation writes into the same buffers."""

    def advance(self, positions):
        super().advance(positions)
        if positions.shape[1] == 1:
            self.stores[1].k[:, :, self.length - 1] += 1.0


class Rounded(KVCache):
    """Values are kept in too few bits."""

    def advance(self, positions):
        super().advance(positions)
        for store in self.stores:
            store.v = store.v.to(torch.float8_e4m3fn).float()


def planted(lm: labkit.LanguageModel, fault: type, monkeypatch: pytest.MonkeyPatch) -> labkit.LanguageModel:
    healthy = lm.model.new_cache

    def new_cache(batch: int = 1) -> KVCache:
        cache = healthy(batch)
        if issubclass(fault, WindowSlots):
            for store in cache.stores:
                if isinstance(store.slots, WindowSlots):
                    store.slots.__class__ = fault
            return cache
        return fault(cache.stores, batch, lm.device)

    monkeypatch.setattr(lm.model, "new_cache", new_cache)
    return lm


@pytest.mark.parametrize(
    ("family", "variant", "fault", "words"),
    [
        ("swa_mla", "configured", Keeps, "layer 0 holds positions 0–4, and should hold 0–1, 3–4"),
        ("gpt2", "tied", OffByOne, "layer 0 holds positions 0–3, 5, and should hold 0–4"),
        ("llama", "grouped", OffByOne, "holds positions"),
        ("labcore", "rope_nobias", WrongLayer, "layer 0 holds other keys than a fresh run at positions 0–"),
        ("llama", "grouped", StaleFork, "layer 1 holds other keys than a fresh run at positions 4"),
        ("labcore", "learned", Rounded, "layer 0 holds other values than a fresh run"),
    ],
)
def test_a_planted_fault_is_found_and_named(family, variant, fault, words, monkeypatch):
    lm = planted(tiny.tiny(family, variant), fault, monkeypatch)
    audit = audit_cache(lm, tiny.random_ids(4), max_new_tokens=16, every=1)
    assert not audit.ok and any(words in found for found in audit.faults), audit.faults[:4]
    assert "faults" in repr(audit)


def test_logits_that_differ_are_reported_with_their_number(monkeypatch):
    lm = planted(tiny.tiny("llama", "grouped"), StaleFork, monkeypatch)
    audit = audit_cache(lm, tiny.random_ids(4), max_new_tokens=16, every=1)
    assert audit.largest > 1e-3 and any("logits differ by" in found for found in audit.faults)


def test_runs_of_positions_are_written_short():
    assert spans([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7–8" and spans([]) == "none"


@pytest.mark.parametrize("ask", [cache_report, audit_cache])
def test_a_wrapped_function_has_no_cache(ask):
    lm = labkit.wrap(lambda ids: torch.zeros(*ids.shape, 5), vocab_size=5)
    with pytest.raises(ConfigError, match="it has no cache"):
        ask(lm, [1, 2])


def test_checks_must_be_some_tokens_apart():
    with pytest.raises(ConfigError, match="every is 0; it must be at least 1"):
        audit_cache(tiny.tiny("gpt2", "tied"), [1], every=0)
