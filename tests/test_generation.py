"""generate and stream: what they return, why they end, what they never do."""

import dataclasses
import math

import pytest
import tiny
import torch

import labkit
from labkit.errors import ConfigError, ContextError, SamplingError, TokenizerError
from labkit.generation import deterministic_kernels, visible_from
from labkit.models.labcore import LabCoreConfig
from labkit.sampling import Gumbel, Sampler, TopK
from labkit.tokenizers.char import CharTokenizer

CONTEXT = tiny.CONTEXT


@pytest.fixture
def lm() -> labkit.LanguageModel:
    return tiny.tiny("labcore", "learned")


def fresh(tokenizer=None, **facts) -> labkit.LanguageModel:
    """A model of its own, which a test may hang hooks on."""
    return tiny.language_model("labcore", tiny.TINY["labcore"]["learned"], tokenizer or tiny.characters(), **facts)


# --- what comes back


def test_ids_are_the_new_ones_only_and_text_is_their_text(lm):
    g = labkit.generate(lm, "to be", max_new_tokens=12, seed=3)
    assert len(g.ids) == 12 and g.finish_reason == "length" and g.notes == ()
    assert g.prompt_ids == lm.tokenizer.encode("to be")
    assert g.text == lm.tokenizer.decode(g.ids) == str(g)
    assert all(type(i) is int for i in g.ids)
    with pytest.raises(dataclasses.FrozenInstanceError):
        g.ids = []


@pytest.mark.parametrize("prompt", [[5, 6, 7], (5, 6, 7), torch.tensor([5, 6, 7])], ids=["list", "tuple", "tensor"])
def test_a_prompt_may_be_ids(lm, prompt):
    g = labkit.generate(lm, prompt, max_new_tokens=4)
    assert g.prompt_ids == [5, 6, 7] and g.ids == labkit.generate(lm, [5, 6, 7], max_new_tokens=4).ids


def test_no_new_tokens_is_a_run_of_length_0(lm):
    g = labkit.generate(lm, "to be", max_new_tokens=0)
    assert (g.ids, g.text, g.finish_reason) == ([], "", "length")


def test_the_settings_are_recorded_and_changes_win_over_them(lm):
    g = labkit.generate(lm, "to be", labkit.Settings(top_k=3, seed=5), seed=6, max_new_tokens=2)
    assert g.settings == labkit.Settings(top_k=3, seed=6, max_new_tokens=2)


def test_a_stream_gives_the_tokens_of_generate_and_its_texts_add_up(lm):
    changes = {"max_new_tokens": 40, "seed": 9, "stop": "zz"}
    run = labkit.stream(lm, "to be", **changes)
    steps = list(run)
    g = labkit.generate(lm, "to be", **changes)
    assert [step.id for step in steps] == g.ids and "".join(step.text for step in steps) == g.text == run.text
    assert run.result() == g


def test_a_step_tells_logprob_rank_and_entropy_of_what_the_draw_saw(lm):
    settings = labkit.Settings(temperature=0.7, top_k=12, top_p=0.95, repetition_penalty=1.2, max_new_tokens=30, seed=2)
    sampler = Sampler.from_settings(**settings.sampling())
    ids = lm.tokenizer.encode("to be")
    for i, step in enumerate(labkit.stream(lm, "to be", settings)):
        trace = sampler.trace(step.logits, prompt_ids=ids[:5], generated_ids=ids[5:], step=i)
        p = trace.stages[-1].probabilities
        assert trace.chosen == step.id
        assert step.logprob == pytest.approx(math.log(p[step.id]), abs=1e-5)
        assert step.entropy == pytest.approx(trace.stages[-1].entropy, abs=1e-6)
        assert step.rank == int((step.logits > step.logits[step.id]).sum())
        assert step.raw_logprob == pytest.approx(math.log(trace.stages[0].probabilities[step.id]), abs=1e-5)
        ids.append(step.id)


def test_a_generation_keeps_the_logprobs_of_its_tokens_and_is_not_compared_by_them(lm):
    run = labkit.stream(lm, "to be", max_new_tokens=12, seed=4)
    steps = list(run)
    g = run.result()
    assert g.logprobs == [step.logprob for step in steps] and g.raw_logprobs == [step.raw_logprob for step in steps]
    assert g == dataclasses.replace(g, logprobs=[], raw_logprobs=[]) and "logprobs" not in repr(g)


def test_a_greedy_step_is_certain_of_the_best_rank(lm):
    for step in labkit.stream(lm, "to be", temperature=0, max_new_tokens=5):
        assert (step.rank, step.logprob, step.entropy) == (0, 0.0, 0.0)


# --- seeds


def test_the_same_seed_gives_the_same_ids_and_another_one_others(lm):
    def ids(seed):
        return labkit.generate(lm, "to be", seed=seed, max_new_tokens=30, temperature=1.5, top_k=None).ids

    assert ids(1) == ids(1)
    assert len({tuple(ids(seed)) for seed in range(6)}) == 6


def test_a_fresh_seed_is_recorded_and_repeats_the_run(lm):
    g = labkit.generate(lm, "to be", seed=None, max_new_tokens=20)
    assert labkit.generate(lm, "to be", seed=g.settings.seed, max_new_tokens=20).ids == g.ids


def test_a_filter_that_keeps_every_winner_changes_nothing(lm):
    plain = labkit.generate(lm, "to be", top_k=None, top_p=None, temperature=1.0, max_new_tokens=30)
    steps = list(labkit.stream(lm, "to be", top_k=None, top_p=None, temperature=1.0, max_new_tokens=30))
    k = max(step.rank for step in steps) + 1
    assert labkit.generate(lm, "to be", top_k=k, top_p=None, temperature=1.0, max_new_tokens=30).ids == plain.ids


def test_a_sampler_replaces_the_sampling_part(lm):
    sampler = Sampler([TopK(1)], Gumbel(0))
    g = labkit.generate(lm, "to be", sampler=sampler, temperature=5.0, max_new_tokens=10)
    assert g.ids == labkit.generate(lm, "to be", temperature=0, max_new_tokens=10).ids


def test_no_global_generator_is_touched(lm, global_random_states):
    before = global_random_states()
    labkit.generate(lm, "to be", max_new_tokens=10)
    after = global_random_states()
    assert after == before


# --- with and without cache


@pytest.mark.parametrize("case", [("labcore", "learned"), ("labcore", "rope_nobias"), ("nanochat", "grouped")], ids=str)
def test_the_cache_changes_no_id_in_512_new_tokens_far_past_the_context(case):
    cached, plain = (
        labkit.generate(tiny.tiny(*case), "to be or", max_new_tokens=512, temperature=0.0, use_cache=on)
        for on in (True, False)
    )
    assert cached.ids == plain.ids and len(cached.ids) == 512


def test_the_cache_changes_no_drawn_id(lm):
    for seed in range(5):
        cached, plain = (
            labkit.generate(lm, "to be", seed=seed, temperature=1.3, top_p=None, max_new_tokens=60, use_cache=on)
            for on in (True, False)
        )
        assert cached.ids == plain.ids


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["shakespeare-char", "arithmetic"])
def test_the_cache_changes_no_id_of_a_trained_model_in_512_new_tokens(name):
    lm = labkit.load(name, device="cpu")
    prompt = "1+2=" if name == "arithmetic" else "ROMEO:"
    cached, plain = (
        list(labkit.stream(lm, prompt, temperature=0, max_new_tokens=512, use_cache=on)) for on in (True, False)
    )
    assert [step.id for step in cached] == [step.id for step in plain]
    assert max(float((a.logits - b.logits).abs().max()) for a, b in zip(cached, plain, strict=True)) <= 1e-4


# --- context overflow


def test_crop_drops_the_oldest_quarter_at_once_and_recrop_one_by_one():
    shown = [visible_from(n, 8, "crop") for n in range(1, 17)]
    assert shown == [0] * 8 + [2, 2, 4, 4, 6, 6, 8, 8]
    assert [visible_from(n, 8, "recrop") for n in range(1, 17)] == [0] * 8 + list(range(1, 9))


@pytest.mark.parametrize("block", [1, 2, 3, 4, 5, 8, 24, 1000])
@pytest.mark.parametrize("overflow", ["crop", "recrop"])
def test_what_is_visible_fits_the_context_is_never_empty_and_only_moves_on(block, overflow):
    starts = [visible_from(n, block, overflow) for n in range(1, 3 * block + 2)]
    for n, start in enumerate(starts, start=1):
        assert 0 < n - start <= block
        assert n > block or start == 0
        if n > block and overflow == "crop":
            assert n - start > block - max(1, block // 4)
    assert starts == sorted(starts)


def test_crop_prefills_anew_only_once_in_a_quarter_of_the_context():
    lm, sizes = fresh(), []
    lm.model.embed.register_forward_hook(lambda module, inputs, output: sizes.append(inputs[0].shape[1]))
    labkit.generate(lm, [1], max_new_tokens=3 * CONTEXT)
    prefills = sizes[1:].count(CONTEXT - CONTEXT // 4 + 1)
    assert prefills == len([size for size in sizes[1:] if size > 1]) == 2 * CONTEXT // (CONTEXT // 4)


def test_stop_ends_when_the_context_is_full(lm):
    g = labkit.generate(lm, list(range(10)), overflow="stop", max_new_tokens=100)
    assert g.finish_reason == "context" and len(g.prompt_ids) + len(g.ids) == CONTEXT + 1
    plain = labkit.generate(lm, list(range(10)), max_new_tokens=len(g.ids))
    assert plain.ids == g.ids
    assert labkit.generate(lm, [1] * (CONTEXT + 1), overflow="stop").ids == []
    assert labkit.generate(lm, [1] * (CONTEXT + 1), overflow="stop").finish_reason == "context"
    assert labkit.generate(lm, [1] * CONTEXT, overflow="stop", max_new_tokens=1).finish_reason == "length"


@pytest.mark.parametrize("overflow", ["crop", "recrop"])
def test_a_prompt_longer_than_the_context_follows_the_policy(lm, overflow):
    ids = tiny.random_ids(60)
    first = next(labkit.stream(lm, ids, overflow=overflow))
    expected = lm.logits(ids[visible_from(60, CONTEXT, overflow) :])[-1]
    assert float((first.logits - expected).abs().max()) <= 1e-4


def test_labcores_overflow_is_for_labcore_only():
    with pytest.raises(ConfigError, match="LabCore's cache; this is a gpt2 model"):
        labkit.generate(tiny.tiny("gpt2", "tied"), "to be", overflow="labcore")


def test_the_labcore_dialect_means_that_cache_only_for_labcore_models():
    lm = tiny.tiny("gpt2", "tied")
    g = labkit.generate(lm, "to be", dialect="labcore", max_new_tokens=40, seed=1)
    assert g.settings.overflow == "recrop"
    assert g == labkit.generate(lm, "to be", dialect="labcore", overflow="recrop", max_new_tokens=40, seed=1)
    own = labkit.generate(tiny.tiny("labcore", "learned"), "to be", dialect="labcore", max_new_tokens=3)
    assert own.settings.overflow == "labcore"
    with pytest.raises(ConfigError, match="LabCore's cache; this is a gpt2 model"):
        labkit.generate(lm, "to be", dialect="labcore", overflow="labcore")


# --- prompt and new tokens together


def test_max_length_counts_the_prompt_and_is_looked_at_after_a_token(lm):
    g = labkit.generate(lm, list(range(10)), max_length=14)
    assert (len(g.ids), g.finish_reason, g.notes) == (4, "length", ())
    assert len(labkit.generate(lm, list(range(14)), max_length=14).ids) == 1
    assert len(labkit.generate(lm, list(range(10)), max_length=14, max_new_tokens=2).ids) == 2
    assert labkit.generate(lm, list(range(14)), max_length=14, max_new_tokens=0).ids == []


def test_a_prompt_beyond_max_length_keeps_its_end_and_a_note_says_so(lm):
    g = labkit.generate(lm, list(range(20)), max_length=14, seed=3)
    assert g.prompt_ids == list(range(6, 20)) and len(g.ids) == 1
    assert g.notes == ("The prompt has 20 tokens; its last 14 (max_length) are used.",)
    assert g.ids == labkit.generate(lm, list(range(6, 20)), seed=3, max_new_tokens=1).ids


@pytest.mark.parametrize(("dialect", "default"), [("hf", 20), ("labcore", 200), ("swamla", 256), ("labkit", 100)])
def test_without_settings_a_dialects_defaults_apply(lm, dialect, default):
    run = labkit.stream(lm, "to be", dialect=dialect, seed=1)
    assert run.settings == labkit.Settings(dialect=dialect, seed=1) and run.settings.max_new_tokens == default


# --- stopping


def greedy(lm, prompt="to be", **changes):
    return labkit.generate(lm, prompt, **{"temperature": 0, "max_new_tokens": 40, **changes})


def test_a_stop_string_ends_the_run_and_is_not_in_the_text_though_its_ids_stay(lm):
    text = greedy(lm).text
    stop = text[7:10]
    g = greedy(lm, stop=stop)
    assert g.finish_reason == "stop" and g.text == text[: text.index(stop)]
    assert lm.tokenizer.decode(g.ids) == text[: text.index(stop) + 3]


def test_of_several_stops_the_first_counts(lm):
    text = greedy(lm).text
    a, b = text[12:14], text[5:7]
    g = greedy(lm, stop=(a, b))
    assert g.text == text[: min(text.index(a) + 2, text.index(b) + 2) - 2]


def test_a_stop_id_ends_the_run_and_is_not_in_the_text(lm):
    ids = greedy(lm).ids
    stop = next(i for i in ids if ids.index(i) > 3)
    g = greedy(lm, stop=stop)
    assert g.finish_reason == "stop" and g.ids == ids[: ids.index(stop) + 1]
    assert g.text == lm.tokenizer.decode(g.ids[:-1])


def test_before_the_minimum_nothing_ends_the_run(lm):
    text, ids = greedy(lm).text, greedy(lm).ids
    by_text = greedy(lm, stop=text[3:5], min_new_tokens=20)
    assert len(by_text.ids) >= 20 and by_text.ids[:20] == ids[:20]
    assert by_text.text.startswith(text[:19])
    run = labkit.stream(lm, "to be", temperature=0, max_new_tokens=40, stop=text[3:5], min_new_tokens=20)
    assert "".join(step.text for step in run) == by_text.text
    by_id = greedy(lm, stop=ids[3], min_new_tokens=20)
    assert len(by_id.ids) >= 20 and ids[3] not in by_id.ids[:19]


def test_a_stop_that_never_comes_ends_at_the_length_with_all_the_text(lm):
    g = greedy(lm, stop=("zzzzzz", "\x00"))
    assert g.finish_reason == "length" and g.text == greedy(lm).text


def test_the_models_own_end_id_ends_the_run_as_eos(lm):
    ids = greedy(lm).ids
    end = next(i for i in ids if ids.index(i) > 3)
    g = greedy(fresh(stop_ids=(end,)))
    assert g.finish_reason == "eos" and g.ids == ids[: ids.index(end) + 1]
    assert g.text == lm.tokenizer.decode(g.ids[:-1])
    asked = greedy(fresh(stop_ids=(end,)), stop=end)
    assert asked.finish_reason == "stop" and asked.ids == g.ids


def test_the_tokenizers_end_of_text_ends_a_run_only_in_the_dialect_that_does_so(lm):
    tokenizer = CharTokenizer(tiny.CHARACTERS[:36], specials=["<|end|>"])
    tokenizer.eos_id = 36
    model = fresh(tokenizer)
    other = {"temperature": 1.0, "top_k": None, "top_p": None, "repetition_penalty": None, "max_new_tokens": 60}
    ids = labkit.generate(model, "to be", **other, seed=5, logit_bias={36: 3.0}).ids
    assert 36 in ids
    sampler = Sampler.from_settings(seed=5, logit_bias={36: 3.0})
    g = labkit.generate(model, "to be", **other, dialect="gpt2seed", overflow="crop", sampler=sampler)
    assert g.finish_reason == "eos" and g.ids == ids[: ids.index(36) + 1] and "<|end|>" not in g.text


def test_a_stop_id_outside_the_vocabulary_is_refused(lm):
    with pytest.raises(TokenizerError, match=f"id 99999 is outside the vocabulary 0 … {tiny.V - 1}"):
        labkit.generate(lm, "to be", stop=99999)


@pytest.mark.parametrize("changes", [{"overflow": "stop"}, {"max_new_tokens": 15}, {}], ids=str)
def test_what_a_stream_held_back_for_a_possible_stop_comes_with_its_last_step(lm, changes):
    """Whatever ends the run: the texts of the steps are the whole text."""
    text = greedy(lm, **changes).text
    stop = text[-2:] + "\x00"  # begins where the text ends, and never comes
    run = labkit.stream(lm, "to be", temperature=0, **{"max_new_tokens": 40, **changes}, stop=stop)
    assert "".join(step.text for step in run) == text == run.result().text


def test_characters_that_span_tokens_come_whole():
    config = dataclasses.replace(tiny.TINY["gpt2"]["tied"], vocab_size=256)
    lm = tiny.language_model("gpt2", config, tiny.single_bytes())
    run = labkit.stream(lm, "é", max_new_tokens=60, top_k=None, top_p=None, temperature=3.0)
    pieces = [step.text for step in run]
    g = run.result()
    assert "".join(pieces) == g.text == lm.tokenizer.decode(g.ids) == bytes(g.ids).decode(errors="replace")
    assert "" in pieces


# --- interruption


class Interrupt:
    """A hook that raises once, at the n-th call."""

    def __init__(self, n: int):
        self.n = n

    def __call__(self, *_):
        self.n -= 1
        if self.n == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["embed", "blocks.1.mlp", "lm_head"])
def test_an_interrupt_returns_what_there_is(where):
    lm = fresh()
    whole = labkit.generate(lm, "to be", max_new_tokens=30)
    lm.model.get_submodule(where).register_forward_hook(Interrupt(8))
    g = labkit.generate(lm, "to be", max_new_tokens=30)
    assert g.finish_reason == "interrupted" and g.ids == whole.ids[:7]
    assert g.text == lm.tokenizer.decode(g.ids)


@pytest.mark.parametrize("where", ["embed", "blocks.1.mlp", "lm_head"])
def test_an_interrupted_run_can_go_on_as_if_nothing_had_happened(where):
    lm = fresh()
    whole = labkit.generate(lm, "to be", max_new_tokens=30)
    lm.model.get_submodule(where).register_forward_hook(Interrupt(8))
    run = labkit.stream(lm, "to be", max_new_tokens=30)
    with pytest.raises(KeyboardInterrupt):
        for _ in run:
            pass
    for _ in run:
        pass
    assert run.result() == whole


@pytest.mark.parametrize(
    "changes",
    [{"mirostat_tau": 3.0}, {"dialect": "labcore"}, {"dialect": "llama.cpp", "top_p": 0.3}, {"stop": "zzz"}],
    ids=str,
)
def test_a_run_broken_off_in_its_own_bookkeeping_can_go_on_as_if_nothing_had_happened(lm, changes, monkeypatch):
    changes = {"max_new_tokens": 40, "seed": 6, **changes}
    whole = labkit.generate(lm, "to be", **changes)
    run = labkit.stream(lm, "to be", **changes)
    for _ in range(7):
        next(run)
    feed, interrupt = run._text.feed, Interrupt(1)
    monkeypatch.setattr(run._text, "feed", lambda *a, **k: (feed(*a, **k), interrupt())[0])
    with pytest.raises(KeyboardInterrupt):
        next(run)
    assert run.ids == whole.ids[:7] and len(run.logprobs) == 7
    assert "".join(step.text for step in run) == whole.text[len(lm.tokenizer.decode(whole.ids[:7])) :]
    assert run.result() == whole


def test_a_stream_that_is_left_early_holds_what_it_gave(lm):
    run = labkit.stream(lm, "to be", max_new_tokens=30)
    texts = [next(run).text for _ in range(5)]
    g = run.result()
    assert g.finish_reason == "interrupted" and len(g.ids) == 5 and g.text.startswith("".join(texts))


def test_a_finished_stream_stays_finished(lm):
    run = labkit.stream(lm, "to be", max_new_tokens=2)
    assert len(list(run)) == 2 and list(run) == [] and run.finish_reason == "length"


# --- prompts


def test_unknown_characters_are_refused_with_their_positions_before_anything_runs(lm):
    with pytest.raises(TokenizerError, match=r"'T' \(position 0\), '§' \(position 3\).*drop"):
        labkit.generate(lm, "To §")


def test_characters_that_the_format_drops_are_noted():
    tokenizer = CharTokenizer(tiny.CHARACTERS, on_unknown="drop")
    g = labkit.generate(fresh(tokenizer), "1 + 2", max_new_tokens=2)
    assert g.prompt_ids == tokenizer.encode("1  2")
    assert g.notes == ("Dropped from the prompt, not in the vocabulary: '+' (position 2).",)


def test_the_formats_bos_is_put_in_front_of_text_and_not_of_ids():
    tokenizer = CharTokenizer(tiny.CHARACTERS[:36], specials=["<|bos|>"], bos="<|bos|>")
    lm = fresh(tokenizer)
    assert labkit.generate(lm, "ab", max_new_tokens=1).prompt_ids == [36, *tokenizer.encode("ab")]
    assert labkit.generate(lm, [3, 4], max_new_tokens=1).prompt_ids == [3, 4]
    assert labkit.generate(lm, "", max_new_tokens=1).prompt_ids == [36]


@pytest.mark.parametrize(
    ("prompt", "error", "words"),
    [("", ContextError, "empty"), ([], ContextError, "at least one"), ([5, 99], TokenizerError, "id 99 is outside"),
     ([-1], TokenizerError, "id -1 is outside")],
)  # fmt: skip
def test_a_prompt_that_cannot_be_used_is_refused(lm, prompt, error, words):
    with pytest.raises(error, match=words):
        labkit.generate(lm, prompt)


def test_without_a_tokenizer_ids_work_and_text_is_refused():
    lm = tiny.language_model("labcore", tiny.TINY["labcore"]["learned"], None)
    g = labkit.generate(lm, [1, 2], max_new_tokens=5)
    assert len(g.ids) == 5 and g.text == ""
    with pytest.raises(TokenizerError, match=r"tiny\.pt has no tokenizer.*pass ids"):
        labkit.generate(lm, "to be")


def test_an_unknown_setting_is_refused_and_the_nearest_suggested(lm):
    with pytest.raises(ConfigError, match="did you mean temperature"):
        labkit.generate(lm, "to be", temprature=1)
    with pytest.raises(SamplingError, match="top_p is 3"):
        labkit.stream(lm, "to be", top_p=3)


# --- deterministic kernels


@pytest.mark.parametrize("before", [(False, False), (True, False), (True, True)])
def test_asking_for_deterministic_kernels_puts_the_former_setting_back(lm, before):
    original = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    seen = []
    try:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        model = fresh()
        model.model.embed.register_forward_hook(
            lambda *_: seen.append(torch.are_deterministic_algorithms_enabled()) and None
        )
        g = labkit.generate(model, "to be", deterministic=True, max_new_tokens=3)
        after = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
        assert seen == [True] * 3 and after == before
        assert g.ids == labkit.generate(lm, "to be", max_new_tokens=3).ids
        with pytest.raises(RuntimeError, match="inside"), deterministic_kernels(True):
            raise RuntimeError("inside")
        assert torch.are_deterministic_algorithms_enabled() == before[0]
    finally:
        torch.use_deterministic_algorithms(original[0], warn_only=original[1])


def test_the_smallest_contexts_there_can_be_work_with_and_without_cache():
    for block in (1, 2, 3):
        lm = tiny.language_model("labcore", LabCoreConfig(tiny.V, block, 1, 2, 8), tiny.characters())
        cached, plain = (labkit.generate(lm, "to", max_new_tokens=12, use_cache=on) for on in (True, False))
        assert cached.ids == plain.ids and len(cached.ids) == 12
