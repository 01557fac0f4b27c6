"""TokenStrip: the token strip that grows while a run goes on, and reports clicks, arrow keys and pointing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ..views.base import CSS

HERE = Path(__file__).parent


class TokenStrip(anywidget.AnyWidget):
    """Shows HTML that views.tokens has made. New tokens travel as messages, so a paint costs the same at any length;
    ``html`` holds the whole strip once a run has ended, for views opened later and for a saved notebook.

    Attributes:
        chooses: a click on a token, or Enter, opens its card to choose one of the lines in it.
        card: index -> HTML of a token's card, asked for when someone points at the token.
        choose: called with the index of a token and the number of the line that was chosen in its card.
        on_ready: called when a view of the strip has appeared somewhere.
    """

    _esm = (HERE / "strip.js").read_text(encoding="utf-8")
    _css = CSS + (HERE / "widgets.css").read_text(encoding="utf-8")
    html = traitlets.Unicode().tag(sync=True)
    selected = traitlets.Int(0).tag(sync=True)
    chooses = traitlets.Bool(False).tag(sync=True)
    version = traitlets.Int(0).tag(sync=True)

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.card: Callable[[int], str] = lambda index: ""
        self.choose: Callable[[int, int], None] = lambda index, line: None
        self.on_ready: Callable[[], None] = lambda: None
        self._parts: list[str] = []
        self.on_msg(self._on_message)

    def __repr__(self) -> str:
        return "TokenStrip()"

    def reset(self, html: str) -> None:
        """Show this instead of what is there."""
        self._parts = [html]
        self.version += 1
        self.send({"type": "reset", "version": self.version, "html": html})

    def append(self, html: str) -> None:
        """Show this after what is there."""
        self._parts.append(html)
        self.send({"type": "append", "version": self.version, "html": html})

    def settle(self) -> None:
        """Nothing more is coming: let ``html`` hold everything."""
        self.html = "".join(self._parts)

    def _on_message(self, _: Any, message: dict[str, Any], buffers: Any) -> None:
        if message["type"] == "card" and message["version"] == self.version:
            html = self.card(message["index"])
            self.send({"type": "card", "version": self.version, "index": message["index"], "html": html})
        elif message["type"] == "choose" and message["version"] == self.version:
            self.choose(message["index"], message["line"])
        elif message["type"] == "ready":
            if (whole := "".join(self._parts)) != self.html:  # opened in the middle of a run
                self.send({"type": "reset", "version": self.version, "html": whole})
            self.on_ready()
