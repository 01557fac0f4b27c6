"""Many prompts at once, and several continuations of one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..errors import ConfigError, LabkitError
from ..language_model import LanguageModel
from ..sampling import Sampler
from ..settings import Settings
from .rows import Generation, Row, Step
from .run import settings_for
from .steps import Feed


class BatchRun(Iterator[tuple[int, Step]]):
    """Runs under way side by side: iterate for (index into ``rows``, step); rows that end early leave the batch.

    Like a Run it may be stopped and gone on with at any time.

    Attributes:
        rows: prompt after prompt, the n continuations of each together.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompts: Sequence[str | Sequence[int]],
        settings: Settings,
        sampler: Sampler,
        n: int = 1,
        batch_size: int = 16,
    ):
        for name, value in (("n", n), ("batch_size", batch_size)):
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r}; it must be a whole number from 1")
        if isinstance(prompts, str) or not len(prompts):
            raise ConfigError(f"prompts is {prompts!r}; it must be a list of at least one prompt")
        self.n, self.batch_size = n, batch_size
        self.rows: list[Row] = []
        for i, prompt in enumerate(prompts):
            with naming(i):
                self.rows += [Row(lm, prompt, settings, sampler, stream) for stream in range(n)]
        self._feed = Feed(lm.model, settings)
        self._waiting: list[tuple[int, Tensor]] = []  # rows whose logits (V,) are there, last one first

    def __next__(self) -> tuple[int, Step]:
        try:
            if not self._waiting:
                self._waiting = self._logits()
            index, logits = self._waiting.pop()
            with naming(index // self.n):
                return index, self.rows[index].choose(logits)
        except BaseException:
            self._waiting, self._feed.groups = [], []  # some rows may be a token ahead
            raise

    def _logits(self) -> list[tuple[int, Tensor]]:
        """The next logits of the rows that are running: of the first batch_size rows that are not all done."""
        for start in range(0, len(self.rows), self.batch_size):
            part = range(start, min(start + self.batch_size, len(self.rows)))
            running = [i for i in part if self.rows[i].finish_reason is None]
            if running:
                logits = self._feed([self.rows[i] for i in running])
                return list(zip(running, logits, strict=True))[::-1]
        raise StopIteration

    def results(self) -> list[list[Generation]]:
        """What there is of every prompt: its n continuations."""
        done = [row.result() for row in self.rows]
        return [done[i : i + self.n] for i in range(0, len(done), self.n)]


@contextmanager
def naming(index: int) -> Iterator[None]:
    """Errors inside say which prompt they are about."""
    try:
        yield
    except LabkitError as error:
        raise type(error)(f"prompts[{index}]: {error}") from None


def stream_batch(
    lm: LanguageModel,
    prompts: Sequence[str | Sequence[int]],
    settings: Settings | None = None,
    *,
    sampler: Sampler | None = None,
    n: int = 1,
    batch_size: int = 16,
    **changes: Any,
) -> BatchRun:
    """``generate_batch`` step by step: ``for i, step in run``, then ``run.results()``."""
    settings = settings_for(lm, settings, changes)
    sampler = sampler or Sampler.from_settings(**settings.sampling())
    return BatchRun(lm, prompts, settings, sampler, n, batch_size)


def generate_batch(
    lm: LanguageModel,
    prompts: Sequence[str | Sequence[int]],
    settings: Settings | None = None,
    *,
    sampler: Sampler | None = None,
    n: int = 1,
    batch_size: int = 16,
    **changes: Any,
) -> list[Any]:
    """Generate for many prompts together: the ids that each of them gets alone, several times as fast.

    With Greedy and Gumbel that holds whatever shares the batch; another draw has a generator for every row.

    Args:
        prompts: texts or lists of ids, of any lengths.
        n: continuations of each; the first is that of ``generate``, the i-th draws from stream i. They share a prefill.
        batch_size: so many rows run at the same time.
        settings, sampler, changes: as in ``generate``.

    Returns:
        A Generation for each prompt; with n > 1 a list of n. An interrupt (Ctrl-C) returns what there is of all rows.

    Raises:
        LabkitError: of its own kind, naming the prompt it is about; all prompts are encoded before anything runs.
    """
    run = stream_batch(lm, prompts, settings, sampler=sampler, n=n, batch_size=batch_size, **changes)
    try:
        for _ in run:
            pass
    except KeyboardInterrupt:
        pass
    results = run.results()
    return results if n > 1 else [only for (only,) in results]
