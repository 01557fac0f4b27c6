"""The cache token by token: at every moment it says what a report of that much of the text says."""

import json

import pytest
import tiny

from labkit.errors import ConfigError
from labkit.inspection import cache_report
from labkit.inspection.cache_history import cache_history
from labkit.language_model import wrap


@pytest.mark.parametrize(("family", "variant"), tiny.CASES)
def test_after_any_number_of_tokens_it_is_the_report_of_those(family, variant):
    lm, ids = tiny.tiny(family, variant), tiny.random_ids(20)
    history = cache_history(lm, ids)
    for n in (1, 4, 7, 8, 20):
        assert history.at(n) == cache_report(lm, ids[:n])


def test_a_token_leaves_a_window_when_it_is_behind_it_and_a_sink_never():
    lm = tiny.tiny("swa_mla", "configured")
    history = cache_history(lm, tiny.random_ids(20))
    kinds = [layer.kind for layer in history.report.layers]
    assert {kind.split()[0] for kind in kinds} == {"window", "latent"}
    for kind, gone in zip(kinds, history.gone_after, strict=True):
        size = int(kind.split()[1]) if kind.startswith("window") else 20
        for position, after in enumerate(gone):
            leaves = position >= 2 and position + size < 20
            assert after == (position + size + 1 if leaves else None)


def test_of_a_text_longer_than_the_context_it_keeps_what_a_generation_would():
    lm, ids = tiny.tiny("gpt2", "tied"), tiny.random_ids(tiny.CONTEXT + 3)
    history = cache_history(lm, ids)
    assert history.skipped == tiny.CONTEXT // 4 and list(history.ids) == ids[history.skipped :]
    assert history.report == cache_report(lm, ids)


def test_it_says_itself_as_json_and_in_a_line():
    history = cache_history(tiny.tiny("gpt2", "tied"), tiny.random_ids(5))
    assert json.loads(json.dumps(history.to_dict()))["gone_after"] == [[None] * 5] * 2
    assert repr(history).startswith("CacheHistory(1 to CacheReport(5 tokens") and len(history.rows()) == 2


def test_a_wrapped_function_has_none():
    lm = wrap(lambda ids: tiny.torch.zeros(*ids.shape, 5), vocab_size=5)
    with pytest.raises(ConfigError, match="no cache"):
        cache_history(lm, [1, 2])
