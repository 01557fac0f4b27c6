"""How the reference systems that have a chat of their own chat, where it is not labkit's way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Original:
    """A system's own chat: it stops at no marker, and forgets for good what a prompt left out.

    Attributes:
        template: what it writes its prompts with.
        max_history_turns: its default; None: all that was said.
        answer: the new text -> what it takes for the answer.
        streams: whether the new text is shown as it comes; otherwise only the answer is.
        any_template: whether this can be so with other templates than its own; otherwise labkit's rules hold there.
    """

    template: str
    max_history_turns: int | None
    answer: Callable[[str], str]
    streams: bool
    any_template: bool


def last_answer(text: str) -> str:
    """SWA-MLA's: if the model wrote more answers, the last one, until it speaks for the user."""
    return text.rsplit("Assistant:", 1)[-1].strip().split("\nYou:", 1)[0]


ORIGINALS: Mapping[str, Original] = {
    # Its streaming shows each token by itself, so that a character of several tokens is broken; that is not kept.
    "labcore": Original("labcore", 6, lambda text: text, streams=True, any_template=True),
    "swamla": Original("swa_mla", None, last_answer, streams=False, any_template=False),
}


def original(dialect: str, template: str) -> Original | None:
    """The system whose own chat this is; None where labkit's rules hold."""
    found = ORIGINALS.get(dialect)
    return found if found is not None and (found.any_template or found.template == template) else None
