"""The largest logits of a step and the mass of the others: what can be proved from them about a draw.

What is hidden is bracketed by two completions with the same mass: *flat* (spread evenly over the hidden tokens) and
*peaked* (as many as possible at the largest value they can have). At any temperature their mass lies between those of
the two, since a sum of powers is largest at one and smallest at the other. So a filter by mass, run on both, keeps a
set of the known tokens that is too small and one that is too large, and a pick is proved if it wins among the larger
one, with the hidden tokens at their best, and belongs to the smaller.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .history import AllowedIds, ForbiddenIds, NoRepeatNgram
from .probe import SameDraw, Scale, fresh, nested, scale_of, takeovers, ties_decide
from .stages import Filter, MinP, StepContext, TopP
from .systems import LlamaCppMinP

SLACK = 2.0**-20  # relative: what float32 rounding can do to a logit, many times over
LISTS = AllowedIds | ForbiddenIds | NoRepeatNgram  # filters that ask for ids only, not for mass
MARGIN = 1e-4  # a score must be ahead of hidden ones by this much, so that no rounding decides


@dataclass(frozen=True, eq=False)
class PartialLogits:
    """Some of one step's logits.

    Attributes:
        ids: (n,) int64, ascending, of the tokens that are known: the largest and some others.
        logits: (n,) float32, theirs.
        border: no hidden token's logit is larger.
        rest: log of the sum of exp of the hidden logits; -inf: there are none.
        vocab_size: of all, V.
    """

    ids: Tensor
    logits: Tensor
    border: float
    rest: float
    vocab_size: int

    @classmethod
    def of(cls, logits: Tensor, m: int, also: Iterable[int] = ()) -> "PartialLogits":
        """The m largest of the logits (V,), and those of some other ids."""
        top = logits.topk(min(m, len(logits)))
        ids = torch.cat([top.indices, torch.tensor(sorted(set(also)), dtype=torch.long)]).unique()  # ascending
        hidden = torch.ones(len(logits), dtype=torch.bool).index_fill(0, ids, False)
        rest = float(logits[hidden].double().logsumexp(dim=0)) if bool(hidden.any()) else -math.inf
        return cls(ids, logits[ids].clone(), float(top.values[-1]), rest, len(logits))

    def __len__(self) -> int:
        return self.vocab_size

    def difference(self, logits: Tensor) -> float:
        """Largest difference from other logits (V,): of the known ones, and of the sum of the hidden."""
        hidden = torch.ones(self.vocab_size, dtype=torch.bool).index_fill(0, self.ids, False)
        known = float((logits[self.ids] - self.logits).abs().max())
        if self.rest == -math.inf:
            return known
        return max(known, abs(float(logits[hidden].double().logsumexp(dim=0)) - self.rest))

    def hidden_values(self) -> Tensor:
        """The hidden logits (4, H) in the flat and the peaked completion, each a little too small and too large."""
        n = self.vocab_size - len(self.ids)
        flat = torch.full((n,), self.rest - math.log(n), dtype=torch.float64)
        ratio = math.exp(self.rest - self.border)
        at_border = min(int(ratio), n)
        peaked = torch.full((n,), -math.inf, dtype=torch.float64)
        peaked[:at_border] = self.border
        if at_border < n and ratio > at_border:
            peaked[at_border] = self.border + math.log(ratio - at_border)
        rows = [row + side * SLACK * row.abs().nan_to_num(posinf=0.0) for row in (flat, peaked) for side in (-1, 1)]
        return torch.stack(rows).float()  # (4, H)


class PartialStep:
    """One step of which only some logits are known, for other samplers with the same draw.

    Attributes:
        chosen, sampler, context: as in a SamplingTrace.
    """

    def __init__(self, logits: PartialLogits, chosen: int, sampler: Any, context: StepContext):
        self.logits, self.chosen, self.sampler, self.context = logits, chosen, sampler, context
        self.same = SameDraw(self)
        self.hidden = torch.ones(logits.vocab_size, dtype=torch.bool).index_fill(0, logits.ids, False)
        self.known = torch.full((logits.vocab_size,), -math.inf).index_copy(0, logits.ids, logits.logits)

    def pick(self, sampler: Any) -> int | None:
        """The token under a sampler, or None if what is known does not prove one."""
        return Bounds(self, sampler).pick()


class Bounds:
    """What is certainly and what is possibly left after each stage of a sampler.

    Attributes:
        row: (V,) logits of the known tokens, after the stages that reshape; hidden ones are -inf.
        values: (4, H), the completions of the hidden ones; None once they are certainly removed.
        sure, maybe: (V,) bool, of the known tokens.
    """

    def __init__(self, step: PartialStep, sampler: Any):
        self.step, self.sampler = step, sampler
        self.context = fresh(step.context)
        self.row = step.known
        self.values = step.logits.hidden_values() if step.logits.rest > -math.inf else None
        self.sure = self.maybe = ~step.hidden
        self.filtered = False

    def pick(self) -> int | None:
        draw = self.sampler.draw
        for i, stage in enumerate(self.sampler.stages):
            if self.values is None and bool((self.sure == self.maybe).all()):
                return self._exact(self.sampler.stages[i:])
            if not self._apply(stage):
                return None
        if self.values is None and bool((self.sure == self.maybe).all()):
            return self._exact(())
        if draw is not self.step.same.draw or self.step.same.noise is None or draw.takes_anything:
            return None
        noise = self.step.same.noise
        scores = self.row.double().masked_fill(~self.maybe, -math.inf) + noise
        best = int(scores.argmax())
        rivals = float(scores.masked_fill(torch.arange(len(scores)) == best, -math.inf).max())
        if self.values is not None:
            rivals = max(rivals, float(self.values.max()) + float(noise[self.step.hidden].max()))
        return best if bool(self.sure[best]) and float(scores[best]) > rivals + MARGIN else None

    def _exact(self, stages: Sequence[Any]) -> int:
        """Nothing is hidden any more: the sampler itself does the rest."""
        row = self.row.masked_fill(~self.sure, -math.inf)
        rest = type(self.sampler)(stages, self.sampler.draw)
        return int(rest.choose(row[None], self.context)[0].id)

    def _apply(self, stage: Any) -> bool:
        """One stage; False if the hidden tokens would have to be known."""
        if not isinstance(stage, Filter) or isinstance(stage, LISTS):
            return self._by_id(stage) if stage.by_id else self._reshape(stage)
        k = getattr(stage, "k", None)
        if k is not None:
            return self._top_k(stage, k)
        if isinstance(stage, TopP) and not self.filtered or isinstance(stage, MinP | LlamaCppMinP):
            self._keep(stage)
            return True
        return False

    def _by_id(self, stage: Any) -> bool:
        """A stage that asks for ids must leave the hidden ones alone, or remove them all."""
        if self.filtered:
            return False
        hidden = self.step.hidden
        before = self.row.masked_fill(hidden, self._largest_hidden())
        after = stage(before[None], self.context)[0]
        if bool((after[hidden] == -math.inf).all()):
            self.values = None
        elif bool((after[hidden] != before[hidden]).any()):
            return False
        self.row = after.masked_fill(hidden, -math.inf)
        self.sure = self.maybe = self.maybe & (self.row > -math.inf)
        return True

    def _reshape(self, stage: Any) -> bool:
        """A temperature; at 0 it must find the largest logit among the known."""
        row = self.row.masked_fill(~self.maybe, -math.inf)
        if self.values is not None:
            row = row.masked_fill(self.step.hidden, float(self.values.max()))
        after = stage(row[None], self.context)[0]
        if int((after > -math.inf).sum()) == 1 < int((row > -math.inf).sum()):
            only = int(after.argmax())
            if bool(self.step.hidden[only]) or not bool(self.sure[only]):
                return False
            self.values, self.sure, self.maybe = None, after > -math.inf, after > -math.inf
        elif self.values is not None:
            self.values = stage(self.values, self.context)
        self.row = after.masked_fill(self.step.hidden, -math.inf)
        return True

    def _top_k(self, stage: Any, k: int) -> bool:
        if not 0 < k < self.step.logits.vocab_size:
            return k != 0
        if self.filtered or k > int((self.row > self._largest_hidden()).sum()):
            return False
        self.sure = self.maybe = self.maybe & (stage(self.row[None], self.context)[0] > -math.inf)
        self.values = None
        return True

    def _largest_hidden(self) -> float:
        return -math.inf if self.values is None else float(self.values.max())

    def _keep(self, stage: Any) -> None:
        """A filter by mass or by share of the largest."""
        kept_low, kept_high = [], []
        hidden, border = self.step.hidden, self._largest_hidden()
        for values in self.values if self.values is not None else [None]:
            row = self.row.clone()
            if values is not None:
                row[hidden] = values
            kept_low.append(stage(row[None], self.context)[0] > -math.inf)
            if isinstance(stage, TopP):  # known tokens below some hidden ones may come first
                row[~hidden & (self.row > -math.inf)] = row[~hidden & (self.row > -math.inf)].clamp(min=border)
                kept_high.append(stage(row[None], self.context)[0] > -math.inf)
        low, high = torch.stack(kept_low), torch.stack(kept_low + kept_high)
        sure = low.all(dim=0)
        if isinstance(stage, TopP):  # where among the hidden ones a token stands is not known
            sure = sure & (self.row > border)
        self.sure, self.maybe = self.sure & sure, self.maybe & high.any(dim=0)
        if not bool(high[:, hidden].any()):
            self.values = None
        self.filtered = True


class PartialProbe:
    """As a Probe, of a step of which only some logits are known: a pick is None where it cannot be proved."""

    def __init__(self, step: PartialStep, parameter: str):
        self.step = step
        self.scale: Scale = scale_of(parameter, step.sampler, len(step.logits))
        stages = self._changed(0.5).stages
        matter = [s for s in stages if not s.by_id or isinstance(s, Filter) and not isinstance(s, LISTS)]
        self.nested, self.why = nested(matter)
        known, noise = step.logits, step.same.noise
        if noise is None or ties_decide(matter, known.logits, noise[known.ids]):
            self.nested, self.why = False, "equal logits, or a draw without noise of each token's own"

    def _changed(self, value: float) -> Any:
        if self.scale.parameter == "top_k":
            value = max(1, int(value))
        return self.step.sampler.replace(**{self.scale.parameter: value})

    def pick(self, value: float) -> int | None:
        return self.step.pick(self._changed(value))

    def guesses(self) -> list[float]:
        """Temperatures at which known tokens overtake each other."""
        if self.scale.parameter != "temperature" or self.step.same.noise is None:
            return []
        logits, order = self.step.logits.logits.sort(descending=True, stable=True)
        noise = self.step.same.noise[self.step.logits.ids[order]]
        values = takeovers(logits.tolist(), noise.tolist())
        off = (-(2.0**-18), 0, 2.0**-18)
        near = sorted(float(torch.tensor(v * (1 + x), dtype=torch.float32)) for v in values for x in off)
        return [x for x in near if self.scale.low < x < self.scale.high]
