"""Answer: a reply of the model with what each of its tokens could have been."""

import math
import time
from collections import OrderedDict
from typing import Any

from torch import Tensor

from ..chat import Reply
from ..language_model import LanguageModel
from ..sampling import Sampler
from .facts import alternatives, pieces


class NewestLogits:
    """The logits of the newest tokens, of however many answers, that fit into so many bytes."""

    def __init__(self, most_bytes: int):
        self._left = most_bytes
        self._kept: OrderedDict[tuple[object, int], Tensor] = OrderedDict()

    def keep(self, answer: object, index: int, logits: Tensor) -> None:
        self._kept[answer, index] = logits
        self._left -= logits.nbytes
        while self._left < 0:
            self._left += self._kept.popitem(last=False)[1].nbytes

    def of(self, answer: object, index: int) -> Tensor | None:
        return self._kept.get((answer, index))


class Answer:
    """A reply under way, or ended.

    Attributes:
        reply: labkit's own.
        tokens: one dictionary a token so far, as views.token_strip takes them; alternatives only when asked for.
        certain: so many of them are the answer for sure; those after them may yet turn out to be what ends it.
    """

    def __init__(self, lm: LanguageModel, reply: Reply, logits: NewestLogits):
        self.lm, self.reply, self._logits = lm, reply, logits
        self.tokens: list[dict[str, Any]] = []
        self.certain = 0
        self._first = self._newest = 0.0  # when the first and the newest token came

    def advance(self) -> bool:
        """One more token; False if there is none."""
        step = next(self.reply, None)
        if step is None:
            return False
        self._newest = time.perf_counter()
        self._first = self._first or self._newest
        self._logits.keep(self, len(self.tokens), step.logits)
        self.tokens.append(
            {
                "index": len(self.tokens),
                "id": step.id,
                "piece": pieces(self.lm, [step.id])[0],
                "probability": round(math.exp(step.raw_logprob), 6),
                "rank": step.rank,
                "entropy": round(step.entropy, 6),
            }
        )
        if step.text:
            self.certain = len(self.tokens)
        return True

    @property
    def finish_reason(self) -> str:
        return self.reply.run.finish_reason or "interrupted"

    @property
    def tokens_per_second(self) -> float:
        """Of decoding: the first token, which waits for the prefill, does not count. 0 if there is no second one."""
        return (len(self.tokens) - 1) / (self._newest - self._first) if self._newest > self._first else 0.0

    @property
    def end(self) -> int:
        """The tokens from here on are no part of the answer but what ended it."""
        return self.certain if self.finish_reason in ("stop", "eos") else len(self.tokens)

    def token(self, index: int) -> dict[str, Any]:
        """All there is about one token; without alternatives if its logits are no longer kept."""
        token = self.tokens[index]
        logits = self._logits.of(self, index)
        if "alternatives" not in token and logits is not None:
            run = self.reply.run
            trace = Sampler.from_settings(**self.reply.settings.sampling()).trace(
                logits, run.prompt_ids, run.ids[:index], step=index
            )
            token["alternatives"] = alternatives(self.lm, trace)
        return {"alternatives": []} | token
