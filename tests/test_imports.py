"""Who may import whom. One table, every import edge (imports inside functions too), no cycle."""

import ast
import graphlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "labkit"

# A row may import what it names and, transitively, what those rows may. OPEN is open to all but views.
OPEN = {"errors", "files"}
CORE = [
    "settings",
    "layers",
    "cache",
    "tokenizers",
    "sampling",
    "models",
    "checkpoints",
    "language_model",
    "generation",
]
TABLE: dict[str, list[str]] = {
    "errors": [],
    "files": [],
    "views": [],
    "settings": [],
    "layers": [],
    "cache": [],
    "tokenizers": [],
    "sampling": ["settings"],
    "models": ["layers", "cache"],
    "checkpoints": ["models", "tokenizers"],
    "language_model": ["checkpoints", "models", "tokenizers"],
    "generation": ["language_model", "models", "cache", "sampling", "settings", "tokenizers"],
    "chat": CORE,
    "trace": CORE,
    "benchmark": CORE,
    "inspection": CORE,
    "training": ["models", "tokenizers", "checkpoints"],
    "sweep": ["settings"],
    "widgets": ["views", *CORE, "chat", "trace", "benchmark", "inspection"],
    "app": ["widgets"],
}
TABLE["cli"] = list(TABLE)  # everything; and nothing imports cli
NO_TORCH = ["errors", "files", "settings", "views", "sweep"]
TORCH_ONLY = ["layers", "cache"]
EXEMPT = ("labkit", "labkit.__main__")  # labkit/__init__ is lazy and may name everything
HEAVY = ["ipywidgets", "matplotlib", "transformers", "papermill"]


def allowed(row: str) -> set[str]:
    """What `row` may import: itself, OPEN (unless it is views), and what it names with all that those may."""
    reached: set[str] = set()
    ahead = [row]
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += TABLE[name]
    return reached | (OPEN if row != "views" else set())


def forbidden(edges: Iterable[tuple[str, str, str]]) -> list[str]:
    """Every edge (importer, imported, line of code) that the table does not allow, as a sentence."""
    wrong = []
    for importer, imported, line in edges:
        if importer in EXEMPT:
            continue
        row = importer.split(".")[1]
        if row not in TABLE:
            wrong.append(f"{importer}: no row for '{row}' in TABLE (tests/test_imports.py)")
        elif imported == "labkit":
            # Through the package itself one reaches everything, so only the command line may; the version is harmless.
            if row != "cli" and line.strip() != "from labkit import __version__":
                wrong.append(f"{importer} imports labkit itself: {line}")
        elif imported.split(".")[1] not in allowed(row):
            may = ", ".join(sorted(allowed(row) - {row})) or "nothing of labkit"
            wrong.append(f"{importer} imports {imported}; {row} may import {may}")
    return sorted(set(wrong))


@pytest.fixture(scope="module")
def edges() -> list[tuple[str, str, str]]:
    graph = grimp.build_graph("labkit", cache_dir=None)
    found = []
    for importer in sorted(graph.modules):
        for imported in sorted(graph.find_modules_directly_imported_by(importer)):
            for detail in graph.get_import_details(importer=importer, imported=imported):
                found.append((importer, imported, detail["line_contents"]))
    return found


def test_every_import_follows_the_table(edges):
    assert edges, "the import graph is empty"
    assert forbidden(edges) == []


def test_there_is_no_import_cycle(edges):
    graph: dict[str, set[str]] = {}
    for importer, imported, _ in edges:
        if importer not in EXEMPT and imported not in EXEMPT:
            graph.setdefault(importer, set()).add(imported)
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as cycle:
        pytest.fail("import cycle: " + " <- ".join(cycle.args[1]))


@pytest.mark.parametrize(
    ("importer", "imported", "line", "fine"),
    [
        ("labkit.generation", "labkit.models.gpt2", "", True),
        ("labkit.generation", "labkit.checkpoints.base", "", True),  # by way of language_model
        ("labkit.sampling.draws", "labkit.settings", "", True),
        ("labkit.layers.norm", "labkit.errors", "", True),
        ("labkit.cli.generate", "labkit.widgets", "", True),
        ("labkit", "labkit.widgets", "", True),
        ("labkit.trace", "labkit", "from labkit import __version__", True),
        ("labkit.views.strip", "labkit.errors", "", False),
        ("labkit.layers.norm", "labkit.cache", "", False),
        ("labkit.trace", "labkit.benchmark", "", False),
        ("labkit.widgets.workbench", "labkit.training", "", False),
        ("labkit.inspection.logits", "labkit.views", "", False),
        ("labkit.app.page", "labkit.cli", "", False),
        ("labkit.trace", "labkit", "import labkit", False),
        ("labkit.newcomer", "labkit.errors", "", False),
    ],
)
def test_the_check_itself_tells_right_from_wrong(importer, imported, line, fine):
    assert (forbidden([(importer, imported, line)]) == []) is fine


def test_the_table_has_a_row_for_every_module_and_no_cycle():
    present = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert present - {"__init__", "__main__"} <= set(TABLE)
    assert not any("cli" in named for named in TABLE.values())
    tuple(graphlib.TopologicalSorter(TABLE).static_order())


def python_files(row: str) -> list[Path]:
    return sorted((PACKAGE / row).rglob("*.py")) or [path for path in [PACKAGE / f"{row}.py"] if path.exists()]


def outside_imports(path: Path) -> set[str]:
    """Names of the top-level packages outside labkit that this file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names - {"labkit"}


@pytest.mark.parametrize("row", NO_TORCH)
def test_no_torch_in(row):
    assert [str(path) for path in python_files(row) if "torch" in outside_imports(path)] == []


@pytest.mark.parametrize("row", TORCH_ONLY)
def test_nothing_but_torch_in(row):
    for path in python_files(row):
        assert outside_imports(path) - set(sys.stdlib_module_names) <= {"torch"}, path


def test_notebooks_import_anything_but_the_command_line():
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        assert not re.search(r"labkit\.cli|from labkit import .*\bcli\b", code), path


def fresh_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("touch", ["", "labkit.load, labkit.generate, labkit.stream, labkit.Sampler, labkit.Settings"])
def test_import_brings_no_heavy_package(touch):
    loaded = fresh_python(f"import labkit, sys; {touch}\nprint([name for name in {HEAVY!r} if name in sys.modules])")
    assert loaded == "[]"


def test_import_is_quick():
    code = "import torch, time; start = time.perf_counter(); import labkit; print(time.perf_counter() - start)"
    seconds = []
    for _ in range(5):  # the best of a few: another process may have been busy
        seconds.append(float(fresh_python(code)))
        if seconds[-1] <= 0.25:
            break
    assert min(seconds) <= 0.25
