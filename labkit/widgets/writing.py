"""Writing: a run token by token, a row of numbers for each, and how fast they come."""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from ..generation import Run, Step
from ..language_model import LanguageModel
from ..trace import RecordedStep
from .facts import pieces

PAINT_SECONDS = 0.04  # at most 25 paints a second


class Writing:
    """A run under way, or ended.

    Attributes:
        run: labkit's own.
        tokens: one dictionary a token so far, as views.token_strip takes them; alternatives only when asked for.
        first_token_seconds: until the first one was there, prefill included; 0 if none was.
    """

    run: Run

    def __init__(self, lm: LanguageModel):
        self.lm = lm
        self.tokens: list[dict[str, Any]] = []
        self.began_at = 0  # so many tokens were there before
        self.first_token_seconds = 0.0
        self._started = self._newest = time.perf_counter()

    @property
    def finish_reason(self) -> str:
        return self.run.finish_reason or "interrupted"

    @property
    def tokens_per_second(self) -> float:
        """Of decoding: the first token, which waits for the prefill, does not count. 0 if there is no second one."""
        n, seconds = len(self.tokens) - self.began_at, self._newest - self._started - self.first_token_seconds
        return (n - 1) / seconds if n > 1 and seconds > 0 else 0.0

    def advance(self) -> bool:
        """One more token; False if there is none."""
        raise NotImplementedError

    def write(self, stopped: threading.Event, paint: Callable[[], None]) -> None:
        """All tokens, until it is stopped; painted now and then, but not at the end."""
        painted_at = 0.0
        while not stopped.is_set() and self.advance():
            if time.monotonic() - painted_at >= PAINT_SECONDS:
                paint()
                painted_at = time.monotonic()

    def add(self, step: Step | RecordedStep) -> None:
        """This is the newest token."""
        self._newest = time.perf_counter()
        if len(self.tokens) == self.began_at:
            self.first_token_seconds = self._newest - self._started
        self.tokens.append(self.row(len(self.tokens), step))

    def row(self, index: int, step: Step | RecordedStep) -> dict[str, Any]:
        """Its numbers."""
        return {
            "index": index,
            "id": step.id,
            "piece": pieces(self.lm, [step.id])[0],
            "probability": round(math.exp(step.raw_logprob), 6),
            "drawn_from": round(math.exp(step.logprob), 6),
            "rank": step.rank,
            "entropy": round(step.entropy, 6),
        }
