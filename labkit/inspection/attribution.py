"""Direct logit attribution: how much each part of the model adds to a logit, on the straight way to the head."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..generation import encode_prompt
from ..language_model import LanguageModel
from ..layers.latent_attention import LatentAttention
from ..layers.mask import consecutive
from ..layers.norm import DynamicTanh
from ..models import CausalLM
from .hooks import apart, capture, only_here
from .reading import pieces, place, rounded, token_id


@dataclass(frozen=True)
class Term:
    """What one part adds to the logit.

    Attributes:
        part: "embedding", "head", "attention bias", "mlp" or "norm bias".
    """

    part: str
    layer: int | None
    head: int | None
    value: float

    @property
    def name(self) -> str:
        """As one writes it: block 3 head 1."""
        layer = "" if self.layer is None else f"block {self.layer} "
        return layer + self.part + ("" if self.head is None else f" {self.head}")


@dataclass(frozen=True, repr=False)
class Attribution:
    """A logit, or the difference of two, as a sum over the parts of the model.

    Attributes:
        ids, pieces: of the text.
        position: the token after this one is looked at.
        target, versus: ids; versus None: the target's logit itself.
        target_piece, versus_piece: what they stand for.
        logit: of the target, less that of versus.
        terms: embedding, heads, MLPs and biases.
        remainder: logit less the sum of all terms: what no part accounts for by itself. In float32 it is rounding
            (1e-5 or less), but in a model with a softcap it is what the softcap took away.
    """

    ids: list[int]
    pieces: list[str]
    position: int
    target: int
    versus: int | None
    target_piece: str
    versus_piece: str | None
    logit: float
    terms: tuple[Term, ...]
    remainder: float

    def rows(self) -> list[dict[str, Any]]:
        """One row a term, and the remainder last; they add up to the logit."""
        rows = [{"part": t.name, "layer": t.layer, "head": t.head, "logit": rounded(t.value)} for t in self.terms]
        return [*rows, {"part": "remainder", "layer": None, "head": None, "logit": rounded(self.remainder)}]

    def top(self, n: int = 10) -> list[dict[str, Any]]:
        """The n terms of largest size, with either sign."""
        return sorted(self.rows()[:-1], key=lambda row: -abs(row["logit"]))[:n]

    def layers(self) -> list[dict[str, Any]]:
        """One row a block: what its attention (all heads and bias) and its MLP add, and the sum up to here."""
        outside = [t for t in self.terms if t.layer is None]
        total = sum(t.value for t in outside if t.part == "embedding")
        out = []
        for layer in sorted({t.layer for t in self.terms if t.layer is not None}):
            here = [t for t in self.terms if t.layer == layer]
            mlp = sum(t.value for t in here if t.part == "mlp")
            attention = sum(t.value for t in here) - mlp
            total += attention + mlp
            out.append({"layer": layer, "attention": rounded(attention), "mlp": rounded(mlp), "so_far": rounded(total)})
        return out

    def to_dict(self) -> dict[str, Any]:
        names = ("position", "target_piece", "versus_piece")
        facts = {name: getattr(self, name) for name in names}
        return facts | {"pieces": self.pieces, "logit": rounded(self.logit), "terms": self.rows()}

    def __repr__(self) -> str:
        against = "" if self.versus_piece is None else f" - {self.versus_piece!r}"
        what = f"{self.target_piece!r}{against}: {self.logit:.3f}"
        return f"Attribution({what}, {len(self.terms)} terms, remainder {rounded(self.remainder)})"


@torch.inference_mode()
def attribute(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    target: int | str | None = None,
    versus: int | str | None = None,
    position: int = -1,
) -> Attribution:
    """Split a logit into what each head, MLP and the embedding write into it directly.

    What a part does by way of later parts is counted there and not here; to see that, ablate it. The final norm is
    frozen as it is at this position, which makes it linear: the same factor for every term (RMS), less each term's own
    mean (LayerNorm), or a factor for each channel (dynamic tanh). A lone logit holds much that moves all logits alike,
    hence changes nothing; a difference of two (``versus``) does not.

    Args:
        prompt: text or ids; with a cache or without the logit is the same.
        target: the token to look at, as text or id; None: the model's first choice.
        versus: the token whose logit is subtracted.
        position: the token after this one; negative counts from the end.
    """
    every_id, _ = encode_prompt(lm, prompt)
    at = place(position, len(every_id))
    ids, n_layer = every_id[: at + 1], len(lm.model.blocks)
    sites = [f"blocks.{i}.{name}" for i in range(n_layer) for name in ("z", "mlp_out")]
    with apart(), capture(lm, [*sites, "resid_final"]) as acts:
        logits = lm.logits(ids)[-1].double()  # (V,)
    goal = int(logits.argmax()) if target is None else token_id(lm, target)
    other = None if versus is None else token_id(lm, versus)
    if goal == other:
        raise ConfigError(f"target and versus are both token {goal}, so the difference is 0; name two tokens")
    head = lm.model.lm_head.weight.cpu().double()  # (rows, C)
    direction = head[goal] - (head[other] if other is not None else 0)  # (C,)
    read, bias = frozen(lm.model.norm_f, acts["resid_final"][0, -1].double(), direction)
    reaches = stream_weights(lm.model)  # (n_layer, C)
    terms = [Term("embedding", None, None, float(embedding_part(lm.model, ids) @ read))]
    for i, block in enumerate(lm.model.blocks):
        reader = read * reaches[i]  # (C,)
        by_head, constant = head_parts(block.get_submodule("attn"), acts[f"blocks.{i}.z"][0, :, -1].double())
        terms += [Term("head", i, h, value) for h, value in enumerate((by_head @ reader).tolist())]
        if constant is not None:
            terms.append(Term("attention bias", i, None, float(constant @ reader)))
        terms.append(Term("mlp", i, None, float(acts[f"blocks.{i}.mlp_out"][0, -1].double() @ reader)))
    if bias is not None:
        terms.append(Term("norm bias", None, None, bias))
    logit = float(logits[goal] - (logits[other] if other is not None else 0))
    named = pieces(lm, [goal, *([other] if other is not None else [])])
    return Attribution(
        ids=ids,
        pieces=pieces(lm, ids),
        position=at,
        target=goal,
        versus=other,
        target_piece=named[0],
        versus_piece=named[1] if other is not None else None,
        logit=logit,
        terms=tuple(terms),
        remainder=logit - sum(term.value for term in terms),
    )


def frozen(norm: nn.Module, x: Tensor, direction: Tensor) -> tuple[Tensor, float | None]:
    """The final norm, held as it is at x (C,), seen from a direction (C,) behind it.

    Returns:
        the vector r (C,) with r · x + bias = direction · norm(x), and the bias, if the norm has one.
    """
    if isinstance(norm, DynamicTanh):
        alpha, weight, bias = (p.detach().cpu().double() for p in (norm.alpha, norm.weight, norm.bias))
        factor = torch.where(x == 0, alpha, torch.tanh(alpha * x) / x)  # (C,)
        return direction * weight * factor, float(direction @ bias)
    if not isinstance(norm, nn.RMSNorm | nn.LayerNorm):
        raise ConfigError(f"the final norm is a {type(norm).__name__}; it is not known how to freeze it")
    weight = norm.weight.detach().cpu().double() if norm.weight is not None else torch.ones_like(x)
    if isinstance(norm, nn.RMSNorm):
        eps = norm.eps if norm.eps is not None else torch.finfo(torch.float32).eps
        return direction * weight * (x.square().mean() + eps).rsqrt(), None
    read = direction * weight * (x.var(unbiased=False) + norm.eps).rsqrt()  # (C,)
    read = read - read.mean()  # so that it sees no mean
    return read, float(direction @ norm.bias.detach().cpu().double()) if norm.bias is not None else None


def head_parts(attn: nn.Module, z: Tensor) -> tuple[Tensor, Tensor | None]:
    """What each head adds to the stream at one token: z (H, D) -> (H, C); and the bias (C,), which is no head's."""
    projection = attn.get_submodule("o_proj")
    assert isinstance(projection, nn.Linear)
    if isinstance(attn, LatentAttention):
        per_head = attn.kv_b_proj.weight.cpu().double().unflatten(0, (attn.n_head, -1))  # (H, N + E, R)
        to_v = per_head.split(attn.kv_b_sizes, dim=1)[1]  # (H, E, R)
        z = (to_v @ z.unsqueeze(-1)).squeeze(-1)  # (H, E)
    weight = projection.weight.cpu().double().unflatten(1, (len(z), -1))  # (C, H, D)
    bias = projection.bias.cpu().double() if projection.bias is not None else None
    return torch.einsum("hd,chd->hc", z, weight), bias


@contextmanager
def only_adding(model: CausalLM, added: Sequence[Tensor]) -> Iterator[None]:
    """Each block adds a given tensor and does nothing else: what is left is the wiring between the blocks."""
    with apart():
        handles = [
            block.register_forward_hook(only_here(lambda module, args, output, extra=extra: args[0] + extra))
            for block, extra in zip(model.blocks, added, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def stream_weights(model: CausalLM) -> Tensor:
    """How much of what a block adds is there when the final norm reads: (n_layer, C), found by adding ones at one block
    after the other. 1 in every family but newer nanochat, which scales the stream and subtracts a middle layer."""
    weight = model.lm_head.weight
    n_layer = len(model.blocks)
    ids = torch.zeros(n_layer, 1, dtype=torch.long, device=weight.device)
    ones = torch.eye(n_layer, device=weight.device, dtype=weight.dtype)[:, :, None, None]  # block, row, 1, 1
    with only_adding(model, list(ones)):
        nothing = torch.zeros(n_layer, 1, weight.shape[1], device=weight.device, dtype=weight.dtype)
        return model.run_blocks(nothing, model.new_context(ids, torch.zeros_like(ids)), None)[:, 0].cpu().double()


def embedding_part(model: CausalLM, ids: Sequence[int]) -> Tensor:
    """What the embedding of the tokens leaves in the last token's stream by itself: (C,)"""
    weight = model.lm_head.weight
    batch = torch.tensor([list(ids)], device=weight.device)  # (1, T)
    positions = consecutive(torch.zeros(1, dtype=torch.long, device=weight.device), len(ids))  # (1, T)
    with only_adding(model, [torch.zeros((), device=weight.device, dtype=weight.dtype)] * len(model.blocks)):
        x = model.run_blocks(model.embed_ids(batch, positions), model.new_context(batch, positions), None)  # (1, T, C)
    return x[0, -1].cpu().double()
