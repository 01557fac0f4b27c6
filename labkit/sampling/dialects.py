"""Dialects compared: where systems part from labkit on the same logits and settings, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..settings import DIALECTS, LABKIT_RULES, Settings, dialect_named
from .draws import Draw, Greedy, Gumbel
from .orders import ORDERS, STAGES, build
from .sampler import Sampler
from .stages import Stage, StepContext
from .systems import (
    ClampedTemperature,
    CompoundPenalty,
    DividePenalty,
    ExactTopK,
    HfEpsilon,
    HfEta,
    HfMinP,
    HfTopP,
    HfTypical,
    LabcorePenalty,
    LlamaCppMinP,
    LlamaCppTemperature,
    LlamaCppTopP,
    LlamaCppTypical,
    LlamaCppXtc,
    PositiveTemperature,
    StrictTopP,
    UncheckedTemperature,
    UncheckedTopK,
    UnshiftedTopP,
)

__all__ = ["ORDERS", "RULES", "STAGES", "Comparison", "Difference", "compare"]

# How a stage's rule differs from labkit's of the same name, in one line.
RULES: Mapping[Any, str] = {
    LabcorePenalty: "divides negative logits too, which makes repeated tokens likelier; after the temperature",
    DividePenalty: "divides negative logits too, which makes repeated tokens likelier; after the temperature",
    CompoundPenalty: "divides once per occurrence, negative logits too, which makes repeated tokens likelier",
    ClampedTemperature: "never below 0.000001, so 0 is a draw among exact ties and not greedy",
    UncheckedTemperature: "divides by anything; 0 fails",
    PositiveTemperature: "a negative temperature does nothing",
    LlamaCppTemperature: "0 and below keeps the first largest logit",
    UncheckedTopK: "0 and below fails",
    ExactTopK: "exactly k tokens: ties at the border are cut",
    StrictTopP: "the next token goes only when the mass before it is strictly greater than p, in float32",
    UnshiftedTopP: "the token that crosses p goes, so less than p can be left",
    HfTopP: "summed in float32 from the small end; of equal tokens the larger ids stay",
    HfMinP: "compared as float32 probabilities",
    HfTypical: "ties at the border stay; float32",
    HfEpsilon: "float32",
    HfEta: "float32",
    LlamaCppTopP: "float32",
    LlamaCppMinP: "compared as float32 logits",
    LlamaCppTypical: "the running sum must be greater than p; float32",
    LlamaCppXtc: "of ties with the least only the last stays; a threshold above 0.5 switches it off; a coin of its own",
}


class Difference(NamedTuple):
    """Where one system parts from labkit on the same logits, settings and noise.

    Attributes:
        order: its stages, in its order.
        kept: how many tokens the draw sees.
        only_here, only_in_labkit: ids that it keeps and labkit does not, and the other way round (most probable first).
        distance: total variation between the two distributions, 0 … 1.
        chosen: the token that the same noise picks.
        because: each cause, found by putting labkit's rule in its place and seeing the result change.
        lacks: settings that are on but that the system does not have.
    """

    dialect: str
    order: tuple[str, ...]
    kept: int
    only_here: tuple[int, ...]
    only_in_labkit: tuple[int, ...]
    distance: float
    chosen: int
    because: tuple[str, ...]
    lacks: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Comparison:
    """What the dialects make of the same settings, labkit first."""

    differences: tuple[Difference, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One row a dialect."""
        return [
            {
                "dialect": d.dialect,
                "order": " → ".join(d.order),
                "kept": d.kept,
                "distance": round(d.distance, 4),
                "chosen": d.chosen,
                "because": "; ".join(d.because) or "the same",
                "lacks": ", ".join(d.lacks),
            }
            for d in self.differences
        ]

    def to_dict(self) -> dict[str, Any]:
        return {"differences": [d._asdict() for d in self.differences]}

    def __repr__(self) -> str:
        return f"Comparison({', '.join(f'{d.dialect}: {d.distance:.3f}' for d in self.differences)})"


def compare(
    logits: Tensor,
    settings: Settings,
    prompt_ids: Sequence[int] = (),
    generated_ids: Sequence[int] = (),
    step: int | None = None,
) -> Comparison:
    """The same settings on the same logits (V,) under every dialect, with labkit's recorded draw for all.

    Only settings that are on are compared; what a system accepts or has by default is another matter
    (``labkit.settings.DIALECTS``).
    """
    row = torch.as_tensor(logits).detach().float().cpu()
    context = StepContext(
        [prompt_ids], [generated_ids], len(generated_ids) if step is None else step, settings.seed or 0
    )
    on = {name: getattr(settings, name) for name in LABKIT_RULES if getattr(settings, name) is not None}
    draw: Draw = Greedy(settings.seed or 0) if settings.greedy else Gumbel(settings.seed or 0)

    def outcome(stages: Sequence[Stage]) -> tuple[Tensor, int]:
        fresh = StepContext([prompt_ids], [generated_ids], context.step, context.seed)
        sampler = Sampler(stages, draw)
        p = sampler.apply(row[None], fresh)[0].double().softmax(dim=-1)
        return p, sampler.choose(row[None], fresh)[0].id

    def stages_of(dialect: str) -> list[Stage]:
        return build({n: v for n, v in on.items() if n in DIALECTS[dialect_named(dialect)].rules},
                     settings.greedy, settings.seed or 0, None, dialect)[0]  # fmt: skip

    ours = {stage.name: stage for stage in stages_of("labkit")}
    base, _ = outcome(list(ours.values()))
    differences = []
    for dialect in DIALECTS:
        theirs = stages_of(dialect)
        p, chosen = outcome(theirs)
        # Put labkit's stage in the place of theirs, one after the other; where the outcome moves is a cause.
        because, swapped = [], list(theirs)
        for i, stage in enumerate(theirs):
            before = outcome(swapped)[0]
            swapped[i] = ours.get(stage.name, stage)
            if stage != swapped[i] and not torch.allclose(before, outcome(swapped)[0], atol=1e-6, rtol=0):
                because.append(f"{stage.name}: {rule_of_stage(stage, swapped[i])}")
        lacks = tuple(name for name in ours if name not in {stage.name for stage in theirs})
        shared = [stage for stage in ours.values() if stage.name not in lacks]
        if not torch.allclose(outcome(swapped)[0], outcome(shared)[0], atol=1e-6, rtol=0):
            because.append(f"order: {' → '.join(s.name for s in swapped)}")
        if not torch.allclose(outcome(shared)[0], base, atol=1e-6, rtol=0):
            because.append(f"it has no {', '.join(lacks)}")
        differences.append(
            Difference(
                dialect=dialect,
                order=tuple(stage.name for stage in theirs),
                kept=int((p > 0).sum()),
                only_here=most_probable(row, (p > 0) & (base == 0)),
                only_in_labkit=most_probable(row, (base > 0) & (p == 0)),
                distance=float((p - base).abs().sum() / 2),
                chosen=chosen,
                because=tuple(because),
                lacks=lacks,
            )
        )
    return Comparison(tuple(differences))


def rule_of_stage(stage: Any, ours: Any) -> str:
    """In words, how a stage differs from labkit's."""
    if type(stage) is not type(ours):
        return RULES[type(stage)]
    if getattr(stage, "last", None) != getattr(ours, "last", None):
        return f"counts the last {stage.last} ids only"
    return f"counts the {stage.scope} ids"


def most_probable(logits: Tensor, mask: Tensor) -> tuple[int, ...]:
    ids = mask.nonzero().squeeze(-1)
    return tuple(ids[logits[ids].argsort(descending=True, stable=True)].tolist())
