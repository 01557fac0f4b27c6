"""What an intervention does to the next token: the logit, the distribution, and the token that is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..sampling import Sampler, StepContext
from .reading import rounded


@dataclass(frozen=True, repr=False)
class Effect:
    """N next-token choices before and after. All tensors (N,).

    Attributes:
        delta_logit: of the target, less that of the other token where a difference is looked at.
        kl: KL(before || after) of the model's own distributions, nats.
        rank_before, rank: of the target's logit; 0 is the largest.
        first_before, first: the model's first choices.
        drawn_before, drawn: what the recorded draw takes, with the same noise before and after.
        redrawn: of all seeds, the share in which the draw takes another token than before.
    """

    delta_logit: Tensor
    kl: Tensor
    rank_before: Tensor
    rank: Tensor
    first_before: Tensor
    first: Tensor
    drawn_before: Tensor
    drawn: Tensor
    redrawn: Tensor

    def row(self) -> dict[str, Any]:
        """Means over the N choices; of what changed, the share."""
        return {
            "delta_logit": rounded(self.delta_logit.mean(), 3),
            "kl": rounded(self.kl.mean()),
            "rank_before": rounded(self.rank_before.float().mean(), 2),
            "rank": rounded(self.rank.float().mean(), 2),
            "target_first": rounded((self.rank == 0).float().mean(), 3),
            "first_changed": rounded((self.first != self.first_before).float().mean(), 3),
            "drawn_changed": rounded((self.drawn != self.drawn_before).float().mean(), 3),
            "redrawn": rounded(self.redrawn.mean(), 3),
        }

    def __repr__(self) -> str:
        return f"Effect({', '.join(f'{name}={value}' for name, value in self.row().items())})"


def effect(
    before: Tensor,
    after: Tensor,
    target: Sequence[int],
    *,
    versus: Sequence[int] | None = None,
    sampler: Sampler,
    context: StepContext,
) -> Effect:
    """Compare logits (N, V) before and after.

    Args:
        target, versus: one token a row.
        sampler: stages and draw of the recorded draw.
        context: of N rows: step, stream and ids, as they were at the draw.
    """
    before, after = before.float().cpu(), after.float().cpu()
    goal = torch.tensor(list(target))[:, None]  # (N, 1)
    own_before, own = before.gather(1, goal), after.gather(1, goal)  # (N, 1)
    delta = own - own_before
    if versus is not None:
        other = torch.tensor(list(versus))[:, None]  # (N, 1)
        delta = delta - (after.gather(1, other) - before.gather(1, other))
    log_p, log_q = before.double().log_softmax(dim=-1), after.double().log_softmax(dim=-1)
    drawn_before, drawn = drawn_ids(before, sampler, context), drawn_ids(after, sampler, context)
    p, q = (staged(logits, sampler, context).double().softmax(dim=-1) for logits in (before, after))
    return Effect(
        delta_logit=delta[:, 0],
        kl=(log_p.exp() * (log_p - log_q)).sum(dim=-1).clamp(min=0).float(),
        rank_before=(before > own_before).sum(dim=-1),
        rank=(after > own).sum(dim=-1),
        first_before=before.argmax(dim=-1),
        first=after.argmax(dim=-1),
        drawn_before=drawn_before,
        drawn=drawn,
        redrawn=redrawn(p, q) if sampler.draw.by_chance else (drawn != drawn_before).float(),
    )


def drawn_ids(logits: Tensor, sampler: Sampler, context: StepContext) -> Tensor:
    """The recorded draw of each row (N,); what stages and draws remember stays as it was."""
    return sampler(logits, unchanged(context))


def staged(logits: Tensor, sampler: Sampler, context: StepContext) -> Tensor:
    return sampler.apply(logits, unchanged(context))


def unchanged(context: StepContext) -> StepContext:
    """A copy, whose state may be written to."""
    return StepContext(
        context.prompt_ids, context.generated_ids, context.step, context.seed, context.stream, dict(context.state)
    )


def redrawn(p: Tensor, q: Tensor) -> Tensor:
    """Of all seeds, the share in which argmax(log p + g) and argmax(log q + g) differ under one Gumbel noise g.

    Token i is taken both times if no j has more in either, that is g_j <= g_i + min(log p_i/p_j, log q_i/q_j), which
    happens with probability 1 / sum_j max(p_j/p_i, q_j/q_i). In the order of q/p the sum is one of two running sums, so
    the share is exact at the price of a sort.

    Args:
        p, q: (N, V), rows that add up to 1.

    Returns:
        (N,), in 0 … 1.
    """
    out = []
    for row_p, row_q in zip(p.double(), q.double(), strict=True):
        there = (row_p > 0) | (row_q > 0)
        ratio, order = (row_q[there] / row_p[there]).sort()  # inf where only q has it
        a, b = row_p[there][order], row_q[there][order]
        # Before i the ratio is smaller, so p_j/p_i is the larger of the two; after it, q_j/q_i.
        before, after = a.cumsum(dim=0), b.flip(0).cumsum(dim=0).flip(0) - b
        both = (a > 0) & (b > 0)
        kept = 1 / (before[both] / a[both] + after[both] / b[both])
        out.append((1 - kept.sum()).clamp(0, 1))
    return torch.stack(out).float()
