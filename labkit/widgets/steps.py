"""What a microscope looks at: a whole trace, one step of it, or bare logits, all in one form."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ..errors import SamplingError
from ..sampling import Sampler, SamplingTrace
from ..settings import LABKIT_RULES, Settings
from ..tokenizers.base import Tokenizer
from ..views.base import visible
from .facts import alternatives, pieces

HOW_TO_NAME = "write it as it is shown, or its id as <17>"
NEAR = 5  # how many tokens are suggested for one that does not exist


@runtime_checkable
class RecordedRun(Protocol):
    """What labkit.record returns, as far as a microscope needs it.

    Attributes:
        ids: of the new tokens.
    """

    @property
    def ids(self) -> Sequence[int]: ...
    def step(self, index: int) -> SamplingTrace: ...


@dataclass
class Steps:
    """Steps that were recorded, each under the same settings.

    Attributes:
        count: how many.
        trace: the stage record of one.
        settings: what they were recorded with, as the controls show them.
        fixed: the stages were put together by hand, so there are no settings to turn.
        prompt: pieces of the prompt.
    """

    count: int
    trace: Callable[[int], SamplingTrace]
    settings: Settings
    tokenizer: Tokenizer | None
    fixed: bool = False
    prompt: Sequence[str] = ()

    @property
    def note(self) -> str:
        return "This sampler was put together from stages, so there are no settings to turn." if self.fixed else ""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return pieces(self.tokenizer, ids)

    def row(self, index: int) -> dict[str, Any]:
        """One token for views.token_strip."""
        trace = self.trace(index)
        model = trace.stages[0]
        return {
            "piece": self.pieces([trace.chosen])[0],
            "probability": float(model.probabilities[trace.chosen]),
            "rank": int((trace.logits > trace.logits[trace.chosen]).sum()),
            "entropy": trace.stages[-1].entropy,
        }

    def card(self, index: int) -> dict[str, Any]:
        """The same with what else the token could have been."""
        return self.row(index) | {"alternatives": alternatives(self, self.trace(index))}

    @cached_property
    def _by_name(self) -> dict[str, int]:
        """Every token by its piece as it is shown; of equal pieces the first."""
        named = enumerate(self.pieces(range(len(self.trace(0).logits))))
        return {visible(piece): i for i, piece in reversed(list(named))}

    def id_of(self, text: str) -> int:
        """The token that someone means: its piece, as it is or as it is shown, or its id as <17>.

        Raises:
            SamplingError: no token is called so; near ones are named.
        """
        for name in (visible(text), "␣" + visible(text)):
            if name in self._by_name:
                return self._by_name[name]
        number = text.strip("<> ")
        if number.isdecimal() and int(number) < len(self._by_name):
            return int(number)
        names = list(self._by_name)
        near = [n for n in names if text.strip().lower() in n.lower()] or difflib.get_close_matches(text, names, NEAR)
        hint = f"near ones are {', '.join(sorted(near, key=len)[:NEAR])}"
        raise SamplingError(f"no token is {visible(text)!r}; {hint if near else HOW_TO_NAME}")


Recorded = RecordedRun | Sequence[SamplingTrace] | SamplingTrace | Tensor


def steps_of(source: Recorded, tokenizer: Tokenizer | None, settings: Settings | None) -> Steps:
    """One form for everything that the microscope accepts.

    Raises:
        SamplingError: there is no step to look at, or the logits are not those of one step.
    """
    if isinstance(source, Tensor):
        if source.ndim != 1:
            raise SamplingError(f"logits of one step have the shape (V,), not {tuple(source.shape)}")
        source = Sampler.from_settings(**(settings or Settings()).sampling()).trace(source)
    if isinstance(source, SamplingTrace):
        source = [source]
    step: Callable[[int], SamplingTrace]
    if isinstance(source, RecordedRun):
        count, step = len(source.ids), source.step
    else:
        count, step = len(source), list(source).__getitem__
    if not count:
        raise SamplingError("no token was written, so there is no step to look at; generate at least one")
    first = step(0)
    prompt = pieces(tokenizer, first.context.prompt_ids[0])
    return Steps(count, step, settings_of(first.sampler), tokenizer, by_hand(first.sampler), prompt)


def by_hand(sampler: Sampler) -> bool:
    """Whether it was put together from stages, so that there are no settings to turn."""
    return "dialect" not in sampler.named


def settings_of(sampler: Sampler) -> Settings:
    """The settings that a sampler was made from; what it was not told is off."""
    off: dict[str, Any] = dict.fromkeys(LABKIT_RULES)
    return Settings(**off | {k: v for k, v in sampler.named.items() if v is not None}, seed=sampler.draw.seed)


def all_values(settings: Settings) -> dict[str, Any]:
    """What Sampler.replace takes to have these settings and nothing else."""
    return dict.fromkeys(LABKIT_RULES) | settings.sampling()
