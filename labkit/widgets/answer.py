"""Answer: a reply of the model with what each of its tokens could have been."""

from collections import OrderedDict
from typing import Any

from torch import Tensor

from ..chat import Reply
from ..language_model import LanguageModel
from ..sampling import Sampler
from .facts import alternatives
from .writing import Writing


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


class Answer(Writing):
    """A reply under way, or ended.

    Attributes:
        reply: labkit's own.
        certain: so many of them are the answer for sure; those after them may yet turn out to be what ends it.
    """

    def __init__(self, lm: LanguageModel, reply: Reply, logits: NewestLogits):
        super().__init__(lm)
        self.reply, self.run, self._logits = reply, reply.run, logits
        self.certain = 0

    def advance(self) -> bool:
        step = next(self.reply, None)
        if step is None:
            return False
        self._logits.keep(self, len(self.tokens), step.logits)
        self.add(step)
        if step.text:
            self.certain = len(self.tokens)
        return True

    @property
    def end(self) -> int:
        """The tokens from here on are no part of the answer but what ended it."""
        return self.certain if self.finish_reason in ("stop", "eos") else len(self.tokens)

    def token(self, index: int) -> dict[str, Any]:
        """All there is about one token; without alternatives if its logits are no longer kept."""
        token = self.tokens[index]
        logits = self._logits.of(self, index)
        if "alternatives" not in token and logits is not None:
            sampler, run = Sampler.from_settings(**self.reply.settings.sampling()), self.run
            trace = sampler.trace(logits, run.prompt_ids, run.ids[:index], step=index)
            token["alternatives"] = alternatives(self.lm, trace)
        return {"alternatives": []} | token
