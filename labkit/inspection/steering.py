"""Steering: a direction found from a contrast of texts, added to the stream while a model reads and writes."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..files import atomic_write
from ..generation import encode_prompt, generate
from ..language_model import LanguageModel
from ..settings import Settings
from .distributions import kl_divergence
from .hooks import At, apart, capture, edit
from .progress import Progress, steps
from .reading import rounded, token_id
from .site_names import resolve

Over = Literal["mean", "last"]


@dataclass(frozen=True, repr=False)
class SteeringVector:
    """A direction at one site.

    Attributes:
        site: "blocks.3.resid_post".
        values: float32 (C,): mean over the positive texts less mean over the negative ones.
        typical: the mean norm of what is at the site in those texts, to judge a strength by.
    """

    site: str
    values: Tensor
    typical: float

    @property
    def norm(self) -> float:
        return float(self.values.norm())

    def to_dict(self) -> dict[str, Any]:
        return {"site": self.site, "values": self.values.tolist(), "typical": self.typical}

    def save(self, path: str | Path) -> None:
        """Write a safetensors file that ``SteeringVector.load`` reads."""
        facts = {"labkit": json.dumps({"site": self.site, "typical": self.typical})}
        data = to_bytes({"values": self.values.contiguous()}, facts)
        atomic_write(Path(path), lambda file: file.write(data))

    @classmethod
    def load(cls, path: str | Path) -> "SteeringVector":
        try:
            with safetensors.safe_open(str(path), "pt") as file:
                facts = json.loads((file.metadata() or {})["labkit"])
                return cls(str(facts["site"]), file.get_tensor("values").float(), float(facts["typical"]))
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{path}: no steering vector can be read from it ({error})") from None

    def __repr__(self) -> str:
        return f"SteeringVector({self.site}, norm {self.norm:.3f}, typical there {self.typical:.3f})"


def steering_vector(
    lm: LanguageModel, positive: Sequence[str], negative: Sequence[str], site: str, over: Over = "mean"
) -> SteeringVector:
    """Difference of means (Turner et al. 2023; Rimsky et al. 2024).

    Args:
        positive, negative: texts; as many of each as one likes.
        site: one of the stream: resid_pre, resid_mid, resid_post, attn_out or mlp_out of a block, resid_final, norm_f.
        over: which tokens of a text count: all, or the last one.
    """
    if not positive or not negative:
        raise ConfigError("a direction needs at least one positive and one negative text")
    if over not in ("mean", "last"):
        raise ConfigError(f"over is {over!r}; it must be mean or last")
    found = resolve(lm, site)
    if len(found) != 1 or found[0].kind.dims != "BTC":
        raise ConfigError(f"{site!r} must name one site of the residual stream, such as blocks.1.resid_post")

    norms: list[float] = []

    def mean(texts: Sequence[str]) -> Tensor:
        seen = []
        for text in texts:
            with apart(), capture(lm, site) as acts:
                lm.logits(encode_prompt(lm, text)[0])
            values = acts[site][0]  # (T, C)
            norms.append(float(values.norm(dim=-1).mean()))
            seen.append(values.mean(dim=0) if over == "mean" else values[-1])
        return torch.stack(seen).mean(dim=0)  # (C,)

    values = mean(positive) - mean(negative)
    return SteeringVector(found[0].name, values, sum(norms) / len(norms))


@contextmanager
def steer(
    lm: LanguageModel, vector: SteeringVector, strength: float = 1.0, positions: tuple[int, ...] | None = None
) -> Iterator[None]:
    """Add strength · vector at its site while the block runs: to every token, or at some positions of the text."""
    if len(vector.values) != lm.config.n_embd:
        raise ConfigError(
            f"the vector has {len(vector.values)} numbers, the stream of this model {lm.config.n_embd}; "
            "it was made for another model"
        )

    def add(value: Tensor) -> Tensor:
        return value + strength * vector.values.to(value.device, value.dtype)

    with edit(lm, {At(vector.site, positions=positions): add}):
        yield


@dataclass(frozen=True, repr=False)
class SteeringEffect:
    """The same prompt and the same draw at several strengths; the first row is the model as it is.

    Attributes:
        table: per strength: KL(steered || plain) in nats of the next token, mean over the plain run; the first new
            token that differs; how many do; the text.
    """

    prompt: str
    table: tuple[dict[str, Any], ...]

    def rows(self) -> list[dict[str, Any]]:
        return [dict(row) for row in self.table]

    def to_dict(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "table": self.rows()}

    def __repr__(self) -> str:
        moved = sum(row["changed"] > 0 for row in self.table)
        return f"SteeringEffect({len(self.table)} strengths, {moved} change the text)"


def steering_effect(
    lm: LanguageModel,
    prompt: str,
    vector: SteeringVector,
    strengths: Sequence[float],
    settings: Settings | None = None,
    *,
    target: str | int | None = None,
    progress: Progress = None,
    **changes: Any,
) -> SteeringEffect:
    """What a direction does to a generation on the same recorded draw.

    Args:
        target: a token whose logit after the prompt is followed: its change and its rank, 0 is the likeliest.
        progress: a bar, or a function that is called with the strengths done and all of them; see ``Progress``.
    """
    plain = generate(lm, prompt, settings, **changes)
    n = len(plain.prompt_ids)
    ids = (plain.prompt_ids + plain.ids)[: lm.model.block_size]
    before = lm.logits(ids).double().log_softmax(dim=-1)[n - 1 :]
    followed = None if target is None else token_id(lm, target)
    table = []
    for strength in steps([0.0, *(s for s in strengths if s != 0)], "steering", progress):
        with steer(lm, vector, strength):
            steered = generate(lm, prompt, settings, **changes)
            logits = lm.logits(ids)[n - 1 :]
        after = logits.double().log_softmax(dim=-1)
        pairs = list(zip(plain.ids, steered.ids, strict=False))
        row: dict[str, Any] = {
            "strength": strength,
            "KL": rounded(kl_divergence(after, before).mean()),
            "first change": next((i for i, (a, b) in enumerate(pairs) if a != b), None),
            "changed": sum(a != b for a, b in pairs) + abs(len(plain.ids) - len(steered.ids)),
        }
        if followed is not None:
            row["Δlogit"] = rounded(after[0, followed] - before[0, followed])
            row["rank"] = int((logits[0] > logits[0, followed]).sum())
        table.append(row | {"text": steered.text})
    return SteeringEffect(prompt, tuple(table))
