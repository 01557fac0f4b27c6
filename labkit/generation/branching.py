"""Branches: another token at some place of a generation, and on from there."""

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError, TokenizerError
from ..language_model import LanguageModel
from ..sampling import LlamaCppDist, Mirostat, Sampler
from .rows import Generation
from .run import Run, settings_for


def branch(
    lm: LanguageModel,
    generation: Generation,
    at: int,
    token_id: int,
    *,
    sampler: Sampler | None = None,
    **changes: Any,
) -> Generation:
    """``generation.ids[:at]``, then this token, then on from there: with the same settings and the token that was
    there anyway, the same ids again. Works on ids; nothing is tokenised again.

    Steps count on, so every later step has the noise of the same draw; and max_new_tokens still counts from the prompt,
    unless it is changed. The chosen token is always taken, whatever the stages, limits and stops say; it may end the
    run. The ids before it never do.

    If the generation kept its cache (``generate(..., keep_cache=True)``), a fork of it is wound back, where that is
    possible, and the result keeps one too; otherwise the ids are prefilled. The result is the same.

    Args:
        at: index of the chosen token, 0 … len(generation.ids).
        sampler, changes: as in ``generate``; what is not changed is as in the generation.
    """
    return branch_run(lm, generation, at, [token_id], sampler=sampler, **changes).finish()


def branch_run(
    lm: LanguageModel,
    generation: Generation,
    at: int,
    forced: Sequence[int] = (),
    *,
    sampler: Sampler | None = None,
    **changes: Any,
) -> Run:
    """A branch to iterate over: ``generation.ids[:at]``, then the forced ids, if any, and on from there.

    Where a stage remembers more than the ids, the steps before ``at`` are gone through again, and come first.
    """
    if type(at) is not int or not 0 <= at <= len(generation.ids):
        raise ConfigError(f"at is {at!r}; it must be from 0 to {len(generation.ids)}, the new tokens there are")
    for token_id in forced:
        if type(token_id) is not int or not 0 <= token_id < lm.vocab_size:
            raise TokenizerError(f"id {token_id!r} is outside the vocabulary 0 … {lm.vocab_size - 1}")
    settings = settings_for(lm, generation.settings, changes)
    sampler = sampler or Sampler.from_settings(**settings.sampling())
    kept = generation._cache
    run = Run(lm, generation.prompt_ids, settings, sampler, stream=generation.stream, keep_cache=kept is not None)
    run.notes = tuple(dict.fromkeys((*generation.notes, *run.notes)))
    if remembers(sampler):  # what it remembers of the steps before has to be gone through again
        run.forced = [*generation.ids[:at], *forced]
    else:
        run.take_over(generation, at)
        run.forced = list(forced)
        if kept is not None and run.prompt_ids == generation.prompt_ids:
            run.feed.resume(run, kept)
    run.kept = at + max(0, len(forced) - 1)  # of the chosen tokens only the last one may end the run
    return run


def remembers(sampler: Sampler) -> bool:
    """Whether a step depends on more of the steps before than their ids."""
    return any(isinstance(part, Mirostat | LlamaCppDist) for part in (*sampler.stages, sampler.draw))
