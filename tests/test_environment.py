"""environment.yml, constraints.txt, pyproject.toml and CITATION.cff say the same thing."""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))

# conda-forge's name -> the name pip uses, where they differ
PIP_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib", "python-duckdb": "duckdb"}
# What a reader of environment.yml must find there whatever else changes.
THE_NINE = [
    "torch",
    "jupyterlab",
    "ipywidgets",
    "numpy",
    "matplotlib",
    "tiktoken",
    "huggingface-hub",
    "nbval",
    "papermill",
]


def by_name(requirements: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(text) for text in requirements]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def from_pyproject(*extras: str) -> dict[str, Requirement]:
    lists = [PYPROJECT["project"]["optional-dependencies"][extra] for extra in extras]
    return by_name([*PYPROJECT["project"]["dependencies"], *sum(lists, [])])


def from_conda(dependencies: list) -> dict[str, Requirement]:
    """The conda part under pip's names, without python and pip themselves."""
    found = by_name([entry for entry in dependencies if isinstance(entry, str)])
    return {
        PIP_NAMES.get(name, name): requirement for name, requirement in found.items() if name not in ("python", "pip")
    }


def disagreements(conda: dict[str, Requirement], pip: dict[str, Requirement]) -> list[str]:
    wrong = []
    for name, requirement in conda.items():
        here, there = str(requirement.specifier), str(pip[name].specifier) if name in pip else "no such package"
        if here != there:
            wrong.append(f"{name}: environment.yml has '{here}', pyproject.toml '{there}'")
    return wrong


def test_environment_has_the_specifiers_of_pyproject():
    assert disagreements(from_conda(ENVIRONMENT["dependencies"]), from_pyproject("lab", "test")) == []


def test_environment_is_enough_for_the_lab():
    conda = from_conda(ENVIRONMENT["dependencies"])
    assert set(from_pyproject("lab")) - set(conda) == set()
    assert set(THE_NINE) - set(conda) == set()


def test_environment_installs_labkit_itself_and_takes_one_channel():
    assert ENVIRONMENT["name"] == "labkit"
    assert ENVIRONMENT["channels"] == ["conda-forge"]
    assert {"pip": ["-e ."]} in ENVIRONMENT["dependencies"]
    python = by_name([entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)])["python"]
    assert str(python.specifier) == PYPROJECT["project"]["requires-python"]


@pytest.mark.parametrize("changed", ["pytorch>=2.6", "pytorch==2.10", "pytorch", "unknown-package>=1"])
def test_one_changed_pin_is_noticed(changed):
    dependencies = [changed if str(entry).startswith("pytorch>") else entry for entry in ENVIRONMENT["dependencies"]]
    assert len(disagreements(from_conda(dependencies), from_pyproject("lab", "test"))) == 1


def test_constraints_hold_every_direct_dependency_within_its_bounds():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    held = by_name([line for line in lines if line and not line.startswith("#")])
    direct = from_pyproject("lab", "test", "dev")
    assert set(held) == set(direct)
    for name, requirement in held.items():
        (pin,) = requirement.specifier
        assert pin.operator == "==", requirement
        bounds = direct[name].specifier
        assert bounds.contains(pin.version), f"{name}: {pin.version} is outside pyproject's {bounds}"


def test_one_version_everywhere():
    version = PYPROJECT["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    import labkit

    assert getattr(labkit, "__version__", version) == version


def test_installed_torch_is_no_cuda_build_where_the_cpu_build_was_chosen():
    """The set-up holds torch at the build it chose; a CPU build then means that no CUDA package is there."""
    if not metadata.version("torch").endswith("+cpu"):
        pytest.skip("this is not a CPU build of torch")
    names = {canonicalize_name(distribution.metadata["Name"]) for distribution in metadata.distributions()}
    assert [name for name in names if name.startswith("nvidia-") or name == "triton"] == []
    assert Version(metadata.version("torch")) >= Version("2.10")
