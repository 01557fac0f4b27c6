"""Generation: prefill, decode step by step, stream, generate; stop rules and context overflow."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from .cache import KVCache
from .errors import ConfigError, ContextError
from .language_model import LanguageModel
from .models import CausalLM
from .sampling import Sampler, StepContext
from .settings import Overflow, Settings
from .tokenizers.base import OnSpecial, OnUnknown, Tokenizer, describe_unknown
from .tokenizers.streaming import TextStream

FinishReason = Literal["length", "stop", "eos", "context", "interrupted"]


@dataclass(frozen=True)
class Step:
    """One new token.

    Attributes:
        id: the token.
        text: text that became certain with it: whole characters, nothing of a stop string; may be empty or longer
            than the token.
        logprob: nats, after all stages.
        rank: of the raw logit, 0 is the largest.
        entropy: nats, of what the draw saw.
        logits: (V,) float32, the model's own, before any stage.
    """

    id: int
    text: str
    logprob: float
    rank: int
    entropy: float
    logits: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True)
class Generation:
    """A finished run: ``ids`` are the new ones; ``prompt_ids`` hold what the format puts in front as well."""

    ids: list[int]
    prompt_ids: list[int]
    finish_reason: FinishReason
    notes: tuple[str, ...]
    settings: Settings
    tokenizer: Tokenizer | None = field(repr=False, compare=False)

    @cached_property
    def text(self) -> str:
        """The new text, without the stop that ended it; decoded when first asked for."""
        if self.tokenizer is None:
            return ""
        out = TextStream([stop for stop in self.settings.stop if isinstance(stop, str)])
        ids = self.ids
        ended_by_id = self.finish_reason == "eos" or self.finish_reason == "stop" and ids[-1] in self.settings.stop
        for n, token_id in enumerate(ids[:-1] if ended_by_id else ids, start=1):
            out.feed(self.tokenizer.token_bytes(token_id), may_stop=n >= self.settings.min_new_tokens)
        out.finish()
        return out.text

    def __str__(self) -> str:
        return self.text


def prefill(model: CausalLM, ids: Sequence[int], cache: KVCache | None) -> Tensor:
    """All visible ids at once -> logits of the next token (V,)."""
    batch = torch.tensor([list(ids)], device=model.device)  # (1, T)
    return model.unembed(model.hidden(batch, cache)[:, -1])[0]


def decode_step(model: CausalLM, token_id: int, cache: KVCache) -> Tensor:
    """One more id on a cache -> logits of the next token (V,)."""
    # Past its tables only a rolling cache goes: LabCore puts every further token at the last position there is.
    device = cache.next_position.device
    position = cache.next_position.clamp(max=model.n_positions - 1)[:, None]  # (1, 1)
    return model.unembed(model.hidden(torch.tensor([[token_id]], device=device), cache, position)[:, -1])[0]


def visible_from(n: int, block_size: int, overflow: Overflow) -> int:
    """Index of the first of n ids that the model sees.

    "crop" drops the oldest quarter at once, so that prefilling anew stays rare; it depends on n alone, hence is the
    same with and without cache. "recrop" always shows the last block_size ids.
    """
    extra = max(0, n - block_size)
    if overflow != "crop":
        return extra
    quarter = max(1, block_size // 4)
    return -(-extra // quarter) * quarter


class Run(Iterator[Step]):
    """A generation under way: iterate for steps, stop at any time, and what is there stays consistent.

    Attributes:
        ids: new ids so far.
        text: new text so far.
        finish_reason: None while there is more to come.
    """

    def __init__(self, lm: LanguageModel, prompt: str | Sequence[int], settings: Settings, sampler: Sampler):
        self.lm, self.settings, self.sampler = lm, settings, sampler
        self.prompt_ids, self.notes = encode_prompt(lm, prompt)
        self.ids: list[int] = []
        self._text = TextStream([stop for stop in settings.stop if isinstance(stop, str)])
        self._ends = end_ids(settings, lm.checkpoint.stop_ids)
        self._cache: KVCache | None = None
        self._state: dict[str, Any] = {}
        if given := [stop for stop in settings.stop if isinstance(stop, int)]:
            lm.checked_ids(given)
        self.finish_reason: FinishReason | None = self._limit()

    @property
    def text(self) -> str:
        return self._text.text

    def __next__(self) -> Step:
        if self.finish_reason is not None:
            raise StopIteration
        try:
            with torch.inference_mode(), deterministic_kernels(self.settings.deterministic):
                return self._choose(self._next_logits().float())
        except BaseException:
            self._cache = None  # some layers may hold the token and others not; going on prefills again
            raise

    def _limit(self) -> FinishReason | None:
        """Why no further token may follow."""
        if len(self.ids) >= self.settings.max_new_tokens:
            return "length"
        if self.settings.overflow == "stop" and len(self.prompt_ids) + len(self.ids) > self.lm.model.block_size:
            return "context"
        return None

    def _next_logits(self) -> Tensor:
        """Logits of the next token (V,): one decode step where the cache holds all but the last id, else a prefill."""
        model, overflow = self.lm.model, self.settings.overflow
        ids = self.prompt_ids + self.ids
        if overflow == "labcore":
            if self._cache is None:
                self._cache = model.new_rolling_cache()
                return prefill(model, ids[-model.block_size :], self._cache)
            return decode_step(model, ids[-1], self._cache)
        start = visible_from(len(ids), model.block_size, overflow)
        if not self.settings.use_cache or not model.blocks:  # a wrapped function has no blocks, hence no cache
            return prefill(model, ids[start:], None)
        # Once older ids have dropped out of sight, the lengths no longer meet, and the rest is prefilled anew.
        if self._cache is not None and self._cache.length == len(ids) - start - 1:
            return decode_step(model, ids[-1], self._cache)
        self._cache = model.new_cache()
        return prefill(model, ids[start:], self._cache)

    def _choose(self, logits: Tensor) -> Step:
        """Stages, draw, bookkeeping of one step."""
        context = StepContext([self.prompt_ids], [self.ids], len(self.ids), state=self._state)
        allowed = logits
        if self._ends and len(self.ids) < self.settings.min_new_tokens:
            allowed = logits.index_fill(0, torch.tensor(sorted(self._ends), device=logits.device), float("-inf"))
        seen = self.sampler.apply(allowed.unsqueeze(0), context)  # (1, V)
        token_id = int(self.sampler.draw(seen, context)[0])
        log_p = seen[0].double().log_softmax(dim=-1)
        kept = log_p[torch.isfinite(log_p)]
        self.ids.append(token_id)
        return Step(
            id=token_id,
            text=self._end_or_text(token_id),
            logprob=float(log_p[token_id]),
            rank=int((logits > logits[token_id]).sum()),
            entropy=max(0.0, -float((kept.exp() * kept).sum())),
            logits=logits.cpu(),
        )

    def _end_or_text(self, token_id: int) -> str:
        """Set finish_reason if this token ends the run; the text it adds."""
        enough = len(self.ids) >= self.settings.min_new_tokens
        if token_id in self._ends and enough:
            self.finish_reason = "stop" if token_id in self.settings.stop else "eos"
            text = self._text.finish()
        elif self.lm.tokenizer is not None:
            text = self._text.feed(self.lm.tokenizer.token_bytes(token_id), may_stop=enough)
            if self._text.stopped:
                self.finish_reason = "stop"
        else:
            text = ""
        if self.finish_reason is None:
            self.finish_reason = self._limit()
            text += self._text.finish() if self.finish_reason else ""
        return text

    def result(self) -> Generation:
        """What there is; "interrupted" if the run did not come to its end."""
        return Generation(
            ids=list(self.ids),
            prompt_ids=list(self.prompt_ids),
            finish_reason=self.finish_reason or "interrupted",
            notes=self.notes,
            settings=self.settings,
            tokenizer=self.lm.tokenizer,
        )


def stream(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    settings: Settings | None = None,
    *,
    sampler: Sampler | None = None,
    **changes: Any,
) -> Run:
    """Generate token by token: ``for step in labkit.stream(lm, "To be"): print(step.text, end="")``.

    Args:
        prompt: text, which the format's BOS is put in front of, or ids, which are used as they are.
        settings: labkit's defaults if None.
        sampler: replaces the sampling part of the settings.
        changes: fields of Settings; an unknown name is refused and the nearest one suggested.
    """
    settings = (settings or Settings()).replace(**changes)
    if settings.overflow == "labcore" and lm.checkpoint.family != "labcore":
        raise ConfigError(f'overflow="labcore" is LabCore\'s cache; this is a {lm.checkpoint.family} model')
    return Run(lm, prompt, settings, sampler or Sampler.from_settings(**settings.sampling()))


def generate(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    settings: Settings | None = None,
    *,
    sampler: Sampler | None = None,
    **changes: Any,
) -> Generation:
    """Generate to the end. An interrupt (Ctrl-C) returns what there is, with finish_reason "interrupted"."""
    run = stream(lm, prompt, settings, sampler=sampler, **changes)
    try:
        for _ in run:
            pass
    except KeyboardInterrupt:
        pass
    return run.result()


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


def end_ids(settings: Settings, stop_ids: Sequence[int]) -> frozenset[int]:
    """Ids that end generation: those in ``stop``, and the EOS that the model's own config says to stop at."""
    return frozenset([*stop_ids, *(stop for stop in settings.stop if isinstance(stop, int))])


@contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """Ask torch for deterministic kernels, and put the previous setting back."""
    if not wanted:
        yield
        return
    before, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
