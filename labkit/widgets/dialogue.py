"""Dialogue: who said what, and every version of it, so that each change can be taken back."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..chat import Turn
from ..chat.conversation import exchanges
from ..errors import ConfigError
from .answer import Answer


@dataclass(frozen=True)
class Said:
    """A turn, and for an answer that was given here how it was written.

    Everything that can be pointed at has a number: a message, each token, a text without tokens, the line below an
    answer. ``size`` says how many there are of them here.
    """

    turn: Turn
    answer: Answer | None = None

    @property
    def tokens(self) -> int:
        """How many tokens are shown one by one; none where the answer is not the text that the model wrote."""
        return len(self.answer.tokens) if self.answer is not None and self.answer.reply.streams else 0

    @property
    def size(self) -> int:
        return 1 if self.turn.role != "assistant" else max(1, self.tokens) + 1


Turns = tuple[Said, ...]


def place(said: Sequence[Said], index: int) -> tuple[int, int]:
    """Which turn the thing of this number belongs to, and which of its things it is; beyond the last one, that one."""
    for n, each in enumerate(said):
        if index < each.size:
            return n, index
        index -= each.size
    return len(said) - 1, said[-1].size - 1 if said else -1


def size(said: Sequence[Said]) -> int:
    """How many things there are to point at."""
    return sum(each.size for each in said)


def n_exchanges(said: Sequence[Said]) -> int:
    return len(exchanges([each.turn for each in said]))


class Dialogue:
    """What was said, and what was said before that was changed.

    Attributes:
        said: the turns, as they are now.
    """

    def __init__(self) -> None:
        self._versions: list[Turns] = [()]
        self._now = 0

    @property
    def said(self) -> Turns:
        return self._versions[self._now]

    @property
    def can_undo(self) -> bool:
        return self._now > 0

    @property
    def can_redo(self) -> bool:
        return self._now < len(self._versions) - 1

    def become(self, said: Turns) -> None:
        """This is what was said; ``undo`` brings back what it was before."""
        self._versions = [*self._versions[: self._now + 1], said]
        self._now += 1

    def undo(self) -> None:
        self._now -= self.can_undo

    def redo(self) -> None:
        self._now += self.can_redo

    def at(self, index: int) -> int:
        """Number of the message to which the thing of this number belongs, as message or in its answer."""
        turn, _ = place(self.said, index)
        return max(0, sum(each.turn.role == "user" for each in self.said[: turn + 1]) - 1)

    def before(self, n: int) -> tuple[Turns, Turn]:
        """What was said before the n-th message, and that message.

        Raises:
            ConfigError: there is no such message.
        """
        messages = [i for i, each in enumerate(self.said) if each.turn.role == "user"]
        if not messages:
            raise ConfigError("there is no message yet")
        if not 0 <= n < len(messages):
            raise ConfigError(f"there is no message {n}; the last one is {len(messages) - 1}")
        return self.said[: messages[n]], self.said[messages[n]].turn

    def answered(self, said: Turns, answer: Answer) -> None:
        """The answer to the last message of ``said`` is there; rules that forget have forgotten what they do."""
        talk = answer.reply.conversation
        kept = said[len(said) - len(talk.turns) + 1 :]
        self.become((*kept, Said(talk.turns[-1], answer)))
