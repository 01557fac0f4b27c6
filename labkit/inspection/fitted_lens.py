"""A lens fitted to a model: an affine map from each layer's language to the last one's (after Belrose et al. 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..generation import encode_prompt
from ..language_model import LanguageModel
from .hooks import apart, capture
from .progress import Progress, steps


@dataclass(frozen=True, repr=False)
class LensFit:
    """Maps of the normed stream at each of P points to the normed stream at the last: normed @ weights + biases.

    Attributes:
        weights, biases: float32 (P, C, C) and (P, C); the last ones change nothing.
        r2: (P,), the share of the last point's variance that the map explains, on the texts that it was fitted on.
        n_tokens: of those texts.
    """

    weights: Tensor
    biases: Tensor
    r2: Tensor
    n_tokens: int

    def __call__(self, point: int, normed: Tensor) -> Tensor:
        """(…, C) -> (…, C)"""
        return normed @ self.weights[point] + self.biases[point]

    def rows(self) -> list[dict[str, Any]]:
        """One row a point: the share of variance that its map explains."""
        return [{"point": i, "r2": round(float(r2), 3)} for i, r2 in enumerate(self.r2)]

    def to_dict(self) -> dict[str, Any]:
        return {"n_tokens": self.n_tokens, "points": self.rows()}

    def __repr__(self) -> str:
        return f"LensFit({len(self.weights)} points, {self.n_tokens} tokens)"


def stream_sites(lm: LanguageModel) -> list[str]:
    """The points that a lens looks at: before block 0, after each block but the last, and what the final norm reads."""
    between = [f"blocks.{i}.resid_post" for i in range(len(lm.model.blocks) - 1)]
    return ["blocks.0.resid_pre", *between, "resid_final"]


@torch.inference_mode()
def normed_stream(lm: LanguageModel, x: Tensor) -> Tensor:
    """A stream (…, C) through the final norm, float32 on the CPU."""
    weight = lm.model.lm_head.weight
    return lm.model.norm_f(x.to(weight.device, weight.dtype)).float().cpu()


@torch.inference_mode()
def unembedded(lm: LanguageModel, normed: Tensor) -> Tensor:
    """A normed stream (…, C) through the head, softcap included: logits (…, V), float32 on the CPU."""
    weight = lm.model.lm_head.weight
    return lm.model.unembed(normed.to(weight.device, weight.dtype)).float().cpu()


def fit_lens(
    lm: LanguageModel, texts: Sequence[str | Sequence[int]], *, ridge: float = 0.01, progress: Progress = None
) -> LensFit:
    """Fit the maps by least squares (ridge regression, in closed form).

    Texts of the kind that the model was trained on; what it writes itself will do. They should hold many more tokens
    than the stream is wide. (Belrose et al. minimise the KL divergence by gradient descent instead.)

    Args:
        texts: texts or ids, each within the context.
        ridge: how strongly large weights are held back, relative to the mean variance of a channel; above 0, since
            behind a norm the channels are not independent.
        progress: a bar, or a function that is called with the texts read and all of them; see ``Progress``.
    """
    if not ridge > 0:
        raise ConfigError(f"ridge is {ridge}; it must be above 0")
    sites = stream_sites(lm)
    seen = []
    for text in steps([texts] if isinstance(texts, str) else texts, "reading", progress):
        with apart(), capture(lm, sites) as acts:
            lm.logits(encode_prompt(lm, text)[0])
        seen.append(torch.stack([normed_stream(lm, acts[site][0]) for site in sites]))  # (P, T, C)
    x = torch.cat(seen, dim=1).double()  # (P, n, C)
    n, width = x.shape[1:]
    if n < width:
        raise ConfigError(f"the texts have {n} tokens, the stream is {width} wide; fit on several times as many tokens")
    mean = x.mean(dim=1, keepdim=True)  # (P, 1, C)
    centred = x - mean
    covariance = centred.transpose(1, 2) @ centred  # (P, C, C)
    held = ridge * covariance.diagonal(dim1=1, dim2=2).mean(dim=-1)[:, None, None] * torch.eye(width)
    weights = torch.linalg.solve(covariance + held, centred.transpose(1, 2) @ centred[-1])  # (P, C, C)
    weights[-1] = torch.eye(width)
    left = (centred[-1] - centred @ weights).square().sum(dim=(1, 2))
    return LensFit(
        weights=weights.float(),
        biases=(mean[-1] - mean @ weights)[:, 0].float(),
        r2=(1 - left / centred[-1].square().sum()).float(),
        n_tokens=n,
    )
