"""The data of views.stage_columns: what every stage did, and what the draw compared."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from ...errors import SamplingError
from ...sampling import Removal, SamplingTrace
from ...sampling.questions import explain
from .base import Source, named, pieces, removed_by, value_text

CANDIDATES = 10


def stage_columns(
    trace: SamplingTrace,
    source: Source = None,
    always: Sequence[int] = (),
    n: int = CANDIDATES,
) -> dict[str, Any]:
    """Everything that views.stage_columns draws.

    Args:
        source: whose pieces the tokens are written as; ids without it.
        always: ids that are shown whatever their probability; the chosen one and the runner-up are.
        n: how many of the model's most probable tokens are shown.
    """
    scores = Scores.of(trace)
    ids = trace.candidates(n)
    ids += [i for i in dict.fromkeys([*scores.best(2), *always]) if i not in ids]
    of_piece = dict(zip(ids, pieces(source, ids), strict=True))
    gone = {i: stage for i in ids if (stage := removed_by(trace, i))}
    settings = [""] + [setting(stage) for stage in trace.sampler.stages]
    return {
        "stages": [
            {
                "stage": stage.name,
                "setting": value,
                "kept": int(stage.kept.sum()),
                "kept_mass": stage.kept_mass,
                "entropy": stage.entropy,
                "kl": stage.kl,
            }
            for stage, value in zip(trace.stages, settings, strict=True)
        ],
        "candidates": [
            {
                "id": i,
                "piece": of_piece[i],
                "probabilities": [float(stage.probabilities[i]) for stage in trace.stages],
                "removed_by": gone.get(i),
                "because": because(trace.removal(i)) if i in gone else "",
                **scores.row(i),
            }
            for i in ids
        ],
        "chosen": trace.chosen,
        "draw": repr(trace.sampler.draw),
        "sentence": str(explain(trace, lambda i: named(source, i))),
    }


def noise(trace: SamplingTrace) -> torch.Tensor:
    """What the draw adds to each token's logit, float64 (V,).

    Raises:
        SamplingError: it is a draw that gives a token no noise of its own.
    """
    vocab_size = len(trace.logits)
    return trace.sampler.draw.noise(torch.arange(vocab_size), trace.context.row(0), vocab_size)


@dataclasses.dataclass(frozen=True)
class Scores:
    """What the draw compared: the tokens that were left (ids (n,)), their log probabilities and noise, float64 (n,).

    Both are empty for a draw that gives a token no noise of its own.
    """

    ids: torch.Tensor
    log_p: torch.Tensor
    noise: torch.Tensor

    @classmethod
    def of(cls, trace: SamplingTrace) -> "Scores":
        context = trace.context.row(0)
        row = trace.sampler.apply(trace.logits[None], dataclasses.replace(context, state=dict(context.state)))[0]
        ids = torch.isfinite(row).nonzero().squeeze(-1)
        try:
            added = trace.sampler.draw.noise(ids, context, len(row))
        except SamplingError:
            return cls(*(torch.empty(0, dtype=dtype) for dtype in (torch.int64, torch.float64, torch.float64)))
        return cls(ids, row[ids].double().log_softmax(dim=-1), added)

    def best(self, n: int) -> list[int]:
        """Ids by score, the winner first."""
        order = (self.log_p + self.noise).topk(min(n, len(self.ids))).indices
        return [int(i) for i in self.ids[order]]

    def row(self, token_id: int) -> dict[str, float | None]:
        """noise and score of one token; None if the draw did not see it."""
        (place,) = (self.ids == token_id).nonzero(as_tuple=True)
        if not len(place):
            return {"noise": None, "score": None}
        own = float(self.noise[place[0]])
        return {"noise": own, "score": float(self.log_p[place[0]]) + own}


def setting(stage: Any) -> str:
    """A stage's value as text; of a list how many tokens it names."""
    return value_text(getattr(stage, dataclasses.fields(stage)[0].name))


FAILS = {"at least": "<", "above": "≤", "at most": ">", "below": "≥"}  # what a removed token's value is to the line


def because(removal: Removal | None) -> str:
    """Why a token is not there, in a few words."""
    if removal is None:
        return ""
    measure, pair = removal.measure, [removal.value, removal.threshold]
    value, line = (f"{x:.3g}".replace("-", "−") for x in pair)
    return f"{value} {FAILS[removal.stays]} {line}, {measure}"
