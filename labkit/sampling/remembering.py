"""Two filters that look beyond the logits: XTC tosses a recorded coin, Mirostat remembers from step to step."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..settings import check_range
from .noise import coin
from .stages import REMOVED, Filter, Limit, StepContext


@dataclass(frozen=True)
class Xtc(Filter):
    """Exclude top choices: with this probability, remove every token at or above the threshold but the least probable
    of them, if there are two or more (p-e-w 2024). All ties with the least stay. The coin is recorded noise of the
    draw's seed, as the draw's own is."""

    name: ClassVar[str] = "xtc_probability"
    probability: float
    threshold: float = 0.1

    def __post_init__(self) -> None:
        check_range(self.name, self.probability)
        check_range("xtc_threshold", self.threshold)

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        p = logits.double().softmax(dim=-1)
        least = p.masked_fill(p < self.threshold, math.inf).amin(dim=-1, keepdim=True)  # (B, 1)
        for row, stream in enumerate(context.stream):
            if coin(context.seed, stream, context.step) >= self.probability:
                least[row] = math.inf
        return Limit("probability, of which the least above the threshold stays", p, least, "at most")


@dataclass(frozen=True)
class Mirostat(Filter):
    """Keep tokens of at most μ bits of surprisal, and the most probable; after each step μ moves against the error of
    the chosen token's surprisal: μ -= η · (surprisal - τ), from 2τ on (Basu et al. 2021, Mirostat 2.0).

    Its state, by stream: the step, μ at that step, and the surprisals of what it kept; the token that was chosen is
    read from the generated ids. Asked for a step that does not follow the last one, it starts anew.
    """

    name: ClassVar[str] = "mirostat_tau"
    by_id: ClassVar[bool] = True
    tau: float
    eta: float = 0.1

    def __post_init__(self) -> None:
        check_range(self.name, self.tau)
        check_range("mirostat_eta", self.eta)

    def limit(self, logits: Tensor, context: StepContext) -> Limit:
        surprisal = -logits.double().log_softmax(dim=-1) / math.log(2)  # (B, V), bits
        mu = [self._mu(row, context) for row in range(len(logits))]
        threshold = torch.tensor(mu, dtype=torch.float64, device=logits.device)[:, None]  # (B, 1)
        if self.tau == 0:
            threshold = torch.full_like(threshold, math.inf)
        least = surprisal.amin(dim=-1, keepdim=True)
        return Limit("surprisal in bits", surprisal, torch.maximum(threshold, least), "at most")

    def keeps(self, logits: Tensor, context: StepContext) -> Tensor:
        kept = self.limit(logits, context).kept()
        left = -logits.double().masked_fill(~kept, REMOVED).log_softmax(dim=-1) / math.log(2)
        for row, stream in enumerate(context.stream):
            context.state[self.name, stream] = (context.step, self._mu(row, context), left[row])
        return kept

    def _mu(self, row: int, context: StepContext) -> float:
        step, mu, surprisal = context.state.get((self.name, context.stream[row]), (None, 2 * self.tau, None))
        if step == context.step:
            return mu
        if step is None or step + 1 != context.step or not context.generated_ids[row]:
            return 2 * self.tau
        return mu - self.eta * (float(surprisal[context.generated_ids[row][-1]]) - self.tau)
