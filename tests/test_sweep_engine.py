"""The papermill engine: no hang on Output widgets, always a time limit, a place for results."""

import json
import os
import time

import click
import nbformat
import papermill
import pytest
from nbclient.exceptions import CellTimeoutError
from sweep_helpers import CODE, write_notebook

from labkit.sweep import papermill_engine

N = 100


def run(folder, **options):
    output = folder / "out.ipynb"
    papermill.execute_notebook(
        folder / "nb.ipynb", output, engine_name="labkit", cwd=folder, progress_bar=False, **options
    )
    return nbformat.read(output, as_version=4)


def test_a_hundred_cells_with_output_widgets_do_not_hang(tmp_path):
    cells = [f"out = widgets.Output()\nwith out:\n    print('text {i}')\ndisplay(out)" for i in range(N)]
    write_notebook(tmp_path / "nb.ipynb", "import ipywidgets as widgets", *cells, parameters=None)
    before = time.perf_counter()
    notebook = run(tmp_path, execution_timeout=30)
    assert time.perf_counter() - before < 60  # 15 on a quiet machine; one that hangs takes 30 s a hang
    assert max(cell.metadata.papermill.duration for cell in notebook.cells) < 15
    states = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    texts = [state["state"]["outputs"][0]["text"] for state in states if state["model_name"] == "OutputModel"]
    assert sorted(texts) == sorted(f"text {i}\n" for i in range(N))


def test_results_go_beside_the_output_notebook(tmp_path):
    write_notebook(tmp_path / "nb.ipynb", CODE)
    run(tmp_path, parameters={"x": 2.0})
    assert json.loads((tmp_path / "out.results.json").read_text()) == [{"y": 6.0}]
    assert not (tmp_path / "by_hand.json").exists()
    assert "LABKIT_RESULTS" not in os.environ


def test_there_is_a_time_limit_even_if_nobody_names_one(tmp_path, monkeypatch):
    monkeypatch.setattr(papermill_engine, "CELL_TIMEOUT", 2)
    write_notebook(tmp_path / "nb.ipynb", "import time\ntime.sleep(60)")
    with pytest.raises(CellTimeoutError):
        run(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"xx": 1}, r"has no parameter xx; did you mean x\?"), ({"x": "warm"}, "x is 'warm'; the notebook wants float")],
)
def test_a_parameter_that_the_notebook_does_not_have_is_refused_before_anything_runs(tmp_path, given, said):
    write_notebook(tmp_path / "nb.ipynb", CODE)
    with pytest.raises(click.ClickException, match=said):
        run(tmp_path, parameters=given)
    assert not (tmp_path / "out.results.json").exists()
