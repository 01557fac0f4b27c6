"""The output of a batch: JSON Lines that only ever grow by whole lines, and from which a killed run goes on."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from ..errors import ConfigError

Record = dict[str, Any]
HEAD = b'{"index": '  # how every record begins


def as_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class RecordFile:
    """An output file.

    Attributes:
        there: the records that an earlier run wrote. Of a line that was torn when that run was killed nothing is left.
    """

    path: Path
    file: BinaryIO
    there: list[Record]

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Whole lines, on the disk when this returns."""
        # Half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes the escape that JSON has for it.
        data = "".join(map(as_line, records)).encode(errors="backslashreplace")
        with explained(self.path):
            self.file.write(data)
            self.file.flush()
            os.fsync(self.file.fileno())


@contextmanager
def record_file(path: Path) -> Iterator[RecordFile]:
    """Open an output file to add to it, in one process at a time."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"{path}: another labkit batch is writing it") from None
    try:
        with explained(path):
            file = path.open("a+b")
        with file:
            yield RecordFile(path, file, mended(path, file))
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def mended(path: Path, file: BinaryIO) -> list[Record]:
    """The records in the file; the torn line that a killed run may have left at the end is cut off."""
    file.seek(0)
    data = file.read()
    *lines, torn = data.split(b"\n")
    records = []
    for number, line in enumerate([*lines, torn], start=1):
        if not (line.startswith(HEAD) or (HEAD.startswith(line) and number > len(lines))):
            raise ConfigError(f"{path}: line {number} is no record of labkit batch; name another --out")
        try:
            records += [json.loads(line)] if number <= len(lines) else []
        except ValueError as error:
            raise ConfigError(f"{path}: line {number} is damaged ({error}); name another --out") from None
    if torn:
        with explained(path):
            file.truncate(len(data) - len(torn))
    return records


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Errors of the file system as one of labkit's."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror or error})") from None
