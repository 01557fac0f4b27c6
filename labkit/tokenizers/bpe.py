"""GPT-2's byte pair encoding by tiktoken, from the merges that ship with labkit: text never needs a download."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import tiktoken

from ..errors import TokenizerError
from .base import OnSpecial, OnUnknown, check_id, piece_of

END_OF_TEXT = "<|endoftext|>"
# How GPT-2 cuts text before merging (Radford et al. 2019, encoder.py).
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_VOCAB_SIZE = 50257


@cache
def gpt2_encoding() -> tiktoken.Encoding:
    """GPT-2's 50,257 tokens. Read at the first encode or decode (about 0.2 s)."""
    # The first 256 ids are single bytes: the printable ones, then the others, written as U+0100 on in the merges.
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " " and b != 0xAD]
    others = [b for b in range(256) if b not in printable]
    byte_of = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
    ranks = {bytes([b]): i for i, b in enumerate(printable + others)}
    merges = files(__package__).joinpath("data/gpt2_vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    for merge in merges:
        ranks[bytes(byte_of[character] for character in merge.replace(" ", ""))] = len(ranks)
    return tiktoken.Encoding(
        "gpt2", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)}
    )


class GPT2Tokenizer:
    """GPT-2's tokenizer.

    Args:
        on_special: what ``<|endoftext|>`` typed as text becomes: gpt2seed and Hugging Face parse it, LabCore refuses.
    """

    vocab_size = GPT2_VOCAB_SIZE
    bos_id: int | None = None
    eos_id: int | None = GPT2_VOCAB_SIZE - 1
    special_ids = {END_OF_TEXT: GPT2_VOCAB_SIZE - 1}
    on_unknown: OnUnknown = "raise"

    def __init__(self, on_special: OnSpecial = "parse"):
        self.on_special: OnSpecial = on_special

    def __repr__(self) -> str:
        return f"GPT2Tokenizer(vocab_size={self.vocab_size})"

    def encode(self, text: str, unknown: OnUnknown | None = None, special: OnSpecial | None = None) -> list[int]:
        """Ids of the text. Nothing is ever unknown: all bytes are in the vocabulary."""
        special = special or self.on_special
        if special == "refuse" and END_OF_TEXT in text:
            raise TokenizerError(
                f"special token {END_OF_TEXT} in the text at position {text.index(END_OF_TEXT)}: "
                f'pass special="parse" to mean the token, special="text" to mean the characters'
            )
        allowed = {END_OF_TEXT} if special == "parse" else set()
        return gpt2_encoding().encode(text, allowed_special=allowed, disallowed_special=())

    def unknown_in(self, text: str) -> list[tuple[int, str]]:
        return []

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id stands for by itself; bytes that are no character of their own as ``\\xNN``."""
        return [piece_of(self.token_bytes(i)) for i in ids]

    def token_bytes(self, token_id: int) -> bytes:
        check_id(token_id, self.vocab_size)
        return gpt2_encoding().decode_single_token_bytes(token_id)
