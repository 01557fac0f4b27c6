"""`labkit serve` in a process of its own, with what a test wants to know of it."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

ROOT = Path(__file__).resolve().parent.parent
# The command itself; a line on its input asks for the number of models and of open pages in its memory.
PROBED = """
import gc, sys, threading

def answer():
    for _ in sys.stdin:
        from labkit.models import CausalLM
        from solara.server import kernel_context
        gc.collect()
        models = sum(isinstance(thing, CausalLM) for thing in gc.get_objects())
        print("COUNTED", models, len(kernel_context.contexts), flush=True)

threading.Thread(target=answer, daemon=True).start()
from labkit.cli import main
main(["serve", *sys.argv[1:]])
"""


@dataclass
class DemoServer:
    """A running demo.

    Attributes:
        address: as it was printed, token and all.
        lines: what it has printed.
        home: the home directory it believes in.
    """

    process: subprocess.Popen[str]
    address: str
    lines: list[str]
    home: Path

    @property
    def origin(self) -> str:
        parts = urlsplit(self.address)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def token(self) -> str:
        return self.address.partition("?token=")[2]

    def count(self) -> tuple[int, int]:
        """Models in its memory, and pages that are open."""
        before = len(self.lines)
        assert self.process.stdin is not None
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for line in self.lines[before:]:
                if line.startswith("COUNTED"):
                    return int(line.split()[1]), int(line.split()[2])
            time.sleep(0.02)
        raise AssertionError("\n".join(self.lines))

    def megabytes(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[DemoServer]:
    """On a free port, started in ``folder``."""
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT)))),
        "OMP_NUM_THREADS": "1", "HOME": str(folder),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", PROBED, "--port", "0", *arguments], cwd=folder, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    lines: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + 60
        address = None
        while address is None:
            assert process.poll() is None and time.monotonic() < deadline, "\n".join(lines)
            address = next((found[0] for line in lines if (found := re.search(r"http://\S+", line))), None)
            time.sleep(0.05)
        yield DemoServer(process, address, lines, folder)
    finally:
        process.terminate()
        process.wait(timeout=20)
        reader.join(5)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
