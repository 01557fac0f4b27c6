"""The model's answer, token by token."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..generation import Generation, Run, Step, stream
from ..language_model import LanguageModel
from ..settings import Settings
from ..tokenizers.base import OnUnknown
from .conversation import Conversation
from .dialects import ORIGINALS, original
from .prompt import Prompt, prompt, system_text
from .templates import Template, check_markers, named, template_of


def begin(
    lm: LanguageModel,
    *,
    system: str | None = None,
    template: str | Path | Template | None = None,
    max_history_turns: int | None = None,
    max_tokens: int | None = None,
    dialect: str = "labkit",
) -> Conversation:
    """A conversation in which nobody has spoken yet.

    Args:
        template: a known name, a TOML file, or a Template; None: the one the checkpoint was trained with, or in a
            dialect with a chat of its own, that system's.
        system, max_history_turns, max_tokens: see Conversation.

    Raises:
        ConfigError: no template of that name, or none known for this checkpoint.
        TokenizerError: the tokenizer cannot write the template's markers.
    """
    own = ORIGINALS.get(dialect)
    if template is None:
        template = named(own.template) if own else template_of(lm)
    chosen = template if isinstance(template, Template) else named(template)
    check_markers(chosen, lm.require_tokenizer(), bool(system_text(chosen, system)))
    if max_history_turns is None and own:
        max_history_turns = own.max_history_turns
    return Conversation(chosen, (), system, max_history_turns, max_tokens)


class Reply(Iterator[Step]):
    """An answer under way: iterate for steps, stop at any time, and what is there stays.

    Attributes:
        prompt: what the model was given.
        run: the generation behind it.
        settings: as they were given, without the stops of the template.
        streams: whether the steps' text is the answer; if not, ``text`` alone is (SWA-MLA's own rule).
    """

    def __init__(self, conversation: Conversation, prompt: Prompt, settings: Settings, run: Run):
        self.prompt, self.settings, self.run = prompt, settings, run
        self._before = conversation
        self._original = original(settings.dialect, conversation.template.name)
        self._lead = "" if self._original else conversation.template.lead
        self._held = ""  # text that may still turn out to be the rest of the assistant's marker
        self.streams = self._original is None or self._original.streams

    def __next__(self) -> Step:
        step = next(self.run)
        return dataclasses.replace(step, text=self._without_lead(step.text)) if self._lead else step

    def _without_lead(self, text: str) -> str:
        self._held += text
        if self._lead.startswith(self._held) and self._held != self._lead:
            return ""
        text, self._held, self._lead = self._held.removeprefix(self._lead), "", ""
        return text

    def result(self) -> Generation:
        """The generation, with everything that the model wrote."""
        return self.run.result()

    @property
    def text(self) -> str:
        """The answer so far, in words: without markers and, in SWA-MLA's dialect, as that system extracts it."""
        result = self.run.result()
        if self._original is None:
            return result.text.removeprefix(self._before.template.lead)
        tokenizer = self.run.lm.require_tokenizer()
        special = set(tokenizer.special_ids.values())
        return self._original.answer(tokenizer.decode([i for i in result.ids if i not in special]))

    @property
    def conversation(self) -> Conversation:
        """The conversation with this answer, as far as it has come."""
        kept = self._before.replace(turns=self.prompt.turns) if self._original else self._before
        return kept.answered(self.text, self.run.result().finish_reason)


def reply(
    lm: LanguageModel,
    conversation: Conversation,
    settings: Settings | None = None,
    *,
    unknown: OnUnknown | None = None,
    **changes: Any,
) -> Reply:
    """The model's answer to the newest message, token by token::

        talk = labkit.chat.begin(lm, system="Be brief.")
        answer = labkit.chat.reply(lm, talk.say("Hello!"), seed=1)
        for step in answer:
            print(step.text, end="")
        talk = answer.conversation

    It ends at the template's stop as well; in the dialect of a system with a chat of its own, as that system does.
    """
    settings = (settings or Settings()).replace(**changes)
    given = prompt(lm, conversation, settings, unknown=unknown)
    stops: tuple[str | int, ...] = ()
    if original(settings.dialect, conversation.template.name) is None:
        special = lm.require_tokenizer().special_ids
        stops = tuple(special.get(stop, stop) for stop in conversation.template.stop)
    run = stream(lm, given.ids, settings.replace(stop=(*settings.stop, *stops)))
    return Reply(conversation, given, settings, run)


def with_later_seed(settings: Settings, n: int) -> Settings:
    """The settings with the n-th seed after theirs: every answer has a draw of its own."""
    assert settings.seed is not None  # one that was left open is drawn when Settings are made
    return settings.replace(seed=settings.seed + n)
