"""A sweep on the disk. Whatever is there is whole: a run is finished by one rename, and nothing else counts.

runs/x/sweep.json             the plan: facts, and the key of every run in order
runs/x/notebooks/KEY.ipynb    an executed notebook; renaming it into place finishes the run
runs/x/records/KEY.json       what the table is made of; a copy stands in the notebook's metadata
runs/x/results.parquet        the table
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import LabkitError
from ..files import atomic_write
from .plan import KEY_DIGITS, Plan

Record = dict[str, Any]
MARK = "LABKIT_SWEEP"  # environment variable of every kernel: the folder of its sweep
METADATA = "labkit_run"  # where the executed notebook holds its record
RECORDED = ("key", "status", "parameters", "results")  # without these it is no record
KEY = "[0-9a-f]" * KEY_DIGITS  # glob pattern; a copy that somebody made in this folder is not the sweep's


class SweepFolder:
    """The folder of one sweep."""

    def __init__(self, path: str | Path):
        self.path = Path(os.path.realpath(path))
        self.plan_file = self.path / "sweep.json"
        self.notebooks, self.records = self.path / "notebooks", self.path / "records"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone in this folder, and clean: what a killed sweep left is gone or, where it was finished, recorded.

        Raises:
            LabkitError: another sweep runs here.
        """
        with self.writing():
            for folder in (self.notebooks, self.records):
                folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise LabkitError(f"{self.path}: another sweep is running in this folder; wait for it") from None
        try:
            end_kernels(self.path)
            for left in Path(tempfile.gettempdir()).glob(f"{scratch_prefix(str(self.path))}*"):
                shutil.rmtree(left, ignore_errors=True)
            with self.writing():
                for folder in (self.path, self.notebooks, self.records):
                    for part in folder.glob(".*.part"):
                        part.unlink()
                self._record_finished()
            yield
        finally:
            lock.release()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What the file system refuses, as one sentence."""
        try:
            yield
        except OSError as error:
            remedy = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "put that right"
            raise LabkitError(
                f"{self.path}: cannot be written ({error.strerror or error}); what was finished is kept: "
                f"{remedy} and go on with --resume"
            ) from None

    def _record_finished(self) -> None:
        """The record of a notebook that was finished by a sweep that was killed right after."""
        recorded = self.recorded_keys()
        for path in self.notebooks.glob(f"{KEY}.ipynb"):
            if path.stem not in recorded:
                self._write_record(read_json(path, *RECORDED, within=("metadata", METADATA)))

    def recorded_keys(self) -> set[str]:
        """Keys of all finished and failed runs, of earlier plans as well."""
        return {path.stem for path in self.records.glob(f"{KEY}.json")}

    def read_records(self) -> dict[str, Record]:
        """Every record by key."""
        paths = self.records.glob(f"{KEY}.json")
        return {path.stem: read_json(path, *RECORDED) for path in paths}

    def statuses(self, plan: Plan) -> dict[str, str]:
        """ "done", "failed" or "open" for every planned run, by key."""
        records = self.read_records()
        return {run.key: records[run.key]["status"] if run.key in records else "open" for run in plan.runs}

    def planned_keys(self) -> list[str]:
        """Keys of the plan that was run last, in order."""
        return read_json(self.plan_file, "keys")["keys"]

    def write_plan(self, plan: Plan) -> None:
        described = plan.facts | {"notebook": plan.notebook.path.name, "keys": [run.key for run in plan.runs]}
        atomic_write(self.plan_file, lambda file: file.write(json.dumps(described).encode()))

    def finish(self, record: Record, notebook: dict[str, Any]) -> None:
        """Put a run's notebook in its place, then its record. From the first rename on it is finished."""
        notebook["metadata"][METADATA] = record
        text = json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"
        atomic_write(self.notebook(record["key"]), lambda file: file.write(encoded(text)))
        self._write_record(record)

    def forget(self, key: str) -> None:
        """Make a run one that was never run; a finished one must not come here."""
        (self.records / f"{key}.json").unlink(missing_ok=True)
        self.notebook(key).unlink(missing_ok=True)

    def notebook(self, key: str) -> Path:
        return self.notebooks / f"{key}.ipynb"

    def _write_record(self, record: Record) -> None:
        text = json.dumps(record, ensure_ascii=False)
        atomic_write(self.records / f"{record['key']}.json", lambda file: file.write(encoded(text)))


def read_json(path: Path, *names: str, within: Sequence[str] = ()) -> dict[str, Any]:
    """What a file holds, or what is within it under these names one after the other.

    Raises:
        LabkitError: it is damaged, or one of ``names`` is not there.
    """
    try:
        found = json.loads(path.read_bytes())
        for name in within:
            found = found[name]
        if missing := [name for name in names if name not in found]:
            raise KeyError(*missing)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"without {error}" if isinstance(error, KeyError) else error
        raise LabkitError(f"{path}: damaged ({reason}); delete it and go on with --resume") from None
    return found


def encoded(text: str) -> bytes:
    """JSON as UTF-8; half a surrogate pair, which a notebook may hold, stays the escape that it was."""
    return text.encode(errors="backslashreplace")


def scratch_prefix(mark: str) -> str:
    """How the temporary folders of a sweep begin, by which one that was left behind is recognised."""
    return f"labkit-run-{hashlib.sha256(mark.encode()).hexdigest()[:KEY_DIGITS]}-"


def end_kernels(folder: Path) -> None:
    """End what still runs of this folder's sweep on this machine; its notebooks are not finished and will not be."""
    import psutil

    kernels = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == str(folder):
                process.kill()
                kernels.append(process)
        except (psutil.Error, OSError):
            continue  # it has ended, or belongs to somebody else
    psutil.wait_procs(kernels, timeout=5)
