"""Attention maps: who looks at whom, one head decoded at a time, and every head in a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, ContextError
from ..language_model import LanguageModel
from ..layers.mask import Window, attend_mask
from ..settings import Settings
from .hooks import apart, capture, weights
from .reading import pieces, read

PROPERTIES = {
    "entropy": "mean entropy of a token's attention, in nats: low is sharp",
    "distance": "how many tokens back it looks, on average",
    "first": "mass on the first token",
    "self": "mass on the token itself",
    "previous": "mass on the token before (previous-token head)",
    "duplicate": "mass on earlier copies of the token (duplicate-token head)",
    "induction": "mass on what followed earlier copies of the token (induction head; Olsson et al. 2022)",
}


@dataclass(frozen=True, repr=False)
class AttentionMaps:
    """Every head's attention over one text. Queries and keys are kept, and a head is decoded when it is asked for:
    12 layers of 12 heads over 1,024 tokens take 75 MB so, and 600 MB as patterns.

    Attributes:
        ids: of the n tokens, as the model saw them.
        pieces: what each stands for; ids as text without a tokenizer.
        q, k: per layer, float32 (H, n, D) and (K, n, D), rotated.
        scales: per layer, what the scores are multiplied by.
        windows: per layer; None: everything before is visible.
    """

    ids: list[int]
    pieces: list[str]
    q: tuple[Tensor, ...]
    k: tuple[Tensor, ...]
    scales: tuple[float, ...]
    windows: tuple[Window | None, ...]

    @property
    def n_layer(self) -> int:
        return len(self.q)

    def n_head(self, layer: int) -> int:
        return len(self.q[layer])

    def pattern(self, layer: int, head: int | None = None) -> Tensor:
        """Attention weights (n, n) of one head, a row for each token that looks; of all heads (H, n, n) with None."""
        if not 0 <= layer < self.n_layer:
            raise ConfigError(f"there is no layer {layer}; layers are 0 … {self.n_layer - 1}")
        if head is not None and not 0 <= head < self.n_head(layer):
            raise ConfigError(f"layer {layer} has heads 0 … {self.n_head(layer) - 1}; there is no head {head}")
        q, k = self.q[layer], self.k[layer]
        if head is not None:
            group = len(q) // len(k)
            q, k = q[head : head + 1], k[head // group : head // group + 1]
        positions = torch.arange(len(self.ids))[None]  # (1, n)
        mask = attend_mask(positions, positions, self.windows[layer])
        all_heads = weights(q[None], k[None], mask, self.scales[layer])[0]  # (H, n, n)
        return all_heads if head is None else all_heads[0]

    def heads(self) -> list[dict[str, Any]]:
        """One row a head: its properties (see ``PROPERTIES``), means over the tokens they are defined for."""
        out = []
        for layer in range(self.n_layer):
            pattern = self.pattern(layer)
            scores = {name: values.tolist() for name, values in properties(pattern, self.ids).items()}
            for head in range(len(pattern)):
                row: dict[str, Any] = {"layer": layer, "head": head}
                out.append(row | {name: round(values[head], 4) for name, values in scores.items()})
        return out

    rows = heads

    def top_heads(self, by: str, n: int = 5, least: bool = False) -> list[dict[str, Any]]:
        """The heads with the most of a property, or the least."""
        if by not in PROPERTIES:
            raise ConfigError(f"{by!r} is no property of a head; they are {', '.join(PROPERTIES)}")
        sign = 1 if least else -1
        return sorted(self.heads(), key=lambda row: (sign * row[by], row["layer"], row["head"]))[:n]

    def looks_at(self, layer: int, head: int, position: int, n: int = 5) -> list[dict[str, Any]]:
        """What one token reads most, in one head."""
        if not -len(self.ids) <= position < len(self.ids):
            raise ConfigError(f"there is no position {position}; the text has {len(self.ids)} tokens")
        row = self.pattern(layer, head)[position]
        best = row.argsort(descending=True, stable=True)[:n]
        return [{"position": int(j), "piece": self.pieces[j], "weight": round(float(row[j]), 4)} for j in best]

    def to_dict(self) -> dict[str, Any]:
        return {"ids": self.ids, "pieces": self.pieces, "heads": self.heads()}

    def __repr__(self) -> str:
        heads = sum(map(len, self.q))
        return f"AttentionMaps({len(self.ids)} tokens, {self.n_layer} layers, {heads} heads)"


def attention(
    lm: LanguageModel, prompt: str | Sequence[int], settings: Settings | None = None, **changes: Any
) -> AttentionMaps:
    """Attention over a text, or over a prompt and what the model writes after it.

    Args:
        prompt: text or ids.
        settings, changes: of a generation that follows; without any the prompt alone is looked at. The maps of a run
            are those of its steps, with the cache as it was; nothing is computed a second time.

    Raises:
        ContextError: more than the context holds, or a run that left it.
    """
    with apart(), capture(lm, ["blocks.*.q", "blocks.*.k"]) as acts:
        ids = read(lm, prompt, settings, changes)
    blocks: list[Any] = list(lm.model.blocks)
    q = tuple(acts[f"blocks.{i}.q"][0] for i in range(len(blocks)))
    return AttentionMaps(
        ids=ids,
        pieces=pieces(lm, ids),
        q=q,
        k=tuple(acts[f"blocks.{i}.k"][0] for i in range(len(blocks))),
        scales=tuple(
            block.attn.core.scale or queries.shape[-1] ** -0.5 for block, queries in zip(blocks, q, strict=True)
        ),
        windows=tuple(block.attn.window for block in blocks),
    )


def repeated(lm: LanguageModel, n: int = 50, seed: int = 0) -> list[int]:
    """n random ids, and the same ids again: what induction is measured on, for no text of its own can help a head."""
    if 2 * n > lm.model.block_size:
        raise ContextError(f"2 · {n} tokens do not fit the context of {lm.model.block_size}")
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(lm.vocab_size, (n,), generator=generator).tolist() * 2


def properties(pattern: Tensor, ids: Sequence[int]) -> dict[str, Tensor]:
    """PROPERTIES of each head (H,), of patterns (H, n, n) over ids; NaN where no token defines one."""
    n = len(ids)
    token = torch.tensor(list(ids))
    behind = torch.ones(n, n).tril(-1)  # (n, n): row i, columns before i
    same = (token[:, None] == token[None, :]).float() * behind  # earlier copies
    after_same = torch.cat((torch.zeros(n, 1), same[:, :-1]), dim=1)  # what followed them
    place = torch.arange(n, dtype=torch.float32)
    later = pattern[:, 1:]  # the first token has nothing before it
    return {
        "entropy": torch.special.entr(later).sum(dim=-1).mean(dim=-1),
        "distance": (later * (place[1:, None] - place)).sum(dim=-1).mean(dim=-1),
        "first": later[..., 0].mean(dim=-1),
        "self": pattern.diagonal(dim1=1, dim2=2)[:, 1:].mean(dim=-1),
        "previous": pattern.diagonal(offset=-1, dim1=1, dim2=2).mean(dim=-1),
        "duplicate": mean_where(pattern, same),
        "induction": mean_where(pattern, after_same),
    }


def mean_where(pattern: Tensor, wanted: Tensor) -> Tensor:
    """Mass of (H, n, n) on the wanted columns of each row (n, n), averaged over the rows that have any: (H,)"""
    rows = wanted.sum(dim=-1) > 0
    return (pattern * wanted).sum(dim=-1)[:, rows].mean(dim=-1)
