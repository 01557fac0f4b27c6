"""A run that remembers enough to be drawn again, and to answer "what if" for each token without the model."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from ..generation import Run, stream
from ..language_model import LanguageModel
from ..sampling import Sampler, SamplingTrace
from ..settings import Settings
from .facts import alternatives, pieces

# Raw logits are kept for the newest tokens that fit in here: all of them with a small vocabulary, 1,300 with GPT-2's.
# An older token keeps its numbers and its alternatives.
LOGITS_BYTES = 256 * 2**20


@dataclass(frozen=True, repr=False)
class PlaygroundResult:
    """What a run left, as plain data.

    Attributes:
        ids, text, prompt_ids, finish_reason, notes: as those of labkit.generate with the same prompt and settings.
        tokens: one dictionary a token, as ``rows()`` gives them.
        tokens_per_second: of decoding, without the first token; first_token_seconds: prefill included.
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


class Recording:
    """A generation under way, or ended, with what is needed to look into it.

    Attributes:
        run: labkit's own.
        tokens: one dictionary a token so far; alternatives are added when they are first asked for.
    """

    def __init__(self, lm: LanguageModel, prompt: str | Sequence[int], settings: Settings):
        self.lm, self.prompt, self.settings = lm, prompt, settings
        self.run: Run = stream(lm, prompt, settings)
        self.tokens: list[dict[str, Any]] = []
        self.first_token_seconds = 0.0
        self._started = time.perf_counter()
        self._newest = self._started
        self._logits: dict[int, Tensor] = {}
        self._keep = max(16, LOGITS_BYTES // (4 * lm.vocab_size))
        self._model_alone = Sampler()  # no stages: its probabilities are the model's own
        self._result: PlaygroundResult | None = None

    @property
    def finish_reason(self) -> str:
        return self.run.finish_reason or "interrupted"

    @property
    def tokens_per_second(self) -> float:
        """Of decoding: the first token, which waits for the prefill, does not count. 0 if there is no second one."""
        seconds = self._newest - self._started - self.first_token_seconds
        return (len(self.tokens) - 1) / seconds if len(self.tokens) > 1 and seconds > 0 else 0.0

    def advance(self) -> bool:
        """One more token; False if there is none."""
        step = next(self.run, None)
        if step is None:
            return False
        index = len(self.tokens)
        self._newest = time.perf_counter()
        if index == 0:
            self.first_token_seconds = self._newest - self._started
        if index >= self._keep:  # what leaves the memory is looked at a last time
            self.token(index - self._keep)
            del self._logits[index - self._keep]
        self._logits[index] = step.logits
        self.tokens.append(
            {
                "index": index,
                "id": step.id,
                "piece": pieces(self.lm, [step.id])[0],
                "probability": round(float(self._model_alone.probabilities(step.logits)[step.id]), 6),
                "drawn_from": round(math.exp(step.logprob), 6),
                "rank": step.rank,
                "entropy": round(step.entropy, 6),
            }
        )
        return True

    def trace(self, index: int, settings: Settings | None = None) -> SamplingTrace | None:
        """The stage record of one token, under other settings if given, on the same draw; no model is run.

        None for a token whose logits are no longer kept.
        """
        logits = self._logits.get(index)
        if logits is None:
            return None
        sampler = Sampler.from_settings(**(settings or self.settings).sampling())
        return sampler.trace(logits, self.run.prompt_ids, self.run.ids[:index], step=index)

    def token(self, index: int) -> dict[str, Any]:
        """All there is about one token, its alternatives included."""
        token = self.tokens[index]
        if "alternatives" not in token:
            trace = self.trace(index)
            token["alternatives"] = alternatives(self.lm, trace) if trace is not None else []
        return token

    def result(self) -> PlaygroundResult:
        """The run as plain data; alternatives that nobody asked for yet are worked out now."""
        if self._result is None:
            generation = self.run.result()
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
            )
        return self._result
