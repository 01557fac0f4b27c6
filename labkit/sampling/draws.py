"""Draws: from the logits that the stages left to one id per row.

A draw with recorded noise picks argmax(logit + noise) over what is left, and ``noise`` says what it adds: so a stage
changes the pick only if it removed the winner, and "what if" is a question about the same draw.
"""

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import SamplingError
from .noise import gumbel_noise
from .stages import StepContext


class Draw:
    """How one token is chosen from what is left.

    ``pick`` gets ids (n,) in ascending order with their logits (n,) and a context of one row.

    Attributes:
        takes_anything: it wants the whole row as it is, NaN and infinity too; the others get finite logits only.
        by_chance: whether another seed may give another token.
    """

    seed: int
    takes_anything: ClassVar[bool]
    by_chance: ClassVar[bool]

    def __call__(self, logits: Tensor, context: StepContext) -> Tensor:
        """logits (B, V), removed tokens -inf -> ids (B,)"""
        picks = []
        for i, row in enumerate(logits):
            ids = torch.arange(len(row), device=row.device)
            if not self.takes_anything:
                ids = torch.isfinite(row).nonzero().squeeze(-1)
            picks.append(self.pick(ids, row[ids], context.row(i), len(row)))
        return torch.tensor(picks, device=logits.device)

    def pick(self, ids: Tensor, logits: Tensor, context: StepContext, vocab_size: int) -> int:
        raise NotImplementedError

    def noise(self, ids: Tensor, context: StepContext, vocab_size: int) -> Tensor:
        """What the draw adds to the logits of these ids (n,), float64 (n,)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Greedy(Draw):
    """The largest logit; of equal ones the smallest id."""

    takes_anything: ClassVar[bool] = False
    by_chance: ClassVar[bool] = False
    seed: int = field(default=0, compare=False)

    def pick(self, ids: Tensor, logits: Tensor, context: StepContext, vocab_size: int) -> int:
        return int(ids[logits.argmax()])

    def noise(self, ids: Tensor, context: StepContext, vocab_size: int) -> Tensor:
        return torch.zeros(len(ids), dtype=torch.float64, device=ids.device)


@dataclass(frozen=True)
class Gumbel(Draw):
    """The recorded draw: argmax(logits + noise), which draws from softmax(logits) exactly (Gumbel 1954).

    The noise belongs to (seed, stream, step, token id): the same seed gives the same ids in any batch, with or without
    cache, on any device, in any order of calls.
    """

    takes_anything: ClassVar[bool] = False
    by_chance: ClassVar[bool] = True
    seed: int

    def pick(self, ids: Tensor, logits: Tensor, context: StepContext, vocab_size: int) -> int:
        return int(ids[(logits.double() + self.noise(ids, context, vocab_size)).argmax()])

    def noise(self, ids: Tensor, context: StepContext, vocab_size: int) -> Tensor:
        return gumbel_noise(self.seed, context.stream[0], context.step, ids)


@dataclass(frozen=True)
class TorchMultinomial(Draw):
    """torch.multinomial on the CPU, as after torch.manual_seed(seed): the random stream of the reference systems.

    It divides the probabilities by one exponential variable per token of the vocabulary and takes the largest, so -log
    of those variables is its noise. Every step takes the same amount from the generator, which is kept in the state; if
    it is not there, the steps before are drawn again. Continuation i of a prompt has seed + i.
    """

    takes_anything: ClassVar[bool] = False
    by_chance: ClassVar[bool] = True
    seed: int

    def pick(self, ids: Tensor, logits: Tensor, context: StepContext, vocab_size: int) -> int:
        full = torch.full((1, vocab_size), float("-inf"))
        full[0, ids.cpu()] = logits.float().cpu()
        generator = self._generator(context, vocab_size).clone_state()  # an interrupt must not lose a number
        chosen = int(torch.multinomial(self._probabilities(full), 1, generator=generator))
        context.state[type(self), context.stream[0]] = (context.step + 1, generator)
        return chosen

    def noise(self, ids: Tensor, context: StepContext, vocab_size: int) -> Tensor:
        again = self._generator(context, vocab_size).clone_state()
        waits = torch.empty(1, vocab_size).exponential_(generator=again)
        return -waits[0, ids.cpu()].double().log().to(ids.device)

    def _probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=-1)

    def _generator(self, context: StepContext, vocab_size: int) -> torch.Generator:
        """The generator as it is before this step."""
        step, generator = context.state.get((type(self), context.stream[0]), (None, None))
        if step != context.step or generator is None:
            generator = torch.Generator().manual_seed(self.seed + context.stream[0])
            for _ in range(context.step):
                torch.empty(1, vocab_size).exponential_(generator=generator)
        return generator


@dataclass(frozen=True)
class NanochatMultinomial(TorchMultinomial):
    """The same, as the nanochat experiment calls it: where anything is NaN, every token is equally likely."""

    takes_anything: ClassVar[bool] = True

    def _probabilities(self, logits: Tensor) -> Tensor:
        p = logits.softmax(dim=-1)
        return torch.full_like(p, 1 / p.shape[-1]) if bool(p.isnan().any()) else p


@dataclass(frozen=True)
class LlamaCppDist(Draw):
    """llama.cpp's: a uniform number from std::mt19937 against the running sum over the candidates, in the order which
    the samplers left (as libstdc++ makes doubles: two 32-bit numbers).

    The generator is kept in the state; if it is not there, every step before is taken to have drawn.

    Attributes:
        by_size: the candidates are in order of size (after top-k, top-p …), else of id.
        shortened: a sampler took candidates off the list, so one may be alone on it, and then takes no number; others
            (top-n-sigma, a bias of -inf) only make them impossible.
    """

    takes_anything: ClassVar[bool] = False
    by_chance: ClassVar[bool] = True
    seed: int
    by_size: bool = True
    shortened: bool = True

    def pick(self, ids: Tensor, logits: Tensor, context: StepContext, vocab_size: int) -> int:
        generator = copy.deepcopy(self._generator(context))  # an interrupt must not lose a number
        chosen = 0
        if len(ids) > 1 or not self.shortened:
            if self.by_size:
                logits, order = logits.sort(descending=True, stable=True)
                ids = ids[order]
            running = (logits - logits.max()).exp().double().cumsum(dim=0)
            low, high = (int(x) for x in generator.randint(0, 1 << 32, size=2, dtype=np.uint64))
            target = float(running[-1]) * ((low + high * 2.0**32) / 2.0**64)
            chosen = min(int((running < target).sum()), len(ids) - 1)
        context.state[type(self), context.stream[0]] = (context.step + 1, generator)
        return int(ids[chosen])

    def noise(self, ids: Tensor, context: StepContext, vocab_size: int) -> Tensor:
        raise SamplingError(
            "llama.cpp's draw has no noise of each token's own, so what it would have drawn otherwise cannot be asked; "
            'use a Gumbel draw with the same stages, or dialect="labkit"'
        )

    def _generator(self, context: StepContext) -> Any:
        step, generator = context.state.get((type(self), context.stream[0]), (None, None))
        if step != context.step or generator is None:
            generator = np.random.RandomState((self.seed + context.stream[0]) % (1 << 32))
            generator.randint(0, 1 << 32, size=2 * context.step, dtype=np.uint64)
        return generator


@dataclass(frozen=True)
class SoftmaxArgmax(Draw):
    """The largest probability, the first of equal ones, whatever was computed: of NaN the first."""

    takes_anything: ClassVar[bool] = True
    by_chance: ClassVar[bool] = False
    seed: int = field(default=0, compare=False)

    def pick(self, ids: Tensor, logits: Tensor, context: StepContext, vocab_size: int) -> int:
        return int(ids[logits.softmax(dim=-1).argmax()])

    def noise(self, ids: Tensor, context: StepContext, vocab_size: int) -> Tensor:
        return torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
