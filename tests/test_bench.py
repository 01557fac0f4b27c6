"""The stopwatch of labkit bench, and what is concluded from its runs."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence

import hf_models
import numpy as np
import pytest
import torch
from scipy import stats
from tiny import TINY, random_ids, tiny

import labkit
from labkit import LabkitError, Settings
from labkit.benchmark import Case, Labkit, Ratio, Summary, Transformers, measure, paired, unpaired
from labkit.benchmark.machine import LEAST, MemoryBandwidth, OtherPrograms, Pace, cache_bytes, weight_bytes
from labkit.benchmark.timing import marker, threads
from labkit.errors import CheckpointError, ConfigError

CPU = torch.device("cpu")


class Pretended:
    """An engine that makes nothing, and takes its time for it as ``wait`` says."""

    device = CPU

    def __init__(self, wait: Callable[[str], None] = lambda what: None, name: str = "pretended", short: int = 0):
        self.wait, self.name, self.short = wait, name, short

    def generate(self, rows: Sequence[Sequence[int]], new_tokens: int, mark: Callable[[], None]) -> list[list[int]]:
        self.wait("prefill")
        mark()
        for _ in range(new_tokens - self.short):
            self.wait("token")
            mark()
        return [[0] * new_tokens for _ in rows]


def case(engine: object, rows: int = 1, prompt: int = 3, new_tokens: int = 5) -> Case:
    return Case(engine, tuple((0,) * prompt for _ in range(rows)), new_tokens)  # type: ignore[arg-type]


class Noise:
    """A clock that an engine moves on, by times with the luck of a run in them."""

    def __init__(self, seed: int, spread: float):
        self.random, self.spread = np.random.default_rng(seed), spread
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, what: str) -> None:
        if what == "prefill":
            self.luck = float(np.exp(self.spread * self.random.standard_normal()))
        self.now += 0.01 * self.luck


# --- the stopwatch ----------------------------------------------------------------------------------------------------


def test_the_times_are_those_of_an_independent_stopwatch_to_2_percent():
    spent: dict[str, list[float]] = {"prefill": [], "token": []}

    def wait(what: str) -> None:
        start = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        time.sleep(0.02 if what == "prefill" else 0.005)
        spent[what].append((time.clock_gettime_ns(time.CLOCK_MONOTONIC) - start) / 1e9)

    (found,) = measure({"a": case(Pretended(wait), new_tokens=10)}, iterations=7, warmup_tokens=0).values()
    tokens = [spent["token"][i : i + 10] for i in range(0, 70, 10)]
    for run_times, own in (
        ([run.prefill for run in found.runs], spent["prefill"]),
        ([run.seconds for run in found.runs], [p + sum(t) for p, t in zip(spent["prefill"], tokens, strict=True)]),
        ([run.tokens[-1] - run.tokens[0] for run in found.runs], [sum(t[1:]) for t in tokens]),
    ):  # the middle one of seven: another program may take the processor between two readings
        assert statistics.median(abs(a / b - 1) for a, b in zip(run_times, own, strict=True)) <= 0.02
    assert found.inter_token_ms is not None
    middle = statistics.median(sum((t[1:] for t in tokens), []))
    assert found.inter_token_ms["p50"] == pytest.approx(1000 * middle, rel=0.02)


def test_rates_are_of_all_rows_and_prefill_and_decode_are_apart():
    clock = Noise(0, 0.0)
    seconds = {"prefill": 2.0, "token": 0.5}

    def wait(what: str) -> None:
        clock.now += seconds[what]

    cases = {"a": case(Pretended(wait), rows=4, prompt=10, new_tokens=5)}
    (found,) = measure(cases, iterations=3, warmup_tokens=2, clock=clock).values()
    assert found.tokens_per_sec.values == pytest.approx([4 * 5 / 4.5] * 3)
    assert found.prefill_tokens_per_sec.mean == pytest.approx(4 * 10 / 2)
    assert found.decode_tokens_per_sec is not None and found.decode_tokens_per_sec.mean == pytest.approx(4 / 0.5)
    assert found.first_token_ms.mean == pytest.approx(2500)
    assert found.inter_token_ms == pytest.approx({"p50": 500, "p90": 500, "p99": 500, "max": 500})
    assert found.tokens_per_sec.repeats_within == pytest.approx(0, abs=1e-9)


def test_one_new_token_has_no_decoding_to_report():
    (found,) = measure({"a": case(Pretended(), new_tokens=1)}, iterations=2).values()
    assert found.decode_tokens_per_sec is None and found.inter_token_ms is None
    assert found.to_dict()["decode_tokens_per_sec"] is None


def test_cases_run_in_turns_after_a_warm_up_and_every_other_round_backwards():
    ran: list[str] = []

    def named(name: str) -> Case:
        return case(Pretended(lambda what: ran.append(name) if what == "prefill" else None))

    found = measure(
        {"a": named("a"), "b": named("b")}, iterations=3, warmup_tokens=1, before_round=lambda: ran.append("|")
    )
    assert "".join(ran) == "ab|ab|ba|ab"
    assert {name: len(m.runs) for name, m in found.items()} == {"a": 3, "b": 3}


def test_the_pace_of_a_run_is_that_of_the_machine_before_and_after_it_and_not_of_the_warm_up():
    readings, ran = iter([1.0, 4.0, 9.0, 16.0]), list[str]()

    def pace() -> float:
        ran.append("pace")
        return next(readings)

    engine = Pretended(lambda what: ran.append("run") if what == "prefill" else None)
    (found,) = measure({"a": case(engine)}, iterations=3, warmup_tokens=1, pace=pace).values()
    assert found.pace is not None and found.pace.values == pytest.approx((2, 6, 12))
    assert ran == ["run", "pace", "run", "pace", "run", "pace", "run", "pace"]
    (unread,) = measure({"a": case(engine)}, iterations=1).values()
    assert unread.pace is None and unread.to_dict()["pace"] is None


def test_a_warm_up_is_never_longer_than_what_is_timed_and_may_be_left_out():
    tokens: list[str] = []
    measure({"a": case(Pretended(tokens.append), new_tokens=3)}, iterations=1, warmup_tokens=64)
    assert tokens.count("token") == 6
    tokens.clear()
    measure({"a": case(Pretended(tokens.append), new_tokens=3)}, iterations=1, warmup_tokens=0)
    assert tokens.count("token") == 3


def test_no_garbage_is_collected_while_the_clock_runs_and_afterwards_as_before():
    seen: list[bool] = []
    for before in (True, False):
        (gc.enable if before else gc.disable)()
        try:
            measure({"a": case(Pretended(lambda what: seen.append(gc.isenabled())))}, iterations=1)
            assert gc.isenabled() is before
        finally:
            gc.enable()
    assert seen and not any(seen)


def test_an_engine_that_makes_too_few_tokens_is_an_error_with_the_numbers():
    with pytest.raises(LabkitError, match=r"lazy made 3 of 5 tokens after a prompt of 3"):
        measure({"a": case(Pretended(name="lazy", short=2))}, iterations=1, warmup_tokens=0)


@pytest.mark.parametrize(
    ("how", "words"), [({"iterations": 0}, "iterations is 0"), ({"warmup_tokens": -1}, "warmup_tokens is -1")]
)
def test_bad_numbers_are_refused(how, words):
    with pytest.raises(ConfigError, match=words):
        measure({"a": case(Pretended())}, **how)


def test_nothing_to_measure_is_refused():
    with pytest.raises(ConfigError, match="nothing to measure"):
        measure({})


def test_the_stopwatch_costs_at_most_1_percent_of_a_decoded_token():
    lm = labkit.load("shakespeare-char", device="cpu")
    (found,) = measure({"a": Case(Labkit(lm, Settings()), ((1, 2, 3),), 20)}, iterations=3).values()
    stamps: list[float] = []
    mark = marker(CPU, stamps, time.perf_counter)

    def cost() -> float:
        start = time.perf_counter()
        for _ in range(1000):
            mark()
        return (time.perf_counter() - start) / 1000

    assert found.inter_token_ms is not None
    assert min(cost() for _ in range(5)) <= 0.01 * found.inter_token_ms["p50"] / 1000


def test_threads_are_set_inside_and_put_back():
    before = torch.get_num_threads()
    with threads(2):
        assert torch.get_num_threads() == 2
    with threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


# --- what is concluded ------------------------------------------------------------------------------------------------


def test_the_confidence_interval_is_students():
    values = (10.0, 11.0, 10.5, 9.8, 10.9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert Summary(values).confidence == pytest.approx((expected.low, expected.high))
    assert Summary((1.0,)).confidence is None and Summary((1.0,)).repeats_within is None


def test_ratios_are_those_of_the_paired_and_of_the_welch_test_on_logarithms():
    a, b = (2.0, 2.2, 2.1, 2.05), (1.0, 1.2, 1.1, 0.9)
    in_turns = stats.ttest_rel(np.log(a), np.log(b)).confidence_interval(0.95)
    apart = stats.ttest_ind(np.log(a), np.log(b[:3]), equal_var=False).confidence_interval(0.99)
    assert (paired(a, b).low, paired(a, b).high) == pytest.approx((np.exp(in_turns.low), np.exp(in_turns.high)))
    found = unpaired(a, b[:3])
    assert (found.low, found.high) == pytest.approx((np.exp(apart.low), np.exp(apart.high)))
    assert paired(a, b).value == pytest.approx(np.exp(np.mean(np.log(a) - np.log(b))))


def test_what_slows_a_whole_round_cancels_in_a_ratio_of_two_that_ran_in_turns():
    weather = (1.0, 0.5, 0.9, 0.3, 0.7)
    ratio = paired([2 * w for w in weather], list(weather))
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((2, 2, 2))
    apart = unpaired([2 * w for w in weather], list(weather))
    assert apart.low is not None and apart.low < 1


def test_at_one_pace_a_ratio_is_that_of_what_was_done_at_each():
    slow, fast = [100, 104, 96], [200, 210, 190]
    found = unpaired(fast, slow, ([2, 2.1, 1.9], [1, 1.04, 0.96]))
    assert found.value == pytest.approx(1)
    assert found.low == pytest.approx(1 / found.high) and found.high > 2  # exponents of 1 ± 0.25, three runs each
    assert unpaired(fast, slow).verdict() == "faster"


def test_single_runs_give_a_ratio_without_an_interval():
    assert paired([2.0], [1.0]) == unpaired([2.0], [1.0]) == Ratio(2.0, None, None)
    assert unpaired([2.0], [1.0]).verdict() == "unclear"


def test_equal_runs_give_an_interval_of_no_width():
    assert unpaired([2.0, 2.0], [1.0, 1.0]) == Ratio(2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [
        (Ratio(1.2, 1.1, 1.3), "faster"),
        (Ratio(0.8, 0.7, 0.9), "slower"),
        (Ratio(1.2, 0.9, 1.6), "within noise"),
        (Ratio(0.8, 0.6, 1.1), "within noise"),
        (Ratio(1.03, 1.02, 1.04), "within noise"),  # sure, and too small to matter
        (Ratio(0.97, 0.96, 0.98), "within noise"),
        (Ratio(0.5, None, None), "unclear"),
    ],
)
def test_a_verdict_needs_an_interval_beside_1_and_more_than_the_tolerance(ratio, verdict):
    assert ratio.verdict(0.05) == verdict


@pytest.mark.parametrize("spread", [0.02, 0.1])
@pytest.mark.parametrize("runs", [3, 10])
def test_two_benchmarks_of_the_same_differ_by_less_than_the_interval_in_19_of_20_pairs(spread, runs, monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda: 0)  # nothing here takes time but the clock that is pretended

    def benchmark(seed: int) -> Summary:
        clock = Noise(seed, spread)
        (found,) = measure({"a": case(Pretended(clock.wait))}, iterations=runs, clock=clock).values()
        return found.tokens_per_sec

    pairs = [(benchmark(2 * i), benchmark(2 * i + 1)) for i in range(20)]
    inside = sum(abs(a.mean - b.mean) <= (a.repeats_within or 0) for a, b in pairs)
    assert inside >= 19
    # and the interval is not right by being wide: half of it would fail, over enough pairs
    assert statistics.median((a.repeats_within or 0) / a.mean for a, _ in pairs) < (9 if runs == 3 else 1.6) * spread


# --- engines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "variant"), [(family, next(iter(variants))) for family, variants in TINY.items()])
def test_what_is_timed_is_what_generate_makes(family, variant):
    lm, marks = tiny(family, variant), list[int]()
    rows = [random_ids(5, seed) for seed in range(3)]
    made = Labkit(lm, Settings(seed=3)).generate(rows, 30, lambda: marks.append(1))
    assert made == [g.ids for g in labkit.generate_batch(lm, rows, seed=3, max_new_tokens=30)]
    assert len(marks) == 31


def test_nothing_ends_a_timed_run_early():
    lm = tiny("gpt2", "tied")
    made = Labkit(lm, Settings(stop=("a", 1), max_length=8)).generate([random_ids(5)], 20, lambda: None)
    assert [len(ids) for ids in made] == [20]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def of_hf(request, tmp_path_factory) -> labkit.LanguageModel:
    folder = tmp_path_factory.mktemp(request.param)
    return labkit.load(hf_models.save(getattr(hf_models, request.param)(seed=1), folder), device="cpu")


def test_transformers_makes_the_same_tokens_and_as_many_marks(of_hf):
    rows, marks, greedy = [random_ids(6, s) for s in range(2)], list[int](), Settings(greedy=True)
    theirs = Transformers(of_hf, greedy).generate(rows, 12, lambda: marks.append(1))
    assert theirs == Labkit(of_hf, greedy).generate(rows, 12, lambda: None)
    assert len(marks) == 13


def test_transformers_samples_without_moving_the_global_generator(of_hf):
    engine = Transformers(of_hf, Settings(top_k=5, repetition_penalty=1.2))
    assert len(engine.generate([random_ids(6)], 7, lambda: None)[0]) == 7  # conftest looks at the generators


def test_transformers_refuses_what_it_does_not_have(of_hf):
    with pytest.raises(ConfigError, match="transformers has no dry_multiplier, presence_penalty"):
        Transformers(of_hf, Settings(dry_multiplier=0.8, presence_penalty=1.0))
    with pytest.raises(CheckpointError, match="nanochat model like this has no counterpart"):
        Transformers(tiny("nanochat", "grouped"), Settings())


# --- the machine ------------------------------------------------------------------------------------------------------


def test_a_step_reads_all_weights_but_the_tables_that_ids_are_looked_up_in():
    gpt2 = tiny("gpt2", "tied")
    total = 4 * gpt2.n_parameters
    assert weight_bytes(gpt2) == (total, total - gpt2.model.pos_embed.weight.nbytes)  # tied: the head is read
    llama = tiny("llama", "biased")
    assert weight_bytes(llama) == (4 * llama.n_parameters, 4 * llama.n_parameters - llama.model.embed.weight.nbytes)


def test_the_cache_grows_by_keys_and_values_of_every_layer_up_to_the_context():
    lm = tiny("gpt2", "tied")  # 2 layers, 16 wide, context 24
    assert [cache_bytes(lm, n) for n in (1, 10, 1000)] == [2 * 2 * 16 * 4 * n for n in (1, 10, 24)]


def test_a_reading_of_the_memory_is_a_bandwidth_that_exists():
    memory = MemoryBandwidth(1, CPU)
    memory.read()
    assert memory.buffer.nbytes == LEAST
    assert 1e8 < memory.readings[0] < 1e13


def test_the_pace_is_that_of_a_product_with_every_matrix_that_a_step_reads():
    lm = tiny("gpt2", "tied")
    pace = Pace(lm)
    matrices = [w for name, w in lm.model.named_parameters() if w.dim() == 2 and name != "pos_embed.weight"]
    assert {id(w) for _, w in pace.pairs} == {id(w) for w in matrices}
    assert 10 < pace.read() < 1e7


def test_the_share_of_other_programs_is_a_share():
    others = OtherPrograms()
    time.sleep(0.05)
    assert 0 <= others.share() <= 1
