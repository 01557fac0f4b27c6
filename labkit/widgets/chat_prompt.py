"""ChatPrompt: how what was said becomes a prompt. Template, system text, how much it holds, and a look at it."""

from collections.abc import Callable
from typing import Any

import ipywidgets as ipw

from .. import chat
from ..chat import Conversation, Template
from ..language_model import LanguageModel
from ..settings import Settings
from . import transcript
from .dialogue import Turns
from .layout import show
from .templates import templates_for

MOST_HISTORY = 20  # exchanges on the slider; one more is all of them
HELP = {
    "system": "Text in front of everything that is said; empty for none.",
    "template": "How turns are written for the model; only templates that its tokenizer can write are listed.",
    "history": "Earlier exchanges that a prompt may hold: all, as far as there is room, or so many at most.",
    "seen": "Show the next prompt as the model will get it: the template's marks, and what was said.",
}


class ChatPrompt:
    """What makes a prompt of turns, as controls.

    Args:
        talk: template, system text and bound to begin with.
        changed: called when somebody moved a control.
        demo: the slider ends with its number; otherwise one more is all exchanges.
    """

    def __init__(self, lm: LanguageModel, talk: Conversation, changed: Callable[[], None], demo: bool):
        narrow = {"style": {"description_width": "initial"}}
        self._lm, self._changed, self._demo = lm, changed, demo
        self.templates: dict[str, Template] = templates_for(lm)
        self.system_box = ipw.Textarea(rows=1, description="system", **narrow)
        self.template = ipw.Dropdown(description="template", **narrow)
        self.history = ipw.IntSlider(min=0, max=MOST_HISTORY, readout=demo, style={"description_width": "7.6em"})
        self.seen_button = ipw.ToggleButton(description="As the model sees it", icon="eye")
        self.seen = ipw.HTML(layout={"display": "none"})
        self.explained = {"system": self.system_box, "template": self.template}
        self.explained |= {"history": self.history, "seen": self.seen_button}
        self.take(talk)
        self.template.observe(self._on_template, "value")
        for control in (self.system_box, self.history):
            control.observe(lambda _: changed(), "value")

    def take(self, talk: Conversation) -> None:
        """Template, system text and bound of this conversation."""
        own = {talk.template.name: talk.template}
        self.templates = own | self.templates | own  # the first on the menu, whatever else is called so
        self._max_tokens, bound = talk.max_tokens, talk.max_history_turns
        self.template.options = [*self.templates]
        self.template.value = talk.template.name
        self.system_box.value = chat.system_text(talk.template, talk.system)
        self.history.max = max(MOST_HISTORY, bound or 0) + (not self._demo)
        self.history.value = self.history.max if bound is None else max(0, bound)

    @property
    def bound(self) -> int | None:
        """Earlier exchanges that a prompt may hold; None: all."""
        return None if not self._demo and self.history.value == self.history.max else self.history.value

    def conversation(self, said: Turns) -> Conversation:
        turns, template = tuple(each.turn for each in said), self.templates[self.template.value]
        return Conversation(template, turns, self.system_box.value, self.bound, self._max_tokens)

    def describe(self) -> None:
        """Say beside the slider what its end means."""
        bound = "all" if self.bound is None else self.bound
        self.history.description = "history" if self._demo else f"history · {bound}"
        show(self.seen, self.seen_button.value)

    def look(self, talk: Conversation, settings: Settings) -> None:
        """Show this conversation as the model would get it.

        Raises:
            LabkitError: it cannot be written for this model.
        """
        given = chat.prompt(self._lm, talk, settings, unknown="drop")
        self.seen.value = transcript.seen_html(talk.replace(turns=given.turns), len(given.ids))

    def _on_template(self, change: dict[str, Any]) -> None:
        """A template's own system text gives way to the next one's; what somebody wrote does not."""
        old, new = (self.templates[change[which]] for which in ("old", "new"))
        if self.system_box.value == (old.default_system or ""):
            self.system_box.value = new.default_system or ""
        self._changed()
