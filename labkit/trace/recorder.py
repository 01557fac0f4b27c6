"""record: a run whose logits are kept."""

from collections.abc import Sequence
from typing import Any

import torch

from labkit import __version__

from ..errors import ConfigError
from ..generation import Run, stream
from ..generation.rows import end_ids
from ..language_model import LanguageModel
from ..sampling import AllowedIds, ForbiddenIds, LogitBias, Sampler
from ..sampling.partial import PartialLogits
from ..settings import Settings
from .run import RecordedStep, Trace

MAX_BYTES = 256 << 20


def record(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    settings: Settings | None = None,
    *,
    sampler: Sampler | None = None,
    max_bytes: int = MAX_BYTES,
    top_m: int = 256,
    **changes: Any,
) -> Trace:
    """Generate, and keep at every step the logits that the token was drawn from. An interrupt (Ctrl-C) returns what
    there is.

    Args:
        prompt, settings, sampler, changes: as in ``labkit.generate``.
        max_bytes: steps are kept in full, 4 bytes a logit, until this is spent; later ones in compact form.
        top_m: how many of the largest logits the compact form keeps.
    """
    for name, value, least in (("max_bytes", max_bytes, 0), ("top_m", top_m, 1)):
        if type(value) is not int or value < least:
            raise ConfigError(f"{name} is {value!r}; it must be a whole number from {least}")
    run = stream(lm, prompt, settings, sampler=sampler, **changes)
    named = named_ids(run)
    steps: list[RecordedStep] = []
    spent = 0
    try:
        for step in run:
            spent += 4 * len(step.logits)
            named.add(step.id)
            logits = step.logits.clone() if spent <= max_bytes else PartialLogits.of(step.logits, top_m, named)
            steps.append(RecordedStep(step.id, step.logprob, step.raw_logprob, step.rank, step.entropy, logits))
    except KeyboardInterrupt:
        pass
    return trace_of(run, steps)


def trace_of(run: Run, steps: Sequence[RecordedStep], given: int = 0) -> Trace:
    """A run and the steps that were kept of it, as a Trace.

    Args:
        given: so many of the first ids were taken over from another run, or chosen by hand.
    """
    lm, done = run.lm, run.result()
    facts = lm.checkpoint
    return Trace(
        prompt_ids=done.prompt_ids,
        ids=done.ids[: len(steps)],
        text=done.text,
        finish_reason=done.finish_reason,
        notes=done.notes,
        settings=done.settings,
        sampler=run.sampler,
        steps=tuple(steps),
        end_ids=tuple(sorted(end_ids(lm, run.settings))),
        model={
            "family": facts.family,
            "format": facts.format,
            "name": facts.path.name,
            "dtype": facts.dtype,
            "device": str(lm.device),
            "sha256": facts.sha256 if facts.path.is_file() else None,
            "vocab_size": lm.vocab_size,
            "labkit": __version__,
            "torch": torch.__version__,
        },
        tokenizer=lm.tokenizer,
        given=given,
    )


def named_ids(run: Run) -> set[int]:
    """Ids of the prompt and those that ends and stages name: the compact form keeps their logits."""
    ids = {*run.prompt_ids, *end_ids(run.lm, run.settings)}
    for stage in run.sampler.stages:
        if isinstance(stage, AllowedIds | ForbiddenIds):
            ids |= set(stage.ids)
        elif isinstance(stage, LogitBias):
            ids |= {i for i, _ in stage.bias}
    return ids
