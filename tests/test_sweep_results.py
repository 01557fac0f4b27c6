"""What a notebook reports, and the table that reports become."""

import json
import os

import pytest

import labkit
from labkit.errors import LabkitError
from labkit.sweep.results import Results, write_table


def test_one_row_or_several_are_written_as_json(tmp_path):
    path = tmp_path / "below" / "results.json"
    labkit.write_results({"loss": 1.5, "text": "é"}, path)
    assert json.loads(path.read_text()) == [{"loss": 1.5, "text": "é"}]
    labkit.write_results([{"n": 1}, {"n": 2, "list": [1, 2]}], path)
    assert json.loads(path.read_text()) == [{"n": 1}, {"n": 2, "list": [1, 2]}]


def test_a_sweep_says_where_results_go(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_RESULTS", str(tmp_path / "there.json"))
    labkit.write_results({"n": 1}, tmp_path / "here.json")
    assert os.listdir(tmp_path) == ["there.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1}, object()])
def test_what_json_cannot_hold_is_refused_and_nothing_is_written(tmp_path, value):
    with pytest.raises(LabkitError, match="write_results: "):
        labkit.write_results({"x": value}, tmp_path / "r.json")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("rows", ["abc", 3, [1], None])
def test_what_is_no_row_is_refused(tmp_path, rows):
    with pytest.raises(LabkitError, match="neither a dictionary nor a list of them"):
        labkit.write_results(rows, tmp_path / "r.json")


def test_a_result_does_not_replace_what_the_table_says_of_the_run(tmp_path):
    with pytest.raises(LabkitError, match="the table has a column run_status of its own"):
        labkit.write_results({"run_status": "great"}, tmp_path / "r.json")


def test_nan_deep_in_a_list_is_refused(tmp_path):
    with pytest.raises(LabkitError, match="write_results: "):
        labkit.write_results({"x": [1.0, float("nan")]}, tmp_path / "r.json")


def test_a_folder_without_a_sweep_is_refused(tmp_path):
    with pytest.raises(LabkitError, match="there is no sweep in this folder"):
        labkit.results(tmp_path)


def test_every_kind_of_value_comes_back_as_it_went(tmp_path):
    rows = [
        {"i": 1, "f": 1.5, "s": "2026-01-01", "b": True, "l": [1, 2], "d": {"a": 1}, "m": 1, "e": [], "deep": [[1.5]]},
        {"i": -(2**62), "f": 2, "s": "<b>", "b": None, "l": [], "d": {"b": "x"}, "m": "text", "e": [], "new": 1},
    ]
    write_table(rows, tmp_path / "t.parquet")
    found = Results(tmp_path / "t.parquet").rows()
    columns = dict.fromkeys(["run_key", "run_status", "run_seconds", "run_error", "run_notebook"])
    names = {name for row in rows for name in row}
    assert found == [columns | dict.fromkeys(names) | row for row in rows]
    assert type(found[1]["f"]) is float


def test_names_that_differ_in_case_and_a_name_without_letters_have_columns_of_their_own(tmp_path):
    write_table([{"n": 1, "N": 2, "N_": 3, "": 4, 'q"': 5, "Run_Key": 6}], tmp_path / "t.parquet")
    (row,) = Results(tmp_path / "t.parquet").rows()
    assert list(row.items())[5:] == [("n", 1), ("N_", 2), ("N__", 3), ("_", 4), ('q"', 5), ("Run_Key_", 6)]


def test_whole_numbers_stay_whole_however_large(tmp_path):
    write_table([{"i": 2**64 - 1, "j": -(2**63)}, {"i": 5, "j": 5}], tmp_path / "t.parquet")
    assert [(row["i"], row["j"]) for row in Results(tmp_path / "t.parquet").rows()] == [(2**64 - 1, -(2**63)), (5, 5)]


def test_a_damaged_table_is_one_line(tmp_path):
    (tmp_path / "results.parquet").write_bytes(b"PAR1")
    (tmp_path / "sweep.json").write_text('{"keys": []}')
    with pytest.raises(LabkitError, match="results.parquet: damaged .* delete it") as caught:
        labkit.results(tmp_path).rows()
    assert "\n" not in str(caught.value)


def test_a_table_without_rows_has_its_columns(tmp_path):
    write_table([], tmp_path / "t.parquet")
    table = Results(tmp_path / "t.parquet")
    assert table.rows() == []
    assert table.columns[:2] == ["run_key", "run_status"]
