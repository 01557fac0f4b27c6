"""``dialects.compare``: the differences that were measured on the originals come out, each with its cause."""

import math

import numpy as np
import oracle
import pytest
import torch
from sampling_cases import some_logits

from labkit import Settings
from labkit.sampling.dialects import Difference, compare

OFF = {"temperature": 1.0, "top_k": None, "top_p": None}


def differences(logits: list[float], *history: list[int], **settings: object) -> dict[str, Difference]:
    comparison = compare(torch.tensor(logits), Settings(seed=1, **OFF | settings), *history)
    assert [d.dialect for d in comparison.differences] == list(oracle.SYSTEMS)
    return {d.dialect: d for d in comparison.differences}


def causes(found: dict[str, Difference]) -> dict[str, tuple[str, ...]]:
    """Only of the dialects that differ."""
    return {name: d.because for name, d in found.items() if d.because}


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7}, {"top_k": 2}, {"temperature": 1.8, "top_k": 3}], ids=str
)
def test_where_the_rules_are_equal_nothing_differs(settings):
    found = differences([2.0, 1.0, 0.5, -1.0], **settings)
    assert causes(found) == {}
    assert all(d.distance < 1e-6 and not d.only_here and not d.only_in_labkit for d in found.values())
    assert len({d.chosen for d in found.values()}) == len({d.kept for d in found.values()}) == 1


def test_swa_mla_drops_the_token_that_crosses_p():
    found = differences([math.log(p) for p in (0.5, 0.4, 0.07, 0.03)], top_p=0.7)
    swamla = found["swamla"]
    assert (swamla.kept, swamla.only_in_labkit, swamla.only_here) == (1, (1,), ())
    assert swamla.because == ("top_p: the token that crosses p goes, so less than p can be left",)
    assert swamla.distance == pytest.approx(0.4 / 0.9, abs=1e-6)
    assert all(found[name].kept == 2 for name in ("labkit", "hf", "llama.cpp", "labcore", "gpt2seed"))
    assert set(causes(found)) == {"swamla", "nanochat"}  # which has no top-p


def test_llama_cpp_puts_the_temperature_last():
    found = differences([3.0, 2.0, 1.0], top_p=0.8, temperature=0.5)
    assert found["hf"].kept == found["labkit"].kept == 1
    assert (found["llama.cpp"].kept, found["llama.cpp"].only_here) == (2, (1,))
    assert found["llama.cpp"].because == ("order: top_p → temperature",)
    assert found["llama.cpp"].order == ("top_p", "temperature")


def test_a_penalty_makes_repeated_tokens_with_negative_logits_likelier_in_three_systems():
    logits = [1.0, -1.0, 0.0, 0.5]
    found = differences(logits, [], [1], repetition_penalty=1.3)
    for name in ("labcore", "swamla", "gpt2seed"):
        assert len(found[name].because) == 1
        assert found[name].because[0].startswith("repetition_penalty: divides ")
        assert "likelier" in found[name].because[0]
    assert {"labkit", "hf", "llama.cpp"}.isdisjoint(causes(found))
    assert found["nanochat"].because == ("it has no repetition_penalty",)
    assert found["nanochat"].lacks == ("repetition_penalty",)
    exact = [oracle.softmax(np.array(logits[:1] + [x] + logits[2:], dtype=np.float32)) for x in (-1.3, -1 / 1.3)]
    assert found["labcore"].distance == pytest.approx(float(abs(exact[0] - exact[1]).sum() / 2), abs=1e-6)


def test_llama_cpp_keeps_exactly_k_tokens():
    found = differences([1.0, 1.0, 1.0, 1.0, 0.0], top_k=2)
    assert causes(found) == {"llama.cpp": ("top_k: exactly k tokens: ties at the border are cut",)}
    assert (found["llama.cpp"].kept, found["llama.cpp"].only_in_labkit) == (2, (2, 3))


def test_of_ties_at_the_border_of_top_p_transformers_keeps_the_larger_ids():
    found = differences([0.0, 0.0, 0.0, 0.0], top_p=0.6)
    assert (found["hf"].only_here, found["hf"].only_in_labkit) == ((3,), (0,))
    assert found["hf"].because == ("top_p: summed in float32 from the small end; of equal tokens the larger ids stay",)


def test_a_penalty_s_scope_is_a_cause_of_its_own_only_where_it_matters():
    on_the_prompt = differences([1.0, 2.0, 0.0], [1], [], repetition_penalty=1.5)
    assert set(causes(on_the_prompt)) == {"labcore", "swamla", "nanochat"}  # they do not look at the prompt
    assert on_the_prompt["labcore"].distance == on_the_prompt["nanochat"].distance > 0.05
    assert set(causes(differences([1.0, 2.0, 0.0], [], [1], repetition_penalty=1.5))) == {"nanochat"}


def test_a_temperature_of_0_does_not_end_the_comparison():
    found = differences([1.0, 2.0, 3.0, 3.0], temperature=0)
    assert {found[name].chosen for name in ("labkit", "llama.cpp")} == {2}
    assert found["labcore"].kept == found["swamla"].kept == 2  # a very cold softmax, so both largest are drawn from
    assert found["gpt2seed"].because  # it fails, and says so


def test_when_greedy_all_take_the_largest():
    found = differences([1.0, 2.0, 4.0, 3.0], temperature=0.7, greedy=True)
    assert {d.chosen for d in found.values()} == {2}


def test_what_is_kept_in_each_dialect_is_what_the_oracle_keeps_and_every_difference_has_a_cause():
    rng = np.random.default_rng(21)
    differing = 0
    for _ in range(40):
        logits = some_logits(rng)[:40]
        if len(np.unique(logits[np.isfinite(logits)])) < len(logits):
            continue  # of ties some systems' sorts keep any
        ids = rng.integers(0, len(logits), 12).tolist()
        settings = {
            "temperature": float(rng.uniform(0.3, 2)),
            "top_k": int(rng.integers(1, 30)),
            "top_p": float(rng.uniform(0.1, 0.99)),
            "repetition_penalty": float(rng.uniform(1.05, 2)),
        }
        settings = {name: value for name, value in settings.items() if rng.random() < 0.7}
        found = differences(logits.tolist(), ids[:6], ids[6:], **settings)
        kept = {}
        for name, d in found.items():
            exact = oracle.apply(name, logits, settings, oracle.History(ids[:6], ids[6:]))
            if exact is None or exact.undecided.any():
                break
            kept[name] = set(np.flatnonzero(np.isfinite(exact.logits)).tolist())
            assert d.kept == len(kept[name])
            assert set(d.only_here) == kept[name] - kept["labkit"]
            assert set(d.only_in_labkit) == kept["labkit"] - kept[name]
            assert bool(d.because) == (d.distance > 1e-6) or d.distance < 1e-5, (name, settings, d)
            noise = [oracle.gumbel(1, 0, 6, i) for i in range(len(logits))]
            assert d.chosen == int(np.argmax(exact.logits + np.array(noise)))
            differing += bool(d.because)
    assert differing > 25


def test_the_comparison_is_plain_data_with_a_row_for_each_dialect():
    comparison = compare(torch.tensor([3.0, 2.0, 1.0]), Settings(seed=1, **OFF | {"top_p": 0.8, "temperature": 0.5}))
    rows = comparison.rows()
    assert [row["dialect"] for row in rows] == list(oracle.SYSTEMS)
    assert rows[0]["because"] == "the same" and rows[2]["because"] == "order: top_p → temperature"
    assert all(type(value) in (str, int, float) for row in rows for value in row.values())
    assert len(comparison.to_dict()["differences"]) == len(rows)
    assert repr(comparison).startswith("Comparison(labkit: 0.000, hf: 0.000, llama.cpp: 0.119")
