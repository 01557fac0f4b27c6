"""A conversation as code that holds it again."""

from collections.abc import Callable, Sequence

from ..chat import TEMPLATES, Conversation
from ..language_model import LanguageModel
from ..settings import Settings
from .code import source_of
from .dialogue import Turns


def chat_code(lm: LanguageModel, talk: Conversation, messages: Sequence[tuple[str, Settings]]) -> str:
    """Lines that give the same answers to these messages; of the settings only what differs from the defaults."""
    template = talk.template
    known = TEMPLATES.get(template.name) == template
    written = repr(template.name) if known else f"chat.Template.from_dict({template.to_dict()!r})"
    system = None if talk.system == (template.default_system or "") else talk.system
    values = {"system": system, "max_history_turns": talk.max_history_turns, "max_tokens": talk.max_tokens}
    given = "".join(f", {name}={value!r}" for name, value in values.items() if value is not None)
    is_file = lm.checkpoint.path.exists()
    opened = f"lm = labkit.load({source_of(lm)!r})" if is_file else "# lm is the model you gave to the widget"
    said = "".join(f"    ({message!r}, {settings.changed()!r}),\n" for message, settings in messages)
    return (
        f"import labkit\nfrom labkit import chat\n\n{opened}\n"
        f"talk = chat.begin(lm, template={written}{given})\n"
        f"for message, settings in [\n{said}]:\n"
        "    answer = chat.reply(lm, talk.say(message), **settings)\n"
        "    answer.run.finish()\n"
        "    talk = answer.conversation\n"
        "    print(answer.text)"
    )


def messages(said: Turns, seeded: Callable[[Turns], Settings]) -> list[tuple[str, Settings]]:
    """Each message with the settings of its answer; ``seeded`` says what they would be behind what was said before."""
    answers = [*said[1:], None]
    return [
        (each.turn.text, after.answer.reply.settings if after is not None and after.answer else seeded(said[:i]))
        for i, (each, after) in enumerate(zip(said, answers, strict=False))
        if each.turn.role == "user"
    ]
