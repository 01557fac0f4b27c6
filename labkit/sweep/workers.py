"""Where runs go: threads that each mind one kernel on this machine, or the workers of a dask cluster."""

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from labkit import __version__

from ..errors import ConfigError, LabkitError

CONNECT = 10  # seconds to reach a scheduler
JOIN = 30  # seconds for its first worker to appear
LOST_WORKERS = 3  # so often a run is given to another worker when its worker dies


@dataclass(frozen=True)
class Workers:
    """An executor and how much it does at once.

    Attributes:
        slots: runs at the same time.
        threads: for the arithmetic of each.
    """

    executor: Executor
    slots: int
    threads: int


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def local(jobs: int | None, threads: int | None) -> Iterator[Workers]:
    """Kernels on this machine, ``jobs`` at a time (None: one for each core), the cores divided among them."""
    jobs = jobs or cores()
    executor = ThreadPoolExecutor(jobs, thread_name_prefix="labkit-run")
    try:
        yield Workers(executor, jobs, threads or max(1, cores() // jobs))
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def dask(address: str | None, jobs: int | None, threads: int | None) -> Iterator[Workers]:
    """The workers of a scheduler, or of a cluster on this machine that lives as long as the sweep.

    Raises:
        ConfigError: dask is not installed, or no scheduler answers at this address.
        LabkitError: it has no workers, or they have another labkit.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ConfigError('--engine dask needs dask: pip install "labkit[cluster]"') from None
    cluster = None
    if address is None:
        jobs = jobs or cores()
        threads = threads or max(1, cores() // jobs)
        cluster = LocalCluster(n_workers=jobs, threads_per_worker=1, host="127.0.0.1", dashboard_address=None)
    try:
        if address is not None:
            with ThreadPoolExecutor(1) as aside:  # in a notebook a loop is running here already
                aside.submit(lambda: asyncio.run(reach(address))).result()
        client = Client(cluster or address, timeout=CONNECT, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:  # TypeError: tls:// without certificates
        reason = str(error).partition("\n")[0] or f"not within {CONNECT} s"
        raise ConfigError(f"no dask scheduler answers at {address} ({reason})") from None
    try:
        check_workers(client, address)
        slots = sum(worker["nthreads"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())
        yield Workers(client.get_executor(pure=False, retries=0), slots, threads or 1)
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


async def reach(address: str) -> None:
    """Raises an error where no scheduler answers; of a listener that is none, Client waits for an answer for ever."""
    from distributed import Security
    from distributed.comm import connect

    async with asyncio.timeout(CONNECT + 1):
        connection = await connect(address, timeout=CONNECT, **Security().get_connection_args("client"))
        await connection.close()


def check_workers(client: Any, address: str | None) -> None:
    """There are workers, and each has this labkit."""
    try:
        client.wait_for_workers(1, timeout=JOIN)
    except TimeoutError:
        raise LabkitError(f"the dask scheduler at {address} had no worker for {JOIN} s; start some") from None
    try:
        versions = client.run(installed_version)
    except Exception as error:  # whatever a worker raises where there is no labkit
        raise LabkitError(f"a dask worker cannot import labkit ({error}); install labkit[sweep] there") from None
    if others := {worker: version for worker, version in versions.items() if version != __version__}:
        worker, version = next(iter(others.items()))
        raise LabkitError(f"the dask worker {worker} has labkit {version}, this is {__version__}; install the same")


def installed_version() -> str:
    """Of labkit, on whichever machine this is called."""
    from . import execute  # noqa: F401  what a run needs besides labkit itself

    return __version__
