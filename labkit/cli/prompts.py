"""Where prompts come from: the command line, a file or standard input, and a few built in."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError
from ..language_model import LanguageModel

Kind = Literal["auto", "text", "jsonl"]
STDIN = "-"
# For models of words, and for those that know nothing but digits and signs.
BUILT_IN = (
    "To be",
    "Once upon a time",
    "The most surprising thing about the sea is",
    "She opened the old book and",
    "My lord,",
    "12+34",
    "5+7",
    "90-15",
)
ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.|$)", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}


def unescaped(text: str) -> str:
    r"""``\n``, ``\t``, ``\r``, ``\\``, ``\"``, ``\'`` and ``\uXXXX`` read; any other backslash is refused."""

    def character(match: re.Match[str]) -> str:
        name = match[1]
        if name in ESCAPES:
            return ESCAPES[name]
        if len(name) == 5 and not 0xD800 <= int(name[1:], 16) <= 0xDFFF:
            return chr(int(name[1:], 16))
        raise ConfigError(
            rf"--escape: {match[0]!r} (position {match.start()}) is none of \n \t \r \\ \uXXXX; a backslash is \\"
        )

    return ESCAPE.sub(character, text)


def read_bytes(file: str) -> bytes:
    """A file, or standard input for "-"."""
    try:
        return sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror or error})") from None


def read_text(file: str) -> str:
    """The text of a file or of standard input, without its last line end."""
    name = "standard input" if file == STDIN else file
    try:
        text = read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: byte {error.start} is no UTF-8 text ({error.reason})") from None
    return text.removesuffix("\n").removesuffix("\r")


def built_in(lm: LanguageModel, most: int = 5) -> Sequence[str]:
    """Prompts that this model's tokenizer can write."""
    tokenizer = lm.require_tokenizer()
    return [prompt for prompt in BUILT_IN if not tokenizer.unknown_in(prompt)][:most]


@dataclass(frozen=True)
class Line:
    """One prompt of a file.

    Attributes:
        number: of the line in the file, from 1.
        id: what the file calls it; None: nothing.
        prompt: text or token ids; None where the line cannot be read, and ``error`` says why.
        changes: settings of this line alone.
    """

    number: int
    prompt: str | list[int] | None
    id: Any = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def read_lines(file: str, kind: Kind) -> list[Line]:
    """Prompts of a file or of standard input, blank lines left out. A line that cannot be read is one with an error.

    Args:
        kind: "text": one prompt a line, without the blanks around it. "jsonl": one JSON object a line with "prompt"
            (text or a list of token ids), and perhaps "id" and fields of Settings. "auto": jsonl if the file is called
            so or, on standard input, if the first line is such an object; else text.
    """
    raw = read_bytes(file).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    numbered = [(number, line) for number, line in enumerate(raw, start=1) if line.strip()]
    if not numbered:
        raise ConfigError(f"{'standard input' if file == STDIN else file}: there are no prompts in it")
    if kind == "auto":
        named = Path(file).suffix in (".jsonl", ".ndjson")
        kind = "jsonl" if named or (file == STDIN and json_line(*numbered[0]).error is None) else "text"
    return [(json_line if kind == "jsonl" else text_line)(number, line) for number, line in numbered]


def text_line(number: int, line: bytes) -> Line:
    try:
        return Line(number, line.decode("utf-8").strip())
    except UnicodeDecodeError as error:
        return Line(number, None, error=f"byte {error.start} is no UTF-8 text ({error.reason})")


def json_line(number: int, line: bytes) -> Line:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Line(number, None, error=f"is no JSON ({error})")
    if not isinstance(value, dict) or "prompt" not in value:
        return Line(number, None, error='is no JSON object with "prompt"')
    line_id, prompt = value.pop("id", None), value.pop("prompt")
    if not isinstance(prompt, str) and not (isinstance(prompt, list) and all(type(i) is int for i in prompt)):
        return Line(number, None, line_id, error='"prompt" must be a text or a list of token ids')
    return Line(number, prompt, line_id, value)
