"""Long work of labkit's functions, counted and stopped from outside: by a hook on the first block."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..language_model import LanguageModel


class Stopped(Exception):
    """Raised within a run of the model that somebody stopped."""


@contextmanager
def stoppable(
    stopped: threading.Event, *models: LanguageModel, tell: Callable[[int], None] = lambda done: None
) -> Iterator[None]:
    """Whatever runs these models in this thread ends with Stopped once the event is set.

    Args:
        tell: called before each run of a model with how many there were.
    """
    own, done = threading.get_ident(), 0

    def count(*_: Any) -> None:
        nonlocal done
        if threading.get_ident() != own:
            return  # another widget's run of the same model
        if stopped.is_set():
            raise Stopped
        done += 1
        tell(done)

    with ExitStack() as hooks:
        for model in {id(lm.model): lm.model for lm in models}.values():
            first = next(iter(model.blocks), model.norm_f)  # a wrapped function has no blocks
            hooks.callback(first.register_forward_pre_hook(count).remove)
        yield
