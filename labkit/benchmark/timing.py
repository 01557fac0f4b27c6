"""The stopwatch: warm-up, rounds in turns, no garbage collection, one time stamp a token."""

import gc
import math
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from ..errors import ConfigError, LabkitError
from .intervals import Summary

Mark = Callable[[], object]
PERCENTILES = (50, 90, 99)
Name = TypeVar("Name", bound=Hashable)


def unmarked() -> None:
    """For who wants the tokens and no times."""


class Engine(Protocol):
    """Something that generates."""

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    def generate(self, rows: Sequence[Sequence[int]], new_tokens: int, mark: Mark = unmarked) -> list[list[int]]:
        """Exactly so many new ids for every row, all rows at once.

        Args:
            rows: prompts (B, T) of equal length.
            mark: to be called when the prompts' last logits are there, and each time every row has one more token.
        """


@dataclass(frozen=True)
class Case:
    """What is to be timed: new tokens after the prompts ``rows`` (B, T)."""

    engine: Engine
    rows: tuple[tuple[int, ...], ...]
    new_tokens: int


@dataclass(frozen=True)
class Run:
    """One timed generation, in seconds since it began.

    Attributes:
        seconds: to its end.
        prefill: to the logits after the prompt.
        tokens: to each token; the first is the time to first token.
        vram_peak_mib: of CUDA's allocator during this run; None elsewhere.
        pace: of the machine, read before and after this run (see ``measure``); None: not read.
    """

    seconds: float
    prefill: float
    tokens: tuple[float, ...]
    vram_peak_mib: float | None = None
    pace: float | None = None


@dataclass(frozen=True)
class Measurement:
    """The runs of a case. Rates are tokens of all rows a second, a value for each run."""

    case: Case
    runs: tuple[Run, ...]

    @property
    def batch_size(self) -> int:
        return len(self.case.rows)

    @property
    def prompt_tokens(self) -> int:
        return len(self.case.rows[0])

    @property
    def tokens_per_sec(self) -> Summary:
        """New tokens by the time of the whole run, prefill included, as the reference benchmark counts."""
        return self._rate(lambda run: self.case.new_tokens / run.seconds)

    @property
    def prefill_tokens_per_sec(self) -> Summary:
        """Prompt tokens by the time to the logits after them."""
        return self._rate(lambda run: self.prompt_tokens / run.prefill)

    @property
    def decode_tokens_per_sec(self) -> Summary | None:
        """New tokens after the first, by the time they took; None where there is but one."""
        if self.case.new_tokens < 2:
            return None
        return self._rate(lambda run: (len(run.tokens) - 1) / (run.tokens[-1] - run.tokens[0]))

    @property
    def first_token_ms(self) -> Summary:
        """From the ids of the prompt to the first new token."""
        return Summary(tuple(1000 * run.tokens[0] for run in self.runs))

    @property
    def inter_token_ms(self) -> dict[str, float] | None:
        """Percentiles of the time from token to token, over all runs."""
        if self.case.new_tokens < 2:
            return None
        gaps = 1000 * np.concatenate([np.diff(run.tokens) for run in self.runs])
        found = {f"p{p}": float(np.percentile(gaps, p)) for p in PERCENTILES}
        return found | {"max": float(gaps.max())}

    @property
    def vram_peak_mib(self) -> float | None:
        return max((run.vram_peak_mib for run in self.runs if run.vram_peak_mib is not None), default=None)

    @property
    def pace(self) -> Summary | None:
        """Of the machine at every run."""
        paces = [run.pace for run in self.runs if run.pace is not None]
        return Summary(tuple(paces)) if paces else None

    def _rate(self, of: Callable[[Run], float]) -> Summary:
        return Summary(tuple(self.batch_size * of(run) for run in self.runs))

    def to_dict(self) -> dict[str, Any]:
        decode, pace = self.decode_tokens_per_sec, self.pace
        return {
            "engine": self.case.engine.name,
            "batch_size": self.batch_size,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.case.new_tokens,
            "tokens_per_sec": self.tokens_per_sec.to_dict(),
            "prefill_tokens_per_sec": self.prefill_tokens_per_sec.to_dict(),
            "decode_tokens_per_sec": None if decode is None else decode.to_dict(),
            "first_token_ms": self.first_token_ms.to_dict(),
            "inter_token_ms": self.inter_token_ms,
            "vram_peak_mib": self.vram_peak_mib,
            "pace": None if pace is None else pace.to_dict(),
        }


def measure(
    cases: Mapping[Name, Case],
    *,
    iterations: int = 10,
    warmup_tokens: int = 64,
    before_round: Callable[[], object] = lambda: None,
    pace: Callable[[], float] | None = None,
    progress: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, Measurement]:
    """Time all cases in turns: every round runs each once, and the next round goes the other way about.

    Whatever changes slowly (a machine that warms up, a neighbour) then changes all of them alike.

    Args:
        warmup_tokens: new tokens, at most as many as are timed, of one run of each case that is not counted; 0: none.
        before_round: called before every round, off the clock.
        pace: tells how fast the machine is at the moment. Called before every run and after the last, off the clock;
            the geometric mean of the readings around a run is that run's ``pace``.
        progress: show a bar on stderr, where that is a terminal.
        clock: seconds since any moment.

    Raises:
        ConfigError: no case, no iteration, or a warm-up of fewer than 0 tokens.
    """
    if not cases:
        raise ConfigError("nothing to measure; name at least one case")
    for what, value, least in (("iterations", iterations, 1), ("warmup_tokens", warmup_tokens, 0)):
        if type(value) is not int or value < least:
            raise ConfigError(f"{what} is {value!r}; it must be a whole number from {least}")
    runs: dict[Name, list[Run]] = {name: [] for name in cases}
    total = len(cases) * (iterations + (warmup_tokens > 0))
    hidden = None if progress else True
    with frozen_objects(), tqdm(total=total, unit="run", file=sys.stderr, disable=hidden, leave=False) as bar:
        if warmup_tokens:
            for case in cases.values():
                time_run(case, min(warmup_tokens, case.new_tokens), clock)
                bar.update()
        before = pace() if pace else None
        for i in range(iterations):
            before_round()
            for name in list(cases)[:: -1 if i % 2 else 1]:
                run = time_run(cases[name], cases[name].new_tokens, clock)
                if pace and before:
                    after = pace()
                    run, before = replace(run, pace=math.sqrt(before * after)), after
                runs[name].append(run)
                bar.update()
    return {name: Measurement(case, tuple(runs[name])) for name, case in cases.items()}


def time_run(case: Case, new_tokens: int, clock: Callable[[], float]) -> Run:
    """Run a case once, with the stopwatch in seconds.

    Raises:
        LabkitError: the engine made another number of tokens.
    """
    engine, stamps = case.engine, list[float]()
    cuda = engine.device.type == "cuda"
    mark = marker(engine.device, stamps, clock)
    if cuda:
        torch.cuda.reset_peak_memory_stats(engine.device)
    gc.collect()
    with no_collection():
        mark()
        engine.generate(case.rows, new_tokens, mark)
        mark()
    start, *stamps, end = stamps
    if len(stamps) != new_tokens + 1:
        raise LabkitError(
            f"{engine.name} made {max(0, len(stamps) - 1)} of {new_tokens} tokens after a prompt of "
            f"{len(case.rows[0])}; shorten both so that they fit into the context"
        )
    peak = torch.cuda.max_memory_allocated(engine.device) / 2**20 if cuda else None
    return Run(end - start, stamps[0] - start, tuple(stamp - start for stamp in stamps[1:]), peak)


def marker(device: torch.device, stamps: list[float], clock: Callable[[], float]) -> Mark:
    """Notes the time; on an accelerator, when what was asked of it is done."""
    if device.type == "cpu":
        return lambda: stamps.append(clock())

    def mark() -> None:
        torch.accelerator.synchronize(device)
        stamps.append(clock())

    return mark


@contextmanager
def no_collection() -> Iterator[None]:
    """Python's garbage is not collected inside."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def frozen_objects() -> Iterator[None]:
    """What is there already is no longer looked at by a collection, which would cost more than many a run."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def threads(n: int | None) -> Iterator[None]:
    """torch computes with n threads inside; None: as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
