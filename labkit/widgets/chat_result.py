"""ChatResult: what was said, as plain data."""

from dataclasses import dataclass
from typing import Any

from ..chat import Conversation
from .transcript import counted


@dataclass(frozen=True, repr=False)
class ChatResult:
    """What was said, as plain data."""

    conversation: Conversation
    table: tuple[dict[str, Any], ...]

    def __repr__(self) -> str:
        return f"ChatResult({counted(len(self.conversation.turns), 'turn')}, {self.conversation.template.name})"

    def rows(self) -> list[dict[str, Any]]:
        """A row for the system text and for each turn: role, text, tokens, whether the next prompt holds it, and how
        an answer ended."""
        return [dict(row) for row in self.table]

    def to_dict(self) -> dict[str, Any]:
        """A conversation as ``labkit chat`` saves and loads it."""
        return self.conversation.to_dict()
