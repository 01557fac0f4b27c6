"""One row of a run: its ids and text, how a token is chosen and what ends it; and what is left of it afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import ContextError
from ..language_model import LanguageModel
from ..sampling import Chosen, Sampler, StepContext
from ..settings import DIALECTS, Settings
from ..tokenizers.base import OnSpecial, OnUnknown, Tokenizer, describe_unknown
from ..tokenizers.streaming import TextStream
from .steps import KeptCache

FinishReason = Literal["length", "stop", "eos", "context", "interrupted"]


@dataclass(frozen=True)
class Step:
    """One new token.

    Attributes:
        id: the token.
        text: text that became certain with it: whole characters, nothing of a stop string; may be empty or longer
            than the token.
        logprob: nats, after all stages; -inf for a token that a branch chose though a stage removed it.
        raw_logprob: nats, the model's own.
        rank: of the raw logit, 0 is the largest.
        entropy: nats, of what the draw saw.
        logits: (V,) float32 on the CPU, the model's own, before any stage.
    """

    id: int
    text: str
    logprob: float
    raw_logprob: float
    rank: int
    entropy: float
    logits: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True)
class Generation:
    """A finished run: ``ids`` are the new ones; ``prompt_ids`` hold what the format puts in front as well.

    Attributes:
        logprobs, raw_logprobs: nats of each new id, after all stages and the model's own.
        stream: it is this continuation of its prompt.
        kept: so many of its first ids were taken over from another generation, of which it is a branch.
    """

    ids: list[int]
    prompt_ids: list[int]
    finish_reason: FinishReason
    notes: tuple[str, ...]
    settings: Settings
    tokenizer: Tokenizer | None = field(repr=False, compare=False)
    logprobs: list[float] = field(default_factory=list, repr=False, compare=False)
    raw_logprobs: list[float] = field(default_factory=list, repr=False, compare=False)
    stream: int = 0
    kept: int = 0
    _cache: KeptCache | None = field(default=None, repr=False, compare=False)

    @cached_property
    def text(self) -> str:
        """The new text, without the stop that ended it; decoded when first asked for."""
        ended_by_id = self.finish_reason == "eos" or self.finish_reason == "stop" and self.ids[-1] in self.settings.stop
        text = text_of(self.tokenizer, self.ids[:-1] if ended_by_id else self.ids, self.settings, self.kept)
        text.finish()
        return text.text

    def __str__(self) -> str:
        return self.text

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": None}  # a cache is never saved


def text_of(tokenizer: Tokenizer | None, ids: Sequence[int], settings: Settings, kept: int) -> TextStream:
    """The text of these ids, as far as it is certain; without a tokenizer, none."""
    text = TextStream([stop for stop in settings.stop if isinstance(stop, str)])
    for n, token_id in enumerate(ids if tokenizer is not None else (), start=1):
        text.feed(tokenizer.token_bytes(token_id), may_stop=may_end(n, settings, kept))  # type: ignore[union-attr]
    return text


def may_end(n: int, settings: Settings, kept: int) -> bool:
    """Whether the n-th new token may end its run; one that a branch took over never does."""
    return n >= settings.min_new_tokens and n > kept


class Row:
    """A prompt and what was generated of it so far.

    Attributes:
        ids: new ids so far.
        text: new text so far.
        logprobs, raw_logprobs: nats of each of them.
        finish_reason: None while there is more to come.
        stream: it is this continuation of its prompt.
        kept: so many of its first ids were taken over from another generation.
    """

    def __init__(
        self, lm: LanguageModel, prompt: str | Sequence[int], settings: Settings, sampler: Sampler, stream: int = 0
    ):
        self.lm, self.settings, self.sampler, self.stream = lm, settings, sampler, stream
        self.prompt_ids, self.notes = fitting(*encode_prompt(lm, prompt), settings.max_length)
        self.ids: list[int] = []
        self.logprobs: list[float] = []
        self.raw_logprobs: list[float] = []
        self.kept = 0
        self._ends = end_ids(lm, settings)
        self._state: dict[Any, Any] = {}
        # The newest draw and its step. One that was broken off is not drawn again: no random stream can be turned back.
        self._drawn: tuple[int, Chosen] = (-1, Chosen(-1, 0.0, 0.0, 0))
        self._text = text_of(lm.tokenizer, (), settings, 0)
        self.finish_reason: FinishReason | None = self._limit()

    @property
    def text(self) -> str:
        return self._text.text

    def take_over(self, generation: Generation, at: int) -> None:
        """Begin with the first ``at`` ids of another generation of this prompt."""
        self.ids, self.kept = generation.ids[:at], at
        self.logprobs, self.raw_logprobs = generation.logprobs[:at], generation.raw_logprobs[:at]
        self._text = text_of(self.lm.tokenizer, self.ids, self.settings, self.kept)
        self.finish_reason = self._limit()

    def choose(self, logits: Tensor, forced: int | None = None) -> Step:
        """Stages, draw and bookkeeping of one step.

        Args:
            logits: the model's own (V,), float32 on the CPU.
            forced: the token to take whatever the draw says.
        """
        n, allowed = len(self.ids), logits
        if self._ends and n < self.settings.min_new_tokens:
            allowed = logits.index_fill(0, torch.tensor(sorted(self._ends)), float("-inf"))
        context = StepContext([self.prompt_ids], [self.ids], n, stream=[self.stream], state=dict(self._state))
        if self._drawn[0] != n:
            self._drawn, self._state = (n, self.sampler.choose(allowed[None], context)[0]), context.state
        chosen = self._drawn[1]
        token_id, logprob = chosen.id, chosen.logprob
        if forced is not None and forced != token_id:
            token_id = forced
            logprob = float(self.sampler.apply(allowed[None], context)[0].double().log_softmax(dim=-1)[forced])
        raw_logprob = float(logits.log_softmax(dim=-1)[token_id])
        rank = int(np.count_nonzero(logits.numpy() > logits[token_id].item()))  # twice as fast as in torch
        try:
            self.ids.append(token_id)
            self.logprobs.append(logprob)
            self.raw_logprobs.append(raw_logprob)
            text = self._end_or_text(token_id)
        except BaseException:
            self._rewind(n)
            raise
        return Step(token_id, text, logprob, raw_logprob, rank, chosen.entropy, logits)

    def _rewind(self, n: int) -> None:
        """Back to the first n ids, after a step that was broken off in the middle."""
        for numbers in (self.ids, self.logprobs, self.raw_logprobs):
            del numbers[n:]
        self._text = text_of(self.lm.tokenizer, self.ids, self.settings, self.kept)
        self.finish_reason = None

    def _end_or_text(self, token_id: int) -> str:
        """Set finish_reason if this token ends the run; the text it adds."""
        enough = may_end(len(self.ids), self.settings, self.kept)
        text = ""
        if token_id in self._ends and enough:
            self.finish_reason = "stop" if token_id in self.settings.stop else "eos"
            return self._text.finish()
        if self.lm.tokenizer is not None:
            text = self._text.feed(self.lm.tokenizer.token_bytes(token_id), may_stop=enough)
        self.finish_reason = "stop" if self._text.stopped else self._limit()
        return text + self._text.finish() if self.finish_reason else text

    def _limit(self) -> FinishReason | None:
        """Why no further token may follow."""
        new, n = len(self.ids), len(self.prompt_ids) + len(self.ids)
        if new >= self.settings.max_new_tokens or new and n >= (self.settings.max_length or n + 1):
            return "length"
        if self.settings.overflow == "stop" and n > self.lm.model.block_size:
            return "context"
        return None

    def result(self) -> Generation:
        """What there is; "interrupted" if the run did not come to its end."""
        return Generation(
            ids=list(self.ids),
            prompt_ids=list(self.prompt_ids),
            finish_reason=self.finish_reason or "interrupted",
            notes=self.notes,
            settings=self.settings,
            tokenizer=self.lm.tokenizer,
            logprobs=list(self.logprobs),
            raw_logprobs=list(self.raw_logprobs),
            stream=self.stream,
            kept=self.kept,
        )


def encode_prompt(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    unknown: OnUnknown | None = None,
    special: OnSpecial | None = None,
) -> tuple[list[int], tuple[str, ...]]:
    """Ids of the prompt with the format's BOS in front, and a note naming the characters that were dropped."""
    if not isinstance(prompt, str):
        return lm.checked_ids(prompt), ()
    tokenizer = lm.require_tokenizer()
    ids = tokenizer.encode(prompt, unknown, special)
    if tokenizer.bos_id is not None:
        ids = [tokenizer.bos_id, *ids]
    if not ids:
        raise ContextError("the prompt is empty; it must hold at least one token")
    dropped = tokenizer.unknown_in(prompt) if (unknown or tokenizer.on_unknown) == "drop" else []
    notes = (f"Dropped from the prompt, not in the vocabulary: {describe_unknown(dropped)}.",) if dropped else ()
    return ids, notes


def fitting(ids: list[int], notes: tuple[str, ...], max_length: int | None) -> tuple[list[int], tuple[str, ...]]:
    """The last max_length ids of a prompt, with a note if there were more."""
    if max_length is None or len(ids) <= max_length:
        return ids, notes
    return ids[-max_length:], (
        *notes,
        f"The prompt has {len(ids)} tokens; its last {max_length} (max_length) are used.",
    )


def end_ids(lm: LanguageModel, settings: Settings) -> frozenset[int]:
    """Ids that end generation: those in ``stop``, the EOS that the model's own config says to stop at, and in a dialect
    that does so the tokenizer's."""
    given = [stop for stop in settings.stop if isinstance(stop, int)]
    own = list(lm.checkpoint.stop_ids)
    if DIALECTS[settings.dialect].stop_at_eos and lm.tokenizer is not None and lm.tokenizer.eos_id is not None:
        own.append(lm.tokenizer.eos_id)
    return frozenset([*(lm.checked_ids(given) if given else ()), *own])
