"""Chat: turns -> ids. Templates are data, and what people type never becomes a special token."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .errors import ConfigError
from .generation import Run, stream
from .language_model import LanguageModel
from .settings import Settings

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """Who says what."""

    role: Role
    text: str


@dataclass(frozen=True)
class Template:
    """What stands before and after each role's words.

    Attributes:
        reply: what the prompt ends with, so that the model answers.
        default_system: the system text if none is given; None: then there is no system part.
        stop: text, or the name of a special token, that ends the answer.
    """

    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    reply: str
    stop: tuple[str, ...]
    default_system: str | None = None


CHATML = Template(
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    user=("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
    reply="<|im_start|>assistant\n",
    stop=("<|im_end|>",),
)
SMOLLM_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TEMPLATES: dict[str, Template] = {
    # LabCore's demo (which itself never stops at a marker).
    "labcore": Template(
        system=("<|system|>\n", "\n"),
        user=("<|user|>\n", "\n"),
        assistant=("<|assistant|>\n", "\n"),
        reply="<|assistant|>\n",
        stop=("<|user|>",),
    ),
    # SWA-MLA's chat mode.
    "swa_mla": Template(
        system=("", "\n\n"),
        user=("You: ", "\n"),
        assistant=("Assistant: ", "\n"),
        reply="Assistant:",
        stop=("\nYou:",),
    ),
    "chatml": CHATML,
    # SmolLM2's instruct models: ChatML, with a system text of their own.
    "smollm2": Template(CHATML.system, CHATML.user, CHATML.assistant, CHATML.reply, CHATML.stop, SMOLLM_SYSTEM),
}


def template_of(lm: LanguageModel) -> str:
    """Name of the template a checkpoint was trained with, as far as its file or its family tells."""
    written = lm.checkpoint.chat_template or ""
    if "<|im_start|>" in written:
        return "smollm2" if SMOLLM_SYSTEM in written else "chatml"
    if not written and lm.checkpoint.family in TEMPLATES:
        return lm.checkpoint.family
    raise ConfigError(f"{lm.checkpoint.path.name} does not tell its chat template; name one of {', '.join(TEMPLATES)}")


def parts(turns: Sequence[Turn], template: Template, system: str | None = None) -> list[tuple[str, bool]]:
    """The prompt in pieces: (text, whether a person typed it). Blank system text is no system part."""
    system = template.default_system if system is None else system.strip()
    spoken = [Turn("system", system)] if system else []
    out: list[tuple[str, bool]] = []
    for turn in [*spoken, *turns]:
        before, after = getattr(template, turn.role)
        out += [(before, False), (turn.text, True), (after, False)]
    return [*out, (template.reply, False)]


def encode(
    lm: LanguageModel, turns: Sequence[Turn], system: str | None = None, template: str | None = None
) -> list[int]:
    """Ids of a conversation that waits for the model's answer.

    The markers of the template become its special tokens; one that somebody typed stays the characters it is made of.

    Raises:
        ConfigError: no template of that name, or none known for this checkpoint.
        TokenizerError: a text, or a marker, that the tokenizer cannot encode.
    """
    tokenizer = lm.require_tokenizer()
    pieces = parts(turns, named(template or template_of(lm)), system)
    if any(name in text for text, typed in pieces if typed for name in tokenizer.special_ids):
        encoded = [tokenizer.encode(text, special="text" if typed else "parse") for text, typed in pieces]
        ids = [token_id for piece in encoded for token_id in piece]
    else:
        ids = tokenizer.encode("".join(text for text, _ in pieces), special="parse")
    return ids if tokenizer.bos_id is None else [tokenizer.bos_id, *ids]


def reply(
    lm: LanguageModel,
    turns: Sequence[Turn],
    settings: Settings | None = None,
    *,
    system: str | None = None,
    template: str | None = None,
    **changes: Any,
) -> Run:
    """The model's answer to a conversation, token by token; it ends at the template's stop as well."""
    name = template or template_of(lm)
    special = lm.require_tokenizer().special_ids
    settings = (settings or Settings()).replace(**changes)
    stops = [special.get(stop, stop) for stop in named(name).stop]
    return stream(lm, encode(lm, turns, system, name), settings, stop=(*settings.stop, *stops))


def named(template: str) -> Template:
    if template not in TEMPLATES:
        raise ConfigError(f"template {template!r} is unknown; known are {', '.join(TEMPLATES)}")
    return TEMPLATES[template]
