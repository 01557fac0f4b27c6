"""Kinds of options, and how a command with many of them lists them."""

from collections.abc import Callable
from typing import Any

import click

OFF_WORDS = ("off", "none")
OFF: Any = "off"  # of an option that was given, to tell it from one that was not

# In this order; a command's own sections come first.
SECTIONS = ("What to continue", "Sampling", "Length and context", "Output", "Model", "Other")
INPUT, SAMPLING, LENGTH, OUTPUT, MODEL, OTHER = SECTIONS


class GroupedOption(click.Option):
    """An option that the help lists under a heading."""

    def __init__(self, *arguments: Any, section: str, **words: Any):
        super().__init__(*arguments, **words)
        self.section = section


class GroupedCommand(click.Command):
    """A command whose help lists its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                section = parameter.section if isinstance(parameter, GroupedOption) else OTHER
                sections.setdefault(section, []).append(record)
        for section in sorted(sections, key=lambda name: SECTIONS.index(name) if name in SECTIONS else -1):
            with formatter.section(section):
                formatter.write_dl(sections[section])


def option(section: str, *names: str, **words: Any) -> Callable[[Any], Any]:
    return click.option(*names, cls=GroupedOption, section=section, **words)


class Number(click.ParamType[Any]):
    """A number, or "off" or "none" for what switches its stage off."""

    def __init__(self, kind: type[int] | type[float]):
        self.kind, self.name = kind, "integer" if kind is int else "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.lower() in OFF_WORDS:
            return OFF
        try:
            return self.kind(value)
        except ValueError:
            self.fail(f'{value!r} is not a valid {self.name}, nor "off"', param, ctx)


class Ids(click.ParamType[Any]):
    """Token ids with commas between."""

    name = "ids"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.lower() in OFF_WORDS:
            return OFF
        try:
            return tuple(int(part) for part in value.split(",")) if isinstance(value, str) else value
        except ValueError:
            self.fail(f"{value!r} is no list of token ids such as 1,2,3", param, ctx)


class Pair(click.ParamType[Any]):
    """NAME=VALUE."""

    name = "pair"

    def __init__(self, key: Callable[[str], Any], value: Callable[[str], Any], example: str):
        self.key, self.value, self.example = key, value, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        key, equals, number = value.partition("=")
        try:
            if not equals:
                raise ValueError
            return self.key(key), self.value(number)
        except ValueError:
            self.fail(f"{value!r} is not of the form {self.example}", param, ctx)


def plain(text: str) -> int | float | str:
    """A whole number, a number, or the text as it is."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
