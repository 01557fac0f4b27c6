"""How far long work is: shown as a bar, or told to a function of your own, which may also stop it."""

import sys
from collections.abc import Callable, Iterable, Iterator
from operator import length_hint
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")

# What every long inspection takes as ``progress``. True: a bar for what takes longer than a second; None: only on a
# terminal; False: none. A function is called after every step with how many there were and how many there will be (a
# text that ends early has fewer). What it raises ends the work, of which nothing stays behind.
Progress = bool | Callable[[int, int], object] | None


class Stopped(Exception):
    """For a function to raise in which somebody is done waiting: ``ablate`` then returns what it has measured."""


def steps(
    items: Iterable[T],
    what: str,
    progress: Progress,
    *,
    total: int | None = None,
    size: Callable[[Any], int] = lambda item: 1,
) -> Iterator[T]:
    """The items; after the work on each of them it is told how far it is.

    Args:
        total: of the sizes; None: as many items as there are.
        size: of an item, which is 1 if it is a step.
    """
    total = length_hint(items) if total is None else total
    if (sys.stderr.isatty() if progress is None else progress) is True:
        with tqdm(total=total, desc=what, leave=False, delay=1) as bar:
            yield from steps(items, what, lambda done, _: bar.update(done - bar.n), total=total, size=size)
        return
    done = 0
    for item in items:
        yield item
        done += size(item)
        if callable(progress):
            progress(done, total)
