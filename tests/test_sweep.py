"""Sweeps as they run: real kernels, what is left on the disk, what a notebook opens afterwards."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from sweep_helpers import CODE, marked, start, sweep, write_grid, write_notebook

import labkit
from labkit.errors import LabkitError
from labkit.sweep import workers
from labkit.sweep.folder import MARK, SweepFolder, scratch_prefix
from labkit.sweep.grid import read_grid
from labkit.sweep.notebook import Notebook
from labkit.sweep.plan import make_plan
from labkit.sweep.sweep import run_sweep

FAILING = "if n == 13:\n    raise ValueError('thirteen\\nis bad luck')"


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep of four runs, two of which fail, as it is left behind; and what the command said."""
    folder = tmp_path_factory.mktemp("swept")
    write_notebook(folder / "nb.ipynb", FAILING, CODE)
    write_grid(folder / "grid.toml", "[parameters]\nx = [1.0, 2.0]\nn = [2, 13]\n")
    return folder, sweep(folder, "--jobs", "2")


@pytest.fixture(scope="module")
def swept_once(tmp_path_factory):
    """A sweep of one run that is done; a test leaves it so."""
    folder = tmp_path_factory.mktemp("once")
    write_notebook(folder / "nb.ipynb", CODE)
    write_grid(folder / "grid.toml", "[parameters]\nx = [1.0]\n")
    sweep(folder)
    return folder


def plan_of(folder: Path):
    return make_plan(Notebook.read(folder / "nb.ipynb"), read_grid(folder / "grid.toml"), str)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Which file it is (inode and time of change), of every executed notebook."""
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in sorted((folder / "out/notebooks").glob("*"))}


def test_a_failing_cell_is_named_and_the_other_runs_go_on(swept):
    folder, result = swept
    assert result.returncode == 1
    assert result.stdout == "4 runs: 2 done, 2 failed, 0 open\n"
    assert result.stderr.count("failed in code cell 4 (if n == 13:): ValueError: thirteen is bad luck\n") == 2
    assert result.stderr.endswith("labkit: 2 of 4 runs failed; --retry-failed runs them once more\n")


def test_the_table_holds_parameters_and_results_of_every_run_in_the_order_of_the_plan(swept):
    table = labkit.results(swept[0] / "out")
    rows = table.rows()
    assert [(row["x"], row["n"], row["run_status"], row["y"]) for row in rows] == [
        (1.0, 2, "done", 2.0), (1.0, 13, "failed", None), (2.0, 2, "done", 4.0), (2.0, 13, "failed", None),
    ]  # fmt: skip
    assert rows[1]["run_error"] == "code cell 4 (if n == 13:): ValueError: thirteen is bad luck"
    assert all((swept[0] / "out" / row["run_notebook"]).is_file() for row in rows)
    assert repr(table) == "Results(4 runs, 4 rows, 8 columns)"
    assert table.sql("SELECT run_status, sum(y) AS y FROM runs GROUP BY 1 ORDER BY 1") == [
        {"run_status": "done", "y": 6.0},
        {"run_status": "failed", "y": None},
    ]
    with pytest.raises(LabkitError, match="nothing"):
        table.sql("SELECT nothing FROM runs")


def test_the_executed_notebook_holds_the_parameters_the_traceback_and_its_record(swept):
    notebook = json.loads((swept[0] / "out" / labkit.results(swept[0] / "out").rows()[1]["run_notebook"]).read_bytes())
    (injected,) = (cell for cell in notebook["cells"] if "injected-parameters" in cell["metadata"]["tags"])
    assert "n = 13" in "".join(injected["source"])
    assert any(output["output_type"] == "error" for cell in notebook["cells"] for output in cell.get("outputs", []))
    assert notebook["metadata"]["labkit_run"]["status"] == "failed"


def test_nothing_but_finished_files_is_left(swept):
    out = swept[0] / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock", "notebooks", "records", "results.parquet", "sweep.json",
    ]  # fmt: skip
    assert len(list((out / "notebooks").iterdir())) == len(list((out / "records").iterdir())) == 4


def test_the_same_command_again_is_refused_and_resume_runs_nothing_twice(swept):
    folder, _ = swept
    before = contents(folder)
    again = sweep(folder)
    assert again.returncode == 1
    assert "holds 4 of these runs; go on with --resume" in again.stderr
    resumed = sweep(folder, "--resume")
    assert resumed.stdout == "4 runs: 2 done, 2 failed, 0 open\n"
    assert contents(folder) == before


def test_retry_failed_runs_what_failed_and_a_larger_grid_only_what_is_new(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", "import os\nassert n == 2 or os.path.exists('mended')", CODE)
    write_grid(tmp_path / "grid.toml", "[parameters]\nn = [2, 13]\n")
    assert sweep(tmp_path, "--jobs", "2").stdout == "2 runs: 1 done, 1 failed, 0 open\n"
    before = contents(tmp_path)
    (tmp_path / "mended").touch()
    write_grid(tmp_path / "grid.toml", "[parameters]\nn = [2, 13, 14]\n")
    assert sweep(tmp_path, "--jobs", "2", "--retry-failed").stdout == "3 runs: 3 done, 0 failed, 0 open\n"
    after = contents(tmp_path)
    assert len(after) == 3
    assert sum(after[name] == file for name, file in before.items()) == 1
    assert [row["y"] for row in labkit.results(tmp_path / "out").rows()] == [2.0, 13.0, 14.0]


def test_threads_are_divided_and_the_notebook_runs_in_its_own_folder(tmp_path):
    facts = "import os\nlabkit.write_results({'threads': os.environ['OMP_NUM_THREADS'], 'here': os.getcwd()}, 'x')"
    write_notebook(tmp_path / "nb.ipynb", facts)
    write_grid(tmp_path / "grid.toml", "[parameters]\nx = [1.0]\n")
    sweep(tmp_path, "--jobs", "1", "--threads", "3")
    (row,) = labkit.results(tmp_path / "out").rows()
    assert (row["threads"], row["here"]) == ("3", str(tmp_path))


def test_a_cell_that_takes_too_long_fails_and_so_does_a_kernel_that_dies_twice(tmp_path):
    code = "import os, time\nif n == 1:\n    time.sleep(60)\nif n == 2:\n    os._exit(1)"
    write_notebook(tmp_path / "nb.ipynb", code)
    write_grid(tmp_path / "grid.toml", "[parameters]\nn = [1, 2]\n")
    assert sweep(tmp_path, "--jobs", "2", "--execution-timeout", "4").stdout.startswith("2 runs: 0 done, 2 failed")
    errors = [row["run_error"] for row in labkit.results(tmp_path / "out").rows()]
    assert errors[0] == "code cell 4 (import os, time): took more than 4 s"
    assert "the kernel died" in errors[1]


def test_two_sweeps_do_not_share_a_folder(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", CODE)
    write_grid(tmp_path / "grid.toml")
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        result = sweep(tmp_path)
    assert result.returncode == 1
    assert "another sweep is running in this folder" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    """The second run's notebook cannot be written; then there is room again."""
    write_notebook(tmp_path / "nb.ipynb", CODE)
    write_grid(tmp_path / "grid.toml")
    plan, folder, real = plan_of(tmp_path), SweepFolder(tmp_path / "out"), os.fsync
    written = []

    def fsync(descriptor):
        written.append(descriptor)
        if len(written) > 4:  # the plan, one notebook and its record, one notebook
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(LabkitError, match="No space left on device.*make room and go on with --resume"):
        run_sweep(plan, folder, workers.local(1, 1), cell_timeout=60, report=lambda record: None)
    monkeypatch.setattr(os, "fsync", real)
    before = contents(tmp_path)
    assert len(before) == 2
    assert list((tmp_path / "out").rglob("*.part")) == []
    status = run_sweep(plan, folder, workers.local(2, 1), cell_timeout=60, report=lambda record: None)
    assert set(status.values()) == {"done"}
    assert before.items() <= contents(tmp_path).items()
    assert len(labkit.results(tmp_path / "out").rows()) == 3


def test_a_run_that_was_finished_but_not_recorded_is_recorded_and_not_run_again(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", CODE)
    write_grid(tmp_path / "grid.toml", "[parameters]\nx = [1.0]\n")
    sweep(tmp_path)
    before = contents(tmp_path)
    (record,) = (tmp_path / "out/records").iterdir()
    text = record.read_bytes()
    record.unlink()
    (tmp_path / "out/notebooks/.half.ipynb.1-2.part").write_text("{")
    assert sweep(tmp_path, "--resume").stdout == "1 runs: 1 done, 0 failed, 0 open\n"
    assert record.read_bytes() == text
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"key": "'])
def test_a_damaged_record_is_named_and_made_again_once_it_is_deleted(swept_once, damage):
    (record,) = (swept_once / "out/records").iterdir()
    text = record.read_bytes()
    record.write_text(damage)
    for option in ("--list", "--resume"):
        result = sweep(swept_once, option)
        assert result.returncode == 1
        assert f"{record}: damaged" in result.stderr
        assert result.stderr.count("\n") == 1
    record.unlink()
    assert sweep(swept_once, "--resume").stdout == "1 runs: 1 done, 0 failed, 0 open\n"
    assert record.read_bytes() == text


def test_a_damaged_plan_is_named_and_made_again(swept_once):
    (swept_once / "out/sweep.json").write_text('{"keys')
    with pytest.raises(LabkitError, match="sweep.json: damaged"):
        labkit.results(swept_once / "out")
    sweep(swept_once, "--resume")
    assert len(labkit.results(swept_once / "out").rows()) == 1


def test_a_copy_of_an_executed_notebook_is_not_taken_for_a_run(swept_once):
    """JupyterLab's "Duplicate" makes one, with the record in it; so old a copy must not become the record."""
    (notebook,) = (swept_once / "out/notebooks").glob("*.ipynb")
    copy = notebook.with_name(f"{notebook.stem}-Copy1.ipynb")
    copy.write_text(notebook.read_text().replace('"status": "done"', '"status": "failed"'))
    assert sweep(swept_once, "--resume").stdout == "1 runs: 1 done, 0 failed, 0 open\n"
    copy.unlink()


def test_what_a_killed_run_left_in_the_temporary_folder_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = SweepFolder(tmp_path / "out")
    ours, strangers = (tmp_path / f"{scratch_prefix(mark)}x" for mark in (str(folder.path), "/another"))
    for left in (ours, strangers):
        (left / "results.json").mkdir(parents=True)
    with folder.locked():
        assert not ours.exists()
        assert strangers.exists()


def test_what_is_no_list_of_rows_fails_the_run_and_not_the_table(tmp_path):
    code = "import os, pathlib\npathlib.Path(os.environ['LABKIT_RESULTS']).write_text('{\"y\": 1}' if n == 1 else '[{')"
    write_notebook(tmp_path / "nb.ipynb", code)
    write_grid(tmp_path / "grid.toml", "[parameters]\nn = [1, 2]\n")
    assert sweep(tmp_path, "--jobs", "2").stdout == "2 runs: 0 done, 2 failed, 0 open\n"
    rows = labkit.results(tmp_path / "out").rows()
    assert all("code cell 4 (import os, pathlib): what is reported" in row["run_error"] for row in rows)


def test_code_that_no_kernel_can_be_sent_fails_the_run_and_not_the_sweep(tmp_path):
    path = write_notebook(tmp_path / "nb.ipynb", "text = '<>'")
    path.write_text(path.read_text().replace("<>", "\\ud800"))  # half a surrogate pair: no UTF-8
    write_grid(tmp_path / "grid.toml", "[parameters]\nx = [1.0]\n")
    assert sweep(tmp_path).stdout == "1 runs: 0 done, 1 failed, 0 open\n"
    (row,) = labkit.results(tmp_path / "out").rows()
    assert "surrogates not allowed" in row["run_error"]
    notebook = json.loads((tmp_path / "out" / row["run_notebook"]).read_bytes())
    assert "".join(notebook["cells"][-1]["source"]) == "text = '\ud800'"


def test_an_endless_message_is_cut(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", "raise ValueError('x' * 100_000)")
    write_grid(tmp_path / "grid.toml", "[parameters]\nx = [1.0]\n")
    result = sweep(tmp_path)
    (row,) = labkit.results(tmp_path / "out").rows()
    assert row["run_error"].endswith("xxx…")
    assert len(row["run_error"]) == 501
    assert row["run_error"] in result.stderr


def test_a_kernel_that_was_left_behind_is_ended_and_a_strangers_is_not(tmp_path):
    script = [sys.executable, "-c", "import time; time.sleep(60)"]
    folder = SweepFolder(tmp_path / "out")
    ours = subprocess.Popen(script, env={**os.environ, MARK: str(folder.path)})
    strangers = subprocess.Popen(script, env={**os.environ, MARK: str(tmp_path / "other")})
    try:
        with folder.locked():
            ours.wait(timeout=10)
            assert strangers.poll() is None
    finally:
        strangers.kill()
        strangers.wait()


def test_ctrl_c_ends_the_kernels_at_once_and_keeps_what_was_finished(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", "import time\ntime.sleep(60 if n == 1 else 0)", CODE)
    write_grid(tmp_path / "grid.toml", "[parameters]\nn = [0, 1]\n")
    with start(tmp_path, "--jobs", "1") as process:
        until(lambda: len(contents(tmp_path)) == 1 and marked(tmp_path / "out"))
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    assert process.returncode == 130
    assert marked(tmp_path / "out") == []
    assert len(contents(tmp_path)) == 1


def until(happened: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_a_notebook_that_is_changed_is_another_experiment(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", CODE)
    write_grid(tmp_path / "grid.toml", "[parameters]\nx = [1.0]\n")
    sweep(tmp_path)
    write_notebook(tmp_path / "nb.ipynb", CODE.replace("+ seed", "+ 100"))
    assert sweep(tmp_path).stdout == "1 runs: 1 done, 0 failed, 0 open\n"
    assert [row["y"] for row in labkit.results(tmp_path / "out").rows()] == [103.0]


def test_ten_thousand_finished_runs_are_resumed_quickly(tmp_path):
    """The promise is 5 s on a quiet machine, the table included."""
    write_notebook(tmp_path / "nb.ipynb", CODE)
    write_grid(tmp_path / "grid.toml", "[parameters]\nn = {from = 1, to = 10000, step = 1}\n")
    plan, folder = plan_of(tmp_path), SweepFolder(tmp_path / "out")
    for each in (folder.notebooks, folder.records):
        each.mkdir(parents=True)
    for run in plan.runs:
        record = {"key": run.key, "parameters": run.parameters, "status": "done", "error": None, "seconds": 1.0}
        record |= {"notebook": f"notebooks/{run.key}.ipynb", "results": [{"y": 2.0 * run.parameters["n"]}]}
        (folder.records / f"{run.key}.json").write_text(json.dumps(record))
        folder.notebook(run.key).touch()
    assert sweep(tmp_path, "--resume").stdout == "10000 runs: 10000 done, 0 failed, 0 open\n"
    assert labkit.results(tmp_path / "out").sql("SELECT sum(y) AS y FROM runs") == [{"y": 100010000.0}]


@pytest.mark.parametrize("hindrance", ["a file in its place", "a lock that cannot be opened", "a loop of links"])
def test_a_folder_that_cannot_be_used_is_one_line(tmp_path, hindrance):
    write_notebook(tmp_path / "nb.ipynb", CODE)
    write_grid(tmp_path / "grid.toml")
    match hindrance[2:6]:
        case "file":
            (tmp_path / "out").touch()
        case "lock":
            (tmp_path / "out/.lock").mkdir(parents=True)
        case "loop":
            (tmp_path / "out").symlink_to(tmp_path / "out")
    result = sweep(tmp_path)
    assert result.returncode == 1
    assert "out: cannot be written" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_jobs_do_sixty_four_short_runs_at_least_1_8_times_as_fast(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", CODE)
    write_grid(tmp_path / "grid.toml", "[parameters]\nn = {from = 1, to = 64, step = 1}\n")
    seconds = {}
    for jobs in (1, 2):
        crew, before = workers.local(jobs, 1), time.perf_counter()
        folder = SweepFolder(tmp_path / f"out{jobs}")
        run_sweep(plan_of(tmp_path), folder, crew, cell_timeout=60, report=lambda record: None)
        seconds[jobs] = time.perf_counter() - before
    print(f"64 runs: {seconds[1]:.1f} s with one job, {seconds[2]:.1f} s with two")
    assert seconds[1] / seconds[2] >= 1.8
