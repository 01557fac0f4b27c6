"""A sweep: what is not finished goes to the workers, what comes back is put on the disk, until nothing is left."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import AbstractContextManager
from functools import partial

from ..errors import LabkitError
from .execute import Outcome, Task, lost, run_notebook
from .folder import Record, SweepFolder, end_kernels
from .plan import Plan
from .workers import Workers

ATTEMPTS = 2  # a kernel that dies is tried once more: starting many at once may collide
AHEAD = 1  # runs handed out beyond those that go on, so that no worker waits for the next
PATIENCE = 5  # times that an interrupted sweep looks for kernels to end, a second apart


def run_sweep(
    plan: Plan,
    folder: SweepFolder,
    crew: AbstractContextManager[Workers],
    *,
    retry_failed: bool = False,
    cell_timeout: int,
    report: Callable[[Record], None],
) -> dict[str, str]:
    """Run what is open, and on request what has failed; finished runs are never run again.

    Args:
        crew: ``workers.local(…)`` or ``workers.dask(…)``.
        cell_timeout: seconds for one cell of a notebook.
        report: called with the record of each run that comes to its end.

    Returns:
        The status of every planned run by key.

    Raises:
        LabkitError: the folder is in use, the disk is full, the cluster went away. What was finished stays finished.
    """
    with folder.locked():
        status = folder.statuses(plan)
        todo = [run for run in plan.runs if status[run.key] in ("open", "failed" if retry_failed else "open")]
        with folder.writing():
            folder.write_plan(plan)
        if todo:
            with crew as workers:
                with folder.writing():
                    for run in todo:
                        folder.forget(run.key)
                task = partial(
                    Task,
                    notebook=plan.notebook.text,
                    folder=str(plan.notebook.path.resolve().parent),
                    mark=str(folder.path),
                    threads=workers.threads,
                    cell_timeout=cell_timeout,
                )
                run_all([task(run.key, run.parameters) for run in todo], workers, folder, report)
        return folder.statuses(plan)


def run_all(tasks: Sequence[Task], workers: Workers, folder: SweepFolder, report: Callable[[Record], None]) -> None:
    """Keep the workers busy until every task is finished."""
    waiting = deque((task, 1) for task in tasks)
    handed_out: dict[Future[Outcome], tuple[Task, int]] = {}
    try:
        while waiting or handed_out:
            while waiting and len(handed_out) < workers.slots + AHEAD:
                task, attempt = waiting.popleft()
                handed_out[workers.executor.submit(run_notebook, task)] = task, attempt
            for future in wait(handed_out, return_when=FIRST_COMPLETED).done:
                task, attempt = handed_out.pop(future)
                outcome = outcome_of(future, task)
                if outcome.kernel_died and attempt < ATTEMPTS:
                    waiting.append((task, attempt + 1))
                    continue
                with folder.writing():
                    folder.finish(outcome.record, outcome.notebook)
                report(outcome.record)
    except BaseException:
        abandon(list(handed_out), folder)
        raise


def outcome_of(future: Future[Outcome], task: Task) -> Outcome:
    """What came of a task; of a worker that failed as well.

    Raises:
        LabkitError: the cluster has let go of the task.
    """
    try:
        return future.result()
    except CancelledError:
        raise LabkitError("the dask scheduler went away; start it again and go on with --resume") from None
    except Exception as error:
        return lost(task, f"its worker: {type(error).__name__}: {error}")


def abandon(futures: Sequence[Future[Outcome]], folder: SweepFolder) -> None:
    """Let nothing of an interrupted sweep run on."""
    for future in futures:
        future.cancel()
    for _ in range(PATIENCE):  # a kernel may be just about to start
        end_kernels(folder.path)
        if not wait(futures, timeout=1).not_done:
            return
