"""Beam search: the likeliest continuations there are to find, a few at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ConfigError, ContextError
from ..language_model import LanguageModel
from ..settings import Settings
from .rows import FinishReason, Generation, encode_prompt, end_ids, text_of
from .steps import decode_step, prefill


@dataclass(frozen=True)
class Beam:
    """One continuation.

    Attributes:
        ids, text: the new ones; the stop that ended it is among the ids and not in the text.
        logprobs: nats of each token, the model's own.
        logprob: their sum.
        score: logprob / len(ids) ** length_penalty, which beams are ranked by.
        finish_reason: "length", "stop", "eos" or "context".
    """

    ids: list[int]
    text: str
    logprobs: list[float]
    logprob: float
    score: float
    finish_reason: FinishReason


class Beams(list[Beam]):
    """The best first.

    Attributes:
        steps: one row for every beam at every step: step, beam (its place), parent (its place a step before), id,
            piece, logprob (the sum), score, ended.
    """

    def __init__(self, beams: Sequence[Beam], steps: list[dict[str, Any]]):
        super().__init__(beams)
        self.steps = steps


@dataclass(frozen=True)
class Candidate:
    """A beam on its way: ``total`` is the sum of its logprobs."""

    parent: int
    ids: list[int]
    logprobs: list[float]
    total: float
    ended: FinishReason | None = None

    def score(self, length_penalty: float) -> float:
        return self.total / len(self.ids) ** length_penalty


def beam_search(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    *,
    num_beams: int = 4,
    max_new_tokens: int = 50,
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
    stop: str | int | tuple[str | int, ...] = (),
    n_return: int | None = None,
) -> Beams:
    """The best continuations by the model's own probabilities; no stage and no draw has a part in it.

    At every step each beam is continued by every token, and the num_beams best of all that do not end go on; one that
    ends while it is among the num_beams best is kept, ranked by score. It behaves as beam search in transformers 5 does
    (which has no stop strings here). It stops where the context is full.

    Args:
        length_penalty: above 0 prefers longer beams, below 0 shorter ones.
        early_stopping: True: stop once num_beams have ended. False: also once none that runs can do better at its
            present length. "never": once none can do better at any length.
        n_return: so many of the best; None: num_beams.
    """
    n_return = num_beams if n_return is None else n_return
    for name, value, most in (("num_beams", num_beams, None), ("n_return", n_return, num_beams)):
        if type(value) is not int or value < 1 or (most and value > most):
            raise ConfigError(f"{name} is {value!r}; it must be a whole number from 1{f' to {most}' if most else ''}")
    if early_stopping not in (True, False, "never"):
        raise ConfigError(f'early_stopping is {early_stopping!r}; it must be true, false or "never"')
    settings = Settings(stop=(stop,) if isinstance(stop, str | int) else stop, max_new_tokens=max_new_tokens)
    prompt_ids, notes = encode_prompt(lm, prompt)
    limit = min(max_new_tokens, lm.model.block_size + 1 - len(prompt_ids))
    if limit < 1:
        raise ContextError(
            f"{len(prompt_ids)} tokens and {max_new_tokens} new ones: beam search needs room for one new token, "
            f"and the context holds {lm.model.block_size}"
        )
    search = Search(lm, prompt_ids, settings, num_beams, length_penalty, limit)
    pool: list[Candidate] = []
    for n, alive in enumerate(search, start=1):
        ended = [candidate for candidate in search.best if candidate.ended]
        pool = sorted([*pool, *ended], key=lambda c: -c.score(length_penalty))[:num_beams]
        if len(pool) == num_beams and alive:
            length = max_new_tokens if early_stopping == "never" and length_penalty > 0 else n
            improvable = alive[0].total / length**length_penalty > pool[-1].score(length_penalty)
            if early_stopping is True or not improvable:
                break
    return Beams([search.beam(candidate, notes) for candidate in pool[:n_return]], search.steps)


class Search(Iterator[list[Candidate]]):
    """The running beams after each step, best first; the last step leaves none.

    Attributes:
        best: the num_beams best of the newest step, ended or not.
        steps: the table of all steps.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompt_ids: list[int],
        settings: Settings,
        num_beams: int,
        length_penalty: float,
        limit: int,
    ):
        self.lm, self.prompt_ids, self.settings = lm, prompt_ids, settings
        self.num_beams, self.length_penalty, self.limit = num_beams, length_penalty, limit
        self.ends = end_ids(lm, settings)
        self.alive = [Candidate(0, [], [], 0.0)]
        self.best: list[Candidate] = []
        self.steps: list[dict[str, Any]] = []
        self._cache = lm.model.new_cache() if len(lm.model.blocks) else None

    @torch.inference_mode()
    def __next__(self) -> list[Candidate]:
        if not self.alive:
            raise StopIteration
        candidates = self._candidates(self._log_p())
        self.best = candidates[: self.num_beams]
        running = [candidate for candidate in candidates if not candidate.ended][: self.num_beams]
        self._note([*running, *(candidate for candidate in self.best if candidate.ended)])
        if self._cache is not None and running:
            parents = [candidate.parent for candidate in running]
            self._cache.select(torch.tensor(parents, device=self._cache.next_position.device))
        self.alive = running
        return running

    def _log_p(self) -> Tensor:
        """Log probabilities of every beam's next token (K, V), on the CPU."""
        model = self.lm.model
        if self._cache is not None and self._cache.length:
            logits = decode_step(model, [beam.ids[-1] for beam in self.alive], self._cache)
        else:
            logits = prefill(model, [self.prompt_ids + beam.ids for beam in self.alive], self._cache)
        return logits.float().cpu().log_softmax(dim=-1)  # (K, V)

    def _candidates(self, log_p: Tensor) -> list[Candidate]:
        """The best continuations by their sum; enough of them that num_beams go on even if all others end."""
        totals = log_p + torch.tensor([beam.total for beam in self.alive])[:, None]  # (K, V)
        enough = min(max(2, 1 + len(self.ends)) * self.num_beams, totals.numel())
        values, places = totals.flatten().topk(enough)
        out = []
        for total, place in zip(values.tolist(), places.tolist(), strict=True):
            parent, token_id = divmod(place, log_p.shape[1])
            beam = self.alive[parent]
            new = Candidate(parent, [*beam.ids, token_id], [*beam.logprobs, float(log_p[parent, token_id])], total)
            out.append(replace(new, ended=self._ended(new)))
        return out

    def _ended(self, candidate: Candidate) -> FinishReason | None:
        if candidate.ids[-1] in self.ends:
            return "stop" if candidate.ids[-1] in self.settings.stop else "eos"
        strings = any(isinstance(stop, str) for stop in self.settings.stop)
        if strings and text_of(self.lm.tokenizer, candidate.ids, self.settings, 0).stopped:
            return "stop"
        if len(candidate.ids) < self.limit:
            return None
        return "length" if self.limit == self.settings.max_new_tokens else "context"

    def _note(self, beams: Sequence[Candidate]) -> None:
        tokenizer = self.lm.tokenizer
        for i, beam in enumerate(beams):
            self.steps.append(
                {
                    "step": len(beam.ids) - 1,
                    "beam": i,
                    "parent": beam.parent,
                    "id": beam.ids[-1],
                    "piece": tokenizer.pieces(beam.ids[-1:])[0] if tokenizer is not None else str(beam.ids[-1]),
                    "logprob": round(beam.total, 6),
                    "score": round(beam.score(self.length_penalty), 6),
                    "ended": beam.ended is not None,
                }
            )

    def beam(self, candidate: Candidate, notes: tuple[str, ...]) -> Beam:
        """The candidate as a result."""
        assert candidate.ended is not None
        ids, reason = candidate.ids, candidate.ended
        text = Generation(ids, self.prompt_ids, reason, notes, self.settings, self.lm.tokenizer).text
        score = candidate.score(self.length_penalty)
        return Beam(ids, text, candidate.logprobs, candidate.total, score, reason)
