"""generate_batch: every row gets what it would get alone."""

import pytest
import tiny
import torch

import labkit
from labkit.errors import ConfigError, ContextError, SamplingError, TokenizerError
from labkit.sampling import AllowedIds, Gumbel, Sampler
from labkit.tokenizers.char import CharTokenizer

LENGTHS = (1, 11, 4, 20, 40)  # of the prompts; the context holds 24
PROMPTS = [tiny.random_ids(n, seed=n) for n in LENGTHS]
WARM = {"seed": 4, "temperature": 1.3, "top_p": None, "max_new_tokens": 26}
every_model = pytest.mark.parametrize(("family", "variant"), tiny.CASES, ids=["-".join(case) for case in tiny.CASES])


@pytest.fixture
def lm() -> labkit.LanguageModel:
    return tiny.tiny("labcore", "learned")


def alone(lm, prompts=PROMPTS, **changes):
    return [labkit.generate(lm, prompt, **changes) for prompt in prompts]


def fresh(case=("labcore", "learned"), **facts) -> labkit.LanguageModel:
    """A model of its own, which a test may hang hooks on."""
    return tiny.language_model(case[0], tiny.TINY[case[0]][case[1]], tiny.characters(), **facts)


def forwards(lm) -> list[tuple[int, int]]:
    """Where the (rows, tokens) of every later forward are noted."""
    shapes: list[tuple[int, int]] = []
    lm.model.embed.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(inputs[0].shape)))
    return shapes


# --- the same as alone


@every_model
@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0, "use_cache": False}, {"overflow": "recrop", "repetition_penalty": 1.3}],
    ids=str,
)
def test_prompts_of_all_lengths_run_together_far_past_the_context_as_each_does_alone(family, variant, changes):
    lm = tiny.tiny(family, variant)
    together = labkit.generate_batch(lm, PROMPTS, **WARM | changes)
    assert together == alone(lm, **WARM | changes)
    assert {len(g.ids) for g in together} == {26}


@every_model
def test_rows_that_end_early_leave_the_others_as_they_are(family, variant):
    lm = tiny.tiny(family, variant)
    whole = [g.ids for g in alone(lm, **WARM)]
    # the token that ends the rows at as many different places as any does
    stop = max(range(tiny.V), key=lambda i: len({ids.index(i) for ids in whole if i in ids}))
    changes = {**WARM, "stop": (stop, "u="), "min_new_tokens": 2}
    together = labkit.generate_batch(lm, PROMPTS, **changes)
    assert together == alone(lm, **changes)
    assert len({len(g.ids) for g in together}) > 1 and "stop" in {g.finish_reason for g in together}
    assert [g.text for g in together] == [g.text for g in alone(lm, **changes)]


def test_limits_count_for_each_row_alone(lm):
    for changes in ({"overflow": "stop"}, {"max_length": 30}, {"max_new_tokens": 0}):
        together = labkit.generate_batch(lm, PROMPTS, **WARM | changes)
        assert together == alone(lm, **WARM | changes)
    assert [len(g.ids) for g in labkit.generate_batch(lm, PROMPTS, **WARM | {"max_length": 30})] == [26, 19, 26, 10, 1]


@pytest.mark.parametrize("variant", tiny.TINY["labcore"])
def test_labcores_own_cache_does_the_same_to_every_row(variant):
    lm = tiny.tiny("labcore", variant)
    changes = {**WARM, "overflow": "labcore", "max_new_tokens": 50}
    assert labkit.generate_batch(lm, PROMPTS, **changes) == alone(lm, **changes)


def test_a_wrapped_function_runs_rows_of_one_length_together():
    sizes = []

    def last_decides(ids: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(ids.shape))
        return torch.sin(ids[..., None] * torch.arange(1, 38)) * (1 + ids.shape[1])

    lm = labkit.wrap(last_decides, vocab_size=37, block_size=24)
    prompts = [[1, 2], [3, 4], [5]]
    together = labkit.generate_batch(lm, prompts, **WARM)
    assert sizes[:2] == [(2, 2), (1, 1)]
    assert together == alone(lm, prompts, **WARM)


def test_the_numbers_of_a_row_are_those_it_has_alone(lm):
    for one, other in zip(labkit.generate_batch(lm, PROMPTS, **WARM), alone(lm, **WARM), strict=True):
        assert len(one.logprobs) == len(one.ids)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.raw_logprobs == pytest.approx(other.raw_logprobs, abs=1e-4)


def test_stages_and_draws_that_remember_do_so_for_each_row_alone(lm):
    for changes in ({"mirostat_tau": 3.0}, {"dialect": "nanochat", "overflow": "crop"}):
        changes = {"max_new_tokens": 20, "seed": 3, **changes}
        assert labkit.generate_batch(lm, PROMPTS, **changes) == alone(lm, **changes)


def test_every_batch_size_and_order_gives_the_same(lm):
    together = labkit.generate_batch(lm, PROMPTS, **WARM)
    for size in (1, 2, 4):
        assert labkit.generate_batch(lm, PROMPTS, batch_size=size, **WARM) == together
    assert labkit.generate_batch(lm, PROMPTS[::-1], **WARM) == together[::-1]


def test_texts_are_prompts_too_with_bos_and_notes_of_their_own():
    tokenizer = CharTokenizer(tiny.CHARACTERS[:36], specials=["<|bos|>"], bos="<|bos|>", on_unknown="drop")
    lm = tiny.language_model("labcore", tiny.TINY["labcore"]["learned"], tokenizer)
    together = labkit.generate_batch(lm, ["ab", "a+b", [3, 4]], max_new_tokens=5)
    assert together == alone(lm, ["ab", "a+b", [3, 4]], max_new_tokens=5)
    assert [len(g.notes) for g in together] == [0, 1, 0]


# --- several continuations


@every_model
def test_continuations_of_one_prompt_share_its_prefill_and_the_first_is_the_usual_one(family, variant):
    lm = fresh((family, variant))
    usual, shapes = labkit.generate(lm, PROMPTS[1], **WARM), forwards(lm)
    (several,) = labkit.generate_batch(lm, PROMPTS[1:2], n=5, **WARM)
    assert shapes[0] == (1, len(PROMPTS[1])) and shapes[1] == (5, 1)
    assert several[0] == usual and [g.stream for g in several] == [0, 1, 2, 3, 4]
    assert len({tuple(g.ids) for g in several}) == 5


def test_continuations_draw_from_streams_of_their_own_whoever_shares_the_batch(lm):
    rows = labkit.generate_batch(lm, PROMPTS, n=3, **WARM)
    assert [len(of_prompt) for of_prompt in rows] == [3] * len(PROMPTS)
    for prompt, of_prompt in zip(PROMPTS, rows, strict=True):
        assert labkit.generate_batch(lm, [prompt], n=3, batch_size=2, **WARM) == [of_prompt]
    trace = Sampler.from_settings(**rows[1][2].settings.sampling()).trace(
        lm.logits(PROMPTS[1])[-1], PROMPTS[1], stream=2
    )
    assert trace.chosen == rows[1][2].ids[0]


def test_greedy_continuations_are_all_the_same(lm):
    (several,) = labkit.generate_batch(lm, ["to be"], n=3, temperature=0, max_new_tokens=8)
    assert len({tuple(g.ids) for g in several}) == 1


# --- how it runs


def test_a_batch_is_one_forward_a_step_until_its_rows_end():
    lm = fresh()
    shapes = forwards(lm)
    labkit.generate_batch(lm, [[1], [2, 3, 4], [5, 6]], max_new_tokens=6)
    assert shapes == [(3, 3)] + [(3, 1)] * 5


def test_past_the_context_rows_of_one_length_stay_together():
    lm = fresh()
    shapes = forwards(lm)
    labkit.generate_batch(lm, [tiny.random_ids(20, seed=i) for i in range(4)], max_new_tokens=40)
    assert {rows for rows, _ in shapes} == {4} and len(shapes) == 40


def test_a_row_that_has_ended_costs_nothing_any_more():
    lm = fresh()
    ids = [labkit.generate(lm, [i], seed=2, max_new_tokens=12).ids for i in (1, 2)]
    stop = next(i for i in ids[0] if i not in ids[1])
    n = ids[0].index(stop) + 1
    shapes = forwards(lm)
    labkit.generate_batch(lm, [[1], [2]], seed=2, max_new_tokens=12, stop=stop)
    assert shapes == [(2, 1)] * n + [(1, 1)] * (12 - n)


def test_steps_come_row_by_row_and_results_may_be_looked_at_on_the_way(lm):
    run = labkit.stream_batch(lm, PROMPTS, n=2, **WARM)
    steps: dict[int, list[int]] = {}
    for i, step in run:
        steps.setdefault(i, []).append(step.id)
        assert run.rows[i].ids == steps[i]
    results = [g for of_prompt in run.results() for g in of_prompt]
    assert [steps[i] for i in range(len(results))] == [g.ids for g in results]
    assert next(run, None) is None


# --- interrupts


class Interrupt:
    """A hook that raises once, at the n-th call."""

    def __init__(self, n: int):
        self.n = n

    def __call__(self, *_):
        self.n -= 1
        if self.n == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["embed", "blocks.1.mlp", "lm_head"])
def test_an_interrupt_returns_what_there_is_of_all_rows(where):
    lm = fresh()
    whole = labkit.generate_batch(lm, PROMPTS, batch_size=4, **WARM)
    lm.model.get_submodule(where).register_forward_hook(Interrupt(8))
    part = labkit.generate_batch(lm, PROMPTS, batch_size=4, **WARM)
    assert [g.finish_reason for g in part] == ["interrupted"] * 5
    assert all(some.ids == all_.ids[: len(some.ids)] for some, all_ in zip(part, whole, strict=True))
    assert [len(g.ids) > 0 for g in part] == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("case", "overflow"),
    [(("labcore", "learned"), "labcore"), (("nanochat", "newest"), "crop"), (("swa_mla", "configured"), "recrop")],
    ids=str,
)
def test_an_interrupted_batch_can_go_on_as_if_nothing_had_happened(case, overflow, monkeypatch):
    lm = fresh(case)
    whole = labkit.generate_batch(lm, PROMPTS, overflow=overflow, **WARM)
    lm.model.get_submodule("blocks.1.mlp").register_forward_hook(Interrupt(20))
    run = labkit.stream_batch(lm, PROMPTS, overflow=overflow, **WARM)
    with pytest.raises(KeyboardInterrupt):
        list(run)
    feed = run.rows[3]._text.feed
    monkeypatch.setattr(run.rows[3]._text, "feed", lambda *a, **k: (feed(*a, **k), Interrupt(1)())[0])
    with pytest.raises(KeyboardInterrupt):  # in the middle of a row's bookkeeping, others are a token ahead
        list(run)
    list(run)
    assert [g for (g,) in run.results()] == whole


# --- what cannot be done


def test_an_error_names_the_prompt_it_is_about_before_anything_runs():
    lm = fresh()
    shapes = forwards(lm)
    for prompts, error, words in (
        (["to", "to §"], TokenizerError, r"^prompts\[1\]: .*'§' \(position 3\)"),
        ([[1], [2], []], ContextError, r"^prompts\[2\]: .*at least one"),
        ([[99], [2]], TokenizerError, r"^prompts\[0\]: id 99 is outside"),
    ):
        with pytest.raises(error, match=words):
            labkit.generate_batch(lm, prompts)
    assert shapes == []


def test_an_error_on_the_way_names_the_prompt_too():
    def broken(ids: torch.Tensor) -> torch.Tensor:
        return torch.where(ids[..., None] == 7, torch.nan, torch.zeros(37))

    lm = labkit.wrap(broken, vocab_size=37)
    with pytest.raises(SamplingError, match=r"^prompts\[2\]: the logits hold NaN"):
        labkit.generate_batch(lm, [[1], [2], [7]], max_new_tokens=2, sampler=Sampler([AllowedIds((1, 2))], Gumbel(0)))


@pytest.mark.parametrize(
    ("prompts", "changes", "words"),
    [([], {}, "list of at least one prompt"), ("to be", {}, "list of at least one prompt"),
     (["to"], {"n": 0}, "n is 0; it must be a whole number from 1"), (["to"], {"n": 1.5}, r"n is 1\.5"),
     (["to"], {"batch_size": 0}, "batch_size is 0"), (["to"], {"temprature": 1}, "did you mean temperature")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_one_line(lm, prompts, changes, words):
    with pytest.raises(ConfigError, match=words) as failed:
        labkit.generate_batch(lm, prompts, **changes)
    assert "\n" not in str(failed.value)
