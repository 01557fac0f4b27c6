"""Attention maps: one head at a time, a table of all, and what makes a head a previous-token or an induction head."""

import pytest
import tiny
import torch

import labkit
from labkit.errors import ConfigError, ContextError, LabkitError
from labkit.inspection import AttentionMaps, attention, capture, properties, repeated

every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])


@every_model
def test_a_decoded_head_is_what_the_core_computed(family, variant):
    lm, ids = tiny.tiny(family, variant), tiny.random_ids(14)
    maps = attention(lm, ids)
    with capture(lm, "blocks.*.pattern") as acts:
        lm.logits(ids)
    for layer in range(maps.n_layer):
        assert torch.allclose(maps.pattern(layer), acts[f"blocks.{layer}.pattern"][0], atol=1e-5)
        assert torch.allclose(maps.pattern(layer, 1), maps.pattern(layer)[1], atol=1e-6)


@every_model
def test_a_run_is_shown_as_it_was_without_running_it_again(family, variant):
    lm, prompt = tiny.tiny(family, variant), tiny.random_ids(4)
    forwards = []
    counting = lm.model.norm_f.register_forward_hook(lambda *_: forwards.append(1))
    maps = attention(lm, prompt, max_new_tokens=9, seed=3)
    counting.remove()
    g = labkit.generate(lm, prompt, max_new_tokens=9, seed=3)
    assert maps.ids == [*prompt, *g.ids[:-1]] and len(forwards) == 9
    at_once = attention(lm, maps.ids)
    for layer in range(maps.n_layer):
        assert torch.allclose(maps.pattern(layer), at_once.pattern(layer), atol=1e-4)


def test_windows_and_sinks_are_in_the_picture():
    lm = tiny.tiny("swa_mla", "configured")
    maps = attention(lm, tiny.random_ids(20))
    layer = next(i for i, window in enumerate(maps.windows) if window is not None)
    window = maps.windows[layer]
    visible = maps.pattern(layer)[0, 19] > 0
    assert visible.tolist() == [j < window.sinks or 19 - j <= window.size for j in range(20)]


# One head that does one thing, over "a b c a b c a b c".
IDS = [0, 1, 2] * 3
N = len(IDS)


def looking(back) -> torch.Tensor:
    """(1, N, N): every token looks `back(i)` tokens back, as far as there are any; the others at themselves."""
    pattern = torch.zeros(1, N, N)
    for i in range(N):
        pattern[0, i, i - back(i) if back(i) <= i else i] = 1
    return pattern


@pytest.mark.parametrize(
    ("back", "expected"),
    [
        (lambda i: 1, {"previous": 1.0, "entropy": 0.0, "distance": 1.0, "self": 0.0}),
        (lambda i: 0, {"self": 1.0, "previous": 0.0, "distance": 0.0, "induction": 0.0}),
        (lambda i: i, {"first": 1.0, "distance": 4.5}),
        (lambda i: 3, {"duplicate": 1.0, "induction": 0.0}),
        (lambda i: 2, {"induction": 1.0, "duplicate": 0.0, "previous": 0.0}),
    ],
    ids=["previous token", "itself", "first token", "duplicate token", "induction"],
)
def test_a_head_that_does_one_thing_scores_in_it_alone(back, expected):
    found = properties(looking(back), IDS)
    assert {name: round(float(found[name]), 4) for name in expected} == expected


def test_an_even_head_has_the_entropy_of_what_it_may_see():
    even = torch.ones(1, N, N).tril() / torch.arange(1, N + 1)[:, None]
    expected = torch.arange(2, N + 1).log().mean()
    assert properties(even, IDS)["entropy"][0] == pytest.approx(float(expected), abs=1e-6)


def test_rows_name_every_head_and_top_heads_are_the_largest():
    maps = attention(tiny.tiny("gpt2", "untied_nobias"), tiny.random_ids(12))
    rows = maps.rows()
    assert [(row["layer"], row["head"]) for row in rows] == [(i, h) for i in range(2) for h in range(4)]
    assert maps.top_heads("first", 3) == sorted(rows, key=lambda row: -row["first"])[:3]
    assert maps.top_heads("entropy", 1, least=True)[0]["entropy"] == min(row["entropy"] for row in rows)
    assert repr(maps) == "AttentionMaps(12 tokens, 2 layers, 8 heads)"


def test_what_a_token_reads_adds_up_and_has_its_pieces():
    lm = tiny.tiny("labcore", "learned")
    found = attention(lm, "abcdef").looks_at(0, 1, -1, n=6)
    assert sum(row["weight"] for row in found) == pytest.approx(1, abs=1e-3)
    assert all("abcdef"[row["position"]] == row["piece"] for row in found)


def test_repeated_ids_are_the_same_for_a_seed_and_fit():
    lm = tiny.tiny("labcore", "learned")
    ids = repeated(lm, 10, seed=4)
    assert ids == repeated(lm, 10, seed=4) != repeated(lm, 10, seed=5) and ids[:10] == ids[10:]
    with pytest.raises(ContextError, match="do not fit the context of 24"):
        repeated(lm, 13)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda m: m.pattern(2), "there is no layer 2; layers are 0 … 1"),
        (lambda m: m.pattern(0, 4), "layer 0 has heads 0 … 3; there is no head 4"),
        (lambda m: m.top_heads("size"), "'size' is no property of a head; they are entropy"),
        (lambda m: m.looks_at(0, 0, 9), "there is no position 9; the text has 5 tokens"),
    ],
    ids=["layer", "head", "property", "position"],
)
def test_what_is_not_there_is_refused_in_one_line(ask, words):
    maps: AttentionMaps = attention(tiny.tiny("labcore", "learned"), "abcde")
    with pytest.raises(ConfigError, match=words):
        ask(maps)


@pytest.mark.parametrize(
    "changes", [{}, {"max_new_tokens": 40}, {"max_new_tokens": 40, "overflow": "labcore"}], ids=str
)
def test_a_text_beyond_the_context_is_refused(changes):
    lm = tiny.tiny("labcore", "learned")
    with pytest.raises(LabkitError, match="context"):
        attention(lm, tiny.random_ids(25 if not changes else 5), **changes)
