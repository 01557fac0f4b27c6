"""What a microscope looks at: a whole trace, one step of it, or bare logits, all in one form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from ..errors import LabkitError, SamplingError
from ..sampling import Sampler, SamplingTrace
from ..settings import LABKIT_RULES, Settings
from ..trace import Trace
from .code import as_arguments
from .facts import HasPieces, alternatives, pieces
from .names import TokenNames


@dataclass(frozen=True)
class Vocabulary:
    """What each id stands for, as a trace knows it without its model."""

    names: Sequence[str]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [self.names[i] for i in ids]


@dataclass
class Steps:
    """Steps that were recorded, each under the same settings.

    Attributes:
        count: how many.
        trace: the stage record of one.
        settings: what they were recorded with, as the controls show them.
        source: whose pieces the tokens are written as.
        fixed: the stages were put together by hand, so there are no settings to turn.
        prompt: pieces of the prompt.
        rows: one a step, for views.token_strip, if they are at hand; else they come from the stage records.
        how: lines of code that give one of them as ``trace``, from what the widget was given; {i} is its number.
    """

    count: int
    trace: Callable[[int], SamplingTrace]
    settings: Settings
    source: HasPieces | None
    fixed: bool = False
    prompt: Sequence[str] = ()
    rows: Sequence[dict[str, Any]] | None = None
    how: str = ""

    def code(self, index: int) -> list[str]:
        """Lines that give one step as ``trace``."""
        return self.how.replace("{i}", str(index)).splitlines()

    @property
    def note(self) -> str:
        return "This sampler was put together from stages, so there are no settings to turn." if self.fixed else ""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return pieces(self.source, ids)

    def row(self, index: int) -> dict[str, Any]:
        """One token for views.token_strip."""
        if self.rows is not None:
            return self.rows[index]
        trace = self.trace(index)
        return {
            "piece": self.pieces([trace.chosen])[0],
            "probability": float(trace.stages[0].probabilities[trace.chosen]),
            "rank": int((trace.logits > trace.logits[trace.chosen]).sum()),
            "entropy": trace.stages[-1].entropy,
        }

    def card(self, index: int) -> dict[str, Any]:
        """The same with what else the token could have been, where that is known."""
        try:
            others = alternatives(self, self.trace(index))
        except LabkitError:  # of this step, a trace kept only some logits
            others = []
        return self.row(index) | {"alternatives": others}

    @cached_property
    def names(self) -> TokenNames:
        return TokenNames(self.source, len(self.trace(0).logits))


Recorded = Trace | Sequence[SamplingTrace] | SamplingTrace | Tensor


def steps_of(recorded: Recorded, tokenizer: HasPieces | None, settings: Settings | None) -> Steps:
    """One form for everything that the microscope accepts.

    Raises:
        SamplingError: there is no step to look at, or the logits are not those of one step.
    """
    how = "# trace is the one you gave to the widget"
    if isinstance(recorded, Tensor):
        if recorded.ndim != 1:
            raise SamplingError(f"logits of one step have the shape (V,), not {tuple(recorded.shape)}")
        named = (settings or Settings()).sampling()
        made = f"labkit.Sampler.from_settings({', '.join(as_arguments(named))})"
        how = f"# logits are those you gave to the widget\ntrace = {made}.trace(logits)"
        recorded = Sampler.from_settings(**named).trace(recorded)
    if isinstance(recorded, SamplingTrace):
        recorded = [recorded]
    elif isinstance(recorded, Trace):
        how = "# run is the trace you gave to the widget\ntrace = run.step({i})"
    else:
        how = "# traces are those you gave to the widget\ntrace = traces[{i}]"
    if not len(recorded):
        raise SamplingError("no token was written, so there is no step to look at; generate at least one")
    source, rows, step = tokenizer, None, recorded.step if isinstance(recorded, Trace) else recorded.__getitem__
    if isinstance(recorded, Trace):
        source = tokenizer or (Vocabulary(recorded.vocabulary) if recorded.vocabulary else None)
        rows = [row | {"probability": row["p_model"]} for row in recorded.rows()]
    first = step(0)
    prompt = pieces(source, first.context.prompt_ids[0])
    return Steps(len(recorded), step, settings_of(first.sampler), source, by_hand(first.sampler), prompt, rows, how)


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
