"""Stages that look at token ids: penalties for what was said before, biases, and lists of tokens.

They run before the temperature. Which ids count is the scope: the prompt, the new ones, or all; and of those the last
so many, if a penalty says so.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import SamplingError
from ..settings import PenaltyScope, check_range
from .stages import Filter, Limit, StepContext

LARGEST_EXPONENT = 80.0  # e to this is near the largest float32; DRY's penalty stops growing there


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divide positive and multiply negative logits of tokens seen before (Keskar et al. 2019, CTRL, with the sign rule
    of Hugging Face). A token counts once however often it occurred."""

    name: ClassVar[str] = "repetition_penalty"
    by_id: ClassVar[bool] = True
    penalty: float
    scope: PenaltyScope = "all"
    last: int | None = None

    def __post_init__(self) -> None:
        check_range(self.name, self.penalty)

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        out = logits.clone()
        for row in range(len(logits)):
            ids = index(set(seen(self, context, row)), logits)
            before = logits[row, ids]
            out[row, ids] = torch.where(before > 0, before / self.penalty, before * self.penalty)
        return out


@dataclass(frozen=True)
class FrequencyPenalty:
    """Take the penalty off a logit once for every occurrence (OpenAI's API; there over the new tokens only)."""

    name: ClassVar[str] = "frequency_penalty"
    by_id: ClassVar[bool] = True
    penalty: float
    scope: PenaltyScope = "all"
    last: int | None = None

    def __post_init__(self) -> None:
        check_range(self.name, self.penalty)

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        counts = (Counter(seen(self, context, row)) for row in range(len(logits)))
        return added(logits, [{i: -self.penalty * n for i, n in count.items()} for count in counts])


@dataclass(frozen=True)
class PresencePenalty:
    """Take the penalty off a logit once if the token occurred at all (OpenAI's API; there over the new tokens only)."""

    name: ClassVar[str] = "presence_penalty"
    by_id: ClassVar[bool] = True
    penalty: float
    scope: PenaltyScope = "all"
    last: int | None = None

    def __post_init__(self) -> None:
        check_range(self.name, self.penalty)

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        return added(logits, [dict.fromkeys(seen(self, context, row), -self.penalty) for row in range(len(logits))])


@dataclass(frozen=True)
class Dry:
    """Penalise the token that would repeat what followed the same words before: multiplier · base^(n - allowed), n the
    length of the repeated run, if n is at least ``allowed`` (p-e-w 2024, "Don't Repeat Yourself"). No token breaks a
    run. Its only state is the ids seen."""

    name: ClassVar[str] = "dry_multiplier"
    by_id: ClassVar[bool] = True
    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    scope: PenaltyScope = "all"

    def __post_init__(self) -> None:
        for name, value in zip(
            (self.name, "dry_base", "dry_allowed_length"),
            (self.multiplier, self.base, self.allowed_length),
            strict=True,
        ):
            check_range(name, value)

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        if self.multiplier == 0:
            return logits
        return added(logits, [self._penalties(context.seen(row, self.scope)) for row in range(len(logits))])

    def _penalties(self, ids: Sequence[int]) -> dict[int, float]:
        longest: dict[int, int] = {}
        for end, n in enumerate(repeated_suffixes(ids)):
            if n >= self.allowed_length:
                longest[ids[end + 1]] = max(n, longest.get(ids[end + 1], 0))
        most = LARGEST_EXPONENT / max(float(torch.tensor(self.base).log()), 1e-9)
        return {i: -self.multiplier * self.base ** min(n - self.allowed_length, most) for i, n in longest.items()}


@dataclass(frozen=True)
class NoRepeatNgram(Filter):
    """Remove every token that would complete an n-gram that occurred before (Paulus et al. 2017; Hugging Face)."""

    name: ClassVar[str] = "no_repeat_ngram_size"
    by_id: ClassVar[bool] = True
    n: int
    scope: PenaltyScope = "all"

    def __post_init__(self) -> None:
        check_range(self.name, self.n)

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        banned = [self._banned(context.seen(row, self.scope)) for row in range(len(logits))]
        return listed(f"times it would complete a {self.n}-gram that is there already", logits, banned)

    def _banned(self, ids: list[int]) -> set[int]:
        if not 0 < self.n <= len(ids):
            return set()
        prefix = ids[len(ids) - self.n + 1 :]
        starts = range(len(ids) - self.n + 1)
        return {ids[i + self.n - 1] for i in starts if ids[i : i + self.n - 1] == prefix}


@dataclass(frozen=True)
class LogitBias:
    """Add a number to the logits of some tokens (OpenAI's API); -inf removes."""

    name: ClassVar[str] = "logit_bias"
    by_id: ClassVar[bool] = True
    bias: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        check_range(self.name, dict(self.bias))

    @classmethod
    def of(cls, bias: Mapping[int, float]) -> "LogitBias":
        return cls(tuple(sorted(bias.items())))

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        return added(logits, [dict(self.bias)] * len(logits))


@dataclass(frozen=True)
class AllowedIds(Filter):
    """Remove every token that is not in the list."""

    name: ClassVar[str] = "allowed_ids"
    by_id: ClassVar[bool] = True
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        check_range(self.name, self.ids)

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        outside = torch.ones(logits.shape[-1], dtype=torch.float64, device=logits.device)
        outside[index(self.ids, logits)] = 0.0
        return Limit("times it is outside the allowed ids", outside.expand_as(logits), zero(logits), "at most")


@dataclass(frozen=True)
class ForbiddenIds(Filter):
    """Remove the tokens of the list."""

    name: ClassVar[str] = "forbidden_ids"
    by_id: ClassVar[bool] = True
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        check_range(self.name, self.ids)

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        return listed("times it is among the forbidden ids", logits, [set(self.ids)] * len(logits))


def seen(penalty: RepetitionPenalty | FrequencyPenalty | PresencePenalty, context: StepContext, row: int) -> list[int]:
    """The ids that a penalty counts."""
    ids = context.seen(row, penalty.scope)
    return ids if penalty.last is None else ids[-penalty.last :]


def repeated_suffixes(ids: Sequence[int]) -> list[int]:
    """For every end but the last: how many ids up to there equal the last ids of all (the Z-function, backwards)."""
    back = ids[::-1]
    n = len(back)
    lengths = [0] * n
    left = right = 0
    for i in range(1, n):
        length = min(right - i, lengths[i - left]) if i < right else 0
        while i + length < n and back[length] == back[i + length]:
            length += 1
        lengths[i] = length
        if i + length > right:
            left, right = i, i + length
    return lengths[:0:-1]


def index(ids: Iterable[int], logits: Tensor) -> Tensor:
    """Token ids as an index into the vocabulary of logits (…, V); ids beyond it are refused."""
    wanted = list(ids)
    if wanted and not 0 <= min(wanted) <= max(wanted) < logits.shape[-1]:
        bad = next(i for i in wanted if not 0 <= i < logits.shape[-1])
        raise SamplingError(f"token id {bad} is outside the vocabulary 0 … {logits.shape[-1] - 1}")
    return torch.tensor(wanted, dtype=torch.long, device=logits.device)


def added(logits: Tensor, changes: Sequence[Mapping[int, float]]) -> Tensor:
    """Logits (B, V) with numbers added to some ids of each row."""
    out = logits.clone()
    for row, change in enumerate(changes):
        out[row, index(change, logits)] += torch.tensor(list(change.values()), dtype=out.dtype, device=out.device)
    return out


def listed(measure: str, logits: Tensor, ids: Sequence[set[int]]) -> Limit:
    """The limit of a filter that removes what is on a list of each row."""
    values = torch.zeros_like(logits, dtype=torch.float64)
    for row, on_list in enumerate(ids):
        values[row, index(on_list, logits)] = 1.0
    return Limit(measure, values, zero(logits), "at most")


def zero(logits: Tensor) -> Tensor:
    return logits.new_zeros(len(logits), 1, dtype=torch.float64)
