"""Teacher-forced: two sides read the same text. What each makes of every token, and where they differ."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..generation import encode_prompt
from .alignment import character_starts, common_borders, same_ids, sums_between, token_ends
from .distributions import Side, distributions, in_step, jensen_shannon, kl_divergence
from .progress import Progress, steps
from .reading import pieces


@dataclass(frozen=True, repr=False)
class TeacherForced:
    """Two sides on one text, part by part: token by token, or where the tokenizers differ, between the places where
    both have a border. What is not predicted (the first token) is left out.

    Attributes:
        pieces: text of each part; ids as text without a tokenizer.
        starts: where in the text it begins, in characters; of tokens without such a place, their index.
        logprobs_a, logprobs_b: float64 (n,), nats of each part; -inf where a stage removed the token.
        n_bytes: of all parts; None without a tokenizer.
        kl, js: float64 (n,), KL(A || B) and the Jensen-Shannon divergence (at most ln 2) of the distributions that the
            token comes from, in nats; None for different tokens.
        tops_a, tops_b, same_top: first choice of each side, and whether it is the same token (n,); None for different
            tokens.
        notes: on the text and the comparison.
    """

    pieces: list[str]
    starts: list[int]
    logprobs_a: Tensor
    logprobs_b: Tensor
    n_bytes: int | None
    kl: Tensor | None = None
    js: Tensor | None = None
    tops_a: list[str] | None = None
    tops_b: list[str] | None = None
    same_top: Tensor | None = None
    notes: tuple[str, ...] = ()

    @property
    def delta(self) -> Tensor:
        """float64 (n,): by how many nats each part is likelier to B than to A; 0 where both rule it out."""
        both_out = self.logprobs_a.isinf() & self.logprobs_b.isinf()
        return (self.logprobs_b - self.logprobs_a).masked_fill(both_out, 0.0)

    @property
    def agreement(self) -> float | None:
        """Share of the tokens at which both have the same first choice."""
        return None if self.same_top is None else float(self.same_top.double().mean())

    def rows(self) -> list[dict[str, Any]]:
        """One row a part. What is infinite is None."""
        columns: dict[str, Sequence[Any]] = {
            "start": self.starts,
            "piece": self.pieces,
            "logprob_a": rounded(self.logprobs_a),
            "logprob_b": rounded(self.logprobs_b),
            "delta": rounded(self.delta),
        }
        if self.kl is not None and self.js is not None and self.tops_a is not None and self.tops_b is not None:
            columns |= {"kl": rounded(self.kl), "js": rounded(self.js), "top_a": self.tops_a, "top_b": self.tops_b}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def most_different(self, n: int = 10, by: str | None = None) -> list[dict[str, Any]]:
        """The parts at which the sides differ most.

        Args:
            by: "js" (None, where there is one), "kl" or "delta" (its size).
        """
        by = by or ("delta" if self.js is None else "js")
        measures = {"delta": self.delta.abs(), "js": self.js, "kl": self.kl}
        values = measures.get(by)
        if values is None:
            raise ConfigError(
                f"by is {by!r}; known here are {', '.join(k for k, v in measures.items() if v is not None)}"
            )
        rows, order = self.rows(), values.argsort(descending=True, stable=True)
        return [rows[i] for i in order[:n].tolist()]

    def totals(self) -> dict[str, Any]:
        """Means over all parts; bits per byte of each side; how many parts a stage of it rules out."""
        bits = None if not self.n_bytes else self.n_bytes * math.log(2)
        means = {
            "surprisal_a": -self.logprobs_a.mean(),
            "surprisal_b": -self.logprobs_b.mean(),
            "bits_per_byte_a": None if bits is None else -self.logprobs_a.sum() / bits,
            "bits_per_byte_b": None if bits is None else -self.logprobs_b.sum() / bits,
            "delta": self.delta.mean(),
            "largest_delta": self.delta.abs().max(),
            "kl": None if self.kl is None else self.kl.mean(),
            "js": None if self.js is None else self.js.mean(),
        }
        values = {name: None if x is None else rounded(x[None])[0] for name, x in means.items()}
        agreement = None if self.agreement is None else round(self.agreement, 4)
        out = {
            f"ruled_out_{side}": int(x.isinf().sum()) for side, x in (("a", self.logprobs_a), ("b", self.logprobs_b))
        }
        return {"parts": len(self.pieces), **values, "agreement": agreement, **out}

    def to_dict(self) -> dict[str, Any]:
        return {"totals": self.totals(), "rows": self.rows(), "notes": list(self.notes)}

    def __repr__(self) -> str:
        shown = ("surprisal_a", "surprisal_b", "kl", "js", "agreement")
        known = [f"{name}={value:.4f}" for name, value in self.totals().items() if name in shown and value is not None]
        return f"TeacherForced({', '.join([f'{len(self.pieces)} parts', *known])})"


def rounded(values: Tensor) -> list[float | None]:
    """To what is stable; None for what is infinite. No negative zeros."""
    return [round(x, 4) + 0.0 if math.isfinite(x) else None for x in values.tolist()]


@torch.inference_mode()
def teacher_forced(a: Side, b: Side, text: str | Sequence[int], progress: Progress = None) -> TeacherForced:
    """Both sides read the text; ids only where they mean the same to both.

    Raises:
        TokenizerError: the tokenizers cannot be aligned: one of them does not give the text back, or ids were given.
    """
    if not same_ids(a.lm, b.lm, text):
        return by_parts(a, b, str(text), progress)
    ids, notes = encode_prompt(a.lm, text)
    if isinstance(text, str) and encode_prompt(b.lm, text)[0] != ids:
        return by_parts(a, b, text, progress)  # one of them begins with a BOS, or cuts words otherwise
    return by_token(a, b, ids, notes, progress)


def by_token(a: Side, b: Side, ids: list[int], notes: tuple[str, ...], progress: Progress) -> TeacherForced:
    at_least_two(ids)
    targets = torch.tensor(ids[1:])
    parts: list[list[Tensor]] = [[], [], [], [], [], []]
    done = 0
    both = in_step(distributions(a, ids), distributions(b, ids))
    for log_p, log_q in steps(both, "reading", progress, total=len(targets), size=lambda pair: len(pair[0])):
        own = targets[done : done + len(log_p), None]
        js = jensen_shannon(log_p, log_q)
        tops = log_p.argmax(dim=-1), log_q.argmax(dim=-1)
        found = (log_p.gather(1, own)[:, 0], log_q.gather(1, own)[:, 0], kl_divergence(log_p, log_q), js, *tops)
        for part, values in zip(parts, found, strict=True):
            part.append(values)
        done += len(log_p)
    logprobs_a, logprobs_b, kl, js, tops_a, tops_b = (torch.cat(part) for part in parts)
    lm = a.lm if a.lm.tokenizer is not None else b.lm
    starts, n_bytes = list(range(1, len(ids))), None
    if lm.tokenizer is not None:
        data = [b"" if i == lm.tokenizer.bos_id else lm.tokenizer.token_bytes(i) for i in ids]
        starts, n_bytes = character_starts(data)[1:], sum(map(len, data[1:]))
    return TeacherForced(
        pieces=pieces(lm, ids[1:]),
        starts=starts,
        logprobs_a=logprobs_a,
        logprobs_b=logprobs_b,
        kl=kl,
        js=js,
        tops_a=pieces(lm, tops_a.tolist()),
        tops_b=pieces(lm, tops_b.tolist()),
        same_top=tops_a == tops_b,
        n_bytes=n_bytes,
        notes=notes,
    )


def by_parts(a: Side, b: Side, text: str, progress: Progress) -> TeacherForced:
    """Sums over the tokens between the borders that both sides have."""
    ids_a, ids_b = (encode_prompt(side.lm, text)[0] for side in (a, b))
    ends_a, ends_b = token_ends(a.lm, ids_a, text), token_ends(b.lm, ids_b, text)
    starts, borders = common_borders(text, ends_a, ends_b)
    return TeacherForced(
        pieces=[text[start:end] for start, end in itertools.pairwise(starts)],
        starts=starts[:-1],
        logprobs_a=sums_between(borders, ends_a[1:], own_logprobs(a, ids_a, progress)),
        logprobs_b=sums_between(borders, ends_b[1:], own_logprobs(b, ids_b, progress)),
        n_bytes=borders[-1] - borders[0],
        notes=(f"Different tokens ({len(ids_a)} and {len(ids_b)}): compared between the borders that both have.",),
    )


def own_logprobs(side: Side, ids: list[int], progress: Progress) -> Tensor:
    """float64 (T - 1,): nats of every token but the first."""
    at_least_two(ids)
    rows, done = [], 1
    for log_p in steps(distributions(side, ids), "reading", progress, total=len(ids) - 1, size=len):
        own = torch.tensor(ids[done : done + len(log_p)])
        rows.append(log_p.gather(1, own[:, None])[:, 0])
        done += len(log_p)
    return torch.cat(rows)


def at_least_two(ids: list[int]) -> None:
    if len(ids) < 2:
        raise ConfigError("the text has one token, and the first one is not predicted; give a longer one")
