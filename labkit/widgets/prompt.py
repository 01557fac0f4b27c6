"""What stands in a prompt box, and what it means."""

import re
from collections.abc import Sequence

from ..errors import TokenizerError
from ..language_model import LanguageModel

FIRST_WORDS = "To be, or not to be"


def shown_prompt(lm: LanguageModel, prompt: str | Sequence[int] | None) -> str:
    """The text to put into the box; of ids their numbers."""
    if prompt is None:
        knows = lm.tokenizer is not None and not lm.tokenizer.unknown_in(FIRST_WORDS)
        return FIRST_WORDS if knows else ""
    if isinstance(prompt, str):
        return prompt
    if lm.tokenizer is not None:
        raise TokenizerError("this model has a tokenizer, so the prompt of the widget must be text, not ids")
    return " ".join(map(str, prompt))


def read_prompt(lm: LanguageModel, text: str) -> str | list[int]:
    """What the box means: text, or for a model without tokenizer the ids that stand there."""
    if lm.tokenizer is not None:
        return text
    if not re.fullmatch(r"[\d\s,]*", text):
        raise TokenizerError("this model has no tokenizer: write the prompt as ids, for example 17, 4, 250")
    return [int(number) for number in re.findall(r"\d+", text)]


def without_unknown(lm: LanguageModel, text: str) -> str:
    """The text without the characters that the model does not know; the whole text if it knows them all."""
    unknown = dict(lm.tokenizer.unknown_in(text)) if lm.tokenizer is not None else {}
    return "".join(character for i, character in enumerate(text) if i not in unknown)
