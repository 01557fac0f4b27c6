"""What the tests of all inspectors share."""

import html
import re

import labkit
from labkit.settings import Settings

TEXT = "to be or not to be"


def recorded(lm, n=8):
    """A run of a tiny model."""
    return labkit.record(lm, "to be", Settings(temperature=1.5, top_k=0, top_p=1.0, seed=4, max_new_tokens=n))


def run_code(code, lm):
    """What the lines of ``code()`` leave behind."""
    names = {"lm": lm}
    exec(code, names)  # noqa: S102
    return names


def words_of(markup):
    return html.unescape(re.sub(r"(?s)<style.*?</style>|<[^>]+>", " ", markup))


def settled(widget):
    """After everything that follows from a click has been done, without the wait for another click."""
    if widget._typed.pending:
        widget._typed.cancel()
        widget.run()
    widget._background.wait()
    return widget
