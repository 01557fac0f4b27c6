"""One model for several people: they take turns at its steps."""

import functools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any


class Turns:
    """Lets so many callers in at a time, in the order in which they came.

    With everybody at once, a crowd of threads spends its time on being switched; and behind a plain lock, who gives it
    back and asks again at once usually gets it again, so that one long answer would hold up everybody else's.
    """

    def __init__(self, at_a_time: int) -> None:
        self._free = at_a_time
        self._queue: deque[threading.Event] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        mine = threading.Event()
        with self._lock:
            if self._free:
                self._free -= 1
                return
            self._queue.append(mine)
        mine.wait()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._free += 1

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, in turn."""

        @functools.wraps(function)
        def in_turn(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return in_turn
