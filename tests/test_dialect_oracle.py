"""labkit's stages, alone and together in every dialect, against the second implementation in ``oracle``."""

import zlib
from collections.abc import Iterable

import numpy as np
import oracle
import pytest
import torch
from sampling_cases import Case, some_case, stages_of

from labkit.errors import SamplingError
from labkit.sampling import STAGES, Sampler, StepContext

QUICK, WHOLE = 300, 10_000  # cases for each stage and for each dialect
MOST_UNDECIDED = 0.005  # the share of cases that rounding may decide either way
HOPELESS = -1e30  # DRY's penalties grow exponentially; where they stop is of no consequence
# Their sorts leave it open which of several equal logits at the border stay; how many is not.
ANY_OF_TIES = {("hf", "top_p"), ("labcore", "top_p"), ("gpt2seed", "top_p"), ("swamla", "top_p")}
ONE_BY_ONE = [(dialect, stage) for dialect in oracle.SYSTEMS for stage in stages_of(dialect)]


def context_of(case: Case) -> StepContext:
    history = case.history
    return StepContext([history.prompt], [history.generated], history.step, stream=[history.stream])


def result(dialect: str, case: Case) -> np.ndarray | None:
    """What labkit hands to its draw; None if it says that nothing is left."""
    sampler = Sampler.from_settings(dialect=dialect, seed=case.history.seed, **case.settings)
    try:
        return sampler.apply(torch.from_numpy(case.logits)[None], context_of(case))[0].numpy()
    except SamplingError as error:
        assert "no token is left" in str(error)
        return None


def differs(dialect: str, case: Case, ours: np.ndarray, expected: np.ndarray) -> str:
    """In words; empty if they are the same."""
    kept, wanted = np.isfinite(ours), np.isfinite(expected)
    ours, expected = np.maximum(ours, HOPELESS), np.maximum(expected, HOPELESS)
    if any((dialect, name) in ANY_OF_TIES for name in case.settings):
        # As many of every value; and where no value is there twice, the same.
        if kept.sum() != wanted.sum():
            return f"{kept.sum()} are kept and not {wanted.sum()}"
        if len(np.unique(expected[wanted])) < wanted.sum() or len(np.unique(case.logits)) < len(case.logits):
            same = np.allclose(np.sort(ours[kept]), np.sort(expected[wanted]), rtol=1e-5, atol=1e-6)
            return "" if same else "other values are kept"
    if (kept != wanted).any():
        return f"ids {np.flatnonzero(kept != wanted)[:9]} should {'not ' if (kept & ~wanted).any() else ''}be kept"
    if not np.allclose(ours[kept], expected[kept], rtol=1e-5, atol=1e-6):
        return f"values differ by {np.abs(ours[kept] - expected[kept]).max()}"
    return ""


def compare(dialect: str, cases: Iterable[Case]) -> tuple[int, int]:
    """How many cases agree, and how many rounding may decide; any other one fails the test."""
    agreed = undecided = 0
    for case in cases:
        expected, ours = oracle.apply(dialect, case.logits, case.settings, case.history), result(dialect, case)
        if expected is None or ours is None:
            wrong = "" if expected is None and ours is None else f"labkit {ours}, oracle {expected}"
        elif expected.undecided.any():
            undecided += 1
            continue
        else:
            wrong = differs(dialect, case, ours, expected.logits)
        assert not wrong, f"{dialect} {case.settings}: {wrong}; V = {len(case.logits)}, {case}"
        agreed += 1
    assert undecided <= MOST_UNDECIDED * (agreed + undecided) + 2
    return agreed, undecided


def cases(n: int, dialect: str, stage: str | None = None) -> Iterable[Case]:
    rng = np.random.default_rng(zlib.crc32(f"{dialect} {stage}".encode()))
    return (some_case(dialect, rng, stage, large=0.001) for _ in range(n))


def test_the_oracle_has_every_stage_and_every_dialect_of_labkit():
    from labkit.sampling.dialects import ORDERS

    assert [stage.name for stage in STAGES] == list(oracle.LABKIT)
    assert {name: [stage.name for stage in order] for name, order in ORDERS.items()} == {
        name: list(rules) for name, rules in oracle.SYSTEMS.items()
    }


@pytest.mark.parametrize(
    ("dialect", "settings", "kept"),
    [
        ("labkit", {"top_p": 0.5}, [0, 1]),
        ("hf", {"top_p": 0.5}, [2, 3]),  # from the small end
        ("llama.cpp", {"top_p": 0.5}, [0, 1]),
        ("labcore", {"top_p": 0.5}, 3),  # a mass before it of exactly p is not greater than p
        ("gpt2seed", {"top_p": 0.5}, 3),
        ("swamla", {"top_p": 0.5}, 2),
        ("swamla", {"top_p": 0.4}, 1),  # the second one crosses p and goes
        ("labkit", {"typical_p": 0.5}, [0, 1]),
        ("llama.cpp", {"typical_p": 0.5}, [0, 1, 2]),  # until the sum is greater
        ("hf", {"typical_p": 0.5}, [0, 1, 2, 3]),  # ties stay
        ("llama.cpp", {"top_k": 2}, [0, 1]),
        ("labcore", {"top_k": 2}, [0, 1, 2, 3]),
        ("llama.cpp", {"temperature": 0.0}, [0]),
        ("labcore", {"temperature": 0.0}, [0, 1, 2, 3]),
        ("nanochat", {"temperature": -1.0}, [0, 1, 2, 3]),
        ("llama.cpp", {"xtc_probability": 1.0, "xtc_threshold": 0.25}, [3]),
        ("llama.cpp", {"xtc_probability": 1.0, "xtc_threshold": 0.51}, [0, 1, 2, 3]),
        ("labkit", {"xtc_probability": 1.0, "xtc_threshold": 0.25}, [0, 1, 2, 3]),
    ],
    ids=str,
)
def test_four_equal_tokens_at_the_very_line(dialect, settings, kept):
    """A quarter each is exact in binary, so nothing is left to rounding: here every system's tie rule shows."""
    case = Case(np.zeros(4, dtype=np.float32), settings, oracle.History())
    expected = oracle.apply(dialect, *case)
    for out in (result(dialect, case), expected.logits):
        ids = np.flatnonzero(np.isfinite(out)).tolist()
        assert (ids if isinstance(kept, list) else len(ids)) == kept


@pytest.mark.parametrize(("dialect", "stage"), ONE_BY_ONE)
def test_each_stage_alone_keeps_what_the_oracle_keeps(dialect, stage):
    agreed, _ = compare(dialect, cases(QUICK, dialect, stage))
    assert agreed > 0.9 * QUICK


@pytest.mark.parametrize("dialect", oracle.SYSTEMS)
def test_stages_together_keep_what_the_oracle_keeps(dialect):
    agreed, _ = compare(dialect, cases(QUICK, dialect))
    assert agreed > 0.9 * QUICK


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "stage"), ONE_BY_ONE)
def test_ten_thousand_cases_of_each_stage_alone(dialect, stage, capsys):
    agreed, undecided = compare(dialect, cases(WHOLE, dialect, stage))
    with capsys.disabled():
        print(f"\n{dialect:10} {stage:21} {agreed} agree, {undecided} undecided", end="")


@pytest.mark.slow
@pytest.mark.parametrize("dialect", oracle.SYSTEMS)
def test_ten_thousand_cases_of_each_dialect(dialect, capsys):
    agreed, undecided = compare(dialect, cases(WHOLE, dialect))
    with capsys.disabled():
        print(f"\n{dialect:10} {'together':21} {agreed} agree, {undecided} undecided", end="")
