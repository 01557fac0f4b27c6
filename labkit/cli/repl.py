"""Loops at the prompt: reading lines, slash commands, and the loop of independent prompts."""

import difflib
import json
import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import ConfigError, LabkitError
from ..generation import encode_prompt, stream
from ..language_model import LanguageModel
from ..settings import INTEGERS, OFF, Settings, rule_of
from ..tokenizers.base import OnSpecial, OnUnknown
from .display import Display
from .lines import Lines, PipedLines, lines

# Slash command -> the field of Settings that it shows and sets, and what it says of it.
FIELD_COMMANDS = {
    "temp": ("temperature", "below 1 sharper, above 1 flatter"),
    "topk": ("top_k", "keep the k most probable tokens; none: all"),
    "topp": ("top_p", "keep the most probable tokens up to this mass; none: all"),
    "minp": ("min_p", "keep tokens with this share of the largest probability; none: all"),
    "tokens": ("max_new_tokens", "tokens to add at most"),
    "seed": ("seed", "of the draw; none: a fresh one"),
}
LEAVING = ("quit", "exit", "q")  # these words alone, in any case, leave the loop of prompts


class Leave(Exception):
    """The person wants to go."""


@dataclass(frozen=True)
class Command:
    """A slash command: what may follow it, and what it does with that."""

    argument: str
    help: str
    run: Callable[[str], object]


class Loop(ABC):
    """Read a line, obey it if it begins with a slash, answer it otherwise; until the end of input.

    Attributes:
        settings: in force for the next answer.
        commands: what may stand after a slash.
    """

    hint = "/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves."

    def __init__(self, lm: LanguageModel, settings: Settings, display: Display, *, unknown: OnUnknown | None = None):
        self.lm, self.settings, self.display, self.unknown = lm, settings, display, unknown
        self.lines: Lines = PipedLines()
        self._offered = ""  # typed text that is offered once more
        self._interrupts = 0  # Ctrl-C since something was last typed
        self.commands: dict[str, Command] = {
            "help": Command("", "this list", self._help),
            "quit": Command("", "leave; so does /exit, and Ctrl-D", self._leave),
            "exit": Command("", "", self._leave),
            **{
                name: Command("VALUE", f"{field}: {words}", partial(self._field, field))
                for name, (field, words) in FIELD_COMMANDS.items()
            },
            "set": Command("NAME VALUE", "any other setting, as in a TOML file", self._set),
            "settings": Command("", "the settings that differ from the defaults", self._show_settings),
        }

    @abstractmethod
    def answer(self, text: str) -> None:
        """What to do with a line that is no command."""

    def leaves(self, line: str) -> bool:
        """Whether a line that is no command ends the loop."""
        return False

    def run(self) -> None:
        """Until the end of input, /quit, or a second Ctrl-C; an error is one line, and the loop goes on."""
        self.lines = lines([f"/{name}" for name in self.commands])
        self.display.legend()
        if self.lines.is_terminal:
            self.tell(self.hint)
        while True:
            try:
                offered, self._offered = self._offered, ""
                line = self.lines.read(offered)
                self._interrupts = 0
                if self.leaves(line):
                    return
                self._obey(line)
            except (EOFError, Leave):
                return
            except KeyboardInterrupt:
                if self._interrupts:
                    return
                self.interrupted()

    def interrupted(self) -> None:
        """Ctrl-C: one more, with nothing typed, leaves."""
        self._interrupts += 1
        self.tell("Ctrl-C once more, or Ctrl-D, leaves.")

    def tell(self, message: str) -> None:
        self.display.tell(message, "dim")

    def offer(self, text: str) -> None:
        """Put text on the next line, to be changed and sent; where there is no line editing, show it."""
        self._offered = text
        if not self.lines.is_terminal:
            self.tell(f"Not sent: {text}")

    def _obey(self, line: str) -> None:
        try:
            if not is_text(line):
                raise ConfigError("what was typed is no UTF-8 text")
            if not line.startswith("/") or line.startswith("//"):
                self._answer(line.removeprefix("/"))
                return
            name, *argument = line[1:].split(maxsplit=1) or [""]
            self._command(name).run("".join(argument).strip())
        except LabkitError as error:
            self.display.tell(" ".join(str(error).split()))

    def _answer(self, text: str) -> None:
        try:
            self.answer(text)
        except LabkitError as error:
            self.display.tell(" ".join(str(error).split()))
            self.offer(text)
        except Exception as error:  # a fault must not end a conversation
            self.display.tell(" ".join(f"{type(error).__name__}: {error} (this is a fault of labkit)".split()))
            self.offer(text)

    def _command(self, name: str) -> Command:
        if name.lower() in self.commands:
            return self.commands[name.lower()]
        near = difflib.get_close_matches(name.lower(), self.commands, n=1)
        raise ConfigError(f"/{name} is no command; {f'did you mean /{near[0]}?' if near else '/help lists them'}")

    def _help(self, _: str) -> None:
        described = [(f"/{name} {c.argument}".rstrip(), c.help) for name, c in self.commands.items() if c.help]
        width = max(len(name) for name, _ in described)
        self.tell("\n".join(f"{name:<{width}}  {words}" for name, words in described))
        self.tell("Text that begins with a slash: write it twice. A new line: Alt-Enter.")

    def _leave(self, _: str) -> None:
        raise Leave

    def _field(self, name: str, text: str) -> None:
        """Show a setting, or change it."""
        if text:
            self.settings = self.settings.replace(**{name: number(name, text, self.settings.dialect)})
        value = getattr(self.settings, name)
        self.tell(f"{name} is {'off' if value is None else value}")

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if not value.strip():
            raise ConfigError("/set needs a name and a value, as in: /set repetition_penalty 1.1")
        self.settings = self.settings.replace(**{name: toml_value(value.strip())})
        self.tell(f"{name} is {self.settings.to_dict()[name]!r}")

    def _show_settings(self, _: str) -> None:
        changed = self.settings.changed()
        said = ", ".join(f"{name} = {value!r}" for name, value in changed.items())
        self.tell(said or f"all as {self.settings.dialect} has them")


def is_text(line: str) -> bool:
    """Whether it was UTF-8: Python reads other bytes from a terminal as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in line)


def number(name: str, text: str, dialect: str) -> int | float | None:
    """The value of a setting as somebody typed it.

    Raises:
        LabkitError: no number; with the range of this dialect. Whether it is in range is for Settings to say.
    """
    is_stage = name in OFF or name == "temperature"
    words = rule_of(name, dialect).words if is_stage else "a whole number"
    if text.lower() in ("none", "off") and (name in OFF or name == "seed"):
        return None
    try:
        return int(text) if name in INTEGERS or not is_stage else float(text)
    except ValueError:
        raise ConfigError(f"{name} is {text!r}; it must be {words}") from None


def toml_value(text: str) -> Any:
    """A value as in a TOML file; what is none is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


class PromptsLoop(Loop):
    """Every line is a prompt by itself: no template, no history."""

    def __init__(
        self,
        lm: LanguageModel,
        settings: Settings,
        display: Display,
        *,
        unknown: OnUnknown | None,
        special: OnSpecial | None,
        as_json: bool,
        prepare: Callable[[str], str],
    ):
        super().__init__(lm, settings, display, unknown=unknown)
        self.special, self.as_json, self.prepare = special, as_json, prepare
        self.strips = settings.dialect in ("gpt2seed", "nanochat")
        if settings.dialect == "nanochat" and settings.max_new_tokens != 100:
            self.settings = settings.replace(max_new_tokens=100)
            self.tell("nanochat begins with 100 tokens whatever the option says; /tokens changes it.")

    def leaves(self, line: str) -> bool:
        return line.strip().lower() in LEAVING or (self.settings.dialect == "nanochat" and not line.strip())

    def answer(self, text: str) -> None:
        if not text.strip():
            self.tell("Type a text to continue, or /quit.")
            return
        prompt = self.prepare(text.strip() if self.strips else text)
        ids, notes = encode_prompt(self.lm, prompt, unknown=self.unknown, special=self.special)
        for note in notes:
            self.tell(f"note: {note}")
        run = stream(self.lm, ids, self.settings)
        if self.display.streaming:
            self.display.text(prompt)
        timing = self.display.show(run)
        result = run.result()
        if self.as_json:
            said = {
                "prompt": prompt,
                "text": result.text,
                "ids": result.ids,
                "prompt_ids": result.prompt_ids,
                "finish_reason": result.finish_reason,
                "notes": list(notes),
                "settings": self.settings.to_dict(),
            }
            print(json.dumps(said, ensure_ascii=False), flush=True)
        self.display.text("\n" if self.display.streaming else f"{prompt}{result.text}\n")
        counts = f"prompt {len(ids)} tokens · {len(result.ids)} new"
        self.tell(" · ".join(filter(None, (counts, timing.words, str(result.finish_reason)))))
        if timing.interrupted:
            self.interrupted()


def prompts_loop(
    lm: LanguageModel,
    settings: Settings,
    *,
    streaming: bool = True,
    color: bool = False,
    as_json: bool = False,
    unknown: OnUnknown | None = None,
    special: OnSpecial | None = None,
    prepare: Callable[[str], str] = str,
) -> None:
    """``labkit generate --interactive``: independent prompts until the end of input, /quit, or quit, exit or q.

    Args:
        as_json: one JSON object a line for each prompt, instead of text.
        prepare: from the typed line to the prompt (``--escape``).
    """
    display = Display(streaming and not as_json, color, silent=as_json)
    PromptsLoop(lm, settings, display, unknown=unknown, special=special, as_json=as_json, prepare=prepare).run()
