"""A text run through a model while something looks on, and tokens by the names that people have for them."""

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import ConfigError, ContextError
from ..generation import encode_prompt, stream
from ..language_model import LanguageModel
from ..settings import Settings


def read(
    lm: LanguageModel, prompt: str | Sequence[int], settings: Settings | None, changes: dict[str, Any]
) -> list[int]:
    """Run a text, or a prompt and what the model writes after it; the ids that the model saw.

    Args:
        settings, changes: of a generation that follows; without any the prompt alone is read.

    Raises:
        ContextError: more than the context holds, so that tokens would not keep their positions.
    """
    if settings is None and not changes:
        ids, _ = encode_prompt(lm, prompt)
        lm.logits(ids)
        return ids
    run = stream(lm, prompt, settings, **changes)
    for _ in run:
        if len(run.prompt_ids) + len(run.ids) - 1 > lm.model.block_size:
            raise ContextError(
                f"the run is longer than the context of {lm.model.block_size} tokens, so its tokens did not keep their "
                "positions; ask for fewer tokens"
            )
    return (run.prompt_ids + run.ids)[:-1]


def token_id(lm: LanguageModel, token: int | str) -> int:
    """The id of a token that is given as an id or as its text.

    Raises:
        ConfigError: the text is not one token.
    """
    if not isinstance(token, str):
        return lm.checked_ids([token])[0]
    ids = lm.require_tokenizer().encode(token)
    if len(ids) != 1:
        parts = ", ".join(map(repr, pieces(lm, ids)))
        raise ConfigError(f"{token!r} is {len(ids)} tokens ({parts}); name one of them, or its id")
    return ids[0]


def pieces(lm: LanguageModel, ids: Sequence[int]) -> list[str]:
    """What each id stands for; the id itself without a tokenizer."""
    return lm.tokenizer.pieces(list(ids)) if lm.tokenizer is not None else [str(i) for i in ids]


def place(position: int, n: int) -> int:
    """A position of n, from 0; negative ones count from the end."""
    if not -n <= position < n:
        raise ConfigError(f"there is no position {position}; the text has {n} tokens, 0 … {n - 1}")
    return position % n


def batch_of(lm: LanguageModel, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Rows of equal length as one tensor (B, T) that the model takes."""
    if len(rows[0]) > lm.model.block_size:
        raise ContextError(f"{len(rows[0])} tokens, but the context holds {lm.model.block_size}; shorten them")
    return torch.tensor([list(row) for row in rows], device=lm.device)  # (B, T)


def rounded(value: float | torch.Tensor, digits: int = 4) -> float:
    """A number as results show it; never -0.0."""
    return round(float(value), digits) + 0.0
