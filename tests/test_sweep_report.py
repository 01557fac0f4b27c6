"""What a report shows: curves with intervals against SciPy's own, the Pareto front against brute force."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import labkit
from labkit.errors import LabkitError
from labkit.sweep.report import curve, failed, pareto_front, slowest
from labkit.sweep.results import Results, write_table


@pytest.fixture
def table(tmp_path):
    rows = []
    for i, (t, p) in enumerate(itertools.product([0.5, 1.0], [0.9, 1.0])):
        for seed in range(4):
            own = {"run_key": f"{i}{seed}", "run_status": "done", "run_seconds": i + seed / 10}
            rows.append(own | {"t": t, "odd name": p, "seed": seed, "y": t * 10 + math.sin(i + seed)})
    rows.append({"run_key": "x", "run_status": "failed", "run_error": "cell 3", "t": 2.0, "run_seconds": 0.0})
    write_table(rows, tmp_path / "results.parquet")
    return Results(tmp_path / "results.parquet")


def test_a_curve_has_the_mean_and_students_interval(table):
    points = curve(table, "t", "y", "odd name")
    assert [(point["odd name"], point["t"]) for point in points] == [(0.9, 0.5), (0.9, 1.0), (1.0, 0.5), (1.0, 1.0)]
    values = [row["y"] for row in table.rows() if row["t"] == 1.0 and row["odd name"] == 0.9]
    low, high = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=stats.sem(values))
    assert points[1]["runs"] == 4
    assert points[1]["low"] == pytest.approx(low)
    assert points[1]["high"] == pytest.approx(high)
    assert [point["runs"] for point in curve(table, "t", "y")] == [8, 8]


def test_one_run_has_a_mean_and_no_interval(table):
    point = curve(table, "seed", "y", "run_key")[0]
    assert (point["runs"], point["low"], point["high"]) == (1, None, None)


@pytest.mark.parametrize("names", [("nothing", "y"), ("t", "nothing"), ("t", "y", "nothing")])
def test_a_column_that_is_not_there_is_refused_with_those_that_are(table, names):
    with pytest.raises(LabkitError, match="no column nothing; it has run_key, run_status"):
        curve(table, *names)


def test_a_mean_of_words_is_refused(table):
    with pytest.raises(LabkitError, match="run_key|VARCHAR"):
        curve(table, "t", "run_key")


def test_a_parameter_with_a_name_of_the_curve_is_refused(tmp_path):
    write_table([{"runs": 1, "y": 2.0}], tmp_path / "results.parquet")
    with pytest.raises(LabkitError, match="give the parameter runs another name"):
        curve(Results(tmp_path / "results.parquet"), "runs", "y")


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=20))
def test_the_front_is_what_nothing_beats(pairs):
    points = [{"more": a, "less": b} for a, b in pairs]
    front = pareto_front(points, "more", "less")
    unbeaten = {(a, b) for a, b in pairs if not any(c >= a and d <= b and (c, d) != (a, b) for c, d in pairs)}
    assert {(point["more"], point["less"]) for point in front} == unbeaten
    assert len(front) == len(unbeaten)


def test_points_without_a_number_are_not_on_the_front():
    assert pareto_front([{"a": None, "b": 1}, {"a": 1, "b": None}, {"a": 1, "b": 1}], "a", "b") == [{"a": 1, "b": 1}]


def test_slowest_and_failed_runs_are_listed(table):
    assert [row["run_key"] for row in slowest(table, 2)] == ["33", "32"]
    assert [row["run_error"] for row in failed(table)] == ["cell 3"]


def test_a_table_alone_is_opened_wherever_it_lies_in_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    table = labkit.results("notebooks/data/sampling_sweep")
    assert len(failed(table)) == 1
    assert len(table.rows()) == 41
