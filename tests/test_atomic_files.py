"""Files are written whole or not at all."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny

import labkit
from labkit.checkpoints import labcore, nanochat
from labkit.errors import LabkitError
from labkit.files import atomic_write


def test_what_is_written_is_there(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    atomic_write(path, lambda file: file.write(b"\x00\xff"))
    assert path.read_bytes() == b"\x00\xff" and list(path.parent.iterdir()) == [path]


def test_it_replaces_what_was_there(tmp_path):
    path = tmp_path / "file.bin"
    for data in (b"long old content", b"new"):
        atomic_write(path, lambda file, data=data: file.write(data))
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), MemoryError(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("existing", [True, False])
def test_when_writing_fails_the_old_file_is_untouched_and_nothing_is_left(tmp_path, error, existing):
    path = tmp_path / "file.bin"
    if existing:
        path.write_bytes(b"old")

    def write(file):
        file.write(b"half of the new")
        raise error

    with pytest.raises(type(error)):
        atomic_write(path, write)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"] * existing


def test_readers_never_see_a_half(tmp_path):
    path, stop, seen = tmp_path / "file.bin", threading.Event(), set()
    sizes = (100_000, 250_000)
    atomic_write(path, lambda file: file.write(bytes(sizes[0])))

    def look():
        while not stop.is_set():
            seen.add(len(path.read_bytes()))

    reader = threading.Thread(target=look)
    reader.start()
    for i in range(40):
        atomic_write(path, lambda file, n=sizes[i % 2]: [file.write(bytes(n // 10)) for _ in range(10)])
    stop.set()
    reader.join()
    assert seen <= set(sizes)


def test_threads_that_write_the_same_file_do_not_disturb_each_other(tmp_path):
    path, errors = tmp_path / "file.bin", []

    def write(letter: bytes):
        try:
            for _ in range(15):
                atomic_write(path, lambda file: [file.write(letter * 1000) for _ in range(20)])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(bytes([65 + i]),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    data = path.read_bytes()
    assert len(data) == 20_000 and len(set(data)) == 1
    assert list(tmp_path.iterdir()) == [path]


SLOW_WRITER = """
import sys, time
from pathlib import Path
from labkit.errors import LabkitError
from labkit.files import atomic_write
def write(file):
    file.write(b"new" * 100_000)
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
atomic_write(Path(sys.argv[1]), write)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_a_process_that_is_killed_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    writer = subprocess.Popen([sys.executable, "-c", SLOW_WRITER, str(path)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline().strip() == b"writing"
        assert path.read_bytes() == b"old"
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
    assert path.read_bytes() == b"old"
    atomic_write(path, lambda file: file.write(b"newest"))
    assert path.read_bytes() == b"newest"


def test_data_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    atomic_write(tmp_path / "file.bin", lambda file: file.write(b"x"))
    assert calls == ["fsync", "replace"]


WRITES = {
    "settings": lambda folder: labkit.Settings().write(folder / "settings.toml"),
    "labcore": lambda folder: labcore.write(
        folder / "a.pt", tiny.tiny("labcore", "learned").model, step=1, losses={}, tokenizer={}, trainer_config={}
    ),
    "nanochat": lambda folder: nanochat.write(folder, tiny.tiny("nanochat", "grouped").model, step=1, meta={}),
}


@pytest.mark.parametrize("name", WRITES)
def test_everything_that_labkit_writes_is_written_so(name, tmp_path, monkeypatch):
    """The disk is full at the worst moment: what was there is still there, whole."""
    WRITES[name](tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        WRITES[name](tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_it_takes_no_longer_than_the_write_itself(tmp_path):
    start = time.process_time()
    for i in range(50):
        atomic_write(Path(tmp_path / f"{i}.bin"), lambda file: file.write(b"x"))
    assert time.process_time() - start < 1


def test_what_is_no_file_is_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for target in (pipe, tmp_path):
        with pytest.raises(LabkitError, match="is not a file; name one to write to"):
            atomic_write(target, lambda file: file.write(b"x"))
    assert pipe.is_fifo() and sorted(tmp_path.iterdir()) == [pipe]
