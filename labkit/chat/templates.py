"""Chat templates as data: what stands before and after each role's words. Custom ones come from a TOML file."""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, TokenizerError
from ..language_model import LanguageModel
from ..tokenizers.base import Tokenizer

Marks = tuple[str, str]


@dataclass(frozen=True)
class Template:
    """What stands before and after each role's words.

    Attributes:
        name: how messages call it.
        system, user, assistant: (before, after) the words of this role.
        reply: what the prompt ends with, so that the model answers; ``assistant`` begins with it.
        stop: text, or the name of a special token, that ends the answer.
        begin: in front of everything, where the format itself has not put it there.
        system_in_user: the system part stands inside the first user turn, before the words.
        default_system: the system text if none is given; None: then there is no system part.
    """

    name: str
    system: Marks
    user: Marks
    assistant: Marks
    reply: str
    stop: tuple[str, ...]
    begin: str = ""
    system_in_user: bool = False
    default_system: str | None = None

    def markers(self, system: bool = True) -> tuple[str, ...]:
        """Every text that the template itself puts into a prompt, with or without a system part."""
        marks = (self.begin, *(self.system if system else ()), *self.user, *self.assistant, self.reply)
        return tuple(dict.fromkeys(mark for mark in marks if mark))

    @property
    def lead(self) -> str:
        """What the model writes of the assistant's marker after ``reply``: no part of the answer's words."""
        return self.assistant[0].removeprefix(self.reply)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a TOML file has them."""
        fields = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}
        return {name: value for name, value in fields.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], name: str = "custom") -> "Template":
        """Build one from plain values.

        ``user`` and ``assistant`` are needed, each ["before", "after"]. Left out, ``reply`` is what stands before the
        assistant's words without blanks at its end, ``stop`` what stands after them or before the user's, and
        ``system`` has no markers but an empty line after the text.

        Raises:
            ConfigError: what is missing, unknown or of the wrong kind.
        """
        values = {"name": name} | dict(values)
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise ConfigError(f"chat template {name}: unknown key {key!r}; {hint}")
        user, assistant = (_marks(values, role, name) for role in ("user", "assistant"))
        reply = values.get("reply", assistant[0].rstrip())
        stop = values.get("stop", [assistant[1].strip() or user[0].strip()])
        if not isinstance(stop, list | tuple) or not all(isinstance(text, str) and text for text in stop):
            raise ConfigError(f'chat template {name}: stop is {stop!r}; it must be a list of texts, as in ["\\nYou:"]')
        template = cls(
            name=values["name"],
            system=_marks({"system": ["", "\n\n"]} | values, "system", name),
            user=user,
            assistant=assistant,
            reply=reply,
            stop=tuple(stop),
            begin=values.get("begin", ""),
            system_in_user=values.get("system_in_user", False),
            default_system=values.get("default_system"),
        )
        for key, kind, words in (
            ("name", str, "a text"),
            ("reply", str, "a text"),
            ("begin", str, "a text"),
            ("system_in_user", bool, "true or false"),
            ("default_system", str | None, "a text"),
        ):
            if not isinstance(getattr(template, key), kind):
                raise ConfigError(f"chat template {name}: {key} is {getattr(template, key)!r}; it must be {words}")
        if not assistant[0].startswith(reply):
            raise ConfigError(
                f"chat template {name}: the prompt ends with reply = {reply!r}, but an earlier answer stands "
                f"after {assistant[0]!r}; the second must begin with the first"
            )
        return template

    @classmethod
    def read(cls, path: str | Path) -> "Template":
        """A template of a TOML file: its [template] table, or the whole file."""
        try:
            table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as TOML ({error})") from None
        table = table.get("template", table)
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: [template] must be a table")
        return cls.from_dict(table, Path(path).stem)


def _marks(values: Mapping[str, Any], role: str, name: str) -> Marks:
    marks = values.get(role)
    if not isinstance(marks, list | tuple) or len(marks) != 2 or not all(isinstance(mark, str) for mark in marks):
        given = "is missing" if marks is None else f"is {marks!r}"
        raise ConfigError(f'chat template {name}: {role} {given}; it must be two texts, ["before", "after"]')
    return marks[0], marks[1]


CHATML = Template(
    "chatml",
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    user=("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
    reply="<|im_start|>assistant\n",
    stop=("<|im_end|>",),
)
SMOLLM_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def _llama3(role: str) -> Marks:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"


TEMPLATES: Mapping[str, Template] = {
    template.name: template
    for template in (
        # LabCore's demo, which itself never stops at a marker.
        Template(
            "labcore",
            system=("<|system|>\n", "\n"),
            user=("<|user|>\n", "\n"),
            assistant=("<|assistant|>\n", "\n"),
            reply="<|assistant|>\n",
            stop=("\n<|user|>", "<|user|>"),
        ),
        # SWA-MLA's chat mode.
        Template(
            "swa_mla",
            system=("", "\n\n"),
            user=("You: ", "\n"),
            assistant=("Assistant: ", "\n"),
            reply="Assistant:",
            stop=("\nYou:",),
        ),
        CHATML,
        # SmolLM2's instruct models: ChatML, with a system text of their own.
        dataclasses.replace(CHATML, name="smollm2", default_system=SMOLLM_SYSTEM),
        # nanochat has no system role: its text goes in front of the first message.
        Template(
            "nanochat",
            system=("", "\n\n"),
            user=("<|user_start|>", "<|user_end|>"),
            assistant=("<|assistant_start|>", "<|assistant_end|>"),
            reply="<|assistant_start|>",
            stop=("<|assistant_end|>", "<|bos|>"),
            begin="<|bos|>",
            system_in_user=True,
        ),
        Template(
            "llama2",
            system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
            user=("[INST] ", " [/INST]"),
            assistant=(" ", " </s><s>"),
            reply="",
            stop=("</s>",),
            begin="<s>",
            system_in_user=True,
        ),
        Template(
            "llama3",
            system=_llama3("system"),
            user=_llama3("user"),
            assistant=_llama3("assistant"),
            reply=_llama3("assistant")[0],
            stop=("<|eot_id|>",),
            begin="<|begin_of_text|>",
        ),
    )
}
# What tells a template in a file's own (Jinja) one, the more special first.
SIGNS = {
    SMOLLM_SYSTEM: "smollm2",
    "<|im_start|>": "chatml",
    "<|start_header_id|>": "llama3",
    "<<SYS>>": "llama2",
    "<|user_start|>": "nanochat",
}


def named(template: str | Path) -> Template:
    """A known template, or one in a TOML file."""
    if str(template) in TEMPLATES:
        return TEMPLATES[str(template)]
    if str(template).endswith(".toml"):
        return Template.read(template)
    raise ConfigError(
        f"chat template {str(template)!r} is unknown; known are {', '.join(TEMPLATES)}, or name a .toml file"
    )


def template_of(lm: LanguageModel) -> Template:
    """The template a checkpoint was trained with, as far as its file or its family tells.

    Raises:
        ConfigError: neither does.
    """
    written = lm.checkpoint.chat_template or ""
    for sign, name in SIGNS.items():
        if sign in written:
            return TEMPLATES[name]
    if not written and lm.checkpoint.family in TEMPLATES:
        return TEMPLATES[lm.checkpoint.family]
    tells = "has a chat template that labkit does not know" if written else "does not tell its chat template"
    raise ConfigError(
        f"{lm.checkpoint.path.name} {tells}; name one of {', '.join(TEMPLATES)}, or a .toml file (--template)"
    )


def check_markers(template: Template, tokenizer: Tokenizer, system: bool = True) -> None:
    """Refuse a template whose markers, with those of a system part if there is one, this tokenizer cannot write.

    Raises:
        TokenizerError: the template, the marker and the characters, and which templates would do.
    """
    for marker in template.markers(system):
        if unknown := _unknown(marker, tokenizer):
            fit = [other.name for other in TEMPLATES.values() if can_write(other, tokenizer, system)]
            would = f"it can write {', '.join(fit)}" if fit else "it can write no known template"
            raise TokenizerError(
                f"chat template {template.name}: the marker {marker!r} has {', '.join(map(repr, unknown))}, outside "
                f"this tokenizer's vocabulary; {would}; name another (--template), or a .toml file with your own marks"
            )


def can_write(template: Template, tokenizer: Tokenizer, system: bool = True) -> bool:
    """Whether the tokenizer knows every character of the markers."""
    return not any(_unknown(marker, tokenizer) for marker in template.markers(system))


def _unknown(marker: str, tokenizer: Tokenizer) -> list[str]:
    """The characters of a marker that are outside the vocabulary, where they are not part of a special token."""
    for name in tokenizer.special_ids:
        marker = marker.replace(name, "")
    return list(dict.fromkeys(character for _, character in tokenizer.unknown_in(marker)))
