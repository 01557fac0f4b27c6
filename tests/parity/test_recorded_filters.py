"""The samplers of the four originals on fixed logits: what each dialect keeps and hands to its draw."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from recorded import fixtures_root, read_arrays, read_json

import labkit
from labkit.errors import LabkitError, SamplingError
from labkit.sampling import Sampler, StepContext

TOLERANCE = 2e-6  # of probabilities; the originals compute in float32 as the dialects do


def sampler(dialect: str, setting: dict[str, Any], **more: Any) -> Sampler:
    return Sampler.from_settings(dialect=dialect, **{**setting, **more})


def filtered(made: Sampler, logits: np.ndarray, prompt: Sequence[int], generated: Sequence[int]) -> np.ndarray:
    context = StepContext([prompt], [generated], len(generated))
    return made.apply(torch.tensor(logits)[None], context)[0].numpy()


def check(ours: np.ndarray, theirs: np.ndarray, ambiguous: bool, what: Any) -> None:
    """The same tokens with the same values; where ties or rounding decide, as many tokens with the same values."""
    if ambiguous:
        np.testing.assert_allclose(np.sort(ours), np.sort(theirs), rtol=1e-6, err_msg=str(what))
        return
    assert (np.isneginf(ours) == np.isneginf(theirs)).all(), (what, ours, theirs)
    kept = ~np.isneginf(theirs)
    np.testing.assert_allclose(ours[kept], theirs[kept], rtol=1e-6, err_msg=str(what))


@pytest.mark.parametrize("dialect", ["labcore", "gpt2seed"])
def test_labcore_and_gpt2_from_scratch_keep_what_the_originals_kept(dialect):
    recorded, arrays = read_json(dialect, "filters", "expected.json"), read_arrays(dialect, "filters", "expected.npz")
    compared = unclear = 0
    for name, row in recorded["rows"].items():
        logits = arrays[f"logits_{name}"]
        for i, (setting, result) in enumerate(zip(recorded["settings"], row["results"], strict=True)):
            if result["rounding_ambiguous"]:
                unclear += 1
                continue
            prompt, generated = row.get("prompt", []), row.get("generated_so_far", row.get("ids_seen"))
            ours = filtered(sampler(dialect, setting), logits, prompt, generated)
            check(ours, arrays[f"filtered_{name}"][i], result["tie_ambiguous"], (name, setting))
            if not result["tie_ambiguous"]:
                p = torch.tensor(ours).softmax(dim=-1).numpy()
                np.testing.assert_allclose(p, arrays[f"probs_{name}"][i], atol=TOLERANCE)
            compared += 1
    assert compared > 690 and unclear < compared / 10, (compared, unclear)


def test_labcore_refuses_what_the_original_refuses_and_when():
    recorded = read_json("labcore", "filters", "expected.json")
    for case in recorded["errors"]:
        logits = np.linspace(-1, 1, 8, dtype=np.float32)
        try:
            filtered(sampler("labcore", case["setting"]), logits, [0], case["history_generated"])
            accepted = True
        except SamplingError:
            accepted = False
        assert accepted == case["result"]["ok"], case


def test_gpt2_from_scratch_at_its_edges():
    edge = read_json("gpt2seed", "filters", "expected.json")["edge"]
    logits = torch.tensor(read_arrays("gpt2seed", "filters", "expected.npz")["logits_distinct10"])

    def chosen(**setting: Any) -> int:
        made = Sampler.from_settings(dialect="gpt2seed", **setting)
        return made.choose(logits[None], StepContext([[1]], [[]]))[0].id

    assert chosen(temperature=0.0, greedy=True) == edge["temperature0_greedy"]["value"][0] == 0
    for setting in ({"temperature": 0.0}, {"top_k": 0}, {"top_k": -1}):
        with pytest.raises(SamplingError):
            chosen(**setting)


def test_swa_mla_keeps_what_the_original_kept():
    recorded, arrays = read_json("swamla", "filters", "expected.json"), read_arrays("swamla", "filters", "expected.npz")
    for case in recorded["cases"]:
        setting = {name: case[name] for name in ("temperature", "top_k", "top_p")}
        logits, theirs = arrays[f"in_{case['logits']}"], arrays[f"filtered_{case['key']}"]
        ours = filtered(sampler("swamla", setting), logits, [], [])
        # Which of several equal logits at the cut stays is up to the sort; their number is not.
        tied = len(set(logits.tolist())) < len(logits)
        check(ours, theirs, tied, case)
        assert int(np.isfinite(ours).sum()) == case["kept"], case
        if not tied:
            p = torch.tensor(ours).softmax(dim=-1).numpy()
            np.testing.assert_allclose(p, arrays[f"probs_{case['key']}"], atol=TOLERANCE)


def test_swa_mla_penalises_once_per_occurrence_among_the_new_tokens():
    recorded, arrays = read_json("swamla", "filters", "expected.json"), read_arrays("swamla", "filters", "expected.npz")
    for case in recorded["repetition"]:
        made = sampler("swamla", {"repetition_penalty": case["penalty"]})
        steps = [filtered(made, np.array(case["base_logits"], dtype=np.float32), case["prompt_ids"], tokens)
                 for tokens in (case["forced_tokens"][:n] for n in range(len(case["forced_tokens"])))]  # fmt: skip
        theirs = next(arrays[name] for name in arrays if case["key"] in name and "filtered" in name)
        np.testing.assert_allclose(np.stack(steps)[: len(theirs)], theirs[: len(steps)], rtol=1e-6)


def test_the_nanochat_experiment_sees_the_probabilities_of_the_original():
    recorded, arrays = (
        read_json("nanochat", "filters", "expected.json"),
        read_arrays("nanochat", "filters", "expected.npz"),
    )
    for case in recorded["cases"]:
        setting = {name: case[name] for name in ("temperature", "top_k")}
        logits = arrays[f"in_{case['logits']}"]
        made = sampler("nanochat", setting)
        p = torch.tensor(filtered(made, logits, [], [])).softmax(dim=-1).numpy()
        theirs = arrays[f"exp_probs_{case['key']}"]
        if case["temperature"] == 0:  # its softmax is of the logits as they are; the draw is argmax
            assert not made.draw.by_chance
        np.testing.assert_allclose(p, theirs, atol=TOLERANCE, err_msg=str(case))


def seeded(system: str) -> list[Any]:
    """(case, run) of every recorded run after torch.manual_seed."""
    runs = []
    for case in ("char_learned_bias", "char_rope_nobias", "char_learned_nobias_ddp", "bpe_gpt2_rope", "small_bias",
                 "small_nobias_eps1e-2", "small_bias_ddp", "bpe_50257"):  # fmt: skip
        try:
            recorded = read_json(system, case, "expected.json")["seeded_sampling_torch_cpu"]
        except FileNotFoundError:
            continue
        runs += [(case, run) for run in (recorded["runs"] if isinstance(recorded, dict) else recorded)]
    return runs


@pytest.mark.parametrize("system", ["labcore", "gpt2seed"])
def test_the_originals_own_random_stream_gives_their_very_ids(system):
    runs = seeded(system)
    assert len(runs) >= 6
    for case, run in runs:
        prompts = read_json(system, case, "expected.json")["prompts"]
        prompt = next(prompt["ids"] for prompt in prompts if prompt["name"] == run["prompt"])
        names = ("temperature", "top_k", "top_p", "repetition_penalty", "seed", "use_kv_cache")
        given = {("use_cache" if n == "use_kv_cache" else n): run[n] for n in names if n in run}
        lm = labkit.load(next(p for p in (fixtures_root() / system / case).iterdir() if p.suffix in (".pt", ".pth")))
        settings = labkit.Settings(dialect=system, max_new_tokens=len(run["ids"]), **given)
        assert labkit.generate(lm, prompt, settings).ids == run["ids"], (case, run)


def stub(favourite: int, vocab_size: int, block_size: int) -> tuple[labkit.LanguageModel, list[list[int]]]:
    """A model that always likes one token best, and what it was given to read."""
    read: list[list[int]] = []

    def function(ids: torch.Tensor) -> torch.Tensor:
        read.append(ids[0].tolist())
        return torch.eye(vocab_size)[favourite].expand(*ids.shape, -1) * 9

    return labkit.wrap(function, vocab_size=vocab_size, block_size=block_size), read


def swa_mla_run(lm: labkit.LanguageModel, prompt: list[int], **changes: Any) -> list[int]:
    g = labkit.generate(lm, prompt, dialect="swamla", temperature=0.0, top_k=1, **changes)
    return g.prompt_ids + g.ids


def test_swa_mla_crops_stops_and_truncates_where_the_original_does():
    recorded = read_json("swamla", "filters", "expected.json")
    crop = recorded["context_crop"]
    lm, read = stub(0, 8, crop["block_size"])
    new = len(crop["result"]) - len(crop["prompt"])
    assert swa_mla_run(lm, crop["prompt"], max_new_tokens=new) == crop["result"]
    assert read == crop["contexts_fed_to_model"]
    stop = recorded["stop_tokens"]
    lm, _ = stub(stop["stop"][0], 8, 64)
    assert swa_mla_run(lm, stop["prompt"], stop=tuple(stop["stop"])) == stop["result"]
    longest = recorded["max_length_4"]
    lm, _ = stub(longest["result"][-1], 8, 64)
    g = labkit.generate(lm, longest["prompt"], dialect="swamla", temperature=0.0, max_length=4)
    assert g.prompt_ids + g.ids == longest["result"] and g.finish_reason == "length" and g.notes
    nothing = recorded["max_new_tokens_0"]
    assert swa_mla_run(lm, nothing["prompt"], max_new_tokens=0) == nothing["result"]


def test_labcores_penalty_over_a_batch_is_the_originals():
    direct = read_json("labcore", "filters", "expected.json")["direct"]
    given, expected = direct["apply_repetition_penalty_args"], direct["apply_repetition_penalty_batch"]
    logits = read_arrays("labcore", "filters", "expected.npz")["logits_distinct10"]
    made = sampler("labcore", {"repetition_penalty": given["penalty"]})
    context = StepContext([[], []], given["generated_tokens"], 3, stream=[0, 0])
    ours = made.apply(torch.tensor(logits).expand(2, -1), context)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6)


def test_errors_of_dialects_are_labkits():
    with pytest.raises(LabkitError, match="min_p: labcore has no such stage"):
        labkit.Settings(dialect="labcore", min_p=0.1)
