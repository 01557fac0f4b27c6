"""A text as a tokenizer cuts it: which characters each token stands for, what is lost, and what comes back."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..tokenizers.base import Tokenizer


@dataclass(frozen=True, repr=False)
class Tokenization:
    """A text under one tokenizer.

    Attributes:
        ids, pieces, data: of each token, its id, what it stands for, and its bytes.
        spans: the characters of the text that each token has a part in: (start, end); None if they cannot be told,
            because the tokens do not give the text back.
        unknown: (position, character) of what the vocabulary does not have; it is left out of the ids.
        decoded: the text that the ids give back.
    """

    text: str
    vocab_size: int
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    data: tuple[bytes, ...]
    spans: tuple[tuple[int, int], ...] | None
    unknown: tuple[tuple[int, str], ...]
    decoded: str

    @property
    def round_trip(self) -> bool:
        """Whether the ids give back exactly the text."""
        return self.decoded == self.text

    def rows(self) -> list[dict[str, Any]]:
        """One row a token."""
        spans: Sequence[tuple[int | None, int | None]] = self.spans or [(None, None)] * len(self.ids)
        parts = zip(self.ids, self.pieces, self.data, spans, strict=True)
        return [
            {"index": i, "id": token_id, "piece": piece, "bytes": data.hex(" "), "start": start, "end": end}
            for i, (token_id, piece, data, (start, end)) in enumerate(parts)
        ]

    def totals(self) -> dict[str, Any]:
        """Counts of the whole text."""
        n = len(self.ids)
        return {
            "tokens": n,
            "characters": len(self.text),
            "characters a token": round(len(self.text) / n, 2) if n else None,
            "bytes a token": round(sum(map(len, self.data)) / n, 2) if n else None,
            "vocabulary": self.vocab_size,
            "unknown": len(self.unknown),
            "round trip": self.round_trip,
        }

    def to_dict(self) -> dict[str, Any]:
        return {"totals": self.totals(), "unknown": [list(pair) for pair in self.unknown], "tokens": self.rows()}

    def __repr__(self) -> str:
        back = "gives the text back" if self.round_trip else "does not give the text back"
        return f"Tokenization({len(self.text)} characters, {len(self.ids)} tokens, {back})"


def tokenization(tokenizer: Tokenizer, text: str) -> Tokenization:
    """The text under this tokenizer; characters that it does not know are left out and named."""
    unknown = tuple(tokenizer.unknown_in(text))
    ids = tokenizer.encode(text, unknown="drop")
    data = tuple(map(tokenizer.token_bytes, ids))
    left_out = {position for position, _ in unknown}
    kept = [i for i in range(len(text)) if i not in left_out]  # the place in the text of each character that is left
    return Tokenization(
        text=text,
        vocab_size=tokenizer.vocab_size,
        ids=tuple(ids),
        pieces=tuple(tokenizer.pieces(ids)),
        data=data,
        spans=spans_of(data, "".join(text[i] for i in kept), kept),
        unknown=unknown,
        decoded=tokenizer.decode(ids),
    )


def spans_of(data: Sequence[bytes], text: str, places: Sequence[int]) -> tuple[tuple[int, int], ...] | None:
    """First and last character (exclusive) that each token's bytes have a part in; places: of the text's characters."""
    written = b"".join(data)
    added = int(written == b" " + text.encode())  # SentencePiece puts a space in front
    if written[added:] != text.encode():
        return None
    at = [i for i, character in zip(places, text, strict=True) for _ in character.encode()]  # of each byte
    at = [*at[:1] * added, *at]
    borders = itertools.pairwise(itertools.accumulate(map(len, data), initial=0))
    return tuple((at[start], at[end - 1] + 1) if end > start else (0, 0) for start, end in borders)
