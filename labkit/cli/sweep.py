"""labkit sweep: one notebook over a grid of parameters, resumable, on this machine or a cluster."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import chdir
from functools import partial
from pathlib import Path

import click
from tqdm import tqdm

from ..errors import LabkitError
from ..sweep.folder import Record, SweepFolder
from ..sweep.grid import read_grid
from ..sweep.notebook import Notebook
from ..sweep.plan import Plan, make_plan
from .parameters import OTHER, OUTPUT, GroupedCommand, option

WHAT, WHERE = "What to run", "Where and how"


@click.command("sweep", cls=GroupedCommand)
@click.argument("notebook", type=click.Path(path_type=Path))
@option(WHAT, "--grid", type=click.Path(path_type=Path), required=True, help="The points: configs/sweeps/*.toml.")
@option(WHAT, "--out", type=click.Path(path_type=Path), help="The sweep's folder; left out: runs/ and the grid's name.")
@option(WHAT, "--resume", is_flag=True, help="Go on with what an earlier sweep in this folder left open.")
@option(WHAT, "--retry-failed", is_flag=True, help="The same, and once more what has failed.")
@option(WHAT, "--dry-run", is_flag=True, help="Check everything, say how much there is to do, run nothing.")
@option(WHAT, "--list", "listing", is_flag=True, help="List all runs and what has become of them, run nothing.")
@option(WHERE, "--jobs", type=click.IntRange(1), help="Runs at the same time on this machine; left out: one a core.")
@option(WHERE, "--threads", type=click.IntRange(1), help="Of each run; left out: the cores divided by the jobs.")
@option(WHERE, "--engine", type=click.Choice(["local", "dask"]), default="local", help="Kernels here, or dask workers.")
@option(WHERE, "--scheduler", metavar="ADDRESS", help="A running dask scheduler; left out: a cluster on this machine.")
@option(WHERE, "--execution-timeout", type=click.IntRange(1), default=600, show_default=True, help="Seconds a cell.")
@option(OUTPUT, "--json", "as_json", is_flag=True, help="Print JSON: a line for each run.")
@option(OTHER, "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def command(
    notebook: Path,
    grid: Path,
    out: Path | None,
    resume: bool,
    retry_failed: bool,
    dry_run: bool,
    listing: bool,
    jobs: int | None,
    threads: int | None,
    engine: str,
    scheduler: str | None,
    execution_timeout: int,
    as_json: bool,
) -> None:
    """Run NOTEBOOK once for every point of a grid.

    All points are checked against the notebook's typed parameters before anything runs. A finished run is never run
    again as long as its parameters, the notebook's code, the weights and labkit's version are the same. Killed at any
    moment, the same command with --resume goes on. The results are one table: labkit.results("runs/x").
    """
    if scheduler is not None and engine != "dask":
        raise click.UsageError("--scheduler needs --engine dask")
    plan = make_plan(Notebook.read(notebook), read_grid(grid), partial(fingerprint, notebook.parent))
    folder = SweepFolder(out or Path("runs") / grid.stem)
    status = folder.statuses(plan)
    if listing or dry_run:
        show(plan, status, listing, as_json)
        return
    there = len(plan.runs) - Counter(status.values())["open"]
    if there and not (resume or retry_failed):
        raise LabkitError(f"{folder.path} holds {there} of these runs; go on with --resume, or name another --out")
    from ..sweep import workers
    from ..sweep.results import results
    from ..sweep.sweep import run_sweep

    crew = workers.local(jobs, threads) if engine == "local" else workers.dask(scheduler, jobs, threads)
    again = Counter(status.values())["failed"] if retry_failed else 0
    with tqdm(total=len(plan.runs), initial=there - again, unit="run", file=sys.stderr, disable=None) as bar:

        def report(record: Record) -> None:
            if record["error"]:
                bar.write(f"labkit: run {record['key']} failed in {record['error']}", file=sys.stderr)
            bar.update()

        try:
            status = run_sweep(
                plan, folder, crew, retry_failed=retry_failed, cell_timeout=execution_timeout, report=report
            )
        except KeyboardInterrupt:
            bar.write("labkit: interrupted; what was finished is kept: go on with --resume", file=sys.stderr)
            raise
    with folder.writing():
        results(folder.path)
    show(plan, status, as_json, as_json)
    if failed := Counter(status.values())["failed"]:
        raise LabkitError(f"{failed} of {len(plan.runs)} runs failed; --retry-failed runs them once more")


def show(plan: Plan, status: Mapping[str, str], listing: bool, as_json: bool) -> None:
    """Print a line for each run, or how many there are of each status."""
    if not listing:
        count = {"runs": len(plan.runs)} | {name: Counter(status.values())[name] for name in ("done", "failed", "open")}
        words = "{runs} runs: {done} done, {failed} failed, {open} open".format(**count)
        click.echo(json.dumps(count) if as_json else words)
        return
    lines = []
    for run in plan.runs:
        values = "  ".join(f"{name}={value!r}" for name, value in run.parameters.items())
        facts = {"key": run.key, "status": status[run.key], "parameters": run.parameters}
        lines.append(json.dumps(facts, ensure_ascii=False) if as_json else f"{run.key}  {status[run.key]:6}  {values}")
    click.echo("\n".join(lines))


def fingerprint(folder: Path, source: str) -> str:
    """Hash of a checkpoint's files, as a notebook in this folder finds it: one file, or everything in a folder."""
    from ..language_model import locate

    digest = hashlib.sha256()
    with chdir(folder):
        path, _ = locate(source)
        files = [path] if path.is_file() else sorted(found for found in path.iterdir() if found.is_file())
        for file in files:
            digest.update(file.name.encode())
            try:
                with file.open("rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
            except OSError as error:
                raise LabkitError(f"{file}: cannot be read ({error.strerror})") from None
    return digest.hexdigest()
