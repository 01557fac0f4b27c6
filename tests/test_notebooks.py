"""The rules every notebook keeps (docs/notebooks.md). Checked are the committed versions, so that playing in a notebook
breaks nothing; LABKIT_NOTEBOOKS=working checks the files as they are. That the outputs are true is nbval's business."""

import ast
import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import committed_notebooks
import nbformat
import pytest
import update_notebooks
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
MAX_CODE_CELLS, MAX_CELL_LINES, MAX_LINES, MAX_DEF_LINES = 25, 12, 150, 6
STYLE = re.compile(r"<style>.*?</style>", re.DOTALL)  # the same in every view, and nothing that a diff would show
MAX_OUTPUT_BYTES, MAX_IGNORED = 20_000, 0.1
NAME = re.compile(r"\d\d(_[a-z0-9]+){2,}\.ipynb")
# Needles that only one run or one machine can have.
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}|\b[0-9a-f]{32}\b|model_id")
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(home|root|tmp|work|usr|var|Users|private|mnt)/|\b[A-Za-z]:\\\\?\w")
TIMING = re.compile(r"\b(perf_counter|process_time|monotonic|timeit)\b|^\s*%%?time\b|\btime\.time\b", re.MULTILINE)
SENTENCE_END = re.compile(r"[.!?][\"')*_]*(?=\s|$)")
EXPLAINED = re.compile(r"^# not compared: \S+ \S+", re.MULTILINE)


def read_notebooks() -> dict[str, NotebookNode]:
    """Every notebook that is checked, by its name below notebooks/ ("solutions/10_…")."""
    with TemporaryDirectory() as folder:
        if os.environ.get("LABKIT_NOTEBOOKS") == "working":
            there = FOLDER.glob("**/*.ipynb")
            files = [path for path in there if committed_notebooks.is_checked(f"notebooks/{name_of(path)}")]
        else:
            files, _ = committed_notebooks.export(ROOT, Path(folder) / "committed")
        return {name_of(path): nbformat.read(path, as_version=nbformat.NO_CONVERT) for path in sorted(files)}


def template_text() -> str:
    """The template of the last commit, or the file as it is."""
    command = ["git", "-C", str(ROOT), "show", "HEAD:./notebooks/_template.ipynb"]
    committed = subprocess.run(command, capture_output=True)
    if committed.returncode or os.environ.get("LABKIT_NOTEBOOKS") == "working":
        return (FOLDER / "_template.ipynb").read_text(encoding="utf-8")
    return committed.stdout.decode()


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}" if path.parent.name == "solutions" else path.name


NOTEBOOKS = read_notebooks()
TEMPLATE = nbformat.reads(template_text(), as_version=nbformat.NO_CONVERT)


# --- the rules: each yields what is wrong, as sentences ---------------------------------------------------------------


def problems(name: str, notebook: NotebookNode) -> list[str]:
    """What all rules together find."""
    return [problem for rule in RULES for problem in rule(name, notebook)]


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose(cells: list[NotebookNode]) -> str:
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def tree_of(cell: NotebookNode) -> ast.Module:
    """The cell's Python, without lines of IPython magic."""
    lines = cell.source.splitlines()
    return ast.parse("\n".join(line for line in lines if not line.lstrip().startswith(("%", "!"))))


def imports(cell: NotebookNode) -> bool:
    return any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree_of(cell)))


def name_and_format(name, notebook):
    file = name.removeprefix("solutions/")
    if file != "_template.ipynb" and not NAME.fullmatch(file):
        yield f"the name is not NN_verb_noun.ipynb: {file}"
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        yield f"nbformat is {notebook.nbformat}.{notebook.nbformat_minor}, not 4.5"
    ids = [cell.get("id") for cell in notebook.cells]
    if None in ids or len(set(ids)) < len(ids):
        yield "cell ids are missing or repeated"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernel is not python3"
    if "version" in notebook.metadata.get("language_info", {}) or "widgets" in notebook.metadata:
        yield "versions or widget states in the metadata (run: make notebooks-update)"
    if any(set(cell.metadata) - {"tags"} for cell in notebook.cells):
        yield "cell metadata other than tags (run: make notebooks-update)"
    minutes = notebook.metadata.get("labkit", {}).get("minutes")
    if type(minutes) is not int or minutes < 1:
        yield 'metadata lacks "labkit": {"minutes": N}'


def opening(name, notebook):
    first = notebook.cells[0]
    heading, _, rest = first.source.partition("\n\n")
    if first.cell_type != "markdown" or not re.fullmatch(r"# [^\n]+\?", heading):
        yield "the first cell does not begin with a question as its H1"
    answer = rest.partition("\n\n")[0]
    if len(SENTENCE_END.findall(answer)) != 2:
        yield f"below the H1 stand {len(SENTENCE_END.findall(answer))} sentences, not two"
    rest = prose(notebook.cells[1:])
    if re.search(r"^# ", rest, re.MULTILINE):
        yield "more than one H1"
    for heading in re.findall(r"^## (.+)", rest, re.MULTILINE):
        if len(heading.split()) < 4 and heading != "Exercises":
            yield f"the heading claims nothing: {heading}"


def imports_and_parameters(name, notebook):
    cells = code_cells(notebook)
    if [i for i, cell in enumerate(cells) if imports(cell)] != [0]:
        yield "imports are not in the first code cell, and only there"
    tagged = [i for i, cell in enumerate(cells) if "parameters" in tags(cell)]
    if tagged != [1]:
        yield 'the second code cell, and only it, needs the tag "parameters"'
        return
    for node in tree_of(cells[1]).body:
        if not isinstance(node, ast.AnnAssign) or node.value is None:
            yield f"not a typed parameter: {ast.unparse(node)}"
            continue
        try:
            ast.literal_eval(node.value)
        except ValueError:
            yield f"not a literal: {ast.unparse(node)}"


def sizes(name, notebook):
    cells = code_cells(notebook)
    lines = [len(cell.source.splitlines()) for cell in cells]
    if len(cells) > MAX_CODE_CELLS:
        yield f"{len(cells)} code cells, at most {MAX_CODE_CELLS}"
    if max(lines) > MAX_CELL_LINES:
        yield f"a cell of {max(lines)} lines, at most {MAX_CELL_LINES}"
    if sum(lines) > MAX_LINES:
        yield f"{sum(lines)} lines of code, at most {MAX_LINES}"


def code(name, notebook):
    for cell in code_cells(notebook):
        for node in ast.walk(tree_of(cell)):
            if isinstance(node, ast.ClassDef):
                yield f"a class ({node.name}): it belongs in labkit"
            is_def = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_def and node.end_lineno - node.lineno >= MAX_DEF_LINES:
                yield f"a function of more than {MAX_DEF_LINES} lines ({node.name}): it belongs in labkit"
        if TIMING.search(cell.source):
            yield f"measures time: {cell.source.splitlines()[0]}"
    for cell in notebook.cells:
        if found := MACHINE_PATH.search(cell.source):
            yield f"a path of one machine: {found[0]}"


def counts(name, notebook):
    for expected, cell in enumerate((cell for cell in code_cells(notebook) if cell.source.strip()), start=1):
        found = [cell.execution_count, *(o.execution_count for o in cell.outputs if o.output_type == "execute_result")]
        if set(found) != {expected}:
            yield f"code cell {expected} has the count {cell.execution_count} (run: make notebooks-update)"
    if not any(cell.outputs for cell in code_cells(notebook)):
        yield "no outputs are stored (run: make notebooks-update)"


def outputs(name, notebook):
    size = 0
    for output in (output for cell in code_cells(notebook) for output in cell.outputs):
        if output.output_type == "error" or output.get("name") == "stderr":
            yield f"an error or stderr in the outputs: {output.get('text', output.get('evalue', ''))[:80]}"
        data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
        if "application/vnd.jupyter.widget-view+json" in data:
            yield "the id of a live widget in the outputs (run: make notebooks-update)"
        text = output.get("text", "") + json.dumps(data, ensure_ascii=False)
        size += len(STYLE.sub("", text).encode())
        for needle, what in ((ADDRESS, "an address or random id"), (MACHINE_PATH, "a path of one machine")):
            if found := needle.search(text):
                yield f"{what} in the outputs: {found[0]}"
    if size > MAX_OUTPUT_BYTES:
        yield f"{size} bytes of outputs, at most {MAX_OUTPUT_BYTES}"


def ignored(name, notebook):
    cells = code_cells(notebook)
    if any("NBVAL_" in cell.source for cell in cells):
        yield "an NBVAL_ comment; use the tag nbval-ignore-output"
    if any({"nbval-skip", "raises-exception", "nbval-raises-exception"} & set(tags(cell)) for cell in cells):
        yield "a cell that is skipped or that fails"
    unseen = [cell for cell in cells if "nbval-ignore-output" in tags(cell)]
    if len(unseen) > MAX_IGNORED * len(cells):
        yield f"{len(unseen)} of {len(cells)} code cells are not compared, at most {MAX_IGNORED:.0%}"
    if not all(EXPLAINED.search(cell.source) for cell in unseen):
        yield "a cell is not compared and does not say why (# not compared: the reason)"


def widgets_last(name, notebook):
    """After a widget comes a heading, or nothing: a widget is never what a later statement stands on."""
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        shows_widget = cell.cell_type == "code" and re.search(r"\bwidgets\.[A-Z]\w+\(", cell.source)
        ends_section = after is None or (after.cell_type == "markdown" and after.source.startswith("#"))
        if shows_widget and not ends_section:
            yield "a widget is not the last cell of its section"


def endings(name, notebook):
    headings = re.findall(r"^(##+) (.+)", prose(notebook.cells), re.MULTILINE)
    if name.startswith(("0", "solutions/")):  # the front page teaches no idea of its own
        return
    sections = [heading for level, heading in headings if level == "##"]
    if sections[-1:] != ["Exercises"]:
        yield "the last section is not Exercises"
        return
    exercises = [heading for level, heading in headings[headings.index(("##", "Exercises")) :] if level == "###"]
    checks = [cell for cell in code_cells(notebook) if "check" in tags(cell)]
    if not 2 <= len(exercises) <= 3 or len(checks) != len(exercises):
        yield f"{len(exercises)} exercises with {len(checks)} check cells; 2 or 3 are wanted, each with a check"


RULES = (
    name_and_format, opening, imports_and_parameters, sizes, code, counts, outputs, ignored, widgets_last, endings,
)  # fmt: skip

# --- the notebooks keep them ------------------------------------------------------------------------------------------


def test_there_are_notebooks():
    assert {update_notebooks.MAP_HOME, "10_generate_text.ipynb"} <= set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_rules(name):
    assert problems(name, NOTEBOOKS[name]) == []


def test_template_keeps_the_rules():
    assert problems("_template.ipynb", TEMPLATE) == []


def test_map_is_up_to_date():
    lessons = {name: notebook for name, notebook in NOTEBOOKS.items() if "/" not in name}
    (stored,) = (cell for cell in lessons[update_notebooks.MAP_HOME].cells if "map" in tags(cell))
    assert stored.source == update_notebooks.make_map(lessons), "run: make notebooks-update"


def checks_of(name: str) -> list[NotebookNode]:
    return [cell for cell in code_cells(NOTEBOOKS[name]) if "check" in tags(cell)]


def test_every_notebook_with_exercises_has_solutions():
    with_exercises = {name for name in NOTEBOOKS if checks_of(name) and "/" not in name}
    assert with_exercises == {name.removeprefix("solutions/") for name in NOTEBOOKS if "/" in name}


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if "/" in name])
def test_solutions_pass_the_very_checks_of_the_notebook(name):
    asked = [cell.source for cell in checks_of(name.removeprefix("solutions/"))]
    assert [cell.source for cell in checks_of(name)] == asked
    assert all(cell.outputs[0].text.startswith("Right") for cell in checks_of(name))


def test_links_lead_somewhere():
    for name, notebook in NOTEBOOKS.items():
        for target in re.findall(r"\]\(([^)#]+)", prose(notebook.cells)):
            if "://" not in target:
                assert ((FOLDER / name).parent / target).exists(), f"{name}: {target}"


# --- and a notebook that does not is found out ------------------------------------------------------------------------


def set_source(index, source):
    def change(notebook):
        notebook.cells[index].source = source

    return change


def add_output(**output):
    def change(notebook):
        code_cells(notebook)[0].outputs.append(nbformat.v4.new_output(**output))

    return change


def add_code(source, **metadata):
    def change(notebook):
        notebook.cells.append(nbformat.v4.new_code_cell(source, metadata=metadata))

    return change


BROKEN = {
    "a question as its H1": set_source(0, "# A statement.\n\nOne sentence. Two sentences."),
    "sentences, not two": set_source(0, "# A question?\n\nOne sentence."),
    "imports are not": add_code("import os"),
    'the tag "parameters"': lambda notebook: code_cells(notebook)[1].metadata.pop("tags"),
    "not a typed parameter": set_source(2, "seed = 1"),
    "not a literal": set_source(2, "seed: int = 1 + int('1')"),
    "code cells, at most": lambda notebook: [add_code("1")(notebook) for _ in range(MAX_CODE_CELLS)],
    "a cell of 13 lines": add_code("1\n" * 13),
    "a class (Model)": add_code("class Model: ..."),
    "a function of more than": add_code("def f():\n" + "    1\n" * 6),
    "measures time": add_code("time.perf_counter()"),
    "has the count": lambda notebook: code_cells(notebook)[0].update(execution_count=5),
    "no outputs are stored": lambda notebook: [cell.update(outputs=[]) for cell in code_cells(notebook)],
    "stderr": add_output(output_type="stream", name="stderr", text="Warning"),
    "bytes of outputs": add_output(output_type="stream", text="x" * MAX_OUTPUT_BYTES),
    "an address": add_output(output_type="stream", text="<object at 0x7f12ab34cd56>"),
    "a path of one machine in the outputs": add_output(output_type="stream", text="/home/me/x"),
    "a path of one machine: ": add_code('open("/home/me/x")'),
    "live widget": add_output(output_type="display_data", data={"application/vnd.jupyter.widget-view+json": {}}),
    "not compared and does not say why": add_code("1", tags=["nbval-ignore-output"]),
    "not compared, at most": add_code("# not compared: a good reason\n1", tags=["nbval-ignore-output"]),
    "last cell of its section": lambda notebook: [add_code(text)(notebook) for text in ("widgets.Some(lm)", "1")],
    "the heading claims nothing": set_source(3, "## Sampling"),
    "not Exercises": lambda notebook: notebook.cells.append(nbformat.v4.new_markdown_cell("## One more claim here")),
    "check cells": lambda notebook: code_cells(notebook)[-1].metadata.pop("tags"),
    "nbformat is 4.4": lambda notebook: notebook.update(nbformat_minor=4),
    "versions": lambda notebook: notebook.metadata.language_info.update(version="3.11"),
    "minutes": lambda notebook: notebook.metadata.pop("labkit"),
    "kernel": lambda notebook: notebook.metadata.kernelspec.update(name="mine"),
    "NBVAL_": add_code("1  # NBVAL_IGNORE_OUTPUT"),
}


@pytest.mark.parametrize("expected", BROKEN)
def test_a_broken_notebook_is_found_out(expected):
    notebook = copy.deepcopy(TEMPLATE)
    BROKEN[expected](notebook)
    assert any(expected in problem for problem in problems("_template.ipynb", notebook))


def test_a_broken_name_is_found_out():
    assert any("the name" in problem for problem in problems("Untitled1.ipynb", TEMPLATE))


def test_tidy_makes_two_runs_equal():
    """What an editor or a run leaves behind (counts, times, split streams, versions) does not reach the file."""
    one, other = copy.deepcopy(TEMPLATE), copy.deepcopy(TEMPLATE)
    cell = code_cells(other)[2]
    for notebook, texts in ((one, ["a\nb\n"]), (other, ["a\n", "b\n"])):
        code_cells(notebook)[2].outputs = [nbformat.v4.new_output("stream", text=text) for text in texts]
    cell.execution_count, cell.metadata["execution"] = 17, {"iopub.execute_input": "2026-01-01T00:00:00"}
    other.metadata["widgets"] = {"state": {}}
    other.metadata.language_info["version"] = "3.12.1"
    assert update_notebooks.tidy(one) == update_notebooks.tidy(other)


def test_papermill_with_other_parameters(tmp_path):
    """papermill notebooks/10_generate_text.ipynb runs/x.ipynb -p seed 7 …"""
    source, result = tmp_path / "10_generate_text.ipynb", tmp_path / "out.ipynb"
    nbformat.write(NOTEBOOKS[source.name], source)
    options = ["--kernel", "python3", "--execution-timeout", "60", "--no-progress-bar", "-p", "seed", "7"]
    command = [sys.executable, "-m", "papermill", str(source), str(result), *options, "-p", "max_new_tokens", "40"]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # as tools/update_notebooks.py does, and why
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=110)
    injected = [cell for cell in nbformat.read(result, 4).cells if "injected-parameters" in tags(cell)]
    assert "seed = 7" in injected[0].source
