"""Byte pair encoding on bytes by tiktoken: GPT-2's, from the merges that ship with labkit, and tables out of files."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from importlib.resources import files

import tiktoken

from ..errors import TokenizerError
from .base import OnSpecial, OnUnknown, check_id, describe_unknown, piece_of

END_OF_TEXT = "<|endoftext|>"
# How GPT-2 cuts text before merging (Radford et al. 2019, encoder.py).
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_VOCAB_SIZE = 50257

# The name that files give to a way of cutting (``tokenizer.ggml.pre``) -> the expression that cuts so.
PATTERNS: Mapping[str, str] = {
    "gpt-2": GPT2_PATTERN,
    # First every digit by itself, then as GPT-2: digits end what stands before them, so \s+ needs a case of its own.
    "smollm": r"\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+",
    "llama-bpe": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}

# Files write a byte as a character: printable ones as themselves, the others as U+0100 on.
_PRINTABLE = [b for b in range(256) if chr(b).isprintable() and chr(b) != " " and b != 0xAD]
_OTHERS = [b for b in range(256) if b not in _PRINTABLE]
CHARACTER_OF = {b: chr(b) for b in _PRINTABLE} | {b: chr(256 + i) for i, b in enumerate(_OTHERS)}
BYTE_OF = {character: b for b, character in CHARACTER_OF.items()}


@cache
def gpt2_merges() -> list[str]:
    """GPT-2's 50,000 merges, "Ġ t" first."""
    return files(__package__).joinpath("data/gpt2_vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]


@cache
def gpt2_encoding() -> tiktoken.Encoding:
    """GPT-2's tokens but <|endoftext|>; the rank of each is its id. Read at the first encode or decode (0.2 s)."""
    ranks = {bytes([b]): i for i, b in enumerate(_PRINTABLE + _OTHERS)}
    for merge in gpt2_merges():
        ranks[bytes(BYTE_OF[character] for character in merge.replace(" ", ""))] = len(ranks)
    return tiktoken.Encoding("gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})


class BytePairTokenizer(ABC):
    """What GPT-2 and tables out of files have in common.

    Attributes:
        matched: tokens that are found in the text before anything else, whatever ``special`` says; name -> id.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    special_ids: dict[str, int]
    matched: Mapping[str, int]
    on_unknown: OnUnknown = "raise"
    on_special: OnSpecial

    @abstractmethod
    def _encode_plain(self, text: str) -> list[int]:
        """Ids of text without special tokens; -1 for a byte outside the vocabulary."""

    @abstractmethod
    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes this id adds to the text; none for a padding id."""

    @abstractmethod
    def unknown_in(self, text: str) -> list[tuple[int, str]]:
        """(position, character) of every character outside the vocabulary."""

    def encode(self, text: str, unknown: OnUnknown | None = None, special: OnSpecial | None = None) -> list[int]:
        """Ids of the text. Special tokens typed in it are parsed by default."""
        special = special or self.on_special
        if (unknown or self.on_unknown) == "raise" and (found := self.unknown_in(text)):
            raise TokenizerError(
                f"{len(found)} character{'s' * (len(found) > 1)} outside the vocabulary: {describe_unknown(found)}. "
                f'Change the text, or pass unknown="drop" (--unknown drop) to leave them out.'
            )
        if special == "refuse" and self._named and (match := self._named.search(text)):
            raise TokenizerError(
                f"special token {match[0]} in the text at position {match.start()}: "
                f'pass special="parse" to mean the token, special="text" to mean the characters'
            )
        names = {**self.matched, **self.special_ids} if special == "parse" else self.matched
        pattern = self._parsed if special == "parse" else self._matched
        ids: list[int] = []
        at = 0
        for match in pattern.finditer(text) if pattern else ():
            ids += [*self._encode_plain(text[at : match.start()]), names[match[0]]]
            at = match.end()
        return [i for i in ids + self._encode_plain(text[at:]) if i >= 0]

    @cached_property
    def _named(self) -> re.Pattern[str] | None:
        return any_of(self.special_ids)

    @cached_property
    def _matched(self) -> re.Pattern[str] | None:
        return any_of(self.matched)

    @cached_property
    def _parsed(self) -> re.Pattern[str] | None:
        return any_of({**self.matched, **self.special_ids})

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id stands for by itself; bytes that are no character of their own as ``\\xNN``."""
        return [piece_of(self.token_bytes(i)) or f"<|{i}|>" for i in ids]


def any_of(names: Mapping[str, int]) -> re.Pattern[str] | None:
    """Finds any of the names, the longest first."""
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, longest_first))) if names else None


class GPT2Tokenizer(BytePairTokenizer):
    """GPT-2's tokenizer.

    Args:
        on_special: what ``<|endoftext|>`` typed as text becomes: gpt2seed and Hugging Face parse it, LabCore refuses.
        vocab_size: pads the vocabulary with ids that decode to nothing (nanoGPT pads to 50304).
    """

    def __init__(self, on_special: OnSpecial = "parse", vocab_size: int = GPT2_VOCAB_SIZE):
        if vocab_size < GPT2_VOCAB_SIZE:
            raise TokenizerError(f"vocab_size {vocab_size} is less than GPT-2's {GPT2_VOCAB_SIZE}")
        self.vocab_size = vocab_size
        self.bos_id = None
        self.eos_id = GPT2_VOCAB_SIZE - 1
        self.special_ids = {END_OF_TEXT: self.eos_id}
        self.matched = {}
        self.on_special = on_special

    def __repr__(self) -> str:
        return f"GPT2Tokenizer(vocab_size={self.vocab_size})"

    def _encode_plain(self, text: str) -> list[int]:
        return gpt2_encoding().encode_ordinary(text)

    def unknown_in(self, text: str) -> list[tuple[int, str]]:
        """Nothing is ever unknown: all bytes are in the vocabulary."""
        return []

    def token_bytes(self, token_id: int) -> bytes:
        check_id(token_id, self.vocab_size)
        if token_id < GPT2_VOCAB_SIZE - 1:
            return gpt2_encoding().decode_single_token_bytes(token_id)
        return END_OF_TEXT.encode() if token_id == self.eos_id else b""


class TableTokenizer(BytePairTokenizer):
    """Byte pair encoding by a file's own table of tokens and merges.

    Args:
        tokens: by id, bytes written as characters ("Ġthe"); special tokens as they are.
        merges: "Ġ t", in the order in which they apply.
        pre: how text is cut before merging, a key of PATTERNS.
        special_ids: name -> id of the special tokens.
        matched: name -> id of tokens that always win over merging, though they are not special.
        vocab_size: pads the vocabulary with ids that decode to nothing.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        merges: Sequence[str],
        pre: str,
        *,
        special_ids: Mapping[str, int],
        matched: Mapping[str, int] | None = None,
        vocab_size: int | None = None,
        bos_id: int | None = None,
        eos_id: int | None = None,
    ):
        if not isinstance(pre, str) or pre not in PATTERNS:
            raise TokenizerError(f"text is cut in the way {pre!r} before merging; labkit knows {', '.join(PATTERNS)}")
        if not all(isinstance(each, str) for each in (*tokens, *merges)):
            raise TokenizerError("a table whose tokens and merges are not all text")
        self.tokens, self.merges, self.pre = list(tokens), list(merges), pre
        self.vocab_size = vocab_size or len(self.tokens)
        self.bos_id, self.eos_id = bos_id, eos_id
        self.special_ids, self.matched = dict(special_ids), dict(matched or {})
        self.on_special = "parse"
        as_they_are = {*self.special_ids.values(), *self.matched.values()}
        self._bytes = [t.encode() if i in as_they_are else bytes_of(t) for i, t in enumerate(self.tokens)]
        self._ranks, self._id_of_rank = rank_table(self._bytes, self.merges, as_they_are)
        self._absent = frozenset(b for b in range(256) if self._id_of_rank[b] < 0)

    def __repr__(self) -> str:
        return f"TableTokenizer({len(self.merges)} merges, cut as {self.pre}, vocab_size={self.vocab_size})"

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        return tiktoken.Encoding(self.pre, pat_str=PATTERNS[self.pre], mergeable_ranks=self._ranks, special_tokens={})

    def _encode_plain(self, text: str) -> list[int]:
        return [self._id_of_rank[rank] for rank in self._encoding.encode_ordinary(text)]

    def unknown_in(self, text: str) -> list[tuple[int, str]]:
        """(position, character) of every character with a byte that is no token."""
        if not self._absent:
            return []
        return [(i, c) for i, c in enumerate(text) if not self._absent.isdisjoint(c.encode("utf-8", errors="replace"))]

    def token_bytes(self, token_id: int) -> bytes:
        check_id(token_id, self.vocab_size)
        return self._bytes[token_id] if token_id < len(self._bytes) else b""


def bytes_of(token: str) -> bytes:
    """A token as a file writes it -> its bytes: Ġthe -> b" the"."""
    try:
        return bytes(BYTE_OF[character] for character in token)
    except KeyError as error:
        raise TokenizerError(f"token {token!r} holds {error.args[0]!r}, which stands for no byte") from None


def rank_table(tokens: Sequence[bytes], merges: Sequence[str], special: set[int]) -> tuple[dict[bytes, int], list[int]]:
    """What tiktoken merges by, and the id of each rank: single bytes first (-1: no token), then merges in order.

    Raises:
        TokenizerError: a merge of what no byte or earlier merge gives, or into what is no token.
    """
    ids: dict[bytes, int] = {}
    for i, token in enumerate(tokens):
        if i not in special:
            ids.setdefault(token, i)
    ranks = {bytes([b]): b for b in range(256)}
    id_of_rank = [ids.get(bytes([b]), -1) for b in range(256)]
    for merge in merges:
        left, _, right = merge.partition(" ")
        parts = bytes_of(left), bytes_of(right)
        token = parts[0] + parts[1]
        if not all(part in ranks for part in parts) or token not in ids:
            raise TokenizerError(f"the merge {merge!r} does not fit the table of tokens")
        if token not in ranks:
            ranks[token] = len(id_of_rank)
            id_of_rank.append(ids[token])
    return ranks, id_of_rank
