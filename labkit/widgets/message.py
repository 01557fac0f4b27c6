"""MessageBox: where messages are typed. Enter sends, Shift+Enter begins a new line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets


class MessageBox(anywidget.AnyWidget):
    """A box whose text stays until it was taken, and comes back if there was no answer to it.

    Attributes:
        value: what stands in it; a fraction of a second behind the typing.
        on_send: called with the text when someone sends it; answers by ``take`` or ``refuse``.
        on_recall: called when someone presses the up arrow in the empty box.
        on_escape: called when someone presses Escape.
    """

    _esm = Path(__file__).with_name("message.js").read_text(encoding="utf-8")
    description = traitlets.Unicode().tag(sync=True)  # ipywidgets shows a tooltip only where there is one, if empty
    # Not echoed: a paste of a megabyte would come back from the kernel.
    value = traitlets.Unicode().tag(sync=True, echo_update=False)

    def __init__(self, value: str = ""):
        super().__init__(value=value)
        self.on_send: Callable[[str], object] = lambda text: None
        self.on_recall: Callable[[], object] = lambda: None
        self.on_escape: Callable[[], object] = lambda: None
        self.on_msg(self._on_message)

    def __repr__(self) -> str:
        return "MessageBox()"

    def take(self) -> None:
        """What was sent is part of the conversation: out of the box with it. What was typed since then stays."""
        self.value = ""
        self.send({"type": "taken"})

    def refuse(self) -> None:
        """What was sent stays in the box."""
        self.send({"type": "refused"})

    def give_back(self, text: str) -> None:
        """Put a text in front of what stands in the box."""
        self.value = f"{text}\n{self.value}" if self.value.strip() else text
        self.send({"type": "back", "text": text})

    def _on_message(self, _: Any, message: dict[str, Any], buffers: Any) -> None:
        if message["type"] == "send":
            self.on_send(message["text"])
        elif message["type"] == "recall":
            self.on_recall()
        elif message["type"] == "escape":
            self.on_escape()
