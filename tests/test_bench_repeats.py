"""Two benchmarks of the same, twenty times over: how often they differ by less than the interval that is printed."""

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labkit.benchmark import compare, read

PAIRS, OF_20 = 20, 19
RUN = ["bench", "shakespeare-char", "--threads", "1", "--seed", "1"]


def benchmark(path: Path) -> dict[str, Any]:
    """A benchmark in a process of its own, as people start it."""
    done = subprocess.run(
        [sys.executable, "-m", "labkit", *RUN, "--json-out", str(path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return read(path)


def half_width(record: dict[str, Any]) -> float:
    """Of the 95 % interval of the mean, as a share of it."""
    rate = record["results"]["tokens_per_sec"]
    return (rate["ci95"][1] - rate["ci95"][0]) / 2 / rate["mean"]


@pytest.mark.slow
def test_two_benchmarks_of_the_same_differ_by_less_than_the_printed_interval_in_19_of_20_pairs(tmp_path):
    same = raw = 0
    records = list[dict[str, Any]]()
    for i in range(PAIRS):
        a, b = (benchmark(tmp_path / f"{i}{name}.json") for name in "ab")
        (row,), differences = compare(a, b, tolerance=0)
        assert differences == []
        same += row["low"] <= 1 <= row["high"]
        within = max(record["results"]["tokens_per_sec"]["repeats_within"] for record in (a, b))
        raw += abs(row["new"] - row["old"]) <= within
        records += [a, b]
        print(
            f"{row['old']:7.1f} {row['new']:7.1f} tokens a second, pace {row['pace']:.2f} x, new / old "
            f"{row['ratio']:.2f} x ({row['low']:.2f} to {row['high']:.2f})",
            flush=True,
        )
    halves = [half_width(record) for record in records]
    print(f"{same} of {PAIRS} within the interval of --compare, {raw} of {PAIRS} within the ± of one benchmark")
    print(
        f"half-width of the 95 % interval of the mean: median {statistics.median(halves):.1%}, most {max(halves):.1%}"
    )
    assert same >= OF_20
    assert statistics.median(halves) <= 0.05
