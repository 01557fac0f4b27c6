"""Two models side by side: the numbers of the comparison, where runs part and why, and different tokenizers."""

import json
import math

import pytest
import tiny
import torch
from test_cli import run

import labkit
from labkit.errors import ConfigError, TokenizerError
from labkit.inspection import compare, trajectory
from labkit.tokenizers.char import CharTokenizer
from labkit.training.data import three_digit_additions

every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])
TEXT = "so it has, 12 of 34\n"


@pytest.fixture(scope="module")
def pair():
    """Two models of one kind and context with different weights."""
    config = tiny.TINY["labcore"]["learned"]
    return [tiny.language_model("labcore", config, tiny.characters(), seed=seed) for seed in (0, 1)]


def nudged(lm: labkit.LanguageModel, by: float) -> labkit.LanguageModel:
    """The same model with one logit moved."""

    def function(ids: torch.Tensor) -> torch.Tensor:
        logits = lm.model(ids)
        return logits + by * (torch.arange(logits.shape[-1]) == 5)

    return labkit.wrap(function, tokenizer=lm.tokenizer, vocab_size=lm.vocab_size, block_size=lm.model.block_size)


# --- on the same text -------------------------------------------------------------------------------------------------


@every_model
def test_a_model_with_itself_is_exactly_equal_and_never_parts(family, variant):
    lm = tiny.tiny(family, variant)
    found = compare(lm, lm, TEXT * 3, prompt="so ", max_new_tokens=40, temperature=1.3)
    assert not found.text.delta.any() and not found.text.kl.any() and not found.text.js.any()
    assert found.text.agreement == 1 and found.run.divergence is None and found.run.a.ids == found.run.b.ids
    assert found.run.verdict == "the same 40 tokens"


def test_the_numbers_are_those_of_the_two_distributions(pair):
    a, b = pair
    ids = a.tokenizer.encode(TEXT)
    found = compare(a, b, TEXT).text
    p, q = (lm.logits(ids)[:-1].double().log_softmax(dim=-1) for lm in pair)
    own = torch.tensor(ids[1:])[:, None]
    assert torch.allclose(found.logprobs_a, p.gather(1, own)[:, 0]) and torch.allclose(
        found.logprobs_b, q.gather(1, own)[:, 0]
    )
    assert torch.allclose(found.kl, torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1))
    m = ((p.exp() + q.exp()) / 2).log()
    js = sum(torch.nn.functional.kl_div(m, x, log_target=True, reduction="none").sum(-1) for x in (p, q)) / 2
    assert torch.allclose(found.js, js, atol=1e-12) and float(found.js.max()) < math.log(2)
    same = [bool(x.argmax() == y.argmax()) for x, y in zip(p, q, strict=True)]
    assert found.agreement == sum(same) / len(same)


def test_swapping_the_two_negates_the_difference_and_leaves_js(pair):
    there, back = compare(*pair, TEXT).text, compare(*reversed(pair), TEXT).text
    assert torch.equal(there.delta, -back.delta) and torch.allclose(there.js, back.js, atol=1e-15)
    assert not torch.allclose(there.kl, back.kl) and (there.kl >= 0).all()


def test_models_that_see_less_are_compared_past_their_context():
    long = tiny.tiny("labcore", "rope_nobias")
    short = nudged(tiny.tiny("labcore", "learned"), 0.0)
    text = TEXT * 4
    found = compare(long, short, text).text
    for lm, logprobs in ((long, found.logprobs_a), (short, found.logprobs_b)):
        assert logprobs.tolist() == pytest.approx(labkit.score(lm, text).logprobs[1:], abs=1e-5)


def test_rows_are_plain_values_in_the_order_of_the_text_and_sorted_by_difference(pair):
    found = compare(*pair, TEXT)
    rows = found.rows()
    assert [row["piece"] for row in rows] == list(TEXT[1:]) and [row["start"] for row in rows] == list(range(1, 20))
    assert rows[3]["delta"] == pytest.approx(rows[3]["logprob_b"] - rows[3]["logprob_a"], abs=2e-4)
    worst = found.text.most_different(3)
    assert [row["js"] for row in worst] == sorted((row["js"] for row in rows), reverse=True)[:3]
    by_delta = found.text.most_different(1, by="delta")[0]
    assert abs(by_delta["delta"]) == max(abs(row["delta"]) for row in rows)
    assert json.loads(json.dumps(found.to_dict()))["text"]["totals"]["parts"] == 19
    assert repr(found) == repr(compare(*pair, TEXT)) and "\n" not in repr(found)
    with pytest.raises(ConfigError, match="delta, js, kl"):
        found.text.most_different(by="size")


def test_two_settings_are_compared_by_what_the_draw_sees(pair):
    lm = pair[0]
    warm = compare(lm, lm, TEXT, temperature=1.0, top_p=1.0, top_k=0, changes_b={"temperature": 2.0}).text
    log_p = lm.logits(lm.tokenizer.encode(TEXT))[:-1].double()
    expected = (log_p / 2).log_softmax(-1) - log_p.log_softmax(-1)
    own = torch.tensor(lm.tokenizer.encode(TEXT)[1:])[:, None]
    assert torch.allclose(warm.delta, expected.gather(1, own)[:, 0], atol=1e-5) and warm.agreement == 1


def test_a_token_that_a_stage_removes_is_counted_and_breaks_no_number(pair):
    lm = pair[0]
    found = compare(lm, lm, TEXT, temperature=1.0, top_p=1.0, top_k=0, changes_b={"top_k": 2}).text
    out = found.totals()["ruled_out_b"]
    assert 0 < out == int(found.logprobs_b.isinf().sum()) and found.totals()["ruled_out_a"] == 0
    assert torch.isinf(found.kl).all() and (found.js <= math.log(2) + 1e-12).all() and not found.js.isnan().any()
    json.dumps(found.to_dict(), allow_nan=False)
    both = compare(lm, lm, TEXT, top_k=1, changes_b={"temperature": 0.9}).text
    assert not both.delta.isnan().any()


def test_a_penalty_counts_the_text_so_far_as_if_it_had_been_generated(pair):
    lm, sampler = pair[0], labkit.Sampler.from_settings(repetition_penalty=1.5)
    found = compare(lm, lm, TEXT, temperature=1.0, top_p=1.0, top_k=0, changes_b={"repetition_penalty": 1.5}).text
    ids = lm.tokenizer.encode(TEXT)
    seen = sampler.probabilities(lm.logits(ids)[9], ids[:1], ids[1:10])
    assert float(found.logprobs_b[9].exp()) == pytest.approx(float(seen[ids[10]]), rel=1e-5)


def test_two_precisions_differ_a_little():
    a, b = (labkit.load("shakespeare-char", dtype=dtype) for dtype in ("float32", "bfloat16"))
    found = compare(a, b, "To be, or not to be, that is the question:\n").text
    assert 0 < float(found.kl.mean()) < 0.01 and found.agreement > 0.9


# --- each on its own --------------------------------------------------------------------------------------------------


def test_with_one_noise_two_models_part_by_the_model(pair):
    found = compare(*pair, prompt="so ", max_new_tokens=30, temperature=1.0).run
    assert found.divergence.causes == ("model",) and found.divergence.cause == "model"
    step, (a, b) = found.divergence.step, pair
    assert found.a.ids[:step] == found.b.ids[:step] and found.a.ids[step] != found.b.ids[step]
    # The very same noise, added to the other model's logits, takes the other token.
    prefix = found.a.prompt_ids + found.a.ids[:step]
    sampler = labkit.Sampler.from_settings(**found.a.settings.sampling())
    picks = [sampler.trace(lm.logits(prefix)[-1], prefix[:3], prefix[3:], step).chosen for lm in (a, b)]
    assert picks == [found.divergence.id_a, found.divergence.id_b]


def test_one_model_with_two_seeds_parts_by_the_draw_and_with_two_temperatures_by_the_settings(pair):
    lm = pair[0]
    seeds = compare(lm, lm, prompt="so ", temperature=1.5, seed=1, changes_b={"seed": 2}).run
    assert seeds.divergence.causes == ("draw",)
    warm = compare(lm, lm, prompt="so ", temperature=0.3, seed=1, changes_b={"temperature": 3.0}).run
    assert warm.divergence.causes == ("settings",) and warm.divergence.by_luck
    assert "without luck both take" in warm.verdict
    greedy = compare(lm, lm, prompt="so ", temperature=2.0, seed=1, changes_b={"greedy": True}).run
    assert greedy.divergence.causes == ("draw",)


def test_the_cause_is_what_alone_makes_the_difference(pair):
    """A model so sure of one token that only its logits matter: neither the seed nor the temperature does."""
    lm = nudged(pair[0], 50.0)
    found = compare(lm, pair[1], prompt="so ", temperature=1.0, seed=1, changes_b={"seed": 2}).run
    assert found.divergence.step == 0 and found.divergence.causes == ("model",) and not found.divergence.by_luck


@pytest.mark.parametrize(
    "changes",
    [{"mirostat_tau": 3.0}, {"dialect": "hf", "greedy": False}, {"dialect": "llama.cpp"}, {"xtc_probability": 0.5}],
)
def test_samplers_that_remember_are_followed_to_the_step_where_the_runs_part(pair, changes):
    lm = nudged(pair[0], 3.0)
    found = compare(pair[0], lm, prompt="so ", max_new_tokens=60, seed=5, temperature=2.0, **changes).run
    assert found.divergence.step > 0 and found.divergence.causes == ("model",)


def test_probabilities_are_what_each_draw_saw(pair):
    found = compare(*pair, prompt="so ", temperature=0.7, top_k=5).run
    parted, a = found.divergence, pair[0]
    prefix = found.a.prompt_ids + found.a.ids[: parted.step]
    seen = labkit.Sampler.from_settings(**found.a.settings.sampling()).probabilities(a.logits(prefix)[-1])
    assert parted.probabilities["a"] == pytest.approx((float(seen[parted.id_a]), float(seen[parted.id_b])), rel=1e-4)


def test_runs_of_different_lengths_that_agree_have_not_parted(pair):
    lm = pair[0]
    found = compare(lm, lm, prompt="so ", max_new_tokens=5, changes_b={"max_new_tokens": 8}).run
    assert found.divergence is None and "after which A ended (length) and B went on" in found.verdict
    assert [row["same"] for row in found.rows()] == [True] * 5 + [False] * 3


def test_without_a_text_what_a_writes_is_the_text(pair):
    found = compare(*pair, prompt="so ", max_new_tokens=12)
    assert "".join(found.text.pieces) == "o " + found.run.a.text
    with pytest.raises(ConfigError, match="give a text, a prompt, or both"):
        compare(*pair)


# --- different tokenizers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other():
    """A model whose tokens are pairs of characters and single ones, the same characters as the tiny models have."""
    from labkit.tokenizers.hf import HFTokenizer

    letters = list(tiny.CHARACTERS)
    pairs = ["as", "it", "so", "of", "ha"]
    vocab = {token: i for i, token in enumerate([*letters, *pairs])}
    merges = [f"{pair[0]} {pair[1]}" for pair in pairs]
    described = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges, "unk_token": None},
    }  # fmt: skip
    from labkit.models.labcore import LabCoreConfig

    config = LabCoreConfig(len(vocab), block_size=24, n_layer=2, n_head=4, n_embd=16)
    return tiny.language_model("labcore", config, HFTokenizer(json.dumps(described)), seed=4)


def test_different_tokens_are_compared_between_the_borders_that_both_have(pair, other):
    found = compare(pair[0], other, TEXT).text
    assert "".join(found.pieces) == TEXT[2:] and found.kl is None and found.agreement is None
    assert found.pieces[:4] == [" ", "it", " ", "h"] and "between the borders" in found.notes[0]
    assert [TEXT[row["start"] :][: len(row["piece"])] for row in found.rows()] == found.pieces
    letters = labkit.score(pair[0], TEXT).logprobs
    assert float(found.logprobs_a[1]) == pytest.approx(letters[3] + letters[4], abs=1e-6)
    assert float(found.logprobs_a.sum()) == pytest.approx(sum(letters[2:]), abs=1e-6)
    merged = labkit.score(other, TEXT)
    assert merged.pieces[2] == "it" and float(found.logprobs_b[1]) == pytest.approx(merged.logprobs[2], abs=1e-6)
    assert float(found.logprobs_b.sum()) == pytest.approx(sum(merged.logprobs[1:]), abs=1e-6)
    assert found.most_different(1)[0]["delta"] is not None


def test_different_tokens_do_not_have_the_same_draw_and_the_result_says_so(pair, other):
    found = compare(pair[0], other, prompt="so ", max_new_tokens=5)
    assert found.run.divergence is None and "not on the same draw" in found.run.verdict and found.run.notes
    assert found.text.kl is None


def test_a_character_of_several_bytes_is_never_cut():
    text = "caf\u00e9 na\u00efve \u20ac"
    config = tiny.TINY["labcore"]["learned"]
    whole = CharTokenizer(sorted(set(text)) + [chr(0x4E00 + i) for i in range(tiny.V - len(set(text)))])
    by_byte = tiny.language_model(
        "labcore", type(config)(256, block_size=24, n_layer=2, n_head=4, n_embd=16), tiny.single_bytes()
    )
    found = compare(tiny.language_model("labcore", config, whole), by_byte, text).text
    assert found.pieces == list(text[1:]) and found.n_bytes == len(text.encode()) - 1
    padded = tiny.single_bytes()
    padded.vocab_size = 300
    config = type(config)(300, block_size=24, n_layer=2, n_head=4, n_embd=16)
    found = compare(by_byte, tiny.language_model("labcore", config, padded), text).text
    assert found.pieces == list(text[1:])  # both cut é into bytes, and have a border in common inside it


def test_tokens_that_are_parts_of_a_character_know_which_one():
    text = "a\u20acb"
    config = type(tiny.TINY["labcore"]["learned"])(256, block_size=24, n_layer=2, n_head=4, n_embd=16)
    lm = tiny.language_model("labcore", config, tiny.single_bytes())
    rows = compare(lm, lm, text).rows()
    assert [(row["start"], row["piece"]) for row in rows] == [(1, "\\xe2"), (1, "\\x82"), (1, "\\xac"), (2, "b")]


def test_a_checkpoint_that_is_loaded_twice_is_exactly_equal():
    a, b = labkit.load("shakespeare-swa-mla"), labkit.load("shakespeare-swa-mla")
    found = compare(a, b, "Good morrow, cousin.\n" * 15, prompt="ROMEO:", max_new_tokens=30)
    assert not found.text.delta.any() and not found.text.js.any() and found.run.verdict == "the same 30 tokens"


def test_what_cannot_be_aligned_is_refused_in_one_line(pair, other):
    for asked in ({"text": [1, 2, 3]}, {"text": "so it", "prompt": [1, 2]}):
        with pytest.raises(TokenizerError, match="the ids do not mean the same"):
            compare(pair[0], other, **asked)
    dropping = tiny.language_model(
        "labcore",
        type(other.config)(5, block_size=8, n_layer=1, n_head=1, n_embd=4),
        CharTokenizer("sot i", on_unknown="drop"),
    )
    with pytest.raises(TokenizerError, match=r"do not give the text back from character 6 \('has"):
        compare(pair[0], dropping, TEXT)
    with pytest.raises(TokenizerError, match="no two borders in common"):
        compare(pair[0], other, "so")
    nameless = tiny.language_model("labcore", pair[0].config, None)
    with pytest.raises(TokenizerError, match="has no tokenizer"):
        compare(pair[0], nameless, TEXT)
    assert compare(pair[0], nameless, [1, 2, 3]).text.pieces == pair[0].tokenizer.pieces([2, 3])
    with pytest.raises(ConfigError, match="one token"):
        compare(*pair, "s")


# --- several checkpoints, and the command -----------------------------------------------------------------------------

STEPS = ["arithmetic/step_002200", "arithmetic/step_000200", "arithmetic/step_001800"]
SUMS = [(problem.question, problem.answer) for problem in three_digit_additions(40, 3)]


def test_a_trajectory_is_in_the_order_of_the_steps():
    found = trajectory(map(labkit.load, STEPS), text="12+34=46\n5+5=10\n", questions=SUMS)
    assert [point["step"] for point in found.points] == [200, 1800, 2200]
    early, best, late = (point["accuracy"] for point in found.points)
    assert early < late <= best and best >= 0.8
    assert found.points[1]["recorded_val"] < found.points[0]["recorded_val"]
    assert found.points[1]["mean_surprisal"] == pytest.approx(
        labkit.score(labkit.load(STEPS[2]), "12+34=46\n5+5=10\n").mean_surprisal, abs=1e-4
    )
    with pytest.raises(ConfigError, match="nothing to measure"):
        trajectory([])


def test_the_command_compares_two_checkpoints_and_prints_what_the_call_gives(capsys, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("7+8=15\n20-5=15\n")
    asked = (
        "compare",
        STEPS[1],
        STEPS[2],
        "--text",
        str(file),
        "--prompt",
        "12+",
        "--max-new-tokens",
        "6",
        "--seed",
        "4",
    )
    status, out, _ = run(capsys, *asked, "--json")
    said = json.loads(out)
    a, b = labkit.load(STEPS[1]), labkit.load(STEPS[2])
    found = compare(a, b, file.read_text(), prompt="12+", max_new_tokens=6, seed=4)
    assert status == 0 and said["text"] == json.loads(json.dumps(found.text.to_dict()))
    assert said["run"]["verdict"] == found.run.verdict and said["settings"]["seed"] == 4
    status, out, _ = run(capsys, *asked, "--rows", "2")
    assert status == 0 and found.run.verdict in out and "bits per byte" in out


def test_the_command_compares_one_checkpoint_with_itself_under_other_settings_and_precision(capsys):
    asked = ("compare", STEPS[2], "--prompt", "12+34=", "--max-new-tokens", "4", "--greedy", "--json")
    status, out, _ = run(capsys, *asked, "--with", "temperature=2", "--with", "greedy=no")
    assert status == 1  # greedy is a yes or no of its own kind
    status, out, _ = run(capsys, *asked, "--with", "max_new_tokens=2")
    assert status == 0 and json.loads(out)["run"]["verdict"].startswith("the same 2 tokens")
    status, out, _ = run(capsys, *asked, "--dtype-b", "bfloat16")
    assert status == 0 and 0 <= json.loads(out)["text"]["totals"]["kl"] < 0.1
    status, _, err = run(capsys, "compare", STEPS[2])
    assert status == 2 and "name a second checkpoint" in err
    status, _, err = run(capsys, "compare", STEPS[2], "--with", "temprature=2")
    assert status == 1 and "temperature" in err


def test_the_command_makes_a_table_of_several_checkpoints(capsys, tmp_path):
    file = tmp_path / "sums.tsv"
    file.write_text("".join(f"{question}\t{answer}\n" for question, answer in SUMS))
    status, out, _ = run(capsys, "compare", *STEPS, "--questions", str(file), "--json")
    assert status == 0 and [point["step"] for point in json.loads(out)["checkpoints"]] == [200, 1800, 2200]
    assert run(capsys, "compare", *STEPS, "--questions", str(file))[1].count("model_00") == 3
    assert run(capsys, "compare", *STEPS)[0] == 2
