"""Free-running: two sides continue the same prompt with the same luck. Where they part, and what parted them."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from ..generation import Generation, Row, Step, encode_prompt, stream
from ..language_model import LanguageModel
from ..sampling import Sampler
from ..settings import Settings
from .alignment import same_ids
from .progress import Progress, steps
from .reading import pieces

Cause = Literal["model", "settings", "draw"]


class Setup(NamedTuple):
    """What decides about a token: the model's logits, the settings' stages, and the draw."""

    lm: LanguageModel
    settings: Settings
    sampler: Sampler

    @classmethod
    def of(cls, lm: LanguageModel, settings: Settings) -> "Setup":
        return cls(lm, settings, Sampler.from_settings(**settings.sampling()))


@dataclass(frozen=True)
class Divergence:
    """The first step at which two runs differ, though they agreed on everything before.

    Attributes:
        step: new tokens before it.
        id_a, id_b, piece_a, piece_b: what each took.
        probabilities: what each draw saw: {"a": (of A's token, of B's), "b": (of A's token, of B's)}.
        first_choices: the pieces that each model ranks first, whatever the luck.
        causes: what makes A take another token when it alone is B's: its model, its settings (stages), or its draw
            (the seed, or being greedy). None of them: only together they do.
    """

    step: int
    id_a: int
    id_b: int
    piece_a: str
    piece_b: str
    probabilities: Mapping[str, tuple[float, float]]
    first_choices: tuple[str, str]
    causes: tuple[Cause, ...]

    @property
    def cause(self) -> str:
        """In a word, or more."""
        return " or the ".join(self.causes) or "sum of all that differs"

    @property
    def by_luck(self) -> bool:
        """Whether both have the same first choice: without luck they would have gone on together here."""
        return self.first_choices[0] == self.first_choices[1]

    def to_dict(self) -> dict[str, Any]:
        names = ("step", "id_a", "id_b", "piece_a", "piece_b")
        odds = {f"p_{side}": [round(p, 4) for p in pair] for side, pair in self.probabilities.items()}
        more = {"first_choices": list(self.first_choices), "causes": list(self.causes)}
        return {name: getattr(self, name) for name in names} | odds | more


@dataclass(frozen=True, repr=False)
class FreeRunning:
    """Two runs after one prompt, on the same noise.

    Attributes:
        a, b: the runs, each to its end.
        pieces_a, pieces_b: of their new tokens.
        divergence: None: they never parted; or their vocabularies differ, and a note says so.
        notes: on the comparison.
    """

    a: Generation
    b: Generation
    pieces_a: list[str]
    pieces_b: list[str]
    divergence: Divergence | None
    notes: tuple[str, ...] = ()

    @property
    def shared(self) -> int:
        """So many characters the texts have in common at their beginning; without a tokenizer, tokens."""
        left, right = (self.a.ids, self.b.ids) if self.a.tokenizer is None else (self.a.text, self.b.text)
        pairs = enumerate(zip(left, right, strict=False))
        return next((i for i, (x, y) in pairs if x != y), min(len(left), len(right)))

    def rows(self) -> list[dict[str, Any]]:
        """One row a step: what each took, and whether it is the same."""
        pairs = enumerate(itertools.zip_longest(self.pieces_a, self.pieces_b))
        return [{"step": i, "piece_a": a, "piece_b": b, "same": a == b} for i, (a, b) in pairs]

    def to_dict(self) -> dict[str, Any]:
        sides = {
            name: {"text": run.text, "ids": list(run.ids), "finish_reason": run.finish_reason}
            for name, run in (("a", self.a), ("b", self.b))
        }
        where = None if self.divergence is None else self.divergence.to_dict()
        numbers = {"shared": self.shared, "verdict": self.verdict, "divergence": where}
        return {**sides, **numbers, "notes": list(self.notes)}

    @property
    def verdict(self) -> str:
        """What happened, in a line."""
        parted = self.divergence
        if parted is not None:
            took = f"A took {parted.piece_a!r}, B {parted.piece_b!r}"
            first = f"; without luck both take {parted.first_choices[0]!r}" if parted.by_luck else ""
            return f"parted at step {parted.step} by the {parted.cause}: {took}{first}"
        if self.notes:
            return f"not on the same draw; the texts share {self.shared} characters"
        lengths = [len(run.ids) for run in (self.a, self.b)]
        if lengths[0] == lengths[1]:
            return f"the same {lengths[0]} tokens"
        first, run, other = ("A", self.a, "B") if lengths[0] < lengths[1] else ("B", self.b, "A")
        return f"the same {min(lengths)} tokens, after which {first} ended ({run.finish_reason}) and {other} went on"

    def __repr__(self) -> str:
        return f"FreeRunning({self.verdict})"


def free_running(a: Setup, b: Setup, prompt: str | Sequence[int], progress: Progress = None) -> FreeRunning:
    """Both continue the prompt. With equal seeds the noise of each token is the same for both, so that two runs part
    only where one side would have taken another token on the very same draw."""
    same = same_ids(a.lm, b.lm, prompt)
    start = encode_prompt(a.lm, prompt)[0] if same else prompt
    runs = [stream(side.lm, start, side.settings, sampler=side.sampler) for side in (a, b)]
    seen: list[tuple[Step, Step]] = []
    longest, parted = max(a.settings.max_new_tokens, b.settings.max_new_tokens), False
    for one, other in steps(itertools.zip_longest(*runs), "writing", progress, total=longest):
        if same and not parted and one is not None and other is not None:
            seen.append((one, other))
            parted = one.id != other.id
    divergence = why(a, b, runs[0].prompt_ids, seen) if parted else None
    done = [run.result() for run in runs]
    names = [pieces(side.lm, run.ids) for side, run in zip((a, b), done, strict=True)]
    note = "Different vocabularies: the noise belongs to token ids, so the two did not have the same luck."
    return FreeRunning(done[0], done[1], names[0], names[1], divergence, () if same else (note,))


def why(a: Setup, b: Setup, prompt_ids: list[int], seen: Sequence[tuple[Step, Step]]) -> Divergence:
    """What the two picks hang on: each part of A is replaced by B's, one at a time."""
    ids = [step.id for step, _ in seen[:-1]]
    last_a, last_b = seen[-1]
    own, other = ([step.logits for step in steps] for steps in zip(*seen, strict=True))
    swapped: dict[Cause, Step] = {
        "model": again(b.lm, a.settings, a.sampler, prompt_ids, ids, other),
        "settings": again(a.lm, b.settings, Sampler(b.sampler.stages, a.sampler.draw), prompt_ids, ids, own),
        "draw": again(a.lm, a.settings, Sampler(a.sampler.stages, b.sampler.draw), prompt_ids, ids, own),
    }
    a_on_b = again(*a, prompt_ids, ids, own, last_b.id)
    b_on_a = again(*b, prompt_ids, ids, other, last_a.id)
    firsts = pieces(a.lm, [int(step.logits.argmax()) for step in seen[-1]])
    piece_a, piece_b = pieces(a.lm, [last_a.id, last_b.id])
    return Divergence(
        step=len(ids),
        id_a=last_a.id,
        id_b=last_b.id,
        piece_a=piece_a,
        piece_b=piece_b,
        probabilities={
            "a": (math.exp(last_a.logprob), math.exp(a_on_b.logprob)),
            "b": (math.exp(b_on_a.logprob), math.exp(last_b.logprob)),
        },
        first_choices=(firsts[0], firsts[1]),
        causes=tuple(cause for cause, step in swapped.items() if step.id != last_a.id),
    )


def again(
    lm: LanguageModel,
    settings: Settings,
    sampler: Sampler,
    prompt_ids: list[int],
    ids: Sequence[int],
    logits: Sequence[Tensor],
    forced: int | None = None,
) -> Step:
    """The step after these ids, from recorded logits (V,) of each; some stages and draws remember what was before."""
    row = Row(lm, prompt_ids, settings, sampler)
    for before, token_id in zip(logits, ids, strict=False):
        row.choose(before, token_id)
    return row.choose(logits[-1], forced)
