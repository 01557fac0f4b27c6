"""Runs the notebooks and stores their fresh outputs, tidied so that a diff shows only code and changed facts.

python tools/update_notebooks.py                         all of them, and the map in 00_start_here
python tools/update_notebooks.py notebooks/10_*.ipynb    these only, and the map
python tools/update_notebooks.py --check                 write nothing; exit status 1 if something would change
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat
from committed_notebooks import SAME_ARITHMETIC
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from labkit.sweep.polling import PollingKernelManager

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
MAP_HOME = "00_start_here.ipynb"
PARTS = {0: "Start", 1: "Generate", 2: "Look inside", 3: "Models and formats", 4: "Train", 9: "Benchmarks"}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
CELL_TIMEOUT = 120  # seconds; a notebook that waits for something must not wait for ever


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="files; all notebooks if none is named")
    parser.add_argument("--check", action="store_true", help="write nothing, only say what would change")
    options = parser.parse_args(arguments)
    chosen = [path.resolve() for path in options.notebooks] or every_notebook()
    if missing := [path for path in chosen if not (path.is_file() and path.is_relative_to(FOLDER))]:
        parser.error(f"not a file below notebooks/: {', '.join(map(str, missing))}")
    os.environ.update(SAME_ARITHMETIC)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # on a busy machine torch's threads may wait for each other
    status = 0
    for path in sorted({*chosen, FOLDER / MAP_HOME}):
        name, before = path.relative_to(FOLDER), path.read_text(encoding="utf-8")
        notebook = nbformat.reads(before, as_version=4)
        if path == FOLDER / MAP_HOME:
            write_map(notebook, read_all(FOLDER))
        if path in chosen and (error := execute(notebook, path.parent)):
            print(f"{name}: failed, left as it was\n{error}", file=sys.stderr)
            status = 1
            continue
        after = nbformat.writes(tidy(notebook)) + "\n"
        print(f"{name}: {'as it was' if after == before else 'would change' if options.check else 'updated'}")
        if after != before and options.check:
            status = 1
        elif after != before:
            path.write_text(after, encoding="utf-8")
    return status


def every_notebook() -> list[Path]:
    """Front page, lessons, solutions and the template; not JupyterLab's own copies."""
    return sorted([*FOLDER.glob("*.ipynb"), *FOLDER.glob("solutions/*.ipynb")])


def read_all(folder: Path) -> dict[str, NotebookNode]:
    """The lessons (not their solutions, not the template) by file name."""
    return {path.name: nbformat.read(path, as_version=4) for path in sorted(folder.glob("[0-9]*.ipynb"))}


def execute(notebook: NotebookNode, folder: Path) -> str | None:
    """Runs all cells with fresh outputs; what went wrong, or None."""
    resources = {"metadata": {"path": str(folder)}}
    try:
        client = NotebookClient(notebook, timeout=CELL_TIMEOUT, kernel_name=KERNEL["name"], resources=resources)
        client.kernel_manager_class = PollingKernelManager  # nbclient's own may hang on Output widgets
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return str(error)
    return None


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Drops what differs from run to run: counts become 1 … n, no times, no versions, no ids of live widgets."""
    labkit = notebook.metadata.get("labkit", {})
    metadata = {"kernelspec": KERNEL, "labkit": labkit, "language_info": {"name": "python"}}
    notebook.metadata = nbformat.from_dict(metadata)
    count = 0
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
        if cell.cell_type == "code" and cell.source.strip():
            count += 1
            cell.execution_count = count
            cell.outputs = tidy_outputs(cell.outputs, count)
        elif cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, []
    return notebook


def tidy_outputs(outputs: list[NotebookNode], count: int) -> list[NotebookNode]:
    """Pieces of one stream become one; of a widget its text is kept, which is what a reader without a kernel sees."""
    tidied: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and tidied and tidied[-1].get("name") == output.name:
            tidied[-1].text += output.text
            continue
        if "data" in output:
            output.data.pop("application/vnd.jupyter.widget-view+json", None)
            output.metadata = nbformat.from_dict({})
        if output.output_type == "execute_result":
            output.execution_count = count
        tidied.append(output)
    return tidied


def question_of(notebook: NotebookNode) -> str:
    """The H1 of the first cell, without its #."""
    return notebook.cells[0].source.partition("\n")[0].removeprefix("# ").strip()


def make_map(notebooks: Mapping[str, NotebookNode]) -> str:
    """Markdown table: part, question with its link, minutes."""
    lines = ["| Part | Question | Minutes |", "|:--|:--|--:|"]
    part_before = None
    for name, notebook in sorted(notebooks.items()):
        part = PARTS.get(int(name[0]), "More")
        minutes = notebook.metadata.get("labkit", {}).get("minutes", "?")
        lines.append(f"| {part if part != part_before else ''} | [{question_of(notebook)}]({name}) | {minutes} |")
        part_before = part
    return "\n".join(lines)


def write_map(front_page: NotebookNode, notebooks: Mapping[str, NotebookNode]) -> None:
    for cell in front_page.cells:
        if "map" in cell.metadata.get("tags", []):
            cell.source = make_map(notebooks)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
