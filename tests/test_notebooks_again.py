"""Every notebook, headless, twenty times by the papermill engine: none hangs and none is flaky. For `make slow`."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import papermill
import pytest
from committed_notebooks import SAME_ARITHMETIC

from labkit.sweep import papermill_engine  # noqa: F401  (papermill's entry point)

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
TIMES = int(os.environ.get("LABKIT_TIMES", "20"))
LIMIT = 120  # seconds for a cell


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_it_runs_twenty_times_without_a_hang_and_always_says_the_same(path, tmp_path, monkeypatch):
    for name, value in SAME_ARITHMETIC.items():
        monkeypatch.setenv(name, value)

    def run(i: int) -> list[str]:
        done = papermill.execute_notebook(
            path, tmp_path / f"{i}.ipynb", engine_name="labkit", cwd=FOLDER, execution_timeout=LIMIT, progress_bar=False
        )
        said = [cell for cell in done.cells if "nbval-ignore-output" not in cell.metadata.get("tags", [])]
        return [output.text for cell in said for output in cell.get("outputs", []) if output.get("name") == "stdout"]

    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        texts = list(pool.map(run, range(TIMES)))
    assert all(text == texts[0] for text in texts)
