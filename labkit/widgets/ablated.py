"""What AblationView has measured: an ablation, what was asked for it, and the draw that both are about."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..inspection import Ablation
from ..inspection.effects import unchanged
from ..sampling import Sampler, SamplingTrace, StepContext
from ..sampling.sampler import Chosen

# What a cell's colour and number say, from a row of an Ablation.
VALUES: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "KL, nats": lambda one: one["kl"],
    "logit lost by the target": lambda one: 0.0 - one["delta_logit"],
    "ranks lost by the target": lambda one: one["rank"] - one["rank_before"],
    "share of draws that change": lambda one: one["redrawn"],
    "this draw changes": lambda one: one["drawn_changed"],
}


class AtStep(Sampler):
    """A sampler that draws as it did at one step of a run, whatever context it is given."""

    def __init__(self, sampler: Sampler, context: StepContext):
        super().__init__(sampler.stages, sampler.draw, sampler.named)
        self._context = context

    def apply(self, logits: Tensor, context: StepContext) -> Tensor:
        return super().apply(logits, unchanged(self._context))

    def choose(self, logits: Tensor, context: StepContext) -> list[Chosen]:
        return super().choose(logits, unchanged(self._context))

    def at_step(self, logits: Tensor) -> SamplingTrace:
        """The stages and the draw of that step, from other logits (V,)."""
        seen = self._context
        return self.trace(logits, seen.prompt_ids[0], seen.generated_ids[0], seen.step, state=seen.state)


@dataclasses.dataclass(frozen=True, eq=False)
class Ablated:
    """An ablation of one text.

    Attributes:
        what: "heads", "attention", "mlps", "layers" or "positions".
        arguments: what ``ablate`` was asked besides text and parts.
    """

    ablation: Ablation
    what: str
    arguments: Mapping[str, Any]

    @property
    def ids(self) -> list[int]:
        """The text up to the token that is looked at."""
        return self.ablation.prompts[0]

    def strongest(self) -> int:
        """The part whose absence changes most."""
        kls = [float(one.kl[0]) for one in self.ablation.effects]
        return kls.index(max(kls))

    def draw(self, logits: Tensor) -> SamplingTrace:
        """The draw that follows the text, from other logits (V,)."""
        sampler: Sampler = self.arguments["sampler"]
        return sampler.at_step(logits) if isinstance(sampler, AtStep) else sampler.trace(logits, self.ids)


def joined(parts: Sequence[Ablation]) -> Ablation:
    """Several ablations of the same text as one."""
    return dataclasses.replace(
        parts[0],
        parts=sum((one.parts for one in parts), ()),
        labels=sum((one.labels for one in parts), ()),
        effects=sum((one.effects for one in parts), ()),
    )
