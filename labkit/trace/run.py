"""Trace: a recorded run. Its answers come from the recorded logits and the draw's noise; no model is needed."""

import dataclasses
import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..errors import ConfigError, LabkitError, SamplingError, TokenizerError
from ..generation import FinishReason, Generation, stream
from ..generation.branching import remembers
from ..language_model import LanguageModel
from ..sampling import Sampler, SamplingTrace, StepContext
from ..sampling.breaks import BreakPoints, break_points, parameters_of, strip_of
from ..sampling.partial import PartialLogits, PartialProbe, PartialStep
from ..sampling.probe import fresh
from ..sampling.questions import Why, WhyNot, differences, explain, numbered, other_sampler, what_if, why_not
from ..settings import Settings
from ..tokenizers.base import Tokenizer
from . import writing
from .answers import Replay, StepChange, WhatIfRun

TOLERANCE = 1e-4  # of logits in float32: with and without a cache, in any batch
RECENT = 16  # stage records that are kept at hand


class RecordedStep(NamedTuple):
    """One step of a run.

    Attributes:
        id: the token.
        logprob, raw_logprob: nats, after all stages and the model's own.
        rank: of the raw logit, 0 is the largest.
        entropy: nats, of what the draw saw.
        logits: the model's own, (V,) float32, or what was kept of them.
    """

    id: int
    logprob: float
    raw_logprob: float
    rank: int
    entropy: float
    logits: Tensor | PartialLogits


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """A recorded run: what it said, and at every step the logits from which it was drawn.

    Steps are kept in full as long as they fit in the memory that ``record`` was given. Of a later one there are the
    largest logits, those of all ids in the text and the sum of the others. From these most questions about the pick can
    be answered with certainty; where they cannot, the answer is None and ``exact`` False, and a question that needs the
    whole distribution raises SamplingError. Both say "needs the full record".

    Attributes:
        prompt_ids, ids: of the prompt as the model saw it, and the new ones.
        text: the new text, as of a Generation.
        sampler: the stages and the draw that chose the tokens.
        end_ids: ids that no step may choose before ``settings.min_new_tokens``.
        model: facts of the model and the versions: family, format, dtype, device, sha256, vocab_size, labkit, torch …
        given: so many of the first ids were not drawn: they come from the run that this one is a branch of, or a person
            chose them.
    """

    prompt_ids: list[int]
    ids: list[int]
    text: str
    finish_reason: FinishReason
    notes: tuple[str, ...]
    settings: Settings
    sampler: Sampler
    steps: tuple[RecordedStep, ...]
    end_ids: tuple[int, ...]
    model: Mapping[str, Any]
    tokenizer: Tokenizer | None = None
    pieces_by_id: tuple[str, ...] | None = None
    given: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def vocabulary(self) -> tuple[str, ...] | None:
        """What each id stands for; None where there is no tokenizer."""
        if self.pieces_by_id is not None or self.tokenizer is None:
            return self.pieces_by_id
        try:
            return tuple(self.tokenizer.pieces(range(self.model["vocab_size"])))
        except LabkitError:  # its table cannot be had here, and nobody asked for text
            return None

    @property
    def pieces(self) -> list[str]:
        """What each new id stands for by itself; its number where there is no tokenizer."""
        return [self.vocabulary[i] if self.vocabulary else numbered(i) for i in self.ids]

    @property
    def generation(self) -> Generation:
        """The run without its logits, for ``labkit.branch`` to go on from."""
        ended_by_choice = self.given == len(self.ids) and self.finish_reason in ("stop", "eos")
        return Generation(
            ids=list(self.ids),
            prompt_ids=list(self.prompt_ids),
            finish_reason=self.finish_reason,
            notes=self.notes,
            settings=self.settings,
            tokenizer=self.tokenizer,
            logprobs=[step.logprob for step in self.steps],
            raw_logprobs=[step.raw_logprob for step in self.steps],
            kept=self.given - ended_by_choice,
        )

    @property
    def compact(self) -> tuple[int, ...]:
        """Steps that are not kept in full."""
        return tuple(i for i, step in enumerate(self.steps) if isinstance(step.logits, PartialLogits))

    def rows(self) -> list[dict[str, Any]]:
        """One row a step."""
        return [
            {
                "step": i,
                "id": step.id,
                "piece": piece,
                "p": round(float(torch.tensor(step.logprob).exp()), 4),
                "p_model": round(float(torch.tensor(step.raw_logprob).exp()), 4),
                "rank": step.rank,
                "entropy": round(step.entropy, 4),
            }
            for i, (step, piece) in enumerate(zip(self.steps, self.pieces, strict=True))
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, all but the logits."""
        return writing.header(self)

    def __repr__(self) -> str:
        compact = f", {len(self.compact)} compact" if self.compact else ""
        return f"Trace({len(self.prompt_ids)} + {len(self)} tokens, {self.finish_reason}, {self.sampler!r}{compact})"

    # --- one step

    def step(self, step: int) -> SamplingTrace:
        """Every stage of one step, over the full vocabulary.

        Raises:
            SamplingError: of this step only some logits were kept.
        """
        return self._recent(self._index(step))

    @cached_property
    def _recent(self) -> Any:
        return functools.lru_cache(RECENT)(self._stages)

    def _stages(self, i: int) -> SamplingTrace:
        context = self._context(i)
        return self.sampler.trace(self._full(i), self.prompt_ids, self.ids[:i], i, state=fresh(context).state)

    def break_points(self, step: int, parameter: str | None = None) -> BreakPoints:
        """Where along temperature, top-k, top-p and min-p (or one setting) this step's token changes."""
        i = self._index(step)
        if not isinstance(self.steps[i].logits, PartialLogits):
            return break_points(self.step(i), parameter)
        partial = self._partial(i)
        strips = []
        for name in parameters_of(partial, parameter):
            strip = strip_of(partial, PartialProbe(partial, name))
            if any(segment.id is None for segment in strip.segments):
                strip = dataclasses.replace(
                    strip, exact=False, note="where no token is named this needs the full record"
                )
            strips.append(strip)
        return BreakPoints(tuple(strips))

    def why_not(self, step: int, token: int | str) -> WhyNot:
        """Why a token, by id or as text, was not chosen, and the smallest change that lets it in."""
        return why_not(self.step(step), self.token_id(token, step), self._name)

    def explain(self, step: int) -> Why:
        """Why the chosen token was chosen."""
        return explain(self.step(step), self._name)

    def what_if(self, step: int | Literal["all"], settings: Settings | None = None, **changes: Any) -> Any:
        """The same draw under other settings: of one step a WhatIf, of "all" a WhatIfRun, which asks each by itself."""
        if step != "all":
            return what_if(self.step(step), settings, **changes)
        other = other_sampler(self.sampler, settings, changes)
        steps = tuple(StepChange(i, self.ids[i], self._pick(i, other)) for i in range(len(self)))
        return WhatIfRun(steps, differences(self.sampler.named, other.named))

    def token_id(self, token: int | str, step: int) -> int:
        """The id of a token given as text; of several that read the same, the one this step finds likeliest."""
        if not isinstance(token, str):
            return token
        if self.vocabulary is None:
            raise TokenizerError(f"there is no tokenizer, so {token!r} cannot be looked up; give its id")
        ids = [i for i, piece in enumerate(self.vocabulary) if piece == token]
        if not ids:
            near = [piece for piece in self.vocabulary if piece and piece.strip().lower() == token.strip().lower()]
            near = near or difflib.get_close_matches(token, filter(None, self.vocabulary), n=4)
            hint = f"; near ones are {', '.join(map(repr, near[:4]))}" if near else ""
            raise TokenizerError(f"no token reads {token!r}{hint}")
        if len(ids) > 1 and isinstance(logits := self.steps[self._index(step)].logits, Tensor):
            return max(ids, key=lambda i: float(logits[i]))
        return ids[0]

    def _index(self, step: int) -> int:
        if isinstance(step, bool) or not isinstance(step, int) or not -len(self) <= step < len(self):
            raise ConfigError(f"step is {step!r}; this trace has {len(self)}: 0 … {len(self) - 1}")
        return step % len(self)

    def _name(self, token: int) -> str:
        return repr(self.vocabulary[token]) if self.vocabulary else numbered(token)

    def _banned(self, i: int) -> list[int]:
        """Ids that could not be chosen at this step, because the text was too short to end."""
        return sorted(self.end_ids) if i < self.settings.min_new_tokens else []

    def _full(self, i: int) -> Tensor:
        """What the stages got (V,)."""
        logits = self.steps[i].logits
        if isinstance(logits, PartialLogits):
            raise SamplingError(
                f"step {i}: only {len(logits.ids)} of its {logits.vocab_size} logits were kept, and this needs the "
                "full record; record it with a larger max_bytes"
            )
        return logits.index_fill(0, torch.tensor(self._banned(i), dtype=torch.long), float("-inf"))

    def _partial(self, i: int) -> PartialStep:
        logits = self.steps[i].logits
        assert isinstance(logits, PartialLogits)
        banned = torch.isin(logits.ids, torch.tensor(self._banned(i), dtype=torch.long))
        known = dataclasses.replace(logits, logits=logits.logits.masked_fill(banned, float("-inf")))
        return PartialStep(known, self.ids[i], self.sampler, self._context(i))

    def _pick(self, i: int, other: Sampler) -> int | None:
        if isinstance(self.steps[i].logits, PartialLogits):
            return None if remembers(self.sampler) else self._partial(i).pick(other)
        return other.choose(self._full(i)[None], fresh(self._context(i)))[0].id

    def _context(self, i: int) -> StepContext:
        state = self._states(i) if remembers(self.sampler) else {}
        return StepContext([self.prompt_ids], [self.ids[:i]], i, self.sampler.draw.seed, state=state)

    def _states(self, i: int) -> dict[Any, Any]:
        """What stages and draws remembered before step i: of those that do, every step before is gone through once."""
        known = self._known_states
        while len(known) <= i:
            n = len(known) - 1
            context = StepContext([self.prompt_ids], [self.ids[:n]], n, self.sampler.draw.seed, state=known[n])
            context = fresh(context)
            self.sampler.choose(self._full(n)[None], context)
            known.append(context.state)
        return known[i]

    @cached_property
    def _known_states(self) -> list[dict[Any, Any]]:
        return [{}]

    # --- the file, and the model again

    def save(self, path: str | Path) -> None:
        """Write one file that ``labkit.load_trace`` opens; the same trace gives the same bytes."""
        writing.save(self, Path(path))

    def replay(self, lm: LanguageModel, tolerance: float = TOLERANCE) -> Replay:
        """Run the model over the same ids and compare logits and tokens, up to the first mismatch. Of tokens that were
        given the logits are compared.

        Args:
            tolerance: how much a logit may differ; more than the default for weights in 16 bits.
        """
        wanted = self.model["vocab_size"]
        if lm.vocab_size != wanted:
            what = f"the trace has a vocabulary of {wanted}, the model one of {lm.vocab_size}"
            return Replay(False, 0, 0, what, float("inf"), tolerance)
        largest = 0.0
        run = stream(lm, self.prompt_ids, self.settings, sampler=self.sampler)
        run.kept, run.forced = self.generation.kept, self.ids[: self.given]
        for i, before in enumerate(self.steps):
            if (now := next(run, None)) is None:
                return Replay(False, i, i, f"the run ended ({run.finish_reason})", largest, tolerance)
            difference = logit_difference(before.logits, now.logits)
            largest = max(largest, difference)
            if not difference <= tolerance:
                what = f"logits differ by {difference:.3g}, more than {tolerance:g}"
                return Replay(False, i, i, what, largest, tolerance)
            if now.id != before.id:
                what = f"token {now.id} instead of {before.id} (logits within {difference:.3g})"
                return Replay(False, i, i, what, largest, tolerance)
        return Replay(True, len(self), None, "", largest, tolerance)


def logit_difference(before: Tensor | PartialLogits, now: Tensor) -> float:
    """Largest difference between what was recorded and logits (V,); equal infinities do not differ."""
    if isinstance(before, PartialLogits):
        return before.difference(now)
    return float((before - now).masked_fill(before == now, 0.0).abs().max())
