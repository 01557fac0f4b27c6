"""kill -9 at random moments, then --resume: nothing lost, nothing run twice, nothing left over."""

import json
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from sweep_helpers import CODE, marked, start, write_grid, write_notebook

import labkit


class Killed:
    """A sweep that is killed again and again; what was finished at each death must stay as it was."""

    def __init__(self, folder: Path, runs: int, *options: str):
        self.folder, self.out, self.runs, self.options = folder, folder / "out", runs, ("--jobs", "2", *options)
        write_notebook(folder / "nb.ipynb", "import time\ntime.sleep(0.05 * (n % 5))", CODE)
        write_grid(folder / "grid.toml", f"[parameters]\nn = {{from = 1, to = {runs}, step = 1}}\n")
        self.finished: dict[str, tuple[int, int]] = {}

    def attempt(self, kind: str, delay: float) -> None:
        """Run, and after `delay` seconds of work kill one process of this kind; the parent's death is a sweep's."""
        with start(self.folder, *self.options, "--resume") as process:
            begun = time.monotonic()
            while process.poll() is None and not (victims := self.victims(kind, process.pid)):
                assert time.monotonic() - begun < 100, f"no {kind} to be seen"
                time.sleep(0.02)
            time.sleep(delay)
            if process.poll() is None:
                for victim in random.sample(victims := self.victims(kind, process.pid), k=min(1, len(victims))):
                    try:
                        victim.kill()
                    except psutil.NoSuchProcess:
                        pass
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)  # it does not outlive its part by much
        self.look()

    def victims(self, kind: str, parent: int) -> list[psutil.Process]:
        kernels = marked(self.out)
        if kind == "kernel" or not psutil.pid_exists(parent):
            return kernels
        if kind == "parent":
            return [psutil.Process(parent)] * bool(kernels)
        others = [p for p in psutil.Process(parent).children(recursive=True) if p not in kernels]
        return [p for p in others if "spawn_main" in " ".join(p.cmdline())]  # dask's workers

    def look(self) -> None:
        """Every finished file is whole and the very file that it was at the last look."""
        now = {}
        for path in (self.out / "notebooks").glob("*.ipynb"):
            assert json.loads(path.read_bytes())["metadata"]["labkit_run"]["key"] == path.stem
            now[path.name] = path.stat().st_ino, path.stat().st_mtime_ns
        for path in (self.out / "records").glob("*.json"):
            json.loads(path.read_bytes())
        assert self.finished.items() <= now.items(), "a finished run was lost, or run again"
        self.finished = now

    def resume(self) -> None:
        """To the end, undisturbed."""
        with start(self.folder, *self.options, "--resume") as process:
            said, _ = process.communicate(timeout=600)
        assert said == f"{self.runs} runs: {self.runs} done, 0 failed, 0 open\n"
        self.look()
        assert len(self.finished) == self.runs
        assert sorted(row["y"] for row in labkit.results(self.out).rows()) == list(range(1, self.runs + 1))
        assert [path.name for path in self.out.rglob("*") if path.name.endswith(".part")] == []
        assert marked(self.out) == []


@pytest.mark.timeout(300)
def test_three_kills_of_parent_and_kernel_lose_and_repeat_nothing(tmp_path):
    sweep, chance = Killed(tmp_path, 6), random.Random(1)
    for kind in ("parent", "kernel", "parent"):
        sweep.attempt(kind, chance.uniform(0.2, 1.2))
    sweep.resume()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fifty_kills_of_parent_kernel_and_worker_lose_and_repeat_nothing(tmp_path):
    chance = random.Random(2)
    for engine, kinds, times in (("local", ("parent", "kernel"), 30), ("dask", ("parent", "kernel", "worker"), 20)):
        (tmp_path / engine).mkdir()
        sweep = Killed(tmp_path / engine, 60, "--engine", engine)
        for i in range(times):
            sweep.attempt(kinds[i % len(kinds)], chance.uniform(0.0, 2.5))
        sweep.resume()
