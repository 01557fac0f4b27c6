"""``tokenizer.json`` by the ``tokenizers`` library: byte-level, SentencePiece-style with byte fallback, Unigram."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import tokenizers

from ..errors import TokenizerError
from .base import OnSpecial, OnUnknown, check_id, describe_unknown, piece_of
from .bpe import BYTE_OF, CHARACTER_OF

SPACE = "▁"  # how SentencePiece writes a space
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
MOST_TOKENS = 1 << 22  # ids are free to choose in the file, and the table has a place for each


class HFTokenizer:
    """A tokenizer of the ``tokenizers`` library.

    Args:
        text: contents of a tokenizer.json.
        vocab_size: pads the vocabulary with ids that decode to nothing.
        bos_id: put in front by ``generate``; None: the one that the file's own template puts there, if any.
    """

    on_unknown: OnUnknown = "raise"
    on_special: OnSpecial = "parse"

    def __init__(
        self, text: str, *, vocab_size: int | None = None, bos_id: int | None = None, eos_id: int | None = None
    ):
        self.text = text
        self._parsing = library_tokenizer(text)
        self._described = json.loads(text)
        self._byte_level = "ByteLevel" in decoders(self._described)
        self._bytes = byte_table(self._parsing, self._described)
        self.vocab_size = vocab_size or len(self._bytes)
        if self.vocab_size < len(self._bytes):
            raise TokenizerError(f"vocab_size {self.vocab_size} is less than the {len(self._bytes)} tokens")
        added = self._parsing.get_added_tokens_decoder()
        self.special_ids = {token.content: i for i, token in sorted(added.items()) if token.special}
        self.bos_id = self._templated_bos() if bos_id is None else bos_id
        self.eos_id = eos_id

    def __repr__(self) -> str:
        return f"HFTokenizer({self._described['model'].get('type', 'BPE')}, vocab_size={self.vocab_size})"

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same, with special tokens in the text taken as characters."""
        plain = library_tokenizer(self.text)
        plain.encode_special_tokens = True
        return plain

    def encode(self, text: str, unknown: OnUnknown | None = None, special: OnSpecial | None = None) -> list[int]:
        """Ids of the text, without BOS or EOS. Special tokens typed in it are parsed by default."""
        special = special or self.on_special
        if special == "refuse":
            for name in self.special_ids:
                if name in text:
                    raise TokenizerError(
                        f"special token {name} in the text at position {text.index(name)}: "
                        f'pass special="parse" to mean the token, special="text" to mean the characters'
                    )
        encoding = (self._parsing if special == "parse" else self._plain).encode(text, add_special_tokens=False)
        if (unknown or self.on_unknown) == "raise" and (found := self._unknown(text, encoding)):
            raise TokenizerError(
                f"{len(found)} character{'s' * (len(found) > 1)} outside the vocabulary: {describe_unknown(found)}. "
                f'Change the text, or pass unknown="drop" (--unknown drop) to leave them out.'
            )
        return [i for i, span in zip(encoding.ids, encoding.offsets, strict=True) if not self._stands_in(text, i, span)]

    def unknown_in(self, text: str) -> list[tuple[int, str]]:
        """(position, character) of every character outside the vocabulary."""
        return self._unknown(text, self._parsing.encode(text, add_special_tokens=False))

    def _unknown(self, text: str, encoding: tokenizers.Encoding) -> list[tuple[int, str]]:
        if self._byte_level:
            absent = self._absent
            return [(i, c) for i, c in enumerate(text) if absent and not absent.isdisjoint(c.encode(errors="replace"))]
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        if self._leaves_out:
            special = set(self.special_ids.values())
            typed = {at for i, (start, end) in pairs if i in special for at in range(start, end)}
            return [(at, c) for at, c in enumerate(text) if at not in typed and self._parsing.token_to_id(c) is None]
        spans = [span for i, span in pairs if self._stands_in(text, i, span)]
        return [(at, text[at]) for start, end in spans for at in range(start, end)]

    @cached_property
    def _leaves_out(self) -> bool:
        """Whether characters outside the vocabulary leave no token at all: merging alone, over the text as it is."""
        described, model = self._described, self._described["model"]
        plain = not (described.get("normalizer") or described.get("pre_tokenizer"))
        return plain and "merges" in model and not model.get("unk_token") and not model.get("byte_fallback")

    def _stands_in(self, text: str, token_id: int, span: tuple[int, int]) -> bool:
        """Whether the unknown token stands here for something else, and was not typed."""
        return token_id == self._unknown_id and text[slice(*span)].encode() != self._bytes[token_id]

    @cached_property
    def _unknown_id(self) -> int | None:
        model = self._described["model"]
        return model["unk_id"] if "unk_id" in model else self._parsing.token_to_id(model.get("unk_token") or "")

    @cached_property
    def _absent(self) -> frozenset[int]:
        """Bytes that are no token of a byte-level vocabulary; the library drops them without a word."""
        return frozenset(b for b, character in CHARACTER_OF.items() if self._parsing.token_to_id(character) is None)

    def _templated_bos(self) -> int | None:
        """The one token that the file's template puts in front."""
        plain = self._parsing.encode("a", add_special_tokens=False).ids
        full = self._parsing.encode("a", add_special_tokens=True).ids
        return full[0] if plain and full[1 : 1 + len(plain)] == plain else None

    @cached_property
    def _adds_space(self) -> bool:
        """Whether a text gets a space in front, as SentencePiece does."""
        ids = self._parsing.encode("a", add_special_tokens=False).ids
        return bool(ids) and self._bytes[ids[0]].startswith(b" ")

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, without the space that encoding puts in front; bytes that are no UTF-8 become U+FFFD."""
        data = b"".join(map(self.token_bytes, ids))
        return (data.removeprefix(b" ") if self._adds_space else data).decode("utf-8", errors="replace")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id stands for by itself; bytes that are no character of their own as ``\\xNN``."""
        return [piece_of(self.token_bytes(i)) or f"<|{i}|>" for i in ids]

    def token_bytes(self, token_id: int) -> bytes:
        check_id(token_id, self.vocab_size)
        return self._bytes[token_id] if token_id < len(self._bytes) else b""


def library_tokenizer(text: str) -> tokenizers.Tokenizer:
    """Parse a tokenizer.json; nothing is cut off or filled up when it encodes."""
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and lets a panic of its Rust code through
        raise TokenizerError(f"no tokenizer.json that the tokenizers library reads ({error})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def decoders(described: Mapping[str, Any]) -> list[str]:
    """Names of a tokenizer.json's decoders."""
    decoder = described.get("decoder") or {}
    return [str(step["type"]) for step in decoder.get("decoders", [decoder]) if "type" in step]


def byte_table(library: tokenizers.Tokenizer, described: Mapping[str, Any]) -> list[bytes]:
    """What each id adds to the text.

    Raises:
        TokenizerError: the tokenizer is of a kind where that depends on the neighbours (WordPiece).
    """
    kinds, added = decoders(described), library.get_added_tokens_decoder()
    if not {"ByteLevel", "ByteFallback", "Metaspace", "Replace", "Fuse"} & set(kinds):
        raise TokenizerError(f"a tokenizer.json with decoder {kinds or 'none'}; what a token adds cannot be told")
    vocab = library.get_vocab(with_added_tokens=True)
    largest = max(vocab.values(), default=-1)
    if not 0 <= largest < MOST_TOKENS:
        raise TokenizerError(f"a tokenizer.json whose largest id is {largest:,}; labkit reads up to {MOST_TOKENS:,}")
    table = [b""] * (largest + 1)
    for token, i in vocab.items():
        if i in added:
            table[i] = added[i].content.encode()
        elif "ByteLevel" in kinds and all(character in BYTE_OF for character in token):
            table[i] = bytes(BYTE_OF[character] for character in token)
        elif "ByteFallback" in kinds and (byte := BYTE_TOKEN.fullmatch(token)):
            table[i] = bytes([int(byte[1], 16)])
        else:
            table[i] = token.replace(SPACE, " ").encode()
    return table
