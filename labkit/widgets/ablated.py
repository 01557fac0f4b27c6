"""What AblationView has measured: an ablation, what was asked for it, and the draw that both are about."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..inspection import Ablation
from ..sampling import SamplingTrace, StepContext

# What a cell's colour and number say, from a row of an Ablation.
VALUES: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "KL, nats": lambda one: one["kl"],
    "logit lost by the target": lambda one: 0.0 - one["delta_logit"],
    "ranks lost by the target": lambda one: one["rank"] - one["rank_before"],
    "share of draws that change": lambda one: one["redrawn"],
    "this draw changes": lambda one: one["drawn_changed"],
}


@dataclass(frozen=True, eq=False)
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
        at: StepContext = self.arguments["context"]
        return self.arguments["sampler"].trace(
            logits, at.prompt_ids[0], at.generated_ids[0], at.step, at.stream[0], at.state
        )
