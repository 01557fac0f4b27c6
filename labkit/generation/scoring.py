"""How well a model predicts a given text: the surprisal of every token."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..language_model import LanguageModel
from .rows import encode_prompt
from .steps import visible_from

CHUNK = 1 << 22  # logits at a time, so that a long text with a large vocabulary takes little memory


@dataclass(frozen=True, repr=False)
class Score:
    """What a model makes of a text. The first token is not predicted, so its numbers are None, and totals leave it out.

    Attributes:
        ids, pieces: of every token; without a tokenizer a piece is the id.
        logprobs: nats, the model's own.
        ranks: of the logits, 0 is the largest.
        entropies: nats, of the model's distribution in that place.
        n_bytes, n_characters: of the text of all predicted tokens; None without a tokenizer.
        notes: on the text.
    """

    ids: list[int]
    pieces: list[str]
    logprobs: list[float | None]
    ranks: list[int | None]
    entropies: list[float | None]
    n_bytes: int | None
    n_characters: int | None
    notes: tuple[str, ...] = ()

    @property
    def surprisal(self) -> float:
        """Nats of the whole text, its first token aside."""
        return -sum(x for x in self.logprobs if x is not None)

    @property
    def mean_surprisal(self) -> float | None:
        """Nats a token; None if no token is predicted."""
        return self.surprisal / (len(self.ids) - 1) if len(self.ids) > 1 else None

    @property
    def perplexity(self) -> float | None:
        mean = self.mean_surprisal
        return math.exp(min(mean, 700.0)) if mean is not None else None

    @property
    def bits_per_byte(self) -> float | None:
        return self.surprisal / math.log(2) / self.n_bytes if self.n_bytes else None

    @property
    def bits_per_character(self) -> float | None:
        return self.surprisal / math.log(2) / self.n_characters if self.n_characters else None

    def rows(self) -> list[dict[str, Any]]:
        """One row a token: index, id, piece, logprob, rank, entropy."""
        columns = zip(self.ids, self.pieces, self.logprobs, self.ranks, self.entropies, strict=True)
        names = ("index", "id", "piece", "logprob", "rank", "entropy")
        return [dict(zip(names, (i, *values), strict=True)) for i, values in enumerate(columns)]

    def totals(self) -> dict[str, Any]:
        """Surprisal, its mean, perplexity, bits per byte and character."""
        names = ("surprisal", "mean_surprisal", "perplexity", "bits_per_byte", "bits_per_character")
        return {name: getattr(self, name) for name in names}

    def to_dict(self) -> dict[str, Any]:
        return {"tokens": self.rows(), "notes": list(self.notes), **self.totals()}

    def __repr__(self) -> str:
        known = {name: value for name, value in self.totals().items() if value is not None and name != "surprisal"}
        return f"Score({', '.join([f'{len(self.ids)} tokens', *(f'{k}={v:.4f}' for k, v in known.items())])})"


@torch.inference_mode()
def score(lm: LanguageModel, text: str | Sequence[int]) -> Score:
    """The surprisal of a text, token by token.

    Past the context it follows overflow="crop": a token is predicted from what generate would see there, that is all
    ids so far up to the context's B, then the last B - q + 1 to B of them, q being a quarter of the context. So a long
    text is read in windows of B tokens with a stride of q.

    Args:
        text: text, which the format's BOS is put in front of, or ids, which are used as they are.
    """
    ids, notes = encode_prompt(lm, text)
    logprobs: list[float | None] = [None]
    ranks: list[int | None] = [None]
    entropies: list[float | None] = [None]
    for logits, targets in predictions(lm, ids):
        own = logits.gather(1, targets[:, None])  # (n, 1)
        log_p = logits.double().log_softmax(dim=-1)  # (n, V)
        logprobs += log_p.gather(1, targets[:, None])[:, 0].tolist()
        ranks += (logits > own).sum(dim=-1).tolist()
        entropies += (-(log_p.exp() * log_p).nansum(dim=-1)).tolist()
    if lm.tokenizer is None:
        return Score(ids, [str(i) for i in ids], logprobs, ranks, entropies, None, None, notes)
    data = b"".join(lm.tokenizer.token_bytes(i) for i in ids[1:])
    n_characters = len(data.decode("utf-8", errors="replace"))
    return Score(ids, lm.tokenizer.pieces(ids), logprobs, ranks, entropies, len(data), n_characters, notes)


def predictions(lm: LanguageModel, ids: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (n, V) with the tokens (n,) they are to predict, for all tokens but the first, in order."""
    model = lm.model
    batch = torch.tensor(ids, device=model.device)
    most = max(1, CHUNK // lm.vocab_size)
    first = 1
    while first < len(ids):
        start = visible_from(first, model.block_size, "crop")
        end = min(len(ids), start + model.block_size + 1)  # tokens first … end - 1 are predicted from this window
        hidden = model.hidden(batch[None, start : end - 1])  # (1, T, C)
        for at in range(first, end, most):
            upto = min(at + most, end)
            yield model.unembed(hidden[:, at - 1 - start : upto - 1 - start])[0], batch[at:upto]
        first = end
