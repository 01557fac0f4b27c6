"""Long work says in its panel how far it is, and ends at the press of a button."""

import threading
from collections.abc import Callable

import ipywidgets as ipw

from ..inspection import Stopped
from .panels import status_html


def until(stopped: threading.Event, box: ipw.HTML, words: str) -> Callable[[int, int], None]:
    """A ``progress`` that writes the share that is done into a box, and raises Stopped once the event is set."""

    def tell(done: int, total: int) -> None:
        box.value = status_html(f"{words} … {done / total:.0%}")
        if stopped.is_set():
            raise Stopped

    return tell
