"""What a sweep would run: grids, the notebook's typed parameters, keys; refused before anything runs."""

import datetime
import json
import math
import re
import shlex
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sweep_helpers import CODE, start, sweep, write_grid, write_notebook

from labkit.cli.sweep import command as sweep_command
from labkit.cli.sweep import fingerprint
from labkit.errors import ConfigError
from labkit.sweep.grid import grid_of, read_grid
from labkit.sweep.notebook import Notebook
from labkit.sweep.plan import make_plan

ROOT = Path(__file__).resolve().parent.parent


def values(given, name="x"):
    return [point[name] for point in grid_of({"parameters": {name: given}}).points]


# --- grids ------------------------------------------------------------------------------------------------------------


def test_every_combination_is_visited_and_the_last_parameter_changes_fastest():
    points = grid_of({"parameters": {"a": [1, 2], "b": ["x", "y"], "c": 5}}).points
    assert [tuple(point.values()) for point in points] == [(1, "x", 5), (1, "y", 5), (2, "x", 5), (2, "y", 5)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"from": 0.0, "to": 1.0, "steps": 5}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ({"from": 0.1, "to": 0.5, "step": 0.1}, [0.1, 0.2, 0.3, 0.4, 0.5]),
        ({"from": 1, "to": 10, "step": 4}, [1, 5, 9]),
        ({"from": 0, "to": 10, "steps": 3}, [0, 5, 10]),
        ({"from": 0, "to": 1, "steps": 3}, [0.0, 0.5, 1.0]),
        ({"from": 0.001, "to": 1.0, "steps": 4, "scale": "log"}, [0.001, 0.01, 0.1, 1.0]),
        ({"from": 1, "to": 8, "steps": 7, "scale": "log"}, [1, 2, 3, 4, 6, 8]),  # rounded, none twice
        ({"from": 2.0, "to": 2.0, "steps": 2}, [2.0]),
        ({"from": 2**53 + 1, "to": 2**53 + 3, "step": 1}, [2**53 + 1, 2**53 + 2, 2**53 + 3]),  # no float is 2^53 + 1
        ({"from": 2**53 + 1, "to": 2**53 + 3, "steps": 2}, [2**53 + 1, 2**53 + 3]),
        ({"from": 7, "to": 7, "steps": 2}, [7]),
    ],
)
def test_ranges_are_counted_out(spec, expected):
    found = values(spec)
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


@pytest.mark.parametrize("method", ["sobol", "halton", "latin-hypercube"])
def test_samples_lie_in_their_ranges_and_are_the_same_for_the_same_seed(method):
    table = {
        "count": 30,
        "method": method,
        "parameters": {
            "t": {"from": 0.1, "to": 10.0, "scale": "log"},
            "k": {"from": 1, "to": 5},
            "mode": ["a", "b"],
        },
    }
    points = grid_of({"sample": table}).points
    assert points == grid_of({"sample": table}).points != grid_of({"sample": table | {"seed": 1}}).points
    assert len(points) == 30
    assert all(0.1 <= point["t"] <= 10 for point in points)
    assert 12 <= sum(point["t"] < 1 for point in points) <= 18  # half of a log range is half of its decades
    assert {point["k"] for point in points} == {1, 2, 3, 4, 5}
    assert {point["mode"] for point in points} == {"a", "b"}


def test_repeats_give_every_point_each_seed():
    points = grid_of({"parameters": {"x": [1.0, 2.0]}, "repeats": {"count": 3, "seed": 7}}).points
    assert [(p["x"], p["seed"]) for p in points] == [(1.0, 7), (1.0, 8), (1.0, 9), (2.0, 7), (2.0, 8), (2.0, 9)]


def test_exclusions_take_points_out_by_value_list_and_range():
    parameters = {"a": [0, 1, 2, 3], "b": [0, 1]}
    rules = [{"a": 0}, {"a": [1, 2], "b": 1}, {"a": {"from": 3}, "b": {"to": 0}}]
    points = grid_of({"parameters": parameters, "exclude": rules}).points
    assert [(p["a"], p["b"]) for p in points] == [(1, 0), (2, 0), (3, 1)]


def test_equal_points_are_visited_once():
    assert values([1, 2, 1]) == [1, 2]


@given(
    low=st.floats(-1e6, 1e6, allow_nan=False),
    width=st.floats(1e-3, 1e6),
    steps=st.integers(2, 50),
)
def test_a_range_begins_and_ends_where_it_says_and_never_goes_back(low, width, steps):
    found = values({"from": low, "to": low + width, "steps": steps})
    assert found[0] == pytest.approx(low, rel=1e-9, abs=1e-9)
    assert found[-1] == pytest.approx(low + width, rel=1e-9, abs=1e-9)
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "the grid is empty: it names no value"),
        ({"parameters": {"x": []}}, "the grid is empty"),
        ({"parameters": {"x": [1]}, "exclude": [{"x": 1}]}, "all 1 points are excluded"),
        ({"parameter": {"x": [1]}}, "the file has no parameter; known are parameters"),
        ({"parameters": {"x": {"from": 2, "to": 1, "steps": 2}}}, "from the smaller"),
        ({"parameters": {"x": {"from": 1, "to": 2}}}, "give steps"),
        ({"parameters": {"x": {"from": 1, "to": 2, "steps": 1}}}, "whole number from 2"),
        ({"parameters": {"x": {"from": 1, "to": 2, "step": 0}}}, "it must be above 0"),
        ({"parameters": {"x": {"from": 0, "to": 2, "steps": 3, "scale": "log"}}}, "from is above 0"),
        ({"parameters": {"x": {"from": "a", "to": 2, "steps": 3}}}, "they must be numbers"),
        ({"parameters": {"x": {"form": 1}}}, "x has no form"),
        ({"parameters": {"x": [1]}, "sample": {"count": 2, "parameters": {"x": [1]}}}, "x is set in two tables"),
        ({"sample": {"count": 0, "parameters": {"x": [1]}}}, "count from 1"),
        ({"sample": {"count": 2}}, "needs [sample.parameters]"),
        ({"sample": {"count": 2, "method": "dice", "parameters": {"x": [1]}}}, "one of sobol"),
        ({"sample": {"count": 2, "parameters": {"x": 1}}}, "a range (from, to) or a list"),
        ({"parameters": {"x": [1]}, "repeats": {"count": "many"}}, "whole numbers"),
        ({"parameters": {"x": [1]}, "exclude": [{"y": 1}]}, "[[exclude]] has no y"),
        ({"parameters": {"x": ["a"]}, "exclude": [{"x": {"from": 1}}]}, "cannot be compared"),
        ({"parameters": {"x": [1]}, "weights": "x"}, "weights must be a list"),
        ({"parameters": 3}, "must be a table"),
        ({"parameters": {"x": [math.nan]}}, "x is nan; values are finite numbers"),
        ({"parameters": {"x": [{"a": [1, math.inf]}]}}, "values are finite numbers"),
        ({"parameters": {"x": [{"day": datetime.date(2026, 1, 1)}]}}, "values are finite numbers"),
        ({"parameters": {"x": [2**63]}}, "whole ones of 64 bits"),
        ({"parameters": {"x": {"from": 0, "to": 10**400, "steps": 2}}}, "they must be numbers"),
        ({"parameters": {"x": {"from": -1e308, "to": 1e308, "steps": 3}}}, "values are finite numbers"),
        ({"parameters": {"x": {"from": 0, "to": 1, "step": math.inf}}}, "it must be above 0"),
        ({"parameters": {"x": {"from": 0, "to": 1, "step": 1e-300}}}, "at most 1,000,000 values"),
        ({"parameters": {"x": {"from": 0, "to": 1, "steps": 10**9}}}, "from 2 to 1,000,000"),
        ({"parameters": dict.fromkeys("abc", {"from": 0, "to": 999, "step": 1})}, "1,000,000,000 points"),
        ({"parameters": {"x": [1, 2]}, "repeats": {"count": 10**6}}, "2,000,000 points"),
        ({"repeats": {"count": 10**12}}, "count from 1 to 1,000,000"),
        ({"sample": {"count": 10**12, "parameters": {"x": [1]}}}, "count from 1 to 1,000,000"),
        ({"sample": {"count": 2, "method": ["sobol"], "parameters": {"x": [1]}}}, "one of sobol"),
    ],
)
def test_a_wrong_grid_is_refused_with_what_is_wrong(table, message):
    with pytest.raises(ConfigError) as caught:
        grid_of(table)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["x = " + "[" * 3000 + "]" * 3000, f"x = {'9' * 5000}", "x = [1"])
def test_a_grid_that_cannot_be_parsed_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        read_grid(write_grid(tmp_path / "grid.toml", text))


def test_the_mark_that_editors_put_before_a_text_is_no_matter(tmp_path):
    assert read_grid(write_grid(tmp_path / "grid.toml", "\ufeff[parameters]\nx = 1")).points == ({"x": 1},)


def test_a_grid_that_is_no_toml_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        read_grid(write_grid(tmp_path / "grid.toml", "x = = 1"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_grid(tmp_path / "none.toml")


# --- the notebook's parameters ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fine", "wrong"),
    [
        ("int", [1, -2], [1.0, True, "1", None]),
        ("float", [1.5, 2], [True, "1"]),
        ("bool", [True], [1, "true"]),
        ("str", ["a", ""], [1]),
        ("list[int]", [[], [1, 2]], [[1.5], 1, ["a"]]),
        ("dict[str, float]", [{}, {"a": 1}], [{"a": "b"}, []]),
        ("int | None", [1, None], ["a", 1.5]),
        ('Literal["a", "b"]', ["a"], ["c", 1]),
        ('Literal["a"]', ["a"], ["c"]),
        ("Literal[1, -2]", [1, -2], [True, 2, "1"]),
        ("Literal[foo]", [], ["foo"]),
    ],
)
def test_values_are_checked_against_the_annotation(tmp_path, kind, fine, wrong):
    notebook = Notebook.read(write_notebook(tmp_path / "nb.ipynb", parameters=f"x: {kind} = 1"))
    for value in fine:
        assert notebook.check({"x": value}) == {"x": value}
    for value in wrong:
        with pytest.raises(ConfigError, match="x is .*; the notebook wants"):
            notebook.check({"x": value})


def test_a_whole_number_for_a_float_is_the_same_run(tmp_path):
    notebook = Notebook.read(write_notebook(tmp_path / "nb.ipynb"))
    one, other = (make_plan(notebook, grid_of({"parameters": {"x": [v]}}), str) for v in (1, 1.0))
    assert one.runs == other.runs
    assert type(one.runs[0].parameters["x"]) is float


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (None, "0 cells have the tag parameters; a sweep needs exactly one"),
        ("x = 1", "the parameter 'x = 1' is untyped"),
        ("x: int = 1 + one()", "is not a literal"),
        ("x: int = = 1", "is no Python"),
        ("x: numpy.ndarray = 1", "the type numpy.ndarray cannot be checked"),
    ],
)
def test_a_notebook_without_typed_parameters_is_refused(tmp_path, parameters, message):
    path = write_notebook(tmp_path / "nb.ipynb", parameters=parameters)
    with pytest.raises(ConfigError) as caught:
        Notebook.read(path).check({"x": 1})
    assert message in str(caught.value)


CELL = {"cell_type": "code", "source": "x: int = 1", "metadata": {"tags": ["parameters"]}, "outputs": []}
DAMAGED = [
    {"nbformat": 3, "cells": [CELL]},
    {"nbformat": 4, "cells": [CELL | {"metadata": None}]},
    {"nbformat": 4, "cells": [{name: value for name, value in CELL.items() if name != "outputs"}]},
]


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "no json", '{"cells": []}', "[" * 100_000, "9" * 5000, *map(json.dumps, DAMAGED)],
    ids=range(10),
)
def test_a_file_that_is_no_notebook_is_refused(tmp_path, text):
    (tmp_path / "nb.ipynb").write_text(text)
    with pytest.raises(ConfigError, match="this is (no notebook|a notebook without code)"):
        Notebook.read(tmp_path / "nb.ipynb")


# --- keys -------------------------------------------------------------------------------------------------------------


def key(notebook, grid=None, fingerprint=str):
    return make_plan(notebook, grid_of(grid or {"parameters": {"x": [1.0]}}), fingerprint).runs[0].key


def test_a_key_stands_on_parameters_code_weights_and_version_and_on_nothing_else(tmp_path, monkeypatch):
    parameters = 'checkpoint: str = "m"\nx: float = 0.0\nother: str = "w"'
    one = Notebook.read(write_notebook(tmp_path / "nb.ipynb", CODE, parameters=parameters))
    first = key(one)
    assert len(first) == 16

    run = json.loads(one.text)  # executed and re-worded: the same experiment
    run["cells"][0]["source"] = "# Another heading"
    run["cells"][1]["execution_count"], run["cells"][1]["outputs"] = 5, []
    (tmp_path / "run.ipynb").write_text(json.dumps(run))
    assert key(Notebook.read(tmp_path / "run.ipynb")) == first

    assert key(one, {"parameters": {"x": [2.0]}}) != first
    assert key(one, fingerprint=lambda source: "other weights") != first
    assert key(one, {"parameters": {"x": [1.0]}, "weights": ["other"]}) != first
    assert key(Notebook.read(write_notebook(tmp_path / "b.ipynb", CODE + " ", parameters=parameters))) != first
    monkeypatch.setattr("labkit.sweep.plan.__version__", "0.0.0")
    assert key(one) != first


def test_only_the_weights_that_a_run_uses_are_in_its_key(tmp_path):
    notebook = Notebook.read(write_notebook(tmp_path / "nb.ipynb", parameters='checkpoint: str = "a"'))
    both = make_plan(notebook, grid_of({"parameters": {"checkpoint": ["a", "b"]}}), str)
    alone = make_plan(notebook, grid_of({"parameters": {"checkpoint": ["b"]}}), str)
    assert both.facts["weights"] == {"a": "a", "b": "b"}
    assert both.runs[1] == alone.runs[0]


def test_weights_that_are_no_parameter_are_refused(tmp_path):
    notebook = Notebook.read(write_notebook(tmp_path / "nb.ipynb"))
    with pytest.raises(ConfigError, match="weights names model"):
        make_plan(notebook, grid_of({"parameters": {"x": [1.0]}, "weights": ["model"]}), str)


def test_two_spellings_of_one_value_are_one_run(tmp_path):
    notebook = Notebook.read(write_notebook(tmp_path / "nb.ipynb"))
    assert len(make_plan(notebook, grid_of({"parameters": {"x": [1, 1.0, 2]}}), str).runs) == 2


def test_a_parameter_may_name_no_checkpoint_or_several(tmp_path):
    parameters = 'checkpoint: str | None = None\nothers: list[str] = ["a", "b"]\nx: float = 1.0'
    notebook = Notebook.read(write_notebook(tmp_path / "nb.ipynb", parameters=parameters))
    grid = {"parameters": {"x": [1.0]}, "weights": ["others"]}
    assert make_plan(notebook, grid_of(grid), str).facts["weights"] == {"a": "a", "b": "b"}
    assert key(notebook, grid) != key(notebook, grid, lambda source: source.replace("b", "changed"))


def test_a_parameter_with_the_name_of_a_column_is_refused(tmp_path):
    notebook = Notebook.read(write_notebook(tmp_path / "nb.ipynb", parameters='run_key: str = "a"'))
    with pytest.raises(ConfigError, match="the table has a column run_key of its own"):
        make_plan(notebook, grid_of({"parameters": {"run_key": ["b"]}}), str)


def test_a_checkpoint_is_looked_for_where_the_notebook_will_look(tmp_path, monkeypatch):
    for folder, weights in (("there", b"one"), ("here", b"another")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.pt").write_bytes(weights)
    before = fingerprint(tmp_path / "there", "m.pt")
    monkeypatch.chdir(tmp_path / "here")
    assert fingerprint(tmp_path / "there", "m.pt") == before != fingerprint(tmp_path / "here", "m.pt")


# --- the command, as far as it runs nothing ---------------------------------------------------------------------------


def call(tmp_path, *options):
    files = [str(tmp_path / "nb.ipynb"), "--grid", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out")]
    return CliRunner().invoke(sweep_command, [*files, *options])


def test_list_and_dry_run_say_what_there_is_and_write_nothing(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", CODE)
    write_grid(tmp_path / "grid.toml")
    listed = call(tmp_path, "--list").output.splitlines()
    assert len(listed) == 3
    assert listed[0].split()[1:] == ["open", "x=1.0"]
    assert call(tmp_path, "--dry-run").output == "3 runs: 0 done, 0 failed, 3 open\n"
    assert json.loads(call(tmp_path, "--dry-run", "--json").output) == {"runs": 3, "done": 0, "failed": 0, "open": 3}
    assert json.loads(call(tmp_path, "--list", "--json").output.splitlines()[2])["parameters"] == {"x": 3.0}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("[parameters]\ntemprature = [1]", "has no parameter temprature; it has x, n, seed, word, sizes"),
        ("[parameters]\nwords = ['a']", "did you mean word?"),
        ("[parameters]\nn = [1, 'two']", "n is 'two'; the notebook wants int"),
        ("[parameters]\n", "the grid is empty"),
    ],
)
def test_what_does_not_fit_the_notebook_is_one_line_and_nothing_runs(tmp_path, grid, message):
    write_notebook(tmp_path / "nb.ipynb", CODE)
    write_grid(tmp_path / "grid.toml", grid)
    result = sweep(tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_scheduler_without_dask_is_a_usage_error(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", CODE)
    write_grid(tmp_path / "grid.toml")
    assert call(tmp_path, "--scheduler", "tcp://127.0.0.1:1").exit_code == 2


def test_ten_thousand_points_are_planned_and_listed_quickly(tmp_path):
    """The promise is 2 s on a quiet machine, and 5 s to see that nothing is left to do."""
    write_notebook(tmp_path / "nb.ipynb", CODE)
    text = (
        '[parameters]\nx = {from = 0.0, to = 1.0, steps = 100}\nn = {from = 1, to = 50, step = 1}\nword = ["a", "b"]\n'
    )
    write_grid(tmp_path / "grid.toml", text)
    before = time.perf_counter()
    assert len(start(tmp_path, "--list").communicate()[0].splitlines()) == 10_000
    assert time.perf_counter() - before < 20


@pytest.mark.parametrize("grid", sorted((ROOT / "configs" / "sweeps").glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_grid_fits_the_notebook_that_its_first_lines_name(grid, monkeypatch):
    monkeypatch.chdir(ROOT)
    (line,) = re.findall(r"^#   labkit (sweep .*)", grid.read_text(encoding="utf-8"), re.MULTILINE)
    result = CliRunner().invoke(sweep_command, [*shlex.split(line)[1:], "--dry-run", "--out", "runs/none-such"])
    assert re.fullmatch(r"[1-9]\d* runs: 0 done, 0 failed, [1-9]\d* open\n", result.output), result
