"""A tokenizer's vocabulary: tokens by text, id or bytes, and how byte pair encoding builds one of them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..tokenizers.base import Tokenizer
from ..tokenizers.bpe import CHARACTER_OF, GPT2Tokenizer, TableTokenizer, gpt2_merges
from ..tokenizers.hf import SPACE, HFTokenizer, decoders

BYTES = re.compile(r"(?:(?:0x|\\x)[0-9a-f]{2}[ ,]*)(?:(?:0x|\\x)?[0-9a-f]{2}[ ,]*)*", re.IGNORECASE)

Ranks = Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class Merge:
    """One step of byte pair encoding.

    Attributes:
        rank: when it was learned: 0 is the first merge there is.
        left, right: what is joined, as the vocabulary writes it: bytes as characters (Ġ is a space).
        parts: of the token, after it.
    """

    rank: int
    left: str
    right: str
    parts: tuple[str, ...]


class Vocabulary:
    """All tokens of a tokenizer; its tables are made when they are first asked for."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def __repr__(self) -> str:
        return f"Vocabulary({self.tokenizer!r})"

    def find(self, wanted: str, most: int = 50) -> list[dict[str, Any]]:
        """Tokens that hold this text, whatever its case: id, piece and bytes; the shortest first.

        Args:
            wanted: text; an id as "#17"; or bytes as "0xe2 82" or "\\xe2\\x82".
        """
        if re.fullmatch(r"#\d+", wanted):
            found = [int(wanted[1:])] if int(wanted[1:]) < self.tokenizer.vocab_size else []
        elif BYTES.fullmatch(wanted):
            part = bytes.fromhex(re.sub(r"0x|\\x|[ ,]", "", wanted, flags=re.IGNORECASE))
            found = [i for i, data in enumerate(self._bytes) if part in data]
        else:
            part = lower(wanted.encode(errors="replace"))
            found = [i for i, data in enumerate(self._lower) if part and part in data]
        found = sorted(found, key=lambda i: (len(self._bytes[i]), i))[:most]
        pieces = self.tokenizer.pieces(found)
        return [
            {"id": i, "piece": piece, "bytes": self._bytes[i].hex(" ")} for i, piece in zip(found, pieces, strict=True)
        ]

    def merge_steps(self, token_id: int) -> tuple[Merge, ...] | None:
        """How byte pair encoding builds a token: of all pairs that can be joined the one that was learned first, again
        and again. Within a longer text it comes about by the same steps.

        Returns:
            None where there is nothing of the kind to tell: no merges, or a token that they do not give.
        """
        if self._ranks is None or token_id in self.tokenizer.special_ids.values():
            return None
        written = self._as_written(token_id)
        steps = tuple(joined(written, self._ranks))
        return steps if len(steps) == len(written) - 1 else None

    @cached_property
    def _bytes(self) -> list[bytes]:
        return [self.tokenizer.token_bytes(i) for i in range(self.tokenizer.vocab_size)]

    @cached_property
    def _lower(self) -> list[bytes]:
        return [lower(data) for data in self._bytes]

    @cached_property
    def _ranks(self) -> Ranks | None:
        """The pairs that byte pair encoding joins, each with its place in the order; None: it does not work so."""
        merges: Sequence[Any] | None = None
        if isinstance(self.tokenizer, GPT2Tokenizer):
            merges = gpt2_merges()
        elif isinstance(self.tokenizer, TableTokenizer):
            merges = self.tokenizer.merges
        elif isinstance(self.tokenizer, HFTokenizer):
            merges = self._described["model"].get("merges")
        if merges is None:
            return None
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
        return {(left, right): rank for rank, (left, right) in enumerate(pairs)}

    @cached_property
    def _described(self) -> Mapping[str, Any]:
        """What a tokenizer.json says."""
        return json.loads(self.tokenizer.text) if isinstance(self.tokenizer, HFTokenizer) else {}

    def _as_written(self, token_id: int) -> str:
        """A token as the vocabulary writes it: bytes as characters ("Ġthe"), or with ▁ for a space."""
        data = self.tokenizer.token_bytes(token_id)
        if self._described and "ByteLevel" not in decoders(self._described):
            return data.decode("utf-8", errors="replace").replace(" ", SPACE)
        return "".join(CHARACTER_OF[byte] for byte in data)


def joined(written: str, ranks: Ranks) -> Iterator[Merge]:
    """The merges that apply to these characters, in their order."""
    parts = tuple(written)
    while known := [(ranks[pair], i) for i, pair in enumerate(zip(parts, parts[1:], strict=False)) if pair in ranks]:
        rank, i = min(known)
        left, right = parts[i : i + 2]
        parts = (*parts[:i], left + right, *parts[i + 2 :])
        yield Merge(rank, left, right, parts)


def lower(data: bytes) -> bytes:
    """Without capitals; bytes that are no text stay."""
    return data.decode("utf-8", errors="surrogateescape").lower().encode("utf-8", errors="surrogateescape")
