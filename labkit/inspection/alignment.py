"""Whether two models mean the same by an id, and where their tokens have borders in common if they do not."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import TokenizerError
from ..language_model import LanguageModel


def same_vocabulary(a: LanguageModel, b: LanguageModel) -> bool:
    """Whether every id stands for the same in both; a model without a tokenizer is taken at its size."""
    mine, other = a.tokenizer, b.tokenizer
    if a.vocab_size != b.vocab_size:
        return False
    if mine is other or mine is None or other is None:
        return True
    return all(mine.token_bytes(i) == other.token_bytes(i) for i in range(a.vocab_size))


def same_ids(a: LanguageModel, b: LanguageModel, text: str | Sequence[int]) -> bool:
    """Whether the text can be given to both as the same ids.

    Raises:
        TokenizerError: it is ids already, and they do not mean the same to both.
    """
    same = same_vocabulary(a, b)
    if not same and not isinstance(text, str):
        raise TokenizerError("the ids do not mean the same to both models; give the text")
    return same


def token_ends(lm: LanguageModel, ids: list[int], text: str) -> list[int]:
    """Where in the text each token ends, in bytes; a BOS in front ends at 0.

    Raises:
        TokenizerError: the tokens do not give the text back, so they have no place in it.
    """
    tokenizer = lm.require_tokenizer()
    data = [tokenizer.token_bytes(i) for i in ids]
    if ids[0] == tokenizer.bos_id:
        data[0] = b""
    ends = list(itertools.accumulate(map(len, data)))
    written, wanted = b"".join(data), text.encode()
    extra = len(written) - len(wanted) if written == b" " + wanted else 0  # SentencePiece begins with a space
    if written[extra:] != wanted:
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(written, wanted, strict=False)))
        place = len(wanted[:same].decode("utf-8", errors="ignore"))
        raise TokenizerError(
            f"the tokens of {lm.checkpoint.path.name} do not give the text back from character {place} "
            f"({text[place : place + 10]!r}) on, so they cannot be aligned with another tokenizer's; change the text"
        )
    return [max(0, end - extra) for end in ends]


def character_starts(data: Sequence[bytes]) -> list[int]:
    """The character that each token begins with or goes on with, counted from 0 over the bytes of all tokens."""
    begun = [[byte & 0xC0 != 0x80 for byte in piece] for piece in data]  # the other bytes of UTF-8 go on
    before = itertools.accumulate(map(sum, begun), initial=0)
    return [n - (not all(first[:1])) for n, first in zip(before, begun, strict=False)]


def common_borders(text: str, ends_a: list[int], ends_b: list[int]) -> tuple[list[int], list[int]]:
    """Where a token of both ends, past what either of them does not predict: in characters and in bytes.

    Raises:
        TokenizerError: there are not two such places.
    """
    characters = {end: i for i, end in enumerate(itertools.accumulate((len(c.encode()) for c in text), initial=0))}
    shared = set(ends_a) & set(ends_b) & characters.keys()
    borders = sorted(end for end in shared if end >= max(ends_a[0], ends_b[0]))
    if len(borders) < 2:
        raise TokenizerError(
            "the two tokenizers have no two borders in common in this text, so they cannot be aligned; give a longer"
        )
    return [characters[border] for border in borders], borders


def sums_between(borders: list[int], ends: list[int], values: Tensor) -> Tensor:
    """Sums (n - 1,) of token values (T,) between n borders; a token belongs where it ends."""
    part = torch.bucketize(torch.tensor(ends), torch.tensor(borders))  # 0: before the first border
    return torch.zeros(len(borders) + 1, dtype=values.dtype).index_add(0, part, values)[1 : len(borders)]
