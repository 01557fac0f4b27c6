"""Activation patching: put what a clean run computed into a corrupt one, place by place: where is the answer?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ConfigError, ContextError
from ..generation import encode_prompt
from ..language_model import LanguageModel
from ..sampling import Sampler, StepContext
from ..settings import Settings
from .effects import Effect, effect
from .hooks import apart, capture, edit
from .progress import Progress, steps
from .reading import pieces, rounded, token_id
from .site_names import KINDS

MOST_ROWS = 64  # of one forward
By = Literal["position", "head"]


@dataclass(frozen=True, repr=False)
class PatchResult:
    """How much of the clean answer each patch brings back: 0 is the corrupt run, 1 the clean one.

    Attributes:
        site: kind of site that was patched, in one layer at a time.
        by: whether a column is a token or a head (all tokens of it).
        columns: pieces of the clean prompt, or head numbers, as text.
        restored: float32 (n_layer, columns).
        clean, corrupt: the logit difference of the two runs as they are.
        differs: for tokens, which columns differ between the two prompts.
        effects: per layer, what each column's patch does to the corrupt run's next token, the drawn one included.
    """

    site: str
    by: By
    columns: tuple[str, ...]
    restored: Tensor
    clean: float
    corrupt: float
    differs: tuple[bool, ...]
    effects: tuple[Effect, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One row a layer, a column for each token ("0 ‹1›", "1 ‹2›", …) or head."""
        names = [f"{i} ‹{c}›" for i, c in enumerate(self.columns)] if self.by == "position" else list(self.columns)
        return [
            {"layer": layer} | {name: rounded(value, 2) for name, value in zip(names, row, strict=True)}
            for layer, row in enumerate(self.restored.tolist())
        ]

    def largest(self, n: int = 5) -> list[dict[str, Any]]:
        """The places that bring most back, with what the patch does to the next token of the corrupt run."""
        flat = self.restored.flatten()
        best = flat.abs().argsort(descending=True, stable=True)[:n].tolist()
        width = len(self.columns)
        out = []
        for i in best:
            effect, column = self.effects[i // width], i % width
            out.append(
                {
                    "layer": i // width,
                    self.by: column,
                    "of": self.columns[column],
                    "restored": rounded(flat[i], 3),
                    "delta_logit": rounded(effect.delta_logit[column], 3),
                    "kl": rounded(effect.kl[column], 3),
                    "rank": int(effect.rank[column]),
                    "drawn_changed": bool(effect.drawn[column] != effect.drawn_before[column]),
                }
            )
        return out

    def to_dict(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in ("site", "by", "columns", "clean", "corrupt", "differs")}
        return fields | {"restored": self.restored.tolist()}

    def __repr__(self) -> str:
        best = self.largest(1)[0]
        where = f"layer {best['layer']}, {self.by} {best[self.by]}"
        return (
            f"PatchResult({self.site}, {len(self.restored)} layers × {len(self.columns)} {self.by}s; most at {where})"
        )


def patch(
    lm: LanguageModel,
    clean: str | Sequence[int],
    corrupt: str | Sequence[int],
    target: str | int,
    versus: str | int | None = None,
    *,
    site: str = "resid_pre",
    by: By = "position",
    settings: Settings | None = None,
    progress: Progress = True,
) -> PatchResult:
    """Patch a clean run into a corrupt one, layer by layer and token by token (Meng et al. 2022; Wang et al. 2022).

    What is measured is the logit of ``target`` less that of ``versus``, of the token after the prompts. In nanochat
    models what a block reads also holds a share of the embeddings, which later blocks get anew; that is not patched.

    Args:
        clean, corrupt: prompts of equally many tokens.
        target, versus: one token each, as text or id; versus None: the target's logit alone.
        site: resid_pre, resid_mid, resid_post, attn_out, mlp_out, neurons, z, q, k or v.
        by: "position": one token at a time; "head": one head of q, k, v or z at a time, over all tokens.
        settings: of the recorded draw of the next token; labkit's defaults if None.
        progress: a bar, or a function that is called with the layers done and all of them; see ``Progress``.

    Raises:
        ConfigError: no such site, a site without heads, or prompts that have the same answer.
        ContextError: prompts of different lengths.
    """
    if site not in KINDS or site == "pattern":
        raise ConfigError(f"site {site!r} cannot be patched; one of {', '.join(k for k in KINDS if k != 'pattern')}")
    dims = KINDS[site].dims
    if by == "head" and dims[1] not in "HK":
        raise ConfigError(f"{site} has no heads; sites with heads are q, k, v and z")
    if by not in ("position", "head"):
        raise ConfigError(f"by is {by!r}; it must be position or head")
    good, bad = encode_prompt(lm, clean)[0], encode_prompt(lm, corrupt)[0]
    if len(good) != len(bad):
        raise ContextError(f"the prompts have {len(good)} and {len(bad)} tokens; patching needs equally many")
    wanted = [token_id(lm, token) for token in (target, versus) if token is not None]
    names = [f"blocks.{i}.{site}" for i in range(len(lm.model.blocks))]
    with apart(), capture(lm, names) as acts:
        m_clean = float(difference(lm.logits(good)[-1:], wanted))
    before = lm.logits(bad)[-1:]  # (1, V)
    m_corrupt = float(difference(before, wanted))
    if abs(m_clean - m_corrupt) < 1e-6:
        raise ConfigError(f"both prompts give {m_clean:.4f} for this token, so there is nothing to bring back")
    axis = 1 if by == "head" else len(dims) - 2
    sampler = Sampler.from_settings(**(settings or Settings()).sampling())
    effects = []
    for name in steps(names, f"patching {site}", progress):
        kept = acts[name].to(lm.device, lm.model.lm_head.weight.dtype)  # (1, …)
        n = kept.shape[axis]
        parts = [range(a, min(a + MOST_ROWS, n)) for a in range(0, n, MOST_ROWS)]
        after = torch.cat([patched(lm, bad, name, kept, axis, places) for places in parts])  # (n, V)
        context = StepContext([bad] * n, [()] * n, stream=[0] * n)
        targets = {key: [token] * n for key, token in zip(("target", "versus"), wanted, strict=False)}
        effects.append(effect(before.expand(n, -1), after, **targets, sampler=sampler, context=context))
    table = torch.stack([found.delta_logit for found in effects]) / (m_clean - m_corrupt)  # (n_layer, columns)
    by_token = by == "position"
    return PatchResult(
        site=site,
        by=by,
        columns=tuple(pieces(lm, good)) if by_token else tuple(map(str, range(table.shape[1]))),
        restored=table,
        clean=m_clean,
        corrupt=m_corrupt,
        differs=tuple(a != b for a, b in zip(good, bad, strict=True)) if by_token else (False,) * table.shape[1],
        effects=tuple(effects),
    )


@torch.inference_mode()
def patched(lm: LanguageModel, ids: list[int], name: str, kept: Tensor, axis: int, places: range) -> Tensor:
    """Logits of the next token when one place is replaced, for several places at once, a row each: (n, V)"""

    def replace(value: Tensor) -> Tensor:
        out = value.clone()
        for row, place in enumerate(places):
            out[row].select(axis - 1, place).copy_(kept[0].select(axis - 1, place))
        return out

    batch = torch.tensor([ids] * len(places), device=lm.device)  # (n, T)
    with apart(), edit(lm, {name: replace}):
        return lm.model(batch)[:, -1].float().cpu()


def difference(logits: Tensor, wanted: list[int]) -> Tensor:
    """Logits (n, V) -> that of the first token less that of the second, if there is one (n,)."""
    return logits[:, wanted[0]] - (logits[:, wanted[1]] if len(wanted) > 1 else 0)
