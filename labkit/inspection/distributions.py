"""Next-token distributions along a text: of one side, of two in step, and how far apart two of them are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..generation.scoring import predictions
from ..language_model import LanguageModel
from ..sampling import Sampler, StepContext


@dataclass(frozen=True)
class Side:
    """A model, and how its distributions are sampled from.

    Attributes:
        sampler: None: the model's own distributions count.
    """

    lm: LanguageModel
    sampler: Sampler | None = None


def distributions(side: Side, ids: list[int]) -> Iterator[Tensor]:
    """Log probabilities, float64 (n, V), from which each token but the first comes, in order. After the stages they are
    those that a run would have drawn from, had it written this text after its first token."""
    state: dict[Any, Any] = {}
    done = 0
    for chunk, _ in predictions(side.lm, ids):
        logits = chunk.float().cpu()
        if side.sampler is not None:
            contexts = [
                StepContext([ids[:1]], [ids[1 : 1 + step]], step, state=state)
                for step in range(done, done + len(logits))
            ]
            rows = [side.sampler.apply(row[None], at) for row, at in zip(logits, contexts, strict=True)]
            logits = torch.cat(rows)
        done += len(logits)
        yield logits.double().log_softmax(dim=-1)


def in_step(left: Iterator[Tensor], right: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of two streams side by side, whatever the sizes of their chunks."""
    a = b = torch.empty(0)
    while True:
        a, b = a if len(a) else next(left, a), b if len(b) else next(right, b)
        n = min(len(a), len(b))
        if not n:
            return
        yield a[:n], b[:n]
        a, b = a[n:], b[n:]


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(P || Q) in nats: (n, V), (n, V) -> (n,); infinite where Q lacks what P has."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=-1).clamp(min=0.0)


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats (Lin 1991), 0 … ln 2: (n, V), (n, V) -> (n,)"""

    def to_middle(log_p: Tensor, log_q: Tensor) -> Tensor:
        # log(m / p) with m = (p + q) / 2, from the difference alone: exactly 0 where p = q.
        ratio = torch.log1p(torch.expm1((log_q - log_p).clamp(max=700.0)) / 2)
        return torch.where(log_p > float("-inf"), -log_p.exp() * ratio, 0.0).sum(dim=-1)

    return ((to_middle(log_p, log_q) + to_middle(log_q, log_p)) / 2).clamp(min=0.0)
