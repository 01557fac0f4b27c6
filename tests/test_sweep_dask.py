"""Sweeps on a real dask scheduler with real workers, on loopback."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sweep_helpers import CODE, ENVIRONMENT, start, sweep, write_grid, write_notebook

import labkit

pytestmark = pytest.mark.timeout(300)  # every process imports papermill first


def dask(program: str, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *options]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


@contextmanager
def cluster(folder, workers: int):
    """A scheduler and workers as processes -> its address, the processes (the scheduler first)."""
    info = folder / "scheduler.json"
    processes = [
        dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(info))
    ]
    try:
        for _ in range(workers):
            options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1"]
            processes.append(dask("worker", "--scheduler-file", str(info), *options, "--local-directory", str(folder)))
        while not info.exists():
            assert processes[0].poll() is None
            time.sleep(0.05)
        while not (text := info.read_text()):
            time.sleep(0.05)
        yield json.loads(text)["address"], processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture
def folder(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", "import time\ntime.sleep(0.3)", CODE)
    write_grid(tmp_path / "grid.toml", "[parameters]\nn = {from = 1, to = 6, step = 1}\n")
    return tmp_path


def test_two_workers_finish_although_one_is_killed(folder):
    with (
        cluster(folder, workers=2) as (address, processes),
        start(folder, "--engine", "dask", "--scheduler", address) as process,
    ):
        while len(list((folder / "out").glob("notebooks/*.ipynb"))) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        processes[1].kill()
        said, _ = process.communicate(timeout=200)
    assert said == "6 runs: 6 done, 0 failed, 0 open\n"
    assert sorted(row["y"] for row in labkit.results(folder / "out").rows()) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_one_line_and_resume_goes_on_here(folder):
    with cluster(folder, workers=1) as (address, processes):
        with start(folder, "--engine", "dask", "--scheduler", address) as process:
            while not list((folder / "out").glob("notebooks/*.ipynb")):
                assert process.poll() is None
                time.sleep(0.05)
            for each in processes:
                each.kill()
            process.communicate(timeout=200)
        assert process.returncode == 1
    assert sweep(folder, "--resume", "--jobs", "2").stdout == "6 runs: 6 done, 0 failed, 0 open\n"


def test_a_cluster_of_its_own_is_started_and_ended(folder):
    with start(folder, "--engine", "dask", "--jobs", "2") as process:
        said, _ = process.communicate(timeout=200)
    assert said == "6 runs: 6 done, 0 failed, 0 open\n"


def test_something_that_listens_but_is_no_scheduler_is_one_line_and_no_hang(folder, monkeypatch):
    monkeypatch.setattr("labkit.sweep.workers.CONNECT", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = sweep(folder, "--engine", "dask", "--scheduler", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
    assert result.returncode == 1
    assert "no dask scheduler answers" in result.stderr
    assert result.stderr.count("\n") == 1


def test_where_an_event_loop_is_running_a_scheduler_is_looked_for_too(folder, monkeypatch):
    monkeypatch.setattr("labkit.sweep.workers.CONNECT", 1)

    async def in_a_notebook() -> str:
        return sweep(folder, "--engine", "dask", "--scheduler", "tcp://127.0.0.1:1").stderr

    with ThreadPoolExecutor(1) as aside:  # whoever runs the tests may have a loop as well
        said = aside.submit(lambda: asyncio.run(in_a_notebook())).result()
    assert "no dask scheduler answers at tcp://127.0.0.1:1" in said


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("tcp://127.0.0.1:1", "no dask scheduler answers at tcp://127.0.0.1:1"),
        ("nonsense://x", "nonsense"),
        ("tls://127.0.0.1:1", "TLS"),
    ],
)
def test_a_scheduler_that_cannot_be_reached_is_one_line(folder, monkeypatch, address, reason):
    monkeypatch.setattr("labkit.sweep.workers.CONNECT", 1)
    result = sweep(folder, "--engine", "dask", "--scheduler", address)
    assert result.returncode == 1
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert list((folder / "out" / "notebooks").iterdir()) == []
