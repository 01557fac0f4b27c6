"""One run: the notebook with its parameters in a kernel of its own, and the record of how it went."""

import asyncio
import json
import logging
import os
import platform
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from .folder import MARK, Record, scratch_prefix
from .grid import Point
from .papermill_engine import LabkitEngine
from .results import VARIABLE

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
KERNEL = "python3"
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")  # the colours of a traceback
LONGEST = 500  # characters of a reason; all of it is in the executed notebook
logging.getLogger("papermill").addHandler(logging.NullHandler())  # what it would say is in the record


@dataclass(frozen=True)
class Task:
    """Everything that a worker, perhaps on another machine, needs for one run.

    Attributes:
        notebook: the notebook as text.
        folder: where its kernel runs: the notebook's own folder.
        mark: the sweep's folder, by which a kernel left behind is recognised.
        threads: for the kernel's arithmetic.
        cell_timeout: seconds for one cell.
    """

    key: str
    parameters: Point
    notebook: str
    folder: str
    mark: str
    threads: int
    cell_timeout: int


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes:
        notebook: as executed so far, as plain JSON data.
        kernel_died: the kernel ended without a word; once more may help.
    """

    record: Record
    notebook: dict[str, Any]
    kernel_died: bool = False


def run_notebook(task: Task) -> Outcome:
    """Execute a task; whatever goes wrong in the notebook is in the record, not raised."""
    notebook = load_notebook_node(nbformat.reads(task.notebook, as_version=4))
    notebook = parameterize_notebook(notebook, task.parameters, kernel_name=KERNEL, language="python")
    started, clock = datetime.now(UTC), time.monotonic()
    reason: str | None = None
    died, rows = False, []
    with tempfile.TemporaryDirectory(prefix=scratch_prefix(task.mark)) as folder:
        reported = Path(folder) / "results.json"
        try:
            LabkitEngine.execute_notebook(
                notebook,
                KERNEL,
                progress_bar=False,
                execution_timeout=task.cell_timeout,
                env=environment(task, reported),
                cwd=task.folder,
                stderr=subprocess.DEVNULL,  # a kernel complains of its own shutdown now and then
            )
            reason = failure(notebook)
        except CellTimeoutError:
            reason = f"took more than {task.cell_timeout} s"
        except (DeadKernelError, RuntimeError) as error:
            reason, died = f"the kernel died ({error}); was it killed, or out of memory?", True
        except OSError as error:
            reason = f"the kernel could not be started in {task.folder} ({error})"
        finally:
            end_event_loop()
        if reported.is_file():
            try:
                rows = reported_rows(reported)
            except ValueError as error:
                reason = reason or f"what is reported to {VARIABLE} is no list of JSON objects ({error})"
    place = None if reason is None else f"{last_cell(notebook)}: {reason}"
    record = record_of(task, place, rows, started, time.monotonic() - clock)
    return Outcome(record, json.loads(nbformat.writes(notebook)), died)


def end_event_loop() -> None:
    """Close the loop that nbclient leaves behind in every thread, and what in it still listens to the kernel."""
    loop = ensure_event_loop()
    if listening := asyncio.all_tasks(loop):
        for task in listening:
            task.cancel()
        loop.run_until_complete(asyncio.wait(listening))
    loop.close()


def reported_rows(path: Path) -> list[dict[str, Any]]:
    """What the notebook has reported; ValueError where it was not write_results that wrote it."""
    rows = json.loads(path.read_bytes())
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"it is {str(rows)[:40]!r}")
    return rows


def lost(task: Task, error: str) -> Outcome:
    """The outcome of a task that no worker brought to an end."""
    return Outcome(record_of(task, error, [], datetime.now(UTC), 0.0), json.loads(task.notebook))


def record_of(task: Task, error: str | None, rows: list[dict[str, Any]], started: datetime, seconds: float) -> Record:
    """What the table is made of."""
    return {
        "key": task.key,
        "parameters": task.parameters,
        "status": "done" if error is None else "failed",
        "error": error and error[:LONGEST] + "…" * (len(error) > LONGEST),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "machine": platform.node(),
        "notebook": f"notebooks/{task.key}.ipynb",
        "results": rows,
    }


def environment(task: Task, reported: Path) -> dict[str, str]:
    """The kernel's environment: its share of the threads, where to report, and whose it is."""
    own = {VARIABLE: str(reported), MARK: task.mark} | dict.fromkeys(THREADS, str(task.threads))
    return {"OMP_WAIT_POLICY": "passive"} | os.environ | own


def failure(notebook: Any) -> str | None:
    """The error that ended a notebook, in one line."""
    if not notebook.metadata.papermill.get("exception"):
        return None
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if output.output_type == "error":
            return " ".join(ESCAPE.sub("", f"{output.ename}: {output.evalue}").split())
    return "an error without a message"


def last_cell(notebook: Any) -> str:
    """The cell that ran last, by its number among the code cells and its first line."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    begun = [i for i, cell in enumerate(code, start=1) if cell.metadata.get("papermill", {}).get("start_time")]
    if not begun:
        return "before the first cell"
    first_line = code[begun[-1] - 1].source.strip().partition("\n")[0]
    return f"code cell {begun[-1]} ({first_line})"
