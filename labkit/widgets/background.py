"""Work off the cell: one job at a time that can be stopped, and calls that wait until things have calmed down."""

import atexit
import threading
import weakref
from collections.abc import Callable
from typing import Any

Job = Callable[[threading.Event], None]
EXIT_SECONDS = 10  # for a job to end when the program does
_ALL: "weakref.WeakSet[Background]" = weakref.WeakSet()


class Background:
    """Runs one job at a time in a thread of its own, so that buttons stay alive meanwhile.

    A job is given an event and ends soon after it is set. A new job stops the one before and begins when that has
    ended, so two never paint at the same time.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        _ALL.add(self)

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self, job: Job) -> None:
        """Stop what runs, and begin ``job`` after it. Returns at once."""
        with self._lock:
            self.stop()
            before, self._stopped = self._thread, threading.Event()
            self._thread = threading.Thread(target=_after, args=(before, job, self._stopped), daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ask the job to end. Returns at once."""
        self._stopped.set()

    def wait(self) -> None:
        """Until the job has ended; an interrupt (Ctrl-C, the kernel's stop button) stops it."""
        thread = self._thread
        if thread is None:
            return
        try:
            while thread.is_alive():
                thread.join(0.1)  # in short turns: not everywhere can a longer one be interrupted
        except KeyboardInterrupt:
            self.stop()
            thread.join()


@atexit.register
def _end_all() -> None:
    """A thread that is within torch when the program ends takes it down with an abort; so let the jobs end first."""
    for background in list(_ALL):
        background.stop()
    for background in list(_ALL):
        if (thread := background._thread) is not None:
            thread.join(EXIT_SECONDS)


def _after(before: threading.Thread | None, job: Job, stopped: threading.Event) -> None:
    if before is not None:
        before.join()
    job(stopped)


class Debounced:
    """Calls a function once, ``seconds`` after the last time it was asked to."""

    def __init__(self, function: Callable[[], Any], seconds: float):
        self._function, self._seconds = function, seconds
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(self._seconds, self._call)
            self._timer.daemon = True
            self._timer.start()

    def _call(self) -> None:
        with self._lock:
            if self._timer is not threading.current_thread():
                return  # called off at the last moment
        try:
            self._function()
        finally:
            with self._lock:
                if self._timer is threading.current_thread():
                    self._timer = None

    @property
    def pending(self) -> bool:
        """Whether it was asked to and has not done it yet."""
        return self._timer is not None

    def cancel(self) -> None:
        """Do not do it, unless it is being done."""
        with self._lock:
            if self._timer is not None and self._timer is not threading.current_thread():
                self._timer.cancel()
                self._timer = None
