"""What a whole trace answers: which of its tokens other settings would have changed, and whether a replay agrees."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple


class StepChange(NamedTuple):
    """One step under other settings: the token it had, and the one that the same draw gives; None: that needs the full
    record."""

    step: int
    before: int
    after: int | None


@dataclass(frozen=True, repr=False)
class WhatIfRun:
    """Every step of a trace under other settings, each by itself: the history stays as it was recorded, so behind the
    first change this is not what a run with these settings would have said.

    Attributes:
        steps: all of them, in order.
        changed: (setting, before, after) of all that differ.
    """

    steps: tuple[StepChange, ...]
    changed: tuple[tuple[str, Any, Any], ...]

    @property
    def differing(self) -> tuple[StepChange, ...]:
        """The steps that certainly have another token, the first divergence first."""
        return tuple(step for step in self.steps if step.after not in (step.before, None))

    @property
    def unproved(self) -> tuple[int, ...]:
        """Steps kept in compact form for which this needs the full record."""
        return tuple(step.step for step in self.steps if step.after is None)

    @property
    def exact(self) -> bool:
        return not self.unproved

    def rows(self) -> list[dict[str, Any]]:
        """One row a step that differs."""
        return [step._asdict() for step in self.differing]

    def to_dict(self) -> dict[str, Any]:
        changed = [list(change) for change in self.changed]
        return {"steps": [step._asdict() for step in self.steps], "changed": changed, "unproved": list(self.unproved)}

    def __str__(self) -> str:
        differing, n = self.differing, len(self.steps)
        first = f", the first at step {differing[0].step}" if differing else ""
        unproved = f"; {len(self.unproved)} need the full record" if self.unproved else ""
        return (
            f"{len(differing)} of {n} tokens would be others{first}{unproved} "
            "(each step asked by itself: the history stays as it was)"
        )

    def __repr__(self) -> str:
        return f"WhatIfRun({len(self.differing)} of {len(self.steps)} differ, {len(self.unproved)} unproved)"


@dataclass(frozen=True, repr=False)
class Replay:
    """Whether a model says what a trace recorded; ``str`` is "equal …" or the first mismatch.

    Attributes:
        equal: every step had the same logits, within the tolerance, and the same token.
        steps: how many were compared.
        step, what: of the first mismatch.
        largest: the largest difference between logits that was seen.
        tolerance: how much they may differ.
    """

    equal: bool
    steps: int
    step: int | None
    what: str
    largest: float
    tolerance: float

    def rows(self) -> list[dict[str, Any]]:
        return [self.to_dict()]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        if self.equal:
            return f"equal: {self.steps} tokens, logits within {self.largest:.2g} (tolerance {self.tolerance:g})"
        return f"step {self.step}: {self.what}"

    def __repr__(self) -> str:
        return f"Replay({self})"
