"""The logit lens: what the model would say if it ended after each block (nostalgebraist 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..language_model import LanguageModel
from ..settings import Settings
from .fitted_lens import LensFit, normed_stream, stream_sites, unembedded
from .hooks import apart, capture
from .reading import pieces, place, read, token_id

CAUTION = (
    "The plain lens reads every layer with the head that was trained for the last one. Early layers need not write in "
    "its language, so a token that is not seen there may be known all the same, and one that is may mislead."
)
FITTED = (
    "This lens reads each layer through a map that was fitted to it. What it shows can be found in that layer by such "
    "a map; that the model itself finds it there is not said."
)
CHUNK = 1 << 22  # logits at a time


@dataclass(frozen=True, repr=False)
class LogitLens:
    """What every layer says about the token that follows each of T tokens; P = blocks + 1 points, nats throughout.

    Attributes:
        ids, pieces: of the T tokens.
        points: "embedding", "block 0" … ; the last one is what the model says.
        top_ids, top_probabilities: (P, T, n), most probable first.
        entropy: (P, T).
        kl: (P, T), KL(the model's own || this point's): 0 at the last point.
        next_logprob: (P, T), of the token that does follow in the text; NaN at the last position.
        tracked: m token ids.
        tracked_logits, tracked_probabilities, tracked_ranks: (P, T, m); rank 0 is the largest logit.
        names: what the ids in here stand for.
        fitted: the layers were read through maps fitted to them, not as they are.
    """

    ids: list[int]
    pieces: list[str]
    points: tuple[str, ...]
    top_ids: Tensor
    top_probabilities: Tensor
    entropy: Tensor
    kl: Tensor
    next_logprob: Tensor
    tracked: tuple[int, ...]
    tracked_logits: Tensor
    tracked_probabilities: Tensor
    tracked_ranks: Tensor
    names: dict[int, str]
    fitted: bool = False

    @property
    def caution(self) -> str:
        """What this lens cannot show."""
        return FITTED if self.fitted else CAUTION

    def layers(self) -> list[dict[str, Any]]:
        """One row a point, means over the text: entropy, KL to the model's own distribution, surprisal of the text, and
        the share of positions whose first choice is already the last point's."""
        agrees = (self.top_ids[..., 0] == self.top_ids[-1, :, 0]).float().mean(dim=-1)
        return [
            {
                "point": point,
                "entropy": round(float(self.entropy[i].mean()), 3),
                "kl": round(float(self.kl[i].mean()), 3),
                "surprisal": round(-float(self.next_logprob[i, :-1].mean()), 3),
                "agrees": round(float(agrees[i]), 3),
            }
            for i, point in enumerate(self.points)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """One row for each point and position: the first choice, its probability, entropy and KL."""
        return [
            {
                "point": point,
                "position": t,
                "piece": self.pieces[t],
                "first": self.names[int(self.top_ids[i, t, 0])],
                "p": round(float(self.top_probabilities[i, t, 0]), 4),
                "entropy": round(float(self.entropy[i, t]), 4),
                "kl": round(float(self.kl[i, t]), 4),
            }
            for i, point in enumerate(self.points)
            for t in range(len(self.ids))
        ]

    def trajectory(self, token: int | str, position: int = -1) -> list[dict[str, Any]]:
        """A tracked token at one position, from point to point: logit, probability and rank."""
        m = self._tracked_place(token)
        t = place(position, len(self.ids))
        return [
            {
                "point": point,
                "logit": round(float(self.tracked_logits[i, t, m]), 3),
                "p": round(float(self.tracked_probabilities[i, t, m]), 4),
                "rank": int(self.tracked_ranks[i, t, m]),
            }
            for i, point in enumerate(self.points)
        ]

    def settled(self) -> list[int]:
        """At each position the first point from which on the first choice is the last point's, as an index."""
        differs = self.top_ids[..., 0] != self.top_ids[-1, :, 0]  # (P, T)
        after = torch.arange(1, len(self.points) + 1)[:, None] * differs  # (P, T)
        return [int(t) for t in after.max(dim=0).values]

    def choices(self, position: int = -1) -> list[dict[str, Any]]:
        """The most probable tokens after one position, a row for each point."""
        t = place(position, len(self.ids))
        return [
            {
                "point": point,
                "tokens": [self.names[int(token)] for token in self.top_ids[i, t]],
                "p": [round(float(p), 4) for p in self.top_probabilities[i, t]],
            }
            for i, point in enumerate(self.points)
        ]

    def to_dict(self) -> dict[str, Any]:
        tracked = {self.names[m]: [self.trajectory(m, t) for t in range(len(self.ids))] for m in self.tracked}
        return {"pieces": self.pieces, "cells": self.rows(), "tracked": tracked, "caution": self.caution}

    def __repr__(self) -> str:
        return f"LogitLens({len(self.points)} points, {len(self.ids)} tokens, {len(self.tracked)} tracked)"

    def _tracked_place(self, token: int | str) -> int:
        wanted = [m for m, i in enumerate(self.tracked) if token in (i, self.names[i])]
        if not wanted:
            known = ", ".join(repr(self.names[i]) for i in self.tracked) or "none"
            raise ConfigError(f"{token!r} was not tracked; tracked are {known}; pass tracked=")
        return wanted[0]


def logit_lens(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    settings: Settings | None = None,
    *,
    tracked: Sequence[int | str] = (),
    n_top: int = 5,
    fit: LensFit | None = None,
    **changes: Any,
) -> LogitLens:
    """Read every layer with the final norm and head, softcap included.

    The last point is what the final norm really reads. In newer nanochat that is not the last block's output alone (the
    embedding is mixed into every block, a middle layer is subtracted at the end); the points before are read without
    the subtraction, which has not happened there.

    Args:
        prompt: text or ids.
        settings, changes: of a generation that follows; its tokens are read as well, from the very steps.
        tracked: tokens to follow, as text or ids.
        n_top: tokens to keep at each place.
        fit: maps of ``fit_lens``, by which each layer is read; None: the plain lens.
    """
    n_layer = len(lm.model.blocks)
    sites = stream_sites(lm)
    follow = tuple(dict.fromkeys(token_id(lm, token) for token in tracked))
    with apart(), capture(lm, sites) as acts:
        ids = read(lm, prompt, settings, changes)
    x = torch.stack([normed_stream(lm, acts[site][0]) for site in sites])  # (P, T, C)
    if fit is not None:
        if fit.weights.shape[::2] != x.shape[::2]:
            raise ConfigError(f"{fit} is of another model: {tuple(x.shape[::2])} points and channels are wanted")
        x = torch.stack([fit(i, point) for i, point in enumerate(x)])
    after = torch.tensor([*ids[1:], 0])
    most = max(1, CHUNK // lm.vocab_size)
    n_top = min(max(1, n_top), lm.vocab_size)
    parts = [
        readings(lm, x[:, i : i + most], after[i : i + most], torch.tensor(follow, dtype=torch.long), n_top)
        for i in range(0, len(ids), most)
    ]
    joined = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
    joined["next_logprob"][:, -1] = float("nan")
    known = sorted({*follow, *joined["top_ids"].unique().tolist()})
    return LogitLens(
        ids=ids,
        pieces=pieces(lm, ids),
        points=("embedding", *(f"block {i}" for i in range(n_layer))),
        tracked=follow,
        fitted=fit is not None,
        names=dict(zip(known, pieces(lm, known), strict=True)),
        **joined,
    )


def readings(lm: LanguageModel, x: Tensor, after: Tensor, tracked: Tensor, n_top: int) -> dict[str, Tensor]:
    """The fields of a LogitLens (P, T, …) for normed streams (P, T, C) and the tokens (T,) that follow."""
    own = unembedded(lm, x[-1]).log_softmax(dim=-1)  # (T, V)
    own_p = own.exp()  # (T, V)

    def reading(stream: Tensor) -> dict[str, Tensor]:
        logits = unembedded(lm, stream)  # (T, V)
        log_p = logits.log_softmax(dim=-1)  # (T, V)
        p, top = log_p.exp(), log_p.topk(n_top, dim=-1)
        ranks = torch.empty(len(logits), len(tracked), dtype=torch.long)
        for m, token in enumerate(tracked):
            ranks[:, m] = (logits > logits[:, token, None]).sum(dim=-1)
        return {
            "top_ids": top.indices,
            "top_probabilities": top.values.exp(),
            "entropy": -torch.linalg.vecdot(p, log_p),
            "kl": (torch.linalg.vecdot(own_p, own) - torch.linalg.vecdot(own_p, log_p)).clamp(min=0),
            "next_logprob": log_p.gather(1, after[:, None])[:, 0],
            "tracked_logits": logits[:, tracked],
            "tracked_probabilities": p[:, tracked],
            "tracked_ranks": ranks,
        }

    found = [reading(stream) for stream in x]
    return {name: torch.stack([point[name] for point in found]) for name in found[0]}
