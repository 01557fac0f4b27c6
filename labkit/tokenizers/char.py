"""One id per character: LabCore's ``meta.json`` vocabulary and the nanochat experiment's ``tokenizer_config.json``."""

from collections.abc import Sequence

from ..errors import TokenizerError
from .base import OnSpecial, OnUnknown, check_id, describe_unknown


class CharTokenizer:
    """Characters 0 … n-1, then special tokens, then padding ids that stand for nothing.

    Args:
        vocab: characters by id. Of a duplicate the last id encodes (LabCore); an entry of several characters can be
            decoded but is never produced.
        specials: names of the special tokens, with the ids after the characters.
        vocab_size: pads the vocabulary with ids that decode to nothing (nanochat pads to 32).
        bos: the special token that ``generate`` puts in front.
        on_unknown: LabCore raises, the nanochat experiment drops.
    """

    def __init__(
        self,
        vocab: Sequence[str],
        *,
        specials: Sequence[str] = (),
        vocab_size: int | None = None,
        bos: str | None = None,
        on_unknown: OnUnknown = "raise",
    ):
        if not vocab or not all(isinstance(entry, str) for entry in vocab):
            raise TokenizerError("a character vocabulary must be a list of at least one string")
        self.vocab = list(vocab)
        self.special_ids = {name: len(self.vocab) + i for i, name in enumerate(specials)}
        n = len(self.vocab) + len(self.special_ids)
        if vocab_size is not None and vocab_size < n:
            raise TokenizerError(f"vocab_size {vocab_size} is less than the {n} characters and special tokens")
        self.vocab_size = vocab_size or n
        self.bos_id: int | None = self.special_ids[bos] if bos else None
        self.eos_id: int | None = None
        self.on_unknown: OnUnknown = on_unknown
        self.on_special: OnSpecial = "text"
        self._ids = {character: i for i, character in enumerate(self.vocab)}
        self._names = {i: name for name, i in self.special_ids.items()}

    def __repr__(self) -> str:
        counts = f"{len(self.vocab)} characters, {len(self.special_ids)} special"
        return f"CharTokenizer({counts}, vocab_size={self.vocab_size})"

    def encode(self, text: str, unknown: OnUnknown | None = None, special: OnSpecial | None = None) -> list[int]:
        """Ids of the characters. ``unknown="drop"`` leaves out those outside the vocabulary, otherwise they raise."""
        if (special or self.on_special) != "text" and self.special_ids:
            return self._encode_with_specials(text, unknown, special)
        if (unknown or self.on_unknown) == "raise" and (found := self.unknown_in(text)):
            raise TokenizerError(
                f"{len(found)} character{'s' * (len(found) > 1)} outside the vocabulary: {describe_unknown(found)}. "
                f'Change the text, or pass unknown="drop" (--unknown drop) to leave them out.'
            )
        return [self._ids[character] for character in text if character in self._ids]

    def _encode_with_specials(self, text: str, unknown: OnUnknown | None, special: OnSpecial | None) -> list[int]:
        for name, token_id in self.special_ids.items():
            if name in text:
                if special == "refuse":
                    where = f"special token {name} in the text at position {text.index(name)}"
                    raise TokenizerError(f'{where}; pass special="text" to mean the characters, "parse" the token')
                before, after = text.split(name, 1)
                return [
                    *self._encode_with_specials(before, unknown, special),
                    token_id,
                    *self._encode_with_specials(after, unknown, special),
                ]
        return self.encode(text, unknown, "text")

    def unknown_in(self, text: str) -> list[tuple[int, str]]:
        """(position, character) of every character outside the vocabulary."""
        return [(i, character) for i, character in enumerate(text) if character not in self._ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; special tokens by name, padding ids as nothing."""
        return "".join(self._text(i) for i in ids)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """What each id stands for; a padding id as ``<|id|>``."""
        return [self._text(i) or f"<|{i}|>" for i in ids]

    def token_bytes(self, token_id: int) -> bytes:
        return self._text(token_id).encode()

    def _text(self, token_id: int) -> str:
        check_id(token_id, self.vocab_size)
        if token_id < len(self.vocab):
            return self.vocab[token_id]
        return self._names.get(token_id, "")
