"""Small notebooks and grids for the tests of sweeps, and a sweep as a process of its own."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import nbformat
import psutil

from labkit.cli import main
from labkit.sweep.folder import MARK

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
PARAMETERS = 'x: float = 1.0  # a number\nn: int = 3\nseed: int = 0\nword: str = "a"\nsizes: list[int] = [1]'
CODE = "labkit.write_results({'y': x * n + seed}, 'by_hand.json')"


def write_notebook(path: Path, *code: str, parameters: str | None = PARAMETERS) -> Path:
    """A notebook that imports labkit, has a parameters cell, and then `code`."""
    v4 = nbformat.v4
    cells = [v4.new_markdown_cell("# A notebook?"), v4.new_code_cell("import labkit")]
    if parameters is not None:
        cells.append(v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [v4.new_code_cell(text) for text in code]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:02}"  # so that the same notebook is the same file
    nbformat.write(notebook, path)
    return path


def write_grid(path: Path, text: str = "[parameters]\nx = [1.0, 2.0, 3.0]\n") -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def arguments(folder: Path, *options: str) -> list[str]:
    """`sweep` over folder/nb.ipynb and folder/grid.toml into folder/out."""
    files = [str(folder / "nb.ipynb"), "--grid", str(folder / "grid.toml"), "--out", str(folder / "out")]
    return ["sweep", *files, *options]


def sweep(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What the command line would do and say, in this process: importing papermill takes longer than a run."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(arguments(folder, *options))
        except SystemExit as stop:
            status = stop.code
    return subprocess.CompletedProcess(["labkit"], status, out.getvalue(), err.getvalue())


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    """The same as a process of its own, which can be killed."""
    command = [sys.executable, "-m", "labkit", *arguments(folder, *options)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def marked(folder: Path) -> list[psutil.Process]:
    """Kernels of the sweep in this folder that live."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
