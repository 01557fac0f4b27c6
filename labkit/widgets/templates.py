"""Which chat templates go with a model."""

from pathlib import Path

from .. import chat
from ..chat import TEMPLATES, Template
from ..chat.templates import can_write
from ..errors import LabkitError
from ..language_model import LanguageModel

# No marks at all: the model goes on where the message ends.
PLAIN = Template.from_dict(
    {"system": ["", "\n\n"], "user": ["", ""], "assistant": ["", ""], "reply": "", "stop": []}, "plain"
)


def templates_for(lm: LanguageModel) -> dict[str, Template]:
    """The known templates that this model's tokenizer can write, and the plain one."""
    tokenizer = lm.require_tokenizer()
    known = {name: template for name, template in TEMPLATES.items() if can_write(template, tokenizer)}
    return {**known, PLAIN.name: PLAIN}


def fitting_template(lm: LanguageModel, template: str | Path | Template | None, dialect: str) -> Template:
    """The template that is named; if none is, the checkpoint's own, or the first that its tokenizer can write.

    Raises:
        ConfigError: no template of that name.
        TokenizerError: the tokenizer cannot write the one that is named.
    """
    named = PLAIN if template == PLAIN.name else template
    try:
        return chat.begin(lm, template=named, dialect=dialect).template
    except LabkitError:
        if template is not None:
            raise
    return next(iter(templates_for(lm).values()))
