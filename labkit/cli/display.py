"""What a generation looks like while it runs: text as it comes, coloured on request, safe for a terminal."""

import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import click
from rich.console import Console
from rich.style import Style
from rich.text import Text

from ..generation import Step
from ..views.colours import LEVELS, Colour, ink, level_colours


def printable(text: str) -> str:
    """Control characters made visible on a terminal, where a model's output could otherwise steer it."""
    return visible(text) if sys.stdout.isatty() else text


def visible(text: str) -> str:
    """Control characters but newline and tab as Unicode's picture of them; those that have none as \\xNN."""
    return "".join(_picture(c) if c not in "\n\t" and (c < " " or "\x7f" <= c <= "\x9f") else c for c in text)


def _picture(control: str) -> str:
    code = ord(control)
    return chr(0x2400 + code) if code < 32 else "\u2421" if code == 127 else f"\\x{code:02x}"


@dataclass(frozen=True)
class Timing:
    """How a run went: tokens and seconds after the first token; whether Ctrl-C ended it."""

    n: int
    seconds: float
    interrupted: bool

    @property
    def words(self) -> str:
        """The speed of decoding, where there is enough to tell it."""
        return f"{self.n / self.seconds:.1f} tokens/s" if self.n > 0 and self.seconds > 0 else ""


@dataclass(frozen=True)
class Display:
    """Where text goes: what the model writes to stdout, and everything about it to stderr.

    Attributes:
        streaming: show text as it comes, not at the end.
        color: colour it by probability, where stdout is a terminal (or FORCE_COLOR is set).
        silent: show nothing of the text: a program wants JSON.
    """

    streaming: bool = True
    color: bool = False
    silent: bool = False

    def show(self, steps: Iterator[Step]) -> Timing:
        """Run to the end, showing it where that is wanted; Ctrl-C ends the run, and what is there stays."""
        n, started, interrupted = 0, time.perf_counter(), False
        try:
            for n, step in enumerate(steps, start=1):
                if n == 1:
                    started = time.perf_counter()
                if self.streaming and not self.silent and step.text:
                    self.write(step)
        except KeyboardInterrupt:
            interrupted = True
        return Timing(max(0, n - 1), time.perf_counter() - started, interrupted)

    def write(self, step: Step) -> None:
        """One step's text."""
        if not self.colours:
            click.echo(printable(step.text), nl=False)
            sys.stdout.flush()
            return
        probability = math.exp(step.logprob)
        style = self.colours[min(LEVELS - 1, int((1 - probability) * LEVELS))]
        self._out.print(Text(printable(step.text), style), end="", soft_wrap=True)

    def text(self, text: str) -> None:
        """Text of the model or for it, all at once."""
        if not self.silent:
            click.echo(printable(text), nl=False)

    def tell(self, message: str, style: str = "") -> None:
        """A line about what happens, on stderr."""
        self._err.print(Text(visible(message), style), soft_wrap=True)

    def legend(self) -> None:
        """What the colours mean, where there are any."""
        if self.colours:
            swatches = [Text("  ", style) for style in self.colours]
            self._err.print(Text("probability 100 % ").append_text(Text("").join(swatches)).append(" 0 %"))

    @cached_property
    def colours(self) -> list[Style]:
        """A style for each level, the most probable first; none where there is no colour."""
        if not self.color or self._out.color_system is None:
            return []
        # Terminals that say what their background is do so here; most are dark.
        dark = not os.environ.get("COLORFGBG", "").endswith((";7", ";15"))
        backgrounds = level_colours(dark)
        return [Style(), *(Style(color=_rgb(ink(c)), bgcolor=_rgb(c)) for c in backgrounds[1:])]

    @cached_property
    def _out(self) -> Console:
        return Console(file=sys.stdout, highlight=False)

    @cached_property
    def _err(self) -> Console:
        return Console(stderr=True, highlight=False)


def _rgb(colour: Colour) -> str:
    return "#" + "".join(f"{round(255 * c):02x}" for c in colour)
