"""Sampler: an ordered list of stages and one draw; and the record of what each stage did."""

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import SamplingError
from ..settings import Dialect, PenaltyScope, Settings, check_names, stage_value
from .breaks import BreakPoints, break_points
from .draws import Draw, Gumbel
from .orders import build
from .questions import WhatIf, Why, WhyNot, explain, what_if, why_not
from .stages import Filter, Left, Limit, Stage, StepContext


class Chosen(NamedTuple):
    """One drawn token, with what the draw saw.

    Attributes:
        logprob: nats, after all stages.
        entropy: nats, of what the draw saw.
        kept: how many tokens it saw.
    """

    id: int
    logprob: float
    entropy: float
    kept: int


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


class Removal(NamedTuple):
    """Why a token is not there: the stage, what it measured, the token's value, the line, and which side stays."""

    stage: str
    measure: str
    value: float
    threshold: float
    stays: str


@dataclass(frozen=True, repr=False)
class SamplingTrace:
    """Every stage of one step. ``stages[0]`` is the model's own distribution, the last is what the draw saw.

    Attributes:
        logits: float32 (V,), the model's own.
        sampler, context: what was asked, so that other questions about the same draw need no model.
    """

    stages: tuple[StageRecord, ...]
    chosen: int
    logits: Tensor = field(compare=False)
    sampler: "Sampler" = field(compare=False)
    context: StepContext = field(compare=False)

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

    def removal(self, token_id: int) -> Removal | None:
        """The stage that removed a token, with its measure and threshold; None if the draw saw it."""
        for i, (stage, before, after) in enumerate(self._passed):
            if torch.isfinite(before[0, token_id]) and not torch.isfinite(after[0, token_id]):
                if not isinstance(stage, Filter):
                    return Removal(stage.name, "logit", float(before[0, token_id]), float(before.max()), "at least")
                if i not in self._limits:
                    self._limits[i] = stage.limit(before, self.context)
                limit = self._limits[i]
                value, line = float(limit.values[0, token_id]), float(limit.threshold[0, 0])
                return Removal(stage.name, limit.measure, value, line, limit.stays)
        return None

    @functools.cached_property
    def _passed(self) -> list[tuple[Stage, Tensor, Tensor]]:
        """Each stage, with what it got and what it gave (1, V)."""
        passed, logits = [], self.logits[None]
        for stage in self.sampler.stages:
            before, logits = logits, stage(logits, self.context)
            passed.append((stage, before, logits))
        return passed

    @functools.cached_property
    def _limits(self) -> dict[int, Limit]:
        """Measure and line of those filters that a removed token was asked about, by their place."""
        return {}

    def break_points(self, parameter: str | None = None) -> BreakPoints:
        """The values of temperature, top_k, top_p and min_p at which this draw gives another token."""
        return break_points(self, parameter)

    def why_not(self, token_id: int) -> WhyNot:
        """Why another token was not chosen, and the smallest change that lets it in."""
        return why_not(self, token_id)

    def explain(self) -> Why:
        """Why the chosen token was chosen."""
        return explain(self)

    def what_if(self, settings: Settings | None = None, **changes: Any) -> WhatIf:
        """The same draw under other settings."""
        return what_if(self, settings, **changes)

    def __repr__(self) -> str:
        kept = " → ".join(f"{row['stage']} {row['kept']}" for row in self.rows())
        return f"SamplingTrace(chosen={self.chosen}, kept: {kept})"


class Sampler:
    """``Sampler(stages=[...], draw=...)``: logits -> id, the same for one row or many.

    Attributes:
        named: the settings it was made from, if it was: stages, greedy, penalty_scope, dialect.
    """

    def __init__(self, stages: Sequence[Stage] = (), draw: Draw | None = None, named: Mapping[str, Any] | None = None):
        self.stages = tuple(stages)
        self.draw: Draw = draw or Gumbel(0)
        self.named = dict(named or {})
        # From which stage on only what is left is handed on: behind the last that needs the whole row.
        whole = [i for i, stage in enumerate(self.stages) if stage.by_id or self.draw.takes_anything]
        self._narrows_from = whole[-1] + 1 if whole else 0

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
        on = {name: value for name, value in values.items() if value is not None}
        built, draw = build(on, greedy, seed, penalty_scope, dialect)
        return cls(built, draw, on | {"greedy": greedy, "penalty_scope": penalty_scope, "dialect": dialect})

    def replace(self, **changes: Any) -> "Sampler":
        """Another sampler with the same draw: some settings changed, the others as they were given.

        Raises:
            SamplingError: the sampler was put together from stages, so there are no settings to change.
        """
        if "dialect" not in self.named:
            raise SamplingError("this sampler was made from a list of stages; make the other one from its list")
        other = Sampler.from_settings(**self.named | {"seed": self.draw.seed} | changes)
        # Between dialects the draw stays what it was, as long as both leave something to chance.
        same = "seed" not in changes and self.draw.by_chance and other.draw.by_chance
        return Sampler(other.stages, self.draw, other.named) if same else other

    def apply(self, logits: Tensor, context: StepContext) -> Tensor:
        """All stages, one after the other: logits (B, V) -> what the draw sees (B, V), float32, removed tokens -inf."""
        logits, context = self._checked(logits.float()), replace(context, seed=self.draw.seed)
        for stage in self.stages:
            logits = self._checked(stage(logits, context))
        return logits

    def _checked(self, logits: Tensor) -> Tensor:
        """The logits (…, V), which must leave something to draw from, unless the draw takes anything."""
        return logits if self.draw.takes_anything else drawable(logits)

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        """logits (B, V) -> ids (B,)"""
        return torch.tensor([chosen.id for chosen in self.choose(logits, context)], device=logits.device)

    @torch.inference_mode()
    def choose(self, logits: Tensor, context: StepContext) -> list[Chosen]:
        """Stages and draw for logits (B, V): the same tokens as from ``apply``, without moving what is removed."""
        out = []
        for i, row in enumerate(logits.float()):
            of_row = context.row(i, self.draw.seed)
            *_, (_, left) = self.walk(row, of_row)
            left = self._drawable(left)
            token_id = self.draw.pick(left.ids, left.logits, of_row, len(row))
            log_p = left.logits.double().log_softmax(dim=-1)
            entropy = max(0.0, -float((log_p.exp() * log_p).nansum()))
            place = int(np.searchsorted(left.ids.cpu().numpy(), token_id))
            kept = len(left.ids) if not self.draw.takes_anything else int((log_p > float("-inf")).sum())
            out.append(Chosen(token_id, float(log_p[place]), entropy, kept))
        return out

    def _drawable(self, left: Left) -> Left:
        """What the draw gets: finite logits only, unless it takes anything."""
        if self.draw.takes_anything:
            return left
        there = self._checked(left.logits) > float("-inf")
        return left if bool(there.all()) else Left(left.ids[there], left.logits[there])

    def walk(self, row: Tensor, context: StepContext) -> Iterator[tuple[str, Left]]:
        """The row (V,) after every stage. From the first filter on, only what it kept is handed on, as long as no later
        stage asks for token ids."""
        left = Left(places(len(row), row.device), self._checked(row))
        yield "model", left
        for i, stage in enumerate(self.stages):
            if isinstance(stage, Filter) and i >= self._narrows_from:
                kept = stage.kept_ids(left.logits, context)
                left = left if len(kept) == len(left.ids) else Left(left.ids[kept], left.logits[kept])
            else:
                left = Left(left.ids, stage(left.logits[None], context)[0])  # (n,)
            if isinstance(stage, Filter):
                self._checked(left.logits)
            yield stage.name, left

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
        state: Mapping[Any, Any] | None = None,
    ) -> SamplingTrace:
        """The record of one step: logits (V,) before any stage -> every stage's distribution and the chosen id.

        Args:
            state: of stages and draws that remember, as it was before this step; it stays as it is.
        """
        row = torch.as_tensor(logits).detach().float().cpu()
        context = StepContext([prompt_ids], [generated_ids], step, self.draw.seed, [stream], dict(state or {}))
        working = replace(context, state=dict(context.state))
        records: list[StageRecord] = []
        before: Distribution | None = None
        left = Left(torch.empty(0), row)
        for name, left in self.walk(row, working):
            after = distribution(left)
            records.append(record(name, before, after, len(row)))
            before = after
        left = self._drawable(left)
        chosen = self.draw.pick(left.ids, left.logits, working, len(row))
        return SamplingTrace(tuple(records), chosen, row, self, context)


@functools.lru_cache(maxsize=4)
def places(n: int, device: torch.device) -> Tensor:
    """0 … n - 1, made once; nobody writes to it."""
    return torch.arange(n, device=device)


def drawable(logits: Tensor) -> Tensor:
    """The logits (…, V) as they are, if every row has something to draw from."""
    # Of one row a Python float is quickest; amax and max hand NaN on.
    if logits.ndim == 1:
        fine = len(logits) > 0 and math.isfinite(float(logits.max()))
    else:
        fine = logits.numel() > 0 and bool(torch.isfinite(logits.amax(dim=-1)).all())
    if not fine:
        raise SamplingError(
            "the logits hold NaN or infinity, or no token is left to draw from; "
            "check the weights (labkit inspect) and the settings"
        )
    return logits


class Distribution(NamedTuple):
    """Of one row: ids (n,) of what is left, with log probabilities and probabilities (n,) in float64."""

    ids: Tensor
    log_p: Tensor
    p: Tensor


def distribution(left: Left) -> Distribution:
    log_p = left.logits.double().log_softmax(dim=-1)
    there = log_p > float("-inf")
    if bool(there.all()):
        return Distribution(left.ids, log_p, log_p.exp())
    return Distribution(left.ids[there], log_p[there], log_p[there].exp())


def record(name: str, before: Distribution | None, after: Distribution, vocab_size: int) -> StageRecord:
    """Compare what was left before and after a stage."""
    ids, log_p, p = after
    kept_mass, kl = 1.0, 0.0
    if before is not None:
        log_q = before.log_p
        if len(ids) < len(before.ids):
            log_q = log_q[ids] if len(log_q) == vocab_size else log_q[torch.searchsorted(before.ids, ids)]
            kept_mass = min(1.0, float(log_q.exp().sum()))
        kl = max(0.0, float(torch.dot(p, log_p - log_q)))
    if len(ids) == vocab_size:
        kept, probabilities = torch.ones(vocab_size, dtype=torch.bool), p.float()
    else:
        kept = torch.zeros(vocab_size, dtype=torch.bool)
        kept[ids] = True
        probabilities = torch.zeros(vocab_size)
        probabilities[ids] = p.float()
    return StageRecord(name, kept, probabilities, max(0.0, -float(torch.dot(p, log_p))), kept_mass, kl)
