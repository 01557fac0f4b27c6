"""A conversation: who said what. It is kept in a file as JSON."""

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import ConfigError
from ..files import atomic_write
from ..generation import FinishReason
from .templates import Template

Role = Literal["system", "user", "assistant"]
VERSION = 1  # of saved conversations


@dataclass(frozen=True)
class Turn:
    """Who says what; ``finish_reason`` is how an answer ended ("interrupted": only its beginning is here)."""

    role: Role
    text: str
    finish_reason: FinishReason | None = None


@dataclass(frozen=True)
class Conversation:
    """What was said so far. Every change makes a new one, so that going back is keeping the old one.

    Attributes:
        template: how the turns are written for the model.
        turns: what people and model said, oldest first.
        system: text in front of everything; None: the template's own, if it has one.
        max_history_turns: exchanges before the newest message that a prompt may hold; None: no such bound, 0 or below:
            none.
        max_tokens: of a prompt; None: what the context has room for.
    """

    template: Template
    turns: tuple[Turn, ...] = ()
    system: str | None = None
    max_history_turns: int | None = None
    max_tokens: int | None = None

    def replace(self, **changes: Any) -> "Conversation":
        return dataclasses.replace(self, **changes)

    def say(self, text: str) -> "Conversation":
        """With one more message of the user."""
        return self.replace(turns=(*self.turns, Turn("user", text)))

    def answered(self, text: str, finish_reason: FinishReason | None = None) -> "Conversation":
        """With the model's answer."""
        return self.replace(turns=(*self.turns, Turn("assistant", text, finish_reason)))

    @property
    def last_message(self) -> str | None:
        """What the user said last."""
        return next((turn.text for turn in reversed(self.turns) if turn.role == "user"), None)

    def undo(self) -> "Conversation":
        """Without the last message of the user and all that followed it."""
        groups = exchanges(self.turns)
        return self.replace(turns=tuple(turn for group in groups[:-1] for turn in group)) if groups else self

    def unanswered(self) -> "Conversation":
        """Without what the model answered to the last message, for another answer.

        Raises:
            ConfigError: nobody has said anything yet.
        """
        if (message := self.last_message) is None:
            raise ConfigError("there is no message yet to answer once more")
        return self.undo().say(message)

    def clear(self) -> "Conversation":
        """Nothing said yet; the system text stays."""
        return self.replace(turns=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, complete: the template is written out."""
        return {
            "labkit_conversation": VERSION,
            "template": self.template.to_dict(),
            "system": self.system,
            "max_history_turns": self.max_history_turns,
            "max_tokens": self.max_tokens,
            "turns": [{name: value for name, value in vars(turn).items() if value is not None} for turn in self.turns],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Conversation":
        """The conversation that ``to_dict`` wrote.

        Raises:
            ConfigError: values are missing, unknown or of the wrong kind, or a later labkit wrote them.
        """
        if not isinstance(values, Mapping) or "labkit_conversation" not in values:
            raise ConfigError("this is no conversation that labkit saved")
        if values["labkit_conversation"] != VERSION:
            version = values["labkit_conversation"]
            raise ConfigError(f"a conversation of version {version!r}; this labkit reads version {VERSION}")
        turns, template = values.get("turns"), values.get("template")
        if not isinstance(turns, list) or not isinstance(template, Mapping):
            raise ConfigError("a saved conversation needs turns (a list) and a template (a table)")
        for name, kind in (("system", str), ("max_history_turns", int), ("max_tokens", int)):
            if not isinstance(values.get(name), kind | None) or isinstance(values.get(name), bool):
                raise ConfigError(f"saved conversation: {name} is {values[name]!r}; it must be of type {kind.__name__}")
        return cls(
            Template.from_dict(template),
            tuple(_turn(n, turn) for n, turn in enumerate(turns, start=1)),
            values.get("system"),
            values.get("max_history_turns"),
            values.get("max_tokens"),
        )

    def save(self, path: str | Path) -> None:
        """Write it as JSON, whole or not at all; over a file, never over a device, a pipe or a folder."""
        if Path(path).exists() and not Path(path).is_file():
            raise ConfigError(f"{path}: cannot be written (it is no regular file)")
        text = json.dumps(self.to_dict(), indent=1) + "\n"
        try:
            atomic_write(Path(path), lambda file: file.write(text.encode()))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror or error})") from None

    @classmethod
    def load(cls, path: str | Path) -> "Conversation":
        """A conversation that ``save`` wrote."""
        try:
            return cls.from_dict(json.loads(Path(path).read_bytes()))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: cannot be read as JSON ({error})") from None
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None


def _turn(n: int, values: Any) -> Turn:
    """Turn number n of a saved conversation."""
    if not isinstance(values, Mapping) or not {"role", "text"} <= values.keys() <= {"role", "text", "finish_reason"}:
        raise ConfigError(f"turn {n} needs role and text (and may have finish_reason), and nothing else")
    turn = Turn(**values)
    if turn.role not in get_args(Role) or not isinstance(turn.text, str):
        raise ConfigError(
            f"turn {n}: role is {turn.role!r}; it must be one of {', '.join(get_args(Role))}, with a text"
        )
    if turn.finish_reason is not None and turn.finish_reason not in get_args(FinishReason):
        raise ConfigError(
            f"turn {n}: finish_reason is {turn.finish_reason!r}; known are {', '.join(get_args(FinishReason))}"
        )
    return turn


def exchanges(turns: Sequence[Turn]) -> list[tuple[Turn, ...]]:
    """Each message of the user with what followed it."""
    starts = [i for i, turn in enumerate(turns) if i == 0 or turn.role == "user"]
    return [tuple(turns[start:end]) for start, end in itertools.pairwise([*starts, len(turns)])]
