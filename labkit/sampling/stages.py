"""Stages: each turns logits (B, V) into logits (B, V), removing tokens by -inf or reshaping the rest.

A stage is a small frozen dataclass with its tie rule in the docstring. The order of a list of stages is the order they
run in; labkit's own order is STAGES.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ..settings import PenaltyScope, check_range

REMOVED = float("-inf")


@dataclass
class StepContext:
    """What a stage or a draw may know besides the logits.

    Attributes:
        prompt_ids, generated_ids: per row of the batch.
        step: new tokens so far.
        seed: of the draw.
        stream: per row; i for the i-th continuation of one prompt, else 0.
        state: what stateful stages remember from step to step, by their name.
    """

    prompt_ids: Sequence[Sequence[int]]
    generated_ids: Sequence[Sequence[int]]
    step: int = 0
    seed: int = 0
    stream: Sequence[int] = (0,)
    state: dict[str, Any] = field(default_factory=dict)

    def seen(self, row: int, scope: PenaltyScope) -> list[int]:
        """Ids that a penalty of this scope counts, repetitions included."""
        prompt = self.prompt_ids[row] if scope != "generated" else ()
        generated = self.generated_ids[row] if scope != "prompt" else ()
        return [*prompt, *generated]


class Stage(Protocol):
    """One step between the model's logits and the draw."""

    name: ClassVar[str]

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor: ...


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divide positive and multiply negative logits of tokens seen before (Keskar et al. 2019, CTRL, with the sign rule
    of Hugging Face). A token counts once however often it occurred."""

    name: ClassVar[str] = "repetition_penalty"
    penalty: float
    scope: PenaltyScope = "all"

    def __post_init__(self) -> None:
        check_range(self.name, self.penalty)

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        seen = torch.zeros_like(logits, dtype=torch.bool)  # (B, V)
        for row in range(len(logits)):
            seen[row, torch.tensor(context.seen(row, self.scope), dtype=torch.long, device=logits.device)] = True
        penalised = torch.where(logits > 0, logits / self.penalty, logits * self.penalty)
        return torch.where(seen, penalised, logits)


@dataclass(frozen=True)
class Temperature:
    """Divide by the temperature. 0 is the limit: only the largest logit is left, of equal ones the smallest id."""

    name: ClassVar[str] = "temperature"
    temperature: float

    def __post_init__(self) -> None:
        check_range(self.name, self.temperature)

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        if self.temperature > 0:
            return logits / self.temperature
        largest = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
        return torch.full_like(logits, REMOVED).scatter(-1, largest, logits.gather(-1, largest))


@dataclass(frozen=True)
class TopK:
    """Keep the k largest logits (Fan et al. 2018); all ties at the border stay."""

    name: ClassVar[str] = "top_k"
    k: int

    def __post_init__(self) -> None:
        check_range(self.name, self.k)

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        if not 0 < self.k < logits.shape[-1]:
            return logits
        border = logits.topk(self.k, dim=-1).values[..., -1:]  # (B, 1)
        return logits.masked_fill(logits < border, REMOVED)


@dataclass(frozen=True)
class TopP:
    """Keep the most probable tokens until their mass reaches p (Holtzman et al. 2020, nucleus sampling). The token that
    crosses p stays; equal probabilities go by smaller id."""

    name: ClassVar[str] = "top_p"
    p: float

    def __post_init__(self) -> None:
        check_range(self.name, self.p)

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        if self.p == 1:  # off: rounding must not remove the tail
            return logits
        ordered, ids = logits.sort(dim=-1, descending=True, stable=True)  # (B, V)
        probabilities = ordered.double().softmax(dim=-1)
        mass_before = probabilities.cumsum(dim=-1) - probabilities
        mass_before[..., 0] = 0.0  # the first always stays, whatever the rounding
        removed = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, ids, mass_before >= self.p)
        return logits.masked_fill(removed, REMOVED)


@dataclass(frozen=True)
class MinP:
    """Keep tokens with at least p times the largest probability (Nguyen et al. 2024); ties at the border stay."""

    name: ClassVar[str] = "min_p"
    p: float

    def __post_init__(self) -> None:
        check_range(self.name, self.p)

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        if self.p == 0:
            return logits
        log_p = torch.tensor(self.p, dtype=torch.float64).log()
        border = logits.max(dim=-1, keepdim=True).values.double() + log_p.to(logits.device)
        return logits.masked_fill(logits.double() < border, REMOVED)


# labkit's order: what moves logits first, then temperature, then what removes tokens.
STAGES: tuple[type, ...] = (RepetitionPenalty, Temperature, TopK, TopP, MinP)
