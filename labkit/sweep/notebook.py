"""The notebook of a sweep: its code, and the typed parameters that it can be given."""

import ast
import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import ConfigError

PLAIN = {"int": int, "str": str, "bool": bool, "list": list, "dict": dict}


@dataclass(frozen=True)
class Parameter:
    """One line of the parameters cell: ``name: kind = default``."""

    name: str
    kind: ast.expr
    default: Any

    def check(self, value: Any) -> Any:
        """The value as the notebook gets it: a whole number for a float becomes one.

        Raises:
            ConfigError: it is of another type.
        """
        if not fits(value, self.kind):
            raise ConfigError(f"{self.name} is {value!r}; the notebook wants {ast.unparse(self.kind)}")
        return float(value) if type(value) is int and ast.unparse(self.kind) == "float" else value


@dataclass(frozen=True)
class Notebook:
    """A notebook with a cell tagged ``parameters``."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: str | Path) -> "Notebook":
        """Raises ConfigError where there is no notebook, or one without typed parameters."""
        try:
            notebook = cls(Path(path), Path(path).read_text(encoding="utf-8"))
            cells = notebook.cells
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ConfigError(f"{path}: this is no notebook") from None
        if not cells:
            raise ConfigError(f"{path}: this is a notebook without code")
        _ = notebook.parameters
        return notebook

    @cached_property
    def cells(self) -> list[tuple[str, list[str]]]:
        """Source and tags of every code cell."""
        notebook = json.loads(self.text)
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        if notebook["nbformat"] != 4 or not all("outputs" in cell for cell in cells):
            raise ValueError("papermill cannot run this")
        return [("".join(cell["source"]), list(cell["metadata"].get("tags", []))) for cell in cells]

    @cached_property
    def sha256(self) -> str:
        """Hash of the code alone: running the notebook, or correcting its prose, makes no other experiment of it."""
        return hashlib.sha256(json.dumps(self.cells).encode()).hexdigest()

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """By name, what the cell tagged ``parameters`` defines."""
        sources = [source for source, tags in self.cells if "parameters" in tags]
        if len(sources) != 1:
            raise ConfigError(f"{self.path}: {len(sources)} cells have the tag parameters; a sweep needs exactly one")
        try:
            statements = ast.parse(sources[0]).body
        except SyntaxError as error:
            raise ConfigError(f"{self.path}: line {error.lineno} of the parameters cell is no Python") from None
        found = {}
        for node in statements:
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.value is None:
                line = ast.unparse(node)
                raise ConfigError(f"{self.path}: the parameter {line!r} is untyped; write it seed: int = 0")
            try:
                default = ast.literal_eval(node.value)
            except ValueError:
                raise ConfigError(f"{self.path}: the parameter {ast.unparse(node)!r} is not a literal") from None
            found[node.target.id] = Parameter(node.target.id, node.annotation, default)
        return found

    def check(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """A point's values as the notebook gets them.

        Raises:
            ConfigError: a name is unknown (the nearest is suggested), or a value of the wrong type.
        """
        for name in point:
            if name not in self.parameters:
                near = difflib.get_close_matches(name, self.parameters, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(self.parameters) or 'none'}"
                raise ConfigError(f"{self.path} has no parameter {name}; {hint}")
        return {name: self.parameters[name].check(value) for name, value in point.items()}


def fits(value: Any, kind: ast.expr) -> bool:
    """Whether a plain value is of a type, given as the annotation in the notebook; nothing of it is executed.

    Raises:
        ConfigError: the annotation is none of int, float, bool, str, list, dict, Literal, None and their unions.
    """
    match kind:
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id="float"):
            return type(value) in (int, float)
        case ast.Name(id=name) if name in PLAIN:
            return type(value) is PLAIN[name]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return fits(value, left) or fits(value, right)
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return isinstance(value, list) and all(fits(entry, item) for entry in value)
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, item])):
            pairs = value.items() if isinstance(value, dict) else [(None, None)]
            return isinstance(value, dict) and all(fits(k, key) and fits(v, item) for k, v in pairs)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return repr(value) in map(ast.unparse, choices.elts if isinstance(choices, ast.Tuple) else [choices])
    raise ConfigError(f"the type {ast.unparse(kind)} cannot be checked; use int, float, bool, str, list[…] or dict[…]")
