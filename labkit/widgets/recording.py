"""A run that remembers enough to be drawn again, and to answer "what if" for each token without the model."""

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from ..errors import ConfigError
from ..generation import Generation, Run, branch_run, stream
from ..language_model import LanguageModel
from ..sampling import Sampler, SamplingTrace
from ..sampling.partial import PartialLogits
from ..sampling.probe import fresh
from ..settings import Settings
from ..trace import RecordedStep, Trace, named_ids, trace_of
from .facts import alternatives
from .facts.base import CARD_ALTERNATIVES
from .writing import Writing

# Raw logits are kept for the newest tokens that fit in here: all of them with a small vocabulary, 1,300 with GPT-2's.
# Of an older token there remain its numbers, its alternatives and its largest logits.
LOGITS_BYTES = 256 * 2**20
TOP = 256  # logits of an older token


@dataclass(frozen=True, repr=False)
class PlaygroundResult:
    """What a run left, as plain data.

    Attributes:
        ids, text, prompt_ids, finish_reason, notes: as those of labkit.generate with the same prompt and settings, or
            of labkit.branch.
        tokens: one dictionary a token, as ``rows()`` gives them.
        tokens_per_second: of decoding, without the first token; first_token_seconds: prefill included.
        given: so many of the first ids come from another run, or were chosen by hand.
    """

    prompt: str | tuple[int, ...]
    settings: Settings
    ids: list[int]
    text: str
    prompt_ids: list[int]
    finish_reason: str
    notes: tuple[str, ...]
    tokens: tuple[dict[str, Any], ...]
    tokens_per_second: float = field(compare=False)
    first_token_seconds: float = field(compare=False)
    given: int = 0

    def __repr__(self) -> str:
        return f"PlaygroundResult({len(self.ids)} tokens, {self.finish_reason}, text={_shortened(self.text)!r})"

    def rows(self) -> list[dict[str, Any]]:
        """One row a token: index, id, piece, probability (the model's), drawn_from (its probability after all stages),
        rank, entropy and alternatives. What views.token_strip takes."""
        return [dict(token) for token in self.tokens]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "settings": self.settings.to_dict(), "tokens": self.rows()}


def _shortened(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True)
class Origin:
    """Where a branch left: the recording, how many of its tokens were taken over, and the ids chosen behind them."""

    recording: "Recording"
    at: int
    forced: tuple[int, ...] = ()

    @property
    def given(self) -> int:
        return self.at + len(self.forced)


class Recording(Writing):
    """A generation under way, or ended, with what is needed to look into it.

    Args:
        origin: of a branch; then the prompt is that of the recording it leaves.

    Attributes:
        settings: as they were given.
        given: so many of the first ids come from another run, or were chosen by hand.
        steps: what was recorded of each token so far.
    """

    def __init__(
        self, lm: LanguageModel, prompt: str | Sequence[int], settings: Settings, origin: Origin | None = None
    ):
        super().__init__(lm)
        self.prompt, self.settings, self.origin = prompt, settings, origin
        self.steps: list[RecordedStep] = []
        self.given = 0 if origin is None else origin.given
        self.run = self._begin()
        self.began_at = len(self.steps)
        self._named: set[int] | None = None
        self._generation: Generation | None = None
        self._trace: Trace | None = None
        self._result: PlaygroundResult | None = None

    def _begin(self) -> Run:
        if (origin := self.origin) is None:
            return stream(self.lm, self.prompt, self.settings)
        changes = differences(origin.recording.settings, self.settings)
        run = branch_run(self.lm, origin.recording.generation, origin.at, origin.forced, **changes)
        run.keep_cache = False  # till it has ended: what is asked meanwhile must not fork it
        self.steps = origin.recording.steps[: origin.at]
        own = origin.recording.tokens[: origin.at]
        self.tokens = [{name: token[name] for name in token if name != "alternatives"} for token in own]
        return run

    @classmethod
    def of_trace(cls, lm: LanguageModel, trace: Trace) -> "Recording":
        """A run that was recorded elsewhere, to look into and go on from as if it had been written here.

        Raises:
            ConfigError: it was written by a model with another vocabulary.
        """
        if lm.vocab_size != (size := trace.model["vocab_size"]):
            raise ConfigError(f"the trace has a vocabulary of {size}, the model one of {lm.vocab_size}; open its model")
        recording = cls(lm, trace.prompt_ids, trace.settings)
        if lm.tokenizer is not None:
            front = trace.prompt_ids[:1] == [lm.tokenizer.bos_id]
            recording.prompt = lm.tokenizer.decode(trace.prompt_ids[front:])
        recording.given, recording.steps = trace.given, list(trace.steps)
        recording.tokens = [recording.row(i, step) for i, step in enumerate(trace.steps)]
        recording.run.finish_reason, recording.run.notes = trace.finish_reason, trace.notes
        recording._generation = dataclasses.replace(trace.generation, tokenizer=lm.tokenizer)
        recording._trace = trace
        return recording

    @property
    def prompt_ids(self) -> list[int]:
        return self.run.prompt_ids

    @property
    def ids(self) -> list[int]:
        """New ids so far."""
        return [step.id for step in self.steps]

    # while it is written

    def advance(self) -> bool:
        step = next(self.run, None)
        if step is None:
            return False
        index = len(self.run.ids) - 1
        if index < len(self.steps):
            return True  # gone through again for a stage that remembers
        logits = step.logits.clone()
        self.steps.append(RecordedStep(step.id, step.logprob, step.raw_logprob, step.rank, step.entropy, logits))
        self.add(step)
        if (old := index - max(16, LOGITS_BYTES // (4 * self.lm.vocab_size))) >= 0:
            self.token(old)  # what leaves the memory is looked at a last time
            self.compact(old)
        return True

    @property
    def ended(self) -> bool:
        return self._generation is not None

    def end(self) -> None:
        """Nothing more is written: keep what ``labkit.branch`` needs to go on."""
        if self._generation is None:
            self.run.keep_cache = True
            self._generation = self.run.result()
            self.run.keep_cache, self.run.feed.groups = False, []

    # memory

    def compact(self, index: int) -> None:
        """Of one token keep the largest logits only."""
        step = self.steps[index]
        if isinstance(step.logits, Tensor):
            self._named = self._named or named_ids(self.run)
            logits = PartialLogits.of(step.logits, TOP, self._named | {*self.ids})
            self.steps[index] = step._replace(logits=logits)
            if self._trace is not None:
                self._trace = dataclasses.replace(self._trace, steps=tuple(self.steps))

    def release(self) -> None:
        """Keep no cache; who goes on from here prefills."""
        if self._generation is not None:
            self._generation = dataclasses.replace(self._generation, _cache=None)

    # what can be asked

    @property
    def generation(self) -> Generation:
        """The run as ``labkit.generate`` or ``labkit.branch`` returns it."""
        self.end()
        assert self._generation is not None
        return self._generation

    @property
    def trace(self) -> Trace:
        """The run as ``labkit.record`` returns it; once it has ended always the same one."""
        if self._trace is not None:
            return self._trace
        steps = self.steps[: len(self.run.ids)]  # fewer, while they are gone through again
        trace = trace_of(self.run, steps, min(self.given, len(steps)))
        if self._generation is not None:
            self._trace = trace
        return trace

    def stages(self, index: int, settings: Settings | None = None) -> SamplingTrace | None:
        """The stage record of one token, under other settings if given; no model is run. With the same seed it is the
        same draw.

        None for a token whose logits are no longer kept.
        """
        if not isinstance(self.steps[index].logits, Tensor):
            return None
        recorded = self.trace.step(index)
        if settings is None or settings.sampling() == self.settings.sampling():
            return recorded
        asked = fresh(recorded.context)
        sampler = Sampler.from_settings(**settings.sampling())
        return sampler.trace(recorded.logits, asked.prompt_ids[0], asked.generated_ids[0], index, state=asked.state)

    def alternative_ids(self, index: int) -> list[int]:
        """The ids of a token's alternatives, in their order."""
        stages = self.stages(index)
        return stages.candidates(CARD_ALTERNATIVES) if stages is not None else []

    def token(self, index: int) -> dict[str, Any]:
        """All there is about one token, its alternatives included."""
        token = self.tokens[index]
        if "alternatives" not in token:
            stages = self.stages(index)
            token["alternatives"] = alternatives(self.lm, stages) if stages is not None else []
        return token

    def result(self) -> PlaygroundResult:
        """The run as plain data; alternatives that nobody asked for yet are worked out now."""
        if self._result is None:
            generation = self.generation
            self._result = PlaygroundResult(
                prompt=self.prompt if isinstance(self.prompt, str) else tuple(self.prompt),
                settings=self.settings,
                ids=generation.ids,
                text=generation.text,
                prompt_ids=generation.prompt_ids,
                finish_reason=generation.finish_reason,
                notes=generation.notes,
                tokens=tuple(self.token(i) for i in range(len(self.tokens))),
                tokens_per_second=self.tokens_per_second,
                first_token_seconds=self.first_token_seconds,
                given=self.given,
            )
        return self._result


def differences(before: Settings, after: Settings) -> dict[str, Any]:
    """The fields that have to be changed to get from one to the other, as one would type them."""
    was = before.to_dict()
    return {name: value for name, value in after.to_dict().items() if value != was[name]}
