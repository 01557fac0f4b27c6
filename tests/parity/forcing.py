"""Runs whose tokens are given: the strongest test of cache, cropping and position rules."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import labkit
from labkit.generation import Step
from labkit.language_model import LanguageModel
from labkit.sampling import Draw, Sampler, StepContext


@dataclass(frozen=True)
class Forced(Draw):
    """A draw that takes given ids in turn."""

    takes_anything: ClassVar[bool] = True
    by_chance: ClassVar[bool] = False
    ids: tuple[int, ...]
    seed: int = 0

    def pick(self, ids: Tensor, logits: Tensor, context: StepContext, vocab_size: int) -> int:
        return self.ids[context.step]


def forced_steps(lm: LanguageModel, prompt: Sequence[int], ids: Iterable[int], **changes: Any) -> list[Step]:
    """One step for each prefix of the ids, the empty one and the whole included."""
    ids = [int(i) for i in ids]
    sampler = Sampler(draw=Forced((*ids, 0)))
    return list(labkit.stream(lm, prompt, sampler=sampler, max_new_tokens=len(ids) + 1, **changes))


def greedy_steps(lm: LanguageModel, prompt: Sequence[int], n: int, **changes: Any) -> list[Step]:
    return list(labkit.stream(lm, prompt, temperature=0, max_new_tokens=n, **changes))


def wrong(steps: Sequence[Step], recorded: np.ndarray) -> int:
    """How many ids differ from the recorded ones."""
    assert len(steps) == len(recorded)
    return sum(step.id != int(i) for step, i in zip(steps, recorded, strict=True))


def apart(steps: Sequence[Step], recorded: np.ndarray) -> float:
    """Largest difference of the logits of steps from recorded ones (n, V)."""
    return largest(torch.stack([step.logits for step in steps]), recorded)


def largest(logits: Tensor, recorded: np.ndarray) -> float:
    assert tuple(logits.shape) == recorded.shape
    return float((logits - torch.from_numpy(recorded)).abs().max())
