"""Every notebook, headless, twenty times by the papermill engine: none hangs and none is flaky. For `make slow`."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from committed_notebooks import SAME_ARITHMETIC, is_checked

ROOT = Path(__file__).resolve().parent.parent
NAMES = (path.relative_to(ROOT).as_posix() for path in ROOT.glob("notebooks/**/*.ipynb"))
NOTEBOOKS = sorted(ROOT / name for name in NAMES if is_checked(name))
TIMES = int(os.environ.get("LABKIT_TIMES", "20"))
LIMIT = 120  # seconds for a cell


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=[f"{path.parent.name}-{path.stem}" for path in NOTEBOOKS])
def test_it_runs_twenty_times_without_a_hang_and_always_says_the_same(path, tmp_path):
    def run(i: int) -> list[str]:
        command = [sys.executable, "-m", "papermill", str(path), str(tmp_path / f"{i}.ipynb"), "--engine", "labkit"]
        limits = ["--execution-timeout", str(LIMIT), "--cwd", str(path.parent), "--no-progress-bar"]
        done = subprocess.run(
            [*command, *limits], env=os.environ | SAME_ARITHMETIC, capture_output=True, text=True, timeout=8 * LIMIT
        )
        assert done.returncode == 0, done.stderr[-2000:]
        cells = nbformat.read(tmp_path / f"{i}.ipynb", as_version=4).cells
        said = [cell for cell in cells if "nbval-ignore-output" not in cell.metadata.get("tags", [])]
        # What a cell prints may come in several pieces.
        return ["".join(out.text for out in cell.get("outputs", []) if out.get("name") == "stdout") for cell in said]

    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        texts = list(pool.map(run, range(TIMES)))
    assert any(texts[0]) and all(text == texts[0] for text in texts)
