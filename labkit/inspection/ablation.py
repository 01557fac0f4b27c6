"""Ablation: take parts of the model out, one at a time, and see what becomes of the next token."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from ..generation import encode_prompt
from ..language_model import LanguageModel
from ..sampling import Sampler, StepContext
from .effects import Effect, effect
from .hooks import At, apart, capture, edit
from .progress import Progress, Stopped, steps
from .reading import batch_of, pieces, place, token_id
from .site_names import resolve, sites

How = Literal["zero", "mean", "resample"]
WHAT = ("heads", "attention", "mlps", "positions")
Prompt = str | Sequence[int]


@dataclass(frozen=True, repr=False)
class Ablation:
    """The effect of taking out each of several parts; of several prompts, means and shares.

    Attributes:
        how: what stood in for the part.
        prompts: ids of each prompt, up to the position that is looked at.
        targets, target_pieces: the token looked at after each prompt.
        donor: for "resample", the ids that the replacement comes from.
        parts: what was taken out.
        labels: parts as one writes them.
        effects: one a part, over the prompts.
    """

    how: str
    prompts: list[list[int]]
    targets: list[int]
    target_pieces: list[str]
    donor: list[int] | None
    parts: tuple[At, ...]
    labels: tuple[str, ...]
    effects: tuple[Effect, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One row a part, in the order of the model."""
        return [{"part": label, **one.row()} for label, one in zip(self.labels, self.effects, strict=True)]

    def top(self, n: int = 10, by: str = "kl") -> list[dict[str, Any]]:
        """The n parts that matter most: by "kl", "redrawn", "first_changed" …, or by the loss of "delta_logit"."""
        rows = self.rows()
        if rows and by not in rows[0]:
            raise ConfigError(f"{by!r} is no column; they are {', '.join(list(rows[0])[1:])}")
        sign = 1 if by == "delta_logit" else -1
        return sorted(rows, key=lambda row: sign * row[by])[:n]

    def to_dict(self) -> dict[str, Any]:
        return {"how": self.how, "prompts": self.prompts, "target_pieces": self.target_pieces, "parts": self.rows()}

    def __repr__(self) -> str:
        return f"Ablation({self.how}, {len(self.parts)} parts, {len(self.prompts)} prompts)"


@torch.inference_mode()
def ablate(
    lm: LanguageModel,
    prompt: Prompt | Sequence[Prompt],
    what: str | At | Sequence[At] = "heads",
    how: How = "zero",
    *,
    target: int | str | Sequence[int | str] | None = None,
    versus: int | str | Sequence[int | str] | None = None,
    position: int = -1,
    reference: Prompt | Sequence[Prompt] | None = None,
    seed: int = 0,
    sampler: Sampler | None = None,
    context: StepContext | None = None,
    progress: Progress = True,
) -> Ablation:
    """Take out one part after the other, each from an otherwise whole model.

    Args:
        prompt: text or ids; or several of equal length, so that positions mean the same.
        what: "heads" (each head's z), "attention" or "mlps" (of each block), "positions" (what others may read of each
            token: its values in every block), or parts of your own.
        how: what stands in: nothing ("zero"); the mean over the reference ("mean"); or what one text of the reference,
            drawn by the seed, has there ("resample"). Zeros are what a model has never seen, so the effect of "zero"
            holds some surprise besides what the part does; the other two keep to what it has seen.
        target: the token looked at, for all prompts or one for each; None: each prompt's own first choice.
        versus: the token whose logit is subtracted.
        position: the token after this one is looked at.
        reference: for "mean" and "resample": several prompts of the same length, or one longer text, which is cut into
            such prompts. The stand-in is taken position by position.
        seed: of the drawn text in "resample".
        sampler: the recorded draw; None: temperature 1 and seed 0.
        context: the step that it is drawn at, with a row for each prompt; None: the first one after the prompts.
        progress: a bar, or a function that is called with the parts done and all of them; see ``Progress``. If it
            raises ``Stopped``, the result has the parts done by then.

    Raises:
        ConfigError: prompts of unequal length, no reference where one is needed, a part that does not exist.
    """
    full = [encode_prompt(lm, one)[0] for one in prompts_of(prompt)]
    if len({len(ids) for ids in full}) != 1:
        raise ConfigError(f"the prompts have {sorted({len(ids) for ids in full})} tokens; give prompts of equal length")
    at = place(position, len(full[0]))
    rows = [ids[: at + 1] for ids in full]
    batch = batch_of(lm, rows)
    parts = parts_of(lm, what, at + 1)
    expanded = {part: [At(s.name, part.heads, part.positions) for s in resolve(lm, part.site)] for part in parts}
    stand_in, donor = stand_ins(lm, how, [one for each in expanded.values() for one in each], reference, at + 1, seed)
    before = next_logits(lm, batch)  # (P, V)
    goals = before.argmax(dim=-1).tolist() if target is None else tokens_of(lm, target, len(rows))
    others = None if versus is None else tokens_of(lm, versus, len(rows))
    chooser = sampler or Sampler.from_settings(temperature=1.0, seed=0)
    context = context or StepContext(rows, [[]] * len(rows), stream=[0] * len(rows))
    if len(context.prompt_ids) != len(rows):
        raise ConfigError(f"the context has {len(context.prompt_ids)} rows for {len(rows)} prompts; give one for each")
    effects: list[Effect] = []
    with suppress(Stopped):
        for part in steps(parts, "ablating", progress):
            with apart(), edit(lm, {one: stand_in(one) for one in expanded[part]}):
                after = next_logits(lm, batch)
            effects.append(effect(before, after, goals, versus=others, sampler=chooser, context=context))
    parts = parts[: len(effects)]
    return Ablation(
        how=how,
        prompts=rows,
        targets=goals,
        target_pieces=pieces(lm, goals),
        donor=donor,
        parts=tuple(parts),
        labels=tuple(label(part) for part in parts),
        effects=tuple(effects),
    )


def next_logits(lm: LanguageModel, batch: Tensor) -> Tensor:
    """Of the token after each row of a batch (P, T): (P, V), float32 on the CPU."""
    return lm.model.unembed(lm.model.hidden(batch)[:, -1]).float().cpu()


def prompts_of(prompt: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several as a list."""
    if isinstance(prompt, str) or not len(prompt) or not isinstance(prompt[0], str | Sequence):
        return [prompt]  # type: ignore[list-item]
    return list(prompt)  # type: ignore[arg-type]


def tokens_of(lm: LanguageModel, token: int | str | Sequence[int | str], n: int) -> list[int]:
    """One token for all of n prompts, or one for each."""
    if isinstance(token, int | str):
        return [token_id(lm, token)] * n
    if len(token) != n:
        raise ConfigError(f"{len(token)} tokens for {n} prompts; give one for each, or one for all")
    return [token_id(lm, one) for one in token]


def parts_of(lm: LanguageModel, what: str | At | Sequence[At], n: int) -> list[At]:
    """The parts that a word stands for, in a text of n tokens."""
    if isinstance(what, At):
        return [what]
    if not isinstance(what, str):
        return list(what)
    n_head = {site.name: dict(site.sizes)["H"] for site in sites(lm) if site.name.endswith(".z")}
    layers = range(len(lm.model.blocks))
    if what == "heads":
        return [At(name, heads=(head,)) for name, count in n_head.items() for head in range(count)]
    if what in ("attention", "mlps"):
        return [At(f"blocks.{i}.{'attn_out' if what == 'attention' else 'mlp_out'}") for i in layers]
    if what == "positions":
        return [At("blocks.*.v", positions=(t,)) for t in range(n)]
    raise ConfigError(f"{what!r} is nothing to ablate; {', '.join(WHAT)}, or inspection.At(site, heads, positions)")


def label(part: At) -> str:
    """block 3 head 2, block 3 mlp, as in an Attribution; position 4; any other part by site, heads and positions."""
    block, _, kind = part.site.removeprefix("blocks.").partition(".")
    named = {"z": " head ", "attn_out": " attention", "mlp_out": " mlp"}.get(kind) if block.isdigit() else None
    heads = ", ".join(map(str, part.heads or ()))
    positions = ", ".join(map(str, part.positions or ()))
    if part == At("blocks.*.v", positions=part.positions):
        return f"position {positions}"
    if named and part.positions is None and (kind == "z") == (part.heads is not None):
        return f"block {block}{named}{heads}"
    return part.site + f" head {heads}" * bool(heads) + f" position {positions}" * bool(positions)


Replace = Callable[[Tensor], Tensor]


def stand_ins(
    lm: LanguageModel, how: str, parts: Iterable[At], reference: Prompt | Sequence[Prompt] | None, n: int, seed: int
) -> tuple[Callable[[At], Replace], list[int] | None]:
    """What stands in for a part, as the function that ``edit`` wants; and the ids of the donor, if there is one."""
    if how == "zero":
        return lambda part: torch.zeros_like, None
    if how not in ("mean", "resample"):
        raise ConfigError(f"how={how!r} is unknown; zero, mean or resample")
    rows = references(lm, reference, n, how)
    donor = None
    if how == "resample":
        chosen = int(torch.randint(len(rows), (1,), generator=torch.Generator().manual_seed(seed)))
        donor, rows = rows[chosen], [rows[chosen]]
    with apart(), capture(lm, sorted({part.site for part in parts})) as acts:
        next_logits(lm, batch_of(lm, rows))
    values: Mapping[str, Tensor] = {name: acts[name].mean(dim=0, keepdim=True) for name in acts}  # (1, …, T, …)

    def replace(part: At) -> Replace:
        instead = part_of(values[part.site], part)
        return lambda value: instead.to(value.device, value.dtype).expand_as(value).clone()

    return replace, donor


def part_of(values: Tensor, part: At) -> Tensor:
    """The heads and positions of a part, from the values at its site: (1, H, T, D) or (1, T, C)"""
    if part.heads is not None:
        values = values[:, list(part.heads)]
    return values if part.positions is None else values[..., list(part.positions), :]


def references(lm: LanguageModel, reference: Prompt | Sequence[Prompt] | None, n: int, how: str) -> list[list[int]]:
    """Reference texts of n tokens each: those that are given, or one text cut into such."""
    if reference is None:
        raise ConfigError(f"how={how!r} needs reference=: prompts of {n} tokens, or one longer text")
    given = [encode_prompt(lm, one)[0] for one in prompts_of(reference)]
    if len(given) == 1 and len(given[0]) > n:
        ids = given[0]
        bos = lm.tokenizer.bos_id if lm.tokenizer is not None else None
        first = [bos] if bos is not None and ids[0] == bos else []
        ids, size = ids[len(first) :], n - len(first)
        return [first + ids[i : i + size] for i in range(0, len(ids) - size + 1, size)]
    if bad := sorted({len(ids) for ids in given} - {n}):
        raise ConfigError(f"a reference has {bad[0]} tokens and the prompt {n}; give equal lengths, or one longer text")
    return given
