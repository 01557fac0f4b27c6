"""Sampler: an ordered list of stages and one draw; and the record of what each stage did."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import SamplingError
from ..settings import Dialect, PenaltyScope, check_names, stage_value
from .dialects import build
from .draws import Draw, Gumbel
from .stages import Stage, StepContext


@dataclass(frozen=True)
class StageRecord:
    """What one stage left. All over the full vocabulary, on the CPU.

    Attributes:
        name: of the stage; "model" for what came in.
        kept: bool (V,), tokens still there.
        probabilities: float32 (V,), renormalised; exact zeros for removed tokens.
        entropy: nats.
        kept_mass: probability, before this stage, of the tokens it kept; 1 for a stage that removes nothing.
        kl: KL(after || before) in nats.
    """

    name: str
    kept: Tensor
    probabilities: Tensor
    entropy: float
    kept_mass: float
    kl: float


@dataclass(frozen=True, repr=False)
class SamplingTrace:
    """Every stage of one step. ``stages[0]`` is the model's own distribution, the last is what the draw saw."""

    stages: tuple[StageRecord, ...]
    chosen: int

    def rows(self) -> list[dict[str, Any]]:
        """One row a stage: name, tokens kept, kept mass, entropy, KL, and the probability of the chosen token."""
        return [
            {
                "stage": stage.name,
                "kept": int(stage.kept.sum()),
                "kept_mass": round(stage.kept_mass, 4),
                "entropy": round(stage.entropy, 4),
                "kl": round(stage.kl, 4),
                "p_chosen": round(float(stage.probabilities[self.chosen]), 4),
            }
            for stage in self.stages
        ]

    def to_dict(self) -> dict[str, Any]:
        return {"chosen": self.chosen, "stages": self.rows()}

    def candidates(self, n: int = 10) -> list[int]:
        """The chosen token and the n most probable ones of the model, most probable first."""
        model = self.stages[0].probabilities
        ids = model.topk(min(n, len(model))).indices.tolist()
        return ids if self.chosen in ids else [*ids, self.chosen]

    def __repr__(self) -> str:
        kept = " → ".join(f"{row['stage']} {row['kept']}" for row in self.rows())
        return f"SamplingTrace(chosen={self.chosen}, kept: {kept})"


class Sampler:
    """``Sampler(stages=[...], draw=...)``: logits -> id, the same for one row or many."""

    def __init__(self, stages: Sequence[Stage] = (), draw: Draw | None = None):
        self.stages = tuple(stages)
        self.draw = draw or Gumbel(0)

    def __repr__(self) -> str:
        return f"Sampler({', '.join(map(repr, self.stages))}; {self.draw!r})"

    @classmethod
    def from_settings(
        cls,
        *,
        greedy: bool = False,
        seed: int = 0,
        penalty_scope: PenaltyScope | None = None,
        dialect: Dialect = "labkit",
        **stages: Any,
    ) -> "Sampler":
        """A sampler with the stages that are named, in the dialect's order. Values that mean "off" add no stage.

        Args:
            stages: sampling fields of Settings (temperature, top_k, …); an unknown name is refused.
        """
        check_names(stages)
        values = {name: stage_value(name, value, dialect) for name, value in stages.items()}
        return cls(*build({n: v for n, v in values.items() if v is not None}, greedy, seed, penalty_scope, dialect))

    def apply(self, logits: Tensor, context: StepContext) -> Tensor:
        """All stages: logits (B, V) -> what the draw sees (B, V), float32, removed tokens -inf."""
        logits = logits.float()
        for stage in self.stages:
            logits = stage(logits, context)
        return drawable(logits)

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        """logits (B, V) -> ids (B,)"""
        return self.draw(self.apply(logits, context), context)

    def probabilities(
        self, logits: Tensor, prompt_ids: Sequence[int] = (), generated_ids: Sequence[int] = ()
    ) -> Tensor:
        """What the draw sees: logits (V,) -> float32 (V,), exact zeros for removed tokens."""
        context = StepContext([prompt_ids], [generated_ids], len(generated_ids))
        return self.apply(torch.as_tensor(logits).unsqueeze(0), context)[0].softmax(dim=-1)

    def trace(
        self,
        logits: Tensor,
        prompt_ids: Sequence[int] = (),
        generated_ids: Sequence[int] = (),
        step: int = 0,
        stream: int = 0,
    ) -> SamplingTrace:
        """The record of one step: logits (V,) before any stage -> every stage's distribution and the chosen id."""
        context = StepContext([prompt_ids], [generated_ids], step, stream=[stream])
        current = torch.as_tensor(logits).detach().float().cpu().unsqueeze(0)  # (1, V)
        records = [record("model", None, current[0])]
        for stage in self.stages:
            before, current = current, stage(current, context)
            records.append(record(stage.name, before[0], current[0]))
        return SamplingTrace(tuple(records), int(self.draw(drawable(current), context)[0]))


def drawable(logits: Tensor) -> Tensor:
    """The logits (B, V) as they are, if every row has something to draw from."""
    if not torch.isfinite(logits.max(dim=-1).values).all():
        raise SamplingError(
            "the logits hold NaN or infinity, or no token is left to draw from; "
            "check the weights (labkit inspect) and the settings"
        )
    return logits


def record(name: str, before: Tensor | None, after: Tensor) -> StageRecord:
    """Compare the logits (V,) before and after a stage."""
    p = after.double().softmax(dim=-1)
    log_p = after.double().log_softmax(dim=-1)
    kept = torch.isfinite(after)
    kept_mass, kl = 1.0, 0.0
    if before is not None:
        q, log_q = before.double().softmax(dim=-1), before.double().log_softmax(dim=-1)
        removed = torch.isfinite(before) & ~kept
        kept_mass = 1.0 - float(q[removed].sum())
        kl = max(0.0, float((p[kept] * (log_p[kept] - log_q[kept])).sum()))
    entropy = max(0.0, -float((p[kept] * log_p[kept]).sum()))
    return StageRecord(name, kept, p.float(), entropy, kept_mass, kl)
