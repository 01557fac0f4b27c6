"""Stages: each turns logits (B, V) into logits (B, V), removing tokens by -inf or reshaping the rest.

A stage is a small frozen dataclass with its source and its tie rule in the docstring. The order of a list of stages is
the order they run in; labkit's own order is STAGES. What looks at token ids (penalties, lists) is in ``history``.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from ..settings import PenaltyScope, check_range

REMOVED = float("-inf")
CHUNK = 32
SIDES = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}


@dataclass
class StepContext:
    """What a stage or a draw may know besides the logits.

    Attributes:
        prompt_ids, generated_ids: per row of the batch.
        step: new tokens so far.
        seed: of the draw.
        stream: per row; i for the i-th continuation of one prompt, else 0.
        state: what stateful stages and draws remember from step to step, by (name, stream).
    """

    prompt_ids: Sequence[Sequence[int]]
    generated_ids: Sequence[Sequence[int]]
    step: int = 0
    seed: int = 0
    stream: Sequence[int] = (0,)
    state: dict[Any, Any] = field(default_factory=dict)

    def seen(self, row: int, scope: PenaltyScope) -> list[int]:
        """Ids that a penalty of this scope counts, repetitions included."""
        prompt = self.prompt_ids[row] if scope != "generated" else ()
        generated = self.generated_ids[row] if scope != "prompt" else ()
        return [*prompt, *generated]

    def row(self, row: int, seed: int | None = None) -> "StepContext":
        """The context of one row alone; the state is shared."""
        seed = self.seed if seed is None else seed
        return StepContext(
            [self.prompt_ids[row]], [self.generated_ids[row]], self.step, seed, [self.stream[row]], self.state
        )


class Left(NamedTuple):
    """What is still there of one row: ids (n,) in ascending order, and their logits (n,) float32."""

    ids: Tensor
    logits: Tensor


class Stage(Protocol):
    """One step between the model's logits and the draw.

    Attributes:
        name: of the setting that switches it on.
        by_id: whether it asks which token is which, and not only how large its logit is; it gets the whole row.
    """

    name: ClassVar[str]
    by_id: ClassVar[bool]

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor: ...


class Limit(NamedTuple):
    """Why a filter keeps or removes: what it measures of each token, and where it draws the line.

    Attributes:
        measure: in words.
        values: (B, V), float64 unless the rule is about logits.
        threshold: (B, 1).
        stays: a token stays if its value is "at least" / "above" / "at most" / "below" the threshold.
    """

    measure: str
    values: Tensor
    threshold: Tensor
    stays: Literal["at least", "above", "at most", "below"]

    def kept(self) -> Tensor:
        """bool (B, V)"""
        return SIDES[self.stays](self.values, self.threshold)


class Filter:
    """A stage that removes tokens and leaves the other logits as they are.

    Attributes:
        nested: it keeps the first so many tokens by logit, and the more the more it is given or the flatter that is;
            so a pick moves one way when a slider does (see ``questions``).
    """

    by_id: ClassVar[bool] = False
    nested: ClassVar[bool] = False

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        return logits.masked_fill(~self.keeps(logits, context), REMOVED)

    def keeps(self, logits: Tensor, context: StepContext) -> Tensor:
        """Which tokens stay: bool (B, V); what it says of a token that is removed already does not count."""
        return self.limit(logits, context).kept()

    def kept_ids(self, logits: Tensor, context: StepContext) -> Tensor:
        """Which of one row (V,) stay: places (n,) in ascending order."""
        return self.keeps(logits[None], context)[0].nonzero().squeeze(-1)

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        """What decides, for every token."""
        raise NotImplementedError


@dataclass(frozen=True)
class Temperature:
    """Divide by the temperature (Ackley, Hinton and Sejnowski 1985). 0 is the limit: only the largest logit is left, of
    equal ones the smallest id."""

    name: ClassVar[str] = "temperature"
    by_id: ClassVar[bool] = False
    temperature: float

    def __post_init__(self) -> None:
        check_range(self.name, self.temperature)

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        if self.temperature > 0:
            return logits / self.temperature
        largest = logits.argmax(dim=-1, keepdim=True)  # (B, 1)
        return torch.full_like(logits, REMOVED).scatter(-1, largest, logits.gather(-1, largest))


@dataclass(frozen=True)
class TopNSigma(Filter):
    """Keep logits within n standard deviations of the largest (Tang et al. 2024, top-nσ; the deviation is over what is
    still there, not the sample's estimate). Temperature does not change which tokens stay."""

    name: ClassVar[str] = "top_n_sigma"
    nested: ClassVar[bool] = True
    n: float

    def __post_init__(self) -> None:
        check_range(self.name, self.n)

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        there = torch.isfinite(logits)
        values = logits.double()
        count = there.sum(dim=-1, keepdim=True)  # (B, 1)
        mean = values.masked_fill(~there, 0).sum(dim=-1, keepdim=True) / count
        sigma = ((values - mean).masked_fill(~there, 0).square().sum(dim=-1, keepdim=True) / count).sqrt()
        reach = self.n * sigma if self.n > 0 else torch.full_like(sigma, math.inf)
        return Limit("logit", values, values.amax(dim=-1, keepdim=True) - reach, "at least")


@dataclass(frozen=True)
class TopK(Filter):
    """Keep the k largest logits (Fan et al. 2018); all ties at the border stay."""

    name: ClassVar[str] = "top_k"
    nested: ClassVar[bool] = True
    k: int

    def __post_init__(self) -> None:
        check_range(self.name, self.k)

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        k = min(self.k or logits.shape[-1], logits.shape[-1])
        return Limit("logit", logits, logits.topk(k, dim=-1).values[..., -1:], "at least")

    def kept_ids(self, logits: Tensor, context: StepContext) -> Tensor:
        if 0 < self.k < len(logits):
            values, ids = largest(logits, self.k + 1)
            if values[-1] < values[-2]:  # no tie at the border, so topk has the very set
                return ids[:-1].sort().values
        return super().kept_ids(logits, context)


@dataclass(frozen=True)
class Typical(Filter):
    """Keep the tokens whose surprisal is nearest the entropy until their mass reaches p (Meister et al. 2023, locally
    typical sampling). The token that crosses p stays; equally near ones go by smaller id."""

    name: ClassVar[str] = "typical_p"
    p: float

    def __post_init__(self) -> None:
        check_range(self.name, self.p)

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        log_p = logits.double().log_softmax(dim=-1)
        distance = (-log_p - entropy(log_p)).abs()
        ids = distance.sort(dim=-1, stable=True).indices  # (B, V), nearest first
        mass = mass_before(log_p.exp().gather(-1, ids))
        values = torch.empty_like(mass).scatter(-1, ids, mass)
        threshold = self.p if self.p < 1 else math.inf
        return Limit("mass of the more typical tokens", values, values.new_full((len(values), 1), threshold), "below")


@dataclass(frozen=True)
class TopP(Filter):
    """Keep the most probable tokens until their mass reaches p (Holtzman et al. 2020, nucleus sampling). The token that
    crosses p stays; equal probabilities go by smaller id."""

    name: ClassVar[str] = "top_p"
    nested: ClassVar[bool] = True
    p: float

    def __post_init__(self) -> None:
        check_range(self.name, self.p)

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        ordered, ids = logits.sort(dim=-1, descending=True, stable=True)  # (B, V)
        mass = mass_before(ordered.double().softmax(dim=-1))
        values = torch.empty_like(mass).scatter(-1, ids, mass)
        # At 1 it is off: rounding must not remove the tail.
        threshold = self.p if self.p < 1 else math.inf
        return Limit("mass of the more probable tokens", values, values.new_full((len(values), 1), threshold), "below")

    def keeps(self, logits: Tensor, context: StepContext) -> Tensor:
        if self.p == 1:
            return torch.ones_like(logits, dtype=torch.bool)
        return torch.stack([self._keeps(row) for row in logits])

    def kept_ids(self, logits: Tensor, context: StepContext) -> Tensor:
        if self.p == 1:
            return torch.arange(len(logits), device=logits.device)
        return self._keeps(logits).nonzero().squeeze(-1)

    def _keeps(self, logits: Tensor) -> Tensor:
        """The same as ``limit`` says, without sorting more of the row (V,) than the mass needs."""
        n = len(logits)
        weights = logits.double().softmax(dim=-1)
        for most in (256, 4096, n):
            ordered, ids = largest(logits, min(most, n))
            inside = int((mass_before(weights[ids]) < self.p).sum())
            if inside < most:
                break
        border = ordered[inside - 1]
        kept = logits >= border
        if spare := int(kept.sum()) - inside:  # ties at the border: only the smaller ids of them stay
            tied = (logits == border).nonzero().squeeze(-1)  # ascending ids
            kept[tied[len(tied) - spare :]] = False
        return kept


@dataclass(frozen=True)
class MinP(Filter):
    """Keep tokens with at least p times the largest probability (Nguyen et al. 2024); ties at the border stay."""

    name: ClassVar[str] = "min_p"
    nested: ClassVar[bool] = True
    p: float

    def __post_init__(self) -> None:
        check_range(self.name, self.p)

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        values = logits.double()
        shares = (values - values.amax(dim=-1, keepdim=True)).exp()
        threshold = shares.new_full((len(shares), 1), self.p)
        return Limit("share of the largest probability", shares, threshold, "at least")


@dataclass(frozen=True)
class Eta(Filter):
    """Remove tokens below min(ε, √ε · exp(-entropy)) (Hewitt, Manning and Liang 2022, eta sampling); the most probable
    ones always stay."""

    name: ClassVar[str] = "eta_cutoff"
    epsilon: float

    def __post_init__(self) -> None:
        check_range(self.name, self.epsilon)

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        log_p = logits.double().log_softmax(dim=-1)
        eta = (math.sqrt(self.epsilon) * (-entropy(log_p)).exp()).clamp(max=self.epsilon)
        return at_least_the_largest(log_p, eta)


@dataclass(frozen=True)
class Epsilon(Filter):
    """Remove tokens below probability ε (Hewitt, Manning and Liang 2022, epsilon sampling); the most probable ones
    always stay."""

    name: ClassVar[str] = "epsilon_cutoff"
    epsilon: float

    def __post_init__(self) -> None:
        check_range(self.name, self.epsilon)

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        log_p = logits.double().log_softmax(dim=-1)
        return at_least_the_largest(log_p, log_p.new_full((len(log_p), 1), self.epsilon))


def at_least_the_largest(log_p: Tensor, threshold: Tensor) -> Limit:
    """Tokens at or above a probability (B, 1) stay, and the largest even if it is below."""
    p = log_p.exp()
    return Limit("probability", p, torch.minimum(threshold, p.amax(dim=-1, keepdim=True)), "at least")


def largest(row: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of a row (V,) and their places, in order; of equal ones any.

    Of a long row only the k chunks with the largest maxima are searched: none of the k largest lies elsewhere. For the
    40 largest of 50,257 that takes half the time.
    """
    n = len(row) // CHUNK * CHUNK
    if n < 8 * CHUNK * k:
        values, ids = row.topk(k)
        return values, ids
    chunks = row[:n].view(-1, CHUNK).amax(dim=-1).topk(k).indices  # (k,)
    inside = torch.arange(CHUNK, device=row.device)
    ids = torch.cat(((chunks[:, None] * CHUNK + inside).flatten(), torch.arange(n, len(row), device=row.device)))
    values, best = row[ids].topk(k)
    return values, ids[best]


def mass_before(p: Tensor) -> Tensor:
    """Of probabilities in some order (…, V): the mass of those before each; exactly 0 for the first."""
    mass = p.cumsum(dim=-1) - p
    mass[..., 0] = 0.0
    return mass


def entropy(log_p: Tensor) -> Tensor:
    """Entropy (B, 1) in nats of log probabilities (B, V), of which some may be -inf."""
    return -(log_p.exp() * log_p.clamp(min=-1e30)).sum(dim=-1, keepdim=True)
