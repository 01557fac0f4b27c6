"""Where the lines of a conversation come from: a terminal with line editing, or a pipe."""

import sys
from collections.abc import Sequence
from typing import Protocol

from ..errors import ConfigError


class Lines(Protocol):
    """Where lines come from. EOFError: there are no more. KeyboardInterrupt: Ctrl-C with nothing typed."""

    is_terminal: bool

    def read(self, default: str = "") -> str:
        """One line, or several where they were pasted; ``default`` stands there already, to be changed."""
        ...


class TerminalLines:
    """With line editing, the earlier lines on arrow up, and commands completed by Tab.

    The prompt goes to stderr: stdout is for answers.
    """

    is_terminal = True

    def __init__(self, words: Sequence[str] = (), label: str = "> "):
        # Imported here: a pipe needs none of it.
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.enums import DEFAULT_BUFFER
        from prompt_toolkit.filters import has_focus
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
        from prompt_toolkit.output import create_output

        keys = KeyBindings()
        typing = has_focus(DEFAULT_BUFFER)  # and not searching in the earlier lines

        # A paste of several lines stays one message: only Enter ends it, and Alt-Enter makes a new line.
        @keys.add("enter", filter=typing)
        def _send(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle()

        @keys.add("escape", "enter", filter=typing)
        def _new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        self._session: PromptSession[str] = PromptSession(
            label,
            multiline=True,
            key_bindings=keys,
            completer=WordCompleter(list(words), sentence=True),
            complete_while_typing=False,
            output=create_output(stdout=sys.stderr),
        )

    def read(self, default: str = "") -> str:
        while True:
            try:
                return self._session.prompt(default=default)
            except KeyboardInterrupt:
                if not self._session.default_buffer.text:
                    raise
                default = ""  # Ctrl-C drops what was typed, and a new line begins


class PipedLines:
    """One line of stdin after the other."""

    is_terminal = False

    def read(self, default: str = "") -> str:
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise ConfigError(f"standard input is not {error.encoding} text ({error.reason})") from None
        if not line:
            raise EOFError
        return line.removesuffix("\n").removesuffix("\r")


def lines(words: Sequence[str] = ()) -> Lines:
    """The terminal if there is one, else stdin line by line; ``words`` are what Tab completes."""
    return TerminalLines(words) if sys.stdin.isatty() and sys.stderr.isatty() else PipedLines()
