"""What every tokenizer offers."""

from collections.abc import Sequence
from typing import Literal, Protocol

from ..errors import TokenizerError

OnUnknown = Literal["raise", "drop"]
OnSpecial = Literal["parse", "text", "refuse"]


class Tokenizer(Protocol):
    """Text <-> ids.

    Attributes:
        vocab_size: number of ids, padding ids included.
        bos_id: id that ``generate`` puts in front of text; None: none.
        eos_id: id that means "end of text" to the format; None: none.
        special_ids: name -> id of the special tokens.
        on_unknown: what ``encode`` does by default with characters outside the vocabulary.
        on_special: what ``encode`` does by default with special tokens typed as text.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    special_ids: dict[str, int]
    on_unknown: OnUnknown
    on_special: OnSpecial

    def encode(self, text: str, unknown: OnUnknown | None = None, special: OnSpecial | None = None) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id stands for by itself; bytes that are no character of their own as ``\\xNN``."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes this id adds to the text."""
        ...

    def unknown_in(self, text: str) -> list[tuple[int, str]]:
        """(position, character) of every character outside the vocabulary."""
        ...


def piece_of(data: bytes) -> str:
    """Bytes as text where they are text, as ``\\xNN`` where a character spans tokens."""
    return data.decode("utf-8", errors="backslashreplace")


def describe_unknown(unknown: list[tuple[int, str]], most: int = 5) -> str:
    """'=' (position 7), 'é' (position 9), … : the distinct characters with where each is first seen."""
    first: dict[str, int] = {}
    for position, character in unknown:
        first.setdefault(character, position)
    named = [f"{character!r} (position {position})" for character, position in list(first.items())[:most]]
    return ", ".join(named + ["…"] * (len(first) > most))


def check_id(token_id: int, vocab_size: int) -> None:
    """Refuse an id that the vocabulary does not have."""
    if not 0 <= token_id < vocab_size:
        raise TokenizerError(f"id {token_id} is outside the vocabulary 0 … {vocab_size - 1}")
