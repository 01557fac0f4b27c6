"""beam_search: the best continuations there are, as transformers finds them."""

import itertools
import warnings

import pytest
import tiny
import torch

import labkit
from labkit.errors import ConfigError, ContextError, TokenizerError

every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])


@pytest.fixture
def lm() -> labkit.LanguageModel:
    return tiny.tiny("llama", "grouped")


def raw_logprobs(lm, prompt: list[int], ids: list[int]) -> list[float]:
    return labkit.score(lm, prompt + ids).logprobs[len(prompt) :]


def test_with_beams_enough_nothing_better_exists():
    """Every continuation is tried: 7 tokens, 3 steps, no beam is ever dropped."""
    config = tiny.GPT2Config(7, 8, n_layer=2, n_head=2, n_embd=8, n_hidden=8)
    lm = tiny.language_model("gpt2", config)
    everything = sorted(
        ((sum(raw_logprobs(lm, [2, 5], list(ids))), list(ids)) for ids in itertools.product(range(7), repeat=3)),
        reverse=True,
    )
    beams = labkit.beam_search(lm, [2, 5], num_beams=49, max_new_tokens=3)
    assert [beam.ids for beam in beams] == [ids for _, ids in everything[:49]]
    assert [beam.logprob for beam in beams] == pytest.approx([total for total, _ in everything[:49]], abs=1e-4)


@every_model
def test_a_beams_numbers_are_those_of_its_tokens_with_every_kind_of_cache(family, variant):
    lm, prompt = tiny.tiny(family, variant), [3, 1, 4, 1, 5]
    beams = labkit.beam_search(lm, prompt, num_beams=3, max_new_tokens=15, length_penalty=0.5)
    assert len(beams) == 3 and [beam.score for beam in beams] == sorted((beam.score for beam in beams), reverse=True)
    for beam in beams:
        assert beam.logprobs == pytest.approx(raw_logprobs(lm, prompt, beam.ids), abs=1e-4)
        assert beam.logprob == pytest.approx(sum(beam.logprobs), abs=1e-4)
        assert beam.score == pytest.approx(beam.logprob / 15**0.5)
        assert beam.text == lm.tokenizer.decode(beam.ids) and beam.finish_reason == "length"


def test_one_beam_is_greedy(lm):
    g = labkit.generate(lm, "to be", greedy=True, max_new_tokens=12)
    (beam,) = labkit.beam_search(lm, "to be", num_beams=1, max_new_tokens=12)
    assert (beam.ids, beam.text) == (g.ids, g.text)


def test_the_table_shows_which_beams_were_alive_and_where_each_came_from(lm):
    beams = labkit.beam_search(lm, "to be", num_beams=3, max_new_tokens=6)
    steps = [[row for row in beams.steps if row["step"] == step] for step in range(6)]
    assert [len(rows) for rows in steps] == [3] * 6 and {row["parent"] for row in steps[0]} == {0}
    best = next(row for row in steps[5] if row["logprob"] == round(beams[0].logprob, 6))
    path = [best]
    for rows in steps[4::-1]:
        path.append(rows[path[-1]["parent"]])
    assert [row["id"] for row in path[::-1]] == beams[0].ids
    assert all(row["ended"] == (row["step"] == 5) for row in beams.steps)
    assert all(row["piece"] == tiny.CHARACTERS[row["id"]] for row in beams.steps)
    assert best["score"] == pytest.approx(beams[0].score, abs=1e-5)


def test_a_beam_that_meets_a_stop_ends_and_the_stop_is_not_in_its_text(lm):
    text = labkit.beam_search(lm, "to be", num_beams=3, max_new_tokens=12)[0].text
    for stop in (text[3:5], lm.tokenizer.encode(text[4])[0]):
        beams = labkit.beam_search(lm, "to be", num_beams=3, max_new_tokens=12, stop=stop, early_stopping=True)
        stopped = [beam for beam in beams if beam.finish_reason == "stop"]
        assert stopped and len(beams) == 3
        for beam in stopped:
            cut = len(stop) if isinstance(stop, str) else 1
            assert beam.text == lm.tokenizer.decode(beam.ids[:-cut])
            assert beam.ids[-1] == stop or lm.tokenizer.decode(beam.ids).endswith(str(stop))


def test_it_ends_where_the_context_is_full(lm):
    prompt = tiny.random_ids(tiny.CONTEXT - 3)
    beams = labkit.beam_search(lm, prompt, max_new_tokens=50)
    assert {(len(beam.ids), beam.finish_reason) for beam in beams} == {(4, "context")}
    assert len(labkit.beam_search(lm, prompt, max_new_tokens=4)[0].ids) == 4


def test_so_many_of_the_best_are_returned_as_asked_for(lm):
    best = labkit.beam_search(lm, "to be", num_beams=5, max_new_tokens=5)
    assert len(best) == 5 and labkit.beam_search(lm, "to be", num_beams=5, max_new_tokens=5, n_return=2) == best[:2]


def test_a_wrapped_function_is_searched_too():
    model = tiny.tiny("gpt2", "tied").model
    lm = labkit.wrap(model, vocab_size=tiny.V, block_size=tiny.CONTEXT)
    ours, theirs = (labkit.beam_search(m, [1, 2], max_new_tokens=6) for m in (lm, tiny.tiny("gpt2", "tied")))
    assert [beam.ids for beam in ours] == [beam.ids for beam in theirs]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [({"num_beams": 0}, ConfigError, "num_beams is 0; it must be a whole number from 1"),
     ({"n_return": 5}, ConfigError, "n_return is 5; it must be a whole number from 1 to 4"),
     ({"max_new_tokens": -1}, ConfigError, "max_new_tokens is -1"),
     ({"max_new_tokens": 0}, ContextError, "5 tokens and 0 new ones"),
     ({"early_stopping": "often"}, ConfigError, "early_stopping is 'often'"),
     ({"stop": 99}, TokenizerError, "id 99 is outside"), ({"prompt": [1] * 25}, ContextError, "25 tokens"),
     ({"prompt": ""}, ContextError, "empty")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(lm, changes, error, words):
    with pytest.raises(error, match=words):
        labkit.beam_search(lm, **{"prompt": "to be", **changes})


# --- transformers on the same weights


def models(hf):
    return {
        "gpt2, many ends": hf.gpt2(seed=1, eos_token_id=list(range(0, 60, 5))),
        "gpt2, hardly anything else": hf.gpt2(seed=2, eos_token_id=[i for i in range(60) if i % 7]),
        "llama, one end": hf.llama(eos_token_id=2),
        "llama, two ends": hf.llama(seed=3, eos_token_id=[2, 7]),
    }


@pytest.fixture(
    scope="module", params=["gpt2, many ends", "gpt2, hardly anything else", "llama, one end", "llama, two ends"]
)
def pair(request, tmp_path_factory):
    """A model of transformers, and labkit's of the same files."""
    hf = pytest.importorskip("hf_models")
    model = models(hf)[request.param]
    return model, labkit.load(hf.save(model, tmp_path_factory.mktemp("beam")))


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
def test_beams_and_scores_are_those_of_transformers(pair, early_stopping, length_penalty, request):
    model, lm = pair
    ended_early = 0
    for seed, num_beams in itertools.product(range(3), (2, 4)):
        ids = tiny.random_ids(5 + seed, seed, 61)
        prompt = torch.tensor([ids])
        options = {"num_beams": num_beams, "max_new_tokens": 12, "length_penalty": length_penalty}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, early_stopping=early_stopping,
                num_return_sequences=num_beams, return_dict_in_generate=True, output_scores=True, pad_token_id=60,
                **options,
            )  # fmt: skip
        ours = labkit.beam_search(lm, ids, early_stopping=early_stopping, **options)
        width = theirs.sequences.shape[1] - len(ids)
        padded = [beam.ids + [60] * (width - len(beam.ids)) for beam in ours]
        assert padded == theirs.sequences[:, len(ids) :].tolist()
        assert [beam.score for beam in ours] == pytest.approx(theirs.sequences_scores.tolist(), abs=1e-4)
        ended_early += sum(beam.finish_reason == "eos" for beam in ours)
    assert ended_early > 0 or length_penalty == 2 or "many" not in request.node.name
