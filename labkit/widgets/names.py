"""TokenNames: which token someone means."""

import difflib
from functools import cached_property

from ..errors import SamplingError
from ..tokenizers.base import Tokenizer
from ..views.base import visible
from .facts import Source, pieces

HOW_TO_NAME = "write it as it is shown, or its id as <17>"
NEAR = 5  # how many tokens are suggested for one that does not exist


class TokenNames:
    """Every token of a vocabulary by its piece as it is shown; the table is made when somebody first asks."""

    def __init__(self, source: Source, vocab_size: int):
        self._source, self._vocab_size = source, vocab_size

    @cached_property
    def _by_name(self) -> dict[str, int]:
        """Of equal pieces the first."""
        named = enumerate(pieces(self._source, range(self._vocab_size)))
        return {visible(piece): i for i, piece in reversed(list(named))}

    def id_of(self, text: str) -> int:
        """The token that someone means: its piece, as it is or as it is shown, or its id as <17>.

        Raises:
            SamplingError: no token is called so; near ones are named.
        """
        for name in (visible(text), "␣" + visible(text)):
            if name in self._by_name:
                return self._by_name[name]
        number = text.strip("<> ")
        if number.isdecimal() and int(number) < len(self._by_name):
            return int(number)
        names = list(self._by_name)
        near = [n for n in names if text.strip().lower() in n.lower()] or difflib.get_close_matches(text, names, NEAR)
        hint = f"near ones are {', '.join(sorted(near, key=len)[:NEAR])}"
        raise SamplingError(f"no token is {visible(text)!r}; {hint if near else HOW_TO_NAME}")

    def ids_of(self, text: str, tokenizer: Tokenizer | None) -> list[int]:
        """One token by its name, or the tokens of any text.

        Raises:
            SamplingError: it is neither.
        """
        try:
            return [self.id_of(text)]
        except SamplingError:
            if tokenizer is None or tokenizer.unknown_in(text):
                raise
            return tokenizer.encode(text, special="text")
