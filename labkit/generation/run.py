"""stream and generate: one prompt, token by token or to the end."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import ConfigError
from ..language_model import LanguageModel
from ..sampling import Sampler
from ..settings import Settings, check_names
from .rows import Generation, Row, Step
from .steps import Feed


class Run(Row, Iterator[Step]):
    """A generation under way: iterate for steps, stop at any time, and what is there stays consistent.

    Args:
        keep_cache: the result privately keeps the cache, for ``branch``.

    Attributes:
        forced: the next tokens, which are taken whatever draw, limits and stops say.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompt: str | Sequence[int],
        settings: Settings,
        sampler: Sampler,
        *,
        stream: int = 0,
        keep_cache: bool = False,
    ):
        super().__init__(lm, prompt, settings, sampler, stream)
        self.feed = Feed(lm.model, settings)
        self.keep_cache = keep_cache
        self.forced: list[int] = []

    def __next__(self) -> Step:
        if self.finish_reason is not None and not self.forced:
            raise StopIteration
        try:
            step = self.choose(self.feed([self])[0], self.forced[0] if self.forced else None)
        except BaseException:
            self.feed.groups = []  # the cache may be a token ahead
            raise
        del self.forced[:1]
        return step

    def finish(self) -> Generation:
        """To the end, or to an interrupt (Ctrl-C)."""
        try:
            for _ in self:
                pass
        except KeyboardInterrupt:
            pass
        return self.result()

    def result(self) -> Generation:
        kept = self.feed.keep(self) if self.keep_cache else None
        return dataclasses.replace(super().result(), _cache=kept)


def stream(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    settings: Settings | None = None,
    *,
    sampler: Sampler | None = None,
    keep_cache: bool = False,
    **changes: Any,
) -> Run:
    """Generate token by token: ``for step in labkit.stream(lm, "To be"): print(step.text, end="")``.

    Args:
        prompt: text, which the format's BOS is put in front of, or ids, which are used as they are.
        settings: the defaults of labkit, or of the dialect among the changes, if None.
        sampler: replaces the sampling part of the settings.
        keep_cache: the result privately keeps the cache, so that ``branch`` need not compute it again.
        changes: fields of Settings; an unknown name is refused and the nearest one suggested.
    """
    settings = settings_for(lm, settings, changes)
    return Run(lm, prompt, settings, sampler or Sampler.from_settings(**settings.sampling()), keep_cache=keep_cache)


def generate(
    lm: LanguageModel,
    prompt: str | Sequence[int],
    settings: Settings | None = None,
    *,
    sampler: Sampler | None = None,
    keep_cache: bool = False,
    **changes: Any,
) -> Generation:
    """Generate to the end. An interrupt (Ctrl-C) returns what there is, with finish_reason "interrupted"."""
    return stream(lm, prompt, settings, sampler=sampler, keep_cache=keep_cache, **changes).finish()


def settings_for(lm: LanguageModel, settings: Settings | None, changes: dict[str, Any]) -> Settings:
    """The settings with changes, as this model can follow them."""
    check_names(changes)
    settings = Settings(**changes) if settings is None else settings.replace(**changes)
    if settings.overflow != "labcore" or lm.checkpoint.family == "labcore":
        return settings
    if "overflow" in settings.given:
        raise ConfigError(f'overflow="labcore" is LabCore\'s cache; this is a {lm.checkpoint.family} model')
    return settings.replace(overflow="recrop")  # only meant by the dialect: the same rule, without its cache
