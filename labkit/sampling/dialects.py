"""Dialects compared: where systems part from labkit on the same logits and settings, and why."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import SamplingError
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
        chosen: the token that the same noise picks; None where the system fails.
        because: each cause, found by putting labkit's rule in its place and seeing the result change.
        lacks: settings that are on but that the system does not have.
    """

    dialect: str
    order: tuple[str, ...]
    kept: int
    only_here: tuple[int, ...]
    only_in_labkit: tuple[int, ...]
    distance: float
    chosen: int | None
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

    Only settings that are on are compared, with the stages of sampling (transformers runs none of its warpers when it
    is greedy); what a system accepts or has by default is another matter (``labkit.settings.DIALECTS``).
    """
    row = torch.as_tensor(logits).detach().float().cpu()
    seed = settings.seed or 0
    on = {name: getattr(settings, name) for name in LABKIT_RULES if getattr(settings, name) is not None}
    draw: Draw = Greedy(seed) if settings.greedy else Gumbel(seed)

    def outcome(stages: Sequence[Stage]) -> tuple[Tensor, int]:
        """Probabilities (V,) and the pick of these stages."""
        n = len(generated_ids) if step is None else step
        fresh = StepContext([prompt_ids], [generated_ids], n, seed)
        sampler = Sampler(stages, draw)
        p = sampler.apply(row[None], fresh)[0].double().softmax(dim=-1)
        return p, sampler.choose(row[None], fresh)[0].id

    def stages_of(dialect: str) -> list[Stage]:
        has = DIALECTS[dialect_named(dialect)].rules
        return build({name: value for name, value in on.items() if name in has}, False, seed, None, dialect)[0]

    ours = {stage.name: stage for stage in stages_of("labkit")}
    base, _ = outcome(list(ours.values()))
    differences = []
    for dialect in DIALECTS:
        theirs = stages_of(dialect)
        lacks = tuple(name for name in ours if name not in {stage.name for stage in theirs})
        order = tuple(stage.name for stage in theirs)
        try:
            p, chosen = outcome(theirs)
            because = causes(theirs, ours, lacks, base, outcome)
        except SamplingError as error:
            differences.append(Difference(dialect, order, 0, (), (), 1.0, None, (f"fails: {error}",), lacks))
            continue
        differences.append(
            Difference(
                dialect=dialect,
                order=order,
                kept=int((p > 0).sum()),
                only_here=most_probable(row, (p > 0) & (base == 0)),
                only_in_labkit=most_probable(row, (base > 0) & (p == 0)),
                distance=float((p - base).abs().sum() / 2),
                chosen=chosen,
                because=because,
                lacks=lacks,
            )
        )
    return Comparison(tuple(differences))


def causes(
    theirs: Sequence[Stage],
    ours: Mapping[str, Stage],
    lacks: Sequence[str],
    base: Tensor,
    outcome: Callable[[Sequence[Stage]], tuple[Tensor, int]],
) -> tuple[str, ...]:
    """Why the outcome is another one: each cause moves it when labkit's rule, order or stage is put in its place."""
    because, swapped = [], list(theirs)
    for i, stage in enumerate(theirs):
        before = outcome(swapped)[0]
        swapped[i] = ours.get(stage.name, stage)
        if stage != swapped[i] and not alike(before, outcome(swapped)[0]):
            because.append(f"{stage.name}: {rule_of_stage(stage, swapped[i])}")
    shared = [stage for stage in ours.values() if stage.name not in lacks]
    if not alike(outcome(swapped)[0], outcome(shared)[0]):
        because.append(f"order: {' → '.join(stage.name for stage in swapped)}")
    if not alike(outcome(shared)[0], base):
        because.append(f"it has no {', '.join(lacks)}")
    return tuple(because)


def alike(p: Tensor, q: Tensor) -> bool:
    return torch.allclose(p, q, atol=1e-6, rtol=0)


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
