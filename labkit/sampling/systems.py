"""The stages of other systems, as they behave: their order of operations, float32 rounding, ties and bugs.

What each one does was found by running it (LabCore LLM, SWA-MLA at 315bcb9, the nanochat experiment, GPT-2 from
scratch) or by reading it (transformers 5, llama.cpp in 2026). ``orders`` puts them in each system's order.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import SamplingError
from ..settings import PenaltyScope
from .history import index
from .stages import REMOVED, Filter, Limit, StepContext


@dataclass(frozen=True)
class DividePenalty:
    """Divide the logits of tokens seen before, negative ones too, which makes those *more* likely: LabCore (new tokens
    only, after the temperature) and GPT-2 from scratch (all tokens, beyond the context as well)."""

    name: ClassVar[str] = "repetition_penalty"
    by_id: ClassVar[bool] = True
    penalty: float
    scope: PenaltyScope
    per_occurrence: ClassVar[bool] = False
    positive_only: ClassVar[bool] = False

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        out = logits.clone()
        for row in range(len(logits)):
            counts = Counter(context.seen(row, self.scope))
            if counts and self.positive_only and self.penalty <= 0:
                raise SamplingError(f"repetition_penalty is {self.penalty!r}; it must be above 0")
            ids = index(counts, logits)
            if self.per_occurrence:  # one division after the other, as it rounds
                for token_id, n in counts.items():
                    for _ in range(n):
                        out[row, token_id] /= self.penalty
            else:
                out[row, ids] = out[row, ids] / self.penalty
        return out


@dataclass(frozen=True)
class LabcorePenalty(DividePenalty):
    """LabCore's, which refuses a penalty of 0 or below, but only once there are new tokens."""

    positive_only: ClassVar[bool] = True


@dataclass(frozen=True)
class CompoundPenalty(DividePenalty):
    """SWA-MLA's: divided once per occurrence among the new tokens."""

    per_occurrence: ClassVar[bool] = True


@dataclass(frozen=True)
class ClampedTemperature:
    """LabCore and SWA-MLA: divide by max(temperature, 1e-6). 0 and below is no argmax but a very cold softmax, in which
    exact ties are still drawn."""

    name: ClassVar[str] = "temperature"
    by_id: ClassVar[bool] = False
    temperature: float

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        return logits / max(self.temperature, 1e-6)


@dataclass(frozen=True)
class UncheckedTemperature:
    """GPT-2 from scratch: divide by whatever was given; 0 makes infinities, which cannot be drawn from."""

    name: ClassVar[str] = "temperature"
    by_id: ClassVar[bool] = False
    temperature: float

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        return logits / self.temperature


@dataclass(frozen=True)
class PositiveTemperature:
    """The nanochat experiment: divide if above 0. At 0 its draw is argmax; below 0 nothing is divided."""

    name: ClassVar[str] = "temperature"
    by_id: ClassVar[bool] = False
    temperature: float

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        return logits / self.temperature if self.temperature > 0 else logits


@dataclass(frozen=True)
class LlamaCppTemperature:
    """llama.cpp: divide, last of all; at 0 or below only the first largest logit stays."""

    name: ClassVar[str] = "temperature"
    by_id: ClassVar[bool] = False
    temperature: float

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        if self.temperature > 0:
            return logits / self.temperature
        largest = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
        return torch.full_like(logits, REMOVED).scatter(-1, largest, logits.gather(-1, largest))


@dataclass(frozen=True)
class UncheckedTopK(Filter):
    """GPT-2 from scratch: strictly below the k-th value goes, ties stay; k of 0 or below fails."""

    name: ClassVar[str] = "top_k"
    nested: ClassVar[bool] = True
    k: int

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        if self.k <= 0:
            raise SamplingError(f"top_k is {self.k}; GPT-2 from scratch fails with it (top_k=None is off there)")
        border = logits.topk(min(self.k, logits.shape[-1]), dim=-1).values[..., -1:]
        return Limit("logit", logits, border, "at least")

    def keeps(self, logits: Tensor, context: StepContext) -> Tensor:
        return ~(logits < self.limit(logits, context).threshold)  # what is NaN stays


@dataclass(frozen=True)
class ExactTopK(Filter):
    """llama.cpp: exactly k candidates; of ties at the border, which its sort leaves to chance, those of smaller id."""

    name: ClassVar[str] = "top_k"
    nested: ClassVar[bool] = True
    k: int

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        order = logits.sort(dim=-1, descending=True, stable=True).indices
        rank = torch.empty_like(order).scatter(
            -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
        )
        return Limit("rank", rank, rank.new_full((len(rank), 1), self.k), "below")


@dataclass(frozen=True)
class StrictTopP(Filter):
    """LabCore and GPT-2 from scratch, in float32: a token goes if the mass of those before it is *strictly greater*
    than p; the first always stays. At p = 1 rounding can drop the tail (LabCore skips it there)."""

    name: ClassVar[str] = "top_p"
    by_id: ClassVar[bool] = True  # its ties fall as the sort of the whole row has them
    nested: ClassVar[bool] = True
    p: float

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        ordered, ids = logits.sort(dim=-1, descending=True)
        mass = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
        mass[..., 0] = -math.inf
        return self.line(torch.empty_like(mass).scatter(-1, ids, mass), "mass of the more probable tokens")

    def line(self, values: Tensor, measure: str) -> Limit:
        return Limit(measure, values, values.new_full((len(values), 1), self.p), "at most")

    def keeps(self, logits: Tensor, context: StepContext) -> Tensor:
        limit = self.limit(logits, context)
        return ~(limit.values > limit.threshold)  # what is NaN stays


@dataclass(frozen=True)
class UnshiftedTopP(StrictTopP):
    """SWA-MLA: a token goes if the mass up to and *including itself* is greater than p, so the one that crosses p goes
    (Hugging Face keeps it); the first always stays."""

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        ordered, ids = logits.sort(dim=-1, descending=True)
        mass = ordered.softmax(dim=-1).cumsum(dim=-1)
        mass[..., 0] = -math.inf
        return self.line(torch.empty_like(mass).scatter(-1, ids, mass), "mass of the more probable tokens and its own")


@dataclass(frozen=True)
class HfTopP(Filter):
    """transformers, in float32 from the small end: a token goes if the mass of it and of the less probable ones is at
    most 1 - p; the largest always stays. Of equal ones the larger ids stay."""

    name: ClassVar[str] = "top_p"
    by_id: ClassVar[bool] = True  # its ties fall as the sort of the whole row has them
    nested: ClassVar[bool] = True
    p: float

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        ordered, ids = logits.sort(dim=-1, descending=False)
        mass = ordered.softmax(dim=-1).cumsum(dim=-1)
        mass[..., -1] = math.inf
        values = torch.empty_like(mass).scatter(-1, ids, mass)
        return Limit(
            "mass of it and the less probable tokens", values, values.new_full((len(values), 1), 1 - self.p), "above"
        )


@dataclass(frozen=True)
class HfMinP(Filter):
    """transformers, in float32: below p times the largest probability goes."""

    name: ClassVar[str] = "min_p"
    nested: ClassVar[bool] = True
    p: float

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        p = logits.softmax(dim=-1)
        return Limit("probability", p, self.p * p.amax(dim=-1, keepdim=True), "at least")


@dataclass(frozen=True)
class HfTypical(Filter):
    """transformers, in float32: as far from the entropy as the token that crosses p stays, ties included."""

    name: ClassVar[str] = "typical_p"
    p: float

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        log_p = logits.log_softmax(dim=-1)
        distance = (-log_p + (log_p.exp() * log_p).nansum(dim=-1, keepdim=True)).abs()
        ordered, ids = distance.sort(dim=-1)
        mass = logits.gather(-1, ids).softmax(dim=-1).cumsum(dim=-1)
        last = (mass < self.p).sum(dim=-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
        return Limit("distance of its surprisal from the entropy", distance, ordered.gather(-1, last), "at most")


@dataclass(frozen=True)
class HfEpsilon(Filter):
    """transformers, in float32: below ε goes; the largest stay."""

    name: ClassVar[str] = "epsilon_cutoff"
    epsilon: float

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        p = logits.softmax(dim=-1)
        return Limit("probability", kept_if_largest(p, logits), p.new_full((len(p), 1), self.epsilon), "at least")


@dataclass(frozen=True)
class HfEta(Filter):
    """transformers, in float32: below min(ε, √ε · exp(-entropy)) goes; the largest stay."""

    name: ClassVar[str] = "eta_cutoff"
    epsilon: float

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        p, epsilon = logits.softmax(dim=-1), torch.tensor(self.epsilon)
        entropy = torch.distributions.Categorical(logits=logits, validate_args=False).entropy()[..., None]
        eta = torch.minimum(epsilon, epsilon.sqrt() * (-entropy).exp())  # (B, 1)
        return Limit("probability", kept_if_largest(p, logits), eta, "at least")


def kept_if_largest(p: Tensor, logits: Tensor) -> Tensor:
    """Probabilities (B, V), infinite for the largest logits: whatever the line is, those stay."""
    return p.masked_fill(logits >= logits.amax(dim=-1, keepdim=True), math.inf)


@dataclass(frozen=True)
class LlamaCppTopP(Filter):
    """llama.cpp, in float32: kept until the running sum reaches p; the token that reaches it stays, and one always."""

    name: ClassVar[str] = "top_p"
    nested: ClassVar[bool] = True
    p: float

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
        mass = ordered.softmax(dim=-1).cumsum(dim=-1).roll(1, dims=-1)
        mass[..., 0] = -math.inf
        values = torch.empty_like(mass).scatter(-1, ids, mass)
        return Limit("mass of the more probable tokens", values, values.new_full((len(values), 1), self.p), "below")


@dataclass(frozen=True)
class LlamaCppMinP(Filter):
    """llama.cpp, on logits: at least the largest plus log p stays. Temperature comes after, so a high temperature can
    bring a token of 1 % to the front that min-p let through beside one of 96 %."""

    name: ClassVar[str] = "min_p"
    nested: ClassVar[bool] = True
    p: float

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        largest = logits.amax(dim=-1, keepdim=True)
        line = torch.minimum(largest, largest + math.log(self.p))
        return Limit("logit", logits, line, "at least")


@dataclass(frozen=True)
class LlamaCppTypical(Filter):
    """llama.cpp, in float32: nearest to the entropy first, until the running sum is greater than p."""

    name: ClassVar[str] = "typical_p"
    p: float

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        log_p = logits.log_softmax(dim=-1)
        distance = (-log_p + (log_p.exp() * log_p).nansum(dim=-1, keepdim=True)).abs()
        ids = distance.sort(dim=-1, stable=True).indices
        mass = log_p.exp().gather(-1, ids).cumsum(dim=-1).roll(1, dims=-1)
        mass[..., 0] = -math.inf
        values = torch.empty_like(mass).scatter(-1, ids, mass)
        return Limit("mass of the more typical tokens", values, values.new_full((len(values), 1), self.p), "at most")


@dataclass(frozen=True)
class LlamaCppXtc(Filter):
    """llama.cpp: of the candidates at or above the threshold only the last in order of size stays; a threshold above
    0.5 switches it off. Its coin is a generator of its own (std::mt19937 of the seed), taken to give one number a step;
    llama.cpp takes none at a step with a single candidate."""

    name: ClassVar[str] = "xtc_probability"
    probability: float
    threshold: float = 0.1

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        p = logits.softmax(dim=-1)
        order = logits.sort(dim=-1, descending=True, stable=True).indices
        rank = torch.empty_like(order).scatter(
            -1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order)
        )
        last = ((p >= self.threshold).sum(dim=-1, keepdim=True) - 1).clamp(min=0)  # (B, 1)
        for row, stream in enumerate(context.stream):
            if self.threshold > 0.5 or self._chance(context, stream) > self.probability:
                last[row] = 0
        return Limit("rank, of which those above the threshold but the last go", rank, last, "at least")

    def _chance(self, context: StepContext, stream: int) -> float:
        generator: Any = np.random.RandomState((context.seed + stream) % (1 << 32))
        numbers = generator.randint(0, 1 << 32, size=context.step + 1, dtype=np.uint64)
        return float(np.float32(numbers[-1]) / np.float32(2**32))
