"""Which runs a sweep consists of, each named by a key that says what it stands on."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from labkit import __version__

from ..errors import ConfigError
from .grid import Grid, Point
from .notebook import Notebook

KEY_DIGITS = 16
CHECKPOINT = "checkpoint"
COLUMNS = ("run_key", "run_status", "run_seconds", "run_error", "run_notebook")  # of the table, about a run itself


@dataclass(frozen=True)
class Run:
    """One execution of the notebook."""

    key: str
    parameters: Point


@dataclass(frozen=True)
class Plan:
    """All runs of a sweep, in order.

    Attributes:
        facts: what the keys stand on besides parameters: labkit, notebook_sha256, weights (source -> hash).
    """

    notebook: Notebook
    runs: tuple[Run, ...]
    facts: dict[str, Any]


def make_plan(notebook: Notebook, grid: Grid, fingerprint: Callable[[str], str]) -> Plan:
    """Check every point against the notebook and name it.

    Args:
        fingerprint: a checkpoint's source -> hash of its files.

    Raises:
        ConfigError: a parameter that the notebook does not have, or with a name that the table needs; a wrong type.
    """
    points = [notebook.check(point) for point in grid.points]
    if unknown := sorted(set(grid.weights) - set(notebook.parameters)):
        raise ConfigError(f"weights names {', '.join(unknown)}, which is no parameter of {notebook.path}")
    if taken := sorted(set(COLUMNS).intersection(*points)):
        raise ConfigError(f"the table has a column {taken[0]} of its own; give the parameter another name")
    sources = [name for name in notebook.parameters if name.endswith(CHECKPOINT) or name in grid.weights]
    defaults = {name: notebook.parameters[name].default for name in sources}
    used = [{name: named(point.get(name, default)) for name, default in defaults.items()} for point in points]
    weights = {
        source: fingerprint(source) for source in sorted({s for own in used for each in own.values() for s in each})
    }
    facts = {"labkit": __version__, "notebook_sha256": notebook.sha256, "weights": weights}
    runs = {}  # by key: 1 and 1.0 are one run where the notebook wants a float
    for point, own in zip(points, used, strict=True):
        key = key_of(point, facts | {"weights": {name: [weights[s] for s in each] for name, each in own.items()}})
        runs[key] = Run(key, point)
    return Plan(notebook, tuple(runs.values()), facts)


def named(value: Any) -> list[str]:
    """The checkpoints that a parameter's value names: one, several, or none (None, "")."""
    return [source for source in (value if isinstance(value, list) else [value]) if source and isinstance(source, str)]


def key_of(parameters: Point, facts: dict[str, Any]) -> str:
    """Hash of everything that a run's result depends on."""
    text = json.dumps({"parameters": parameters} | facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]
