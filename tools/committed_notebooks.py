"""Which notebooks the tests check: the committed versions, so that playing in a notebook breaks nothing.

Where there is no git, or nothing is committed yet, the files as they are. Standard library only.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path, PurePosixPath

# With these, torch computes the same to the last bit on every x86 processor: otherwise its own kernels, MKL's and
# oneDNN's are chosen by processor, and the order of a sum follows the number of threads. So what a notebook printed
# here is what it prints anywhere. Slower code paths: for the notebooks that are stored and compared, not for people.
SAME_ARITHMETIC = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


def is_checked(name: str) -> bool:
    """notebooks/NN_*.ipynb and notebooks/solutions/*.ipynb; not _template.ipynb, not JupyterLab's own copies."""
    path = PurePosixPath(name)
    numbered = path.parent == PurePosixPath("notebooks") and path.name[:2].isdigit() and path.name[2:3] == "_"
    solution = path.parent == PurePosixPath("notebooks/solutions") and not path.name.startswith(("_", "."))
    return path.suffix == ".ipynb" and (numbered or solution)


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True).stdout


def committed(root: Path) -> list[str]:
    """Names of the notebooks in the last commit; none without git, without a commit, or in a plain copy."""
    try:
        # "HEAD:./" is relative to root, which may be a folder inside some other repository.
        names = _git(root, "ls-tree", "-r", "-z", "--name-only", "HEAD", "notebooks/").decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        return []
    return sorted(name for name in names if is_checked(name))


def export(root: Path, folder: Path) -> tuple[list[Path], str]:
    """The notebooks to check, and one line saying which version they are. Committed ones are written under `folder`."""
    names = committed(root)
    if not names:
        there = root.glob("notebooks/**/*.ipynb")
        files = sorted(path for path in there if is_checked(path.relative_to(root).as_posix()))
        return files, "the notebooks as they are (none is committed, or this is no git checkout)"
    shutil.rmtree(folder, ignore_errors=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(_git(root, "show", f"HEAD:./{name}"))
    return [folder / name for name in names], "the notebooks of the last commit (changes since then are not looked at)"
