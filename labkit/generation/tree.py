"""A tree of branches: what was tried, where it left off, and the way back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..settings import Settings
from ..tokenizers.base import Tokenizer
from .rows import Generation


@dataclass(frozen=True)
class Node:
    """A generation in a tree.

    Attributes:
        label: what a person calls it.
        parent: the number of the node it is a branch of; None: the first one.
        at: index of the first token that may differ from the parent's.
        generation: its ids, settings (and in them the draw's seed).
    """

    label: str
    parent: int | None
    at: int
    generation: Generation


class BranchTree:
    """Generations and their branches. Nothing is ever lost: undo and redo only move what is current.

    Attributes:
        nodes: in the order they came; a node's number is its place.
    """

    def __init__(self, generation: Generation, label: str = "start"):
        self.nodes = [Node(label, None, 0, generation)]
        self._visited = [0]  # current nodes, one after the other; redo goes on where undo went back
        self._place = 0

    @property
    def current(self) -> int:
        """Number of the node that is looked at."""
        return self._visited[self._place]

    @property
    def generation(self) -> Generation:
        """That of the current node."""
        return self.nodes[self.current].generation

    def add(self, generation: Generation, at: int, label: str | None = None, parent: int | None = None) -> int:
        """A branch of a node (None: of the current one) becomes the current one; its number."""
        parent = self.current if parent is None else parent
        left = self.nodes[parent].generation
        if generation.prompt_ids != left.prompt_ids or generation.ids[:at] != left.ids[:at]:
            name = "the current one" if parent == self.current else f"node {parent}"
            raise ConfigError(f"at is {at}: the generation is no branch of {name}, whose ids it must share")
        self.nodes.append(Node(label or f"branch {len(self.nodes)}", parent, at, generation))
        self.go(len(self.nodes) - 1)
        return self.current

    def go(self, node: int) -> None:
        """Make a node the current one."""
        if not 0 <= node < len(self.nodes):
            raise ConfigError(f"node {node}: there are 0 … {len(self.nodes) - 1}")
        self._place += 1
        self._visited[self._place :] = [node]

    @property
    def can_undo(self) -> bool:
        return self._place > 0

    @property
    def can_redo(self) -> bool:
        return self._place + 1 < len(self._visited)

    def undo(self) -> bool:
        """Back to the node that was current before; False if there is none."""
        self._place -= (moved := self.can_undo)
        return moved

    def redo(self) -> bool:
        """What undo left becomes current again; False if there is nothing to redo."""
        self._place += (moved := self.can_redo)
        return moved

    def path(self, node: int | None = None) -> list[int]:
        """Numbers of the nodes from the first one to this one (the current one)."""
        here: int | None = self.current if node is None else node
        path = []
        while here is not None:
            path.append(here)
            here = self.nodes[here].parent
        return path[::-1]

    def rows(self) -> list[dict[str, Any]]:
        """One row a node."""
        return [
            {
                "node": i,
                "label": node.label,
                "parent": node.parent,
                "at": node.at,
                "tokens": len(node.generation.ids),
                "seed": node.generation.settings.seed,
                "finish_reason": node.generation.finish_reason,
                "text": node.generation.text,
                "current": i == self.current,
            }
            for i, node in enumerate(self.nodes)
        ]

    def __repr__(self) -> str:
        return f"BranchTree({len(self.nodes)} nodes, current: {self.nodes[self.current].label!r})"

    def __str__(self) -> str:
        """The tree as text, a line a node, branches indented below what they leave."""
        lines = []
        children: dict[int | None, list[int]] = {}
        for i, node in enumerate(self.nodes):
            children.setdefault(node.parent, []).append(i)
        ahead = [(0, 0)]
        while ahead:
            i, depth = ahead.pop()
            node, mark = self.nodes[i], "*" if i == self.current else "-"
            place = f" at {node.at}" if node.parent is not None else ""
            n = len(node.generation.ids)
            lines.append(f"{'  ' * depth}{mark} {i} {node.label}{place}: {n} tokens, {node.generation.finish_reason}")
            ahead += [(child, depth + 1) for child in reversed(children.get(i, []))]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, from which ``from_dict`` makes the same tree."""
        return {
            "prompt_ids": list(self.nodes[0].generation.prompt_ids),
            "nodes": [
                {
                    "label": node.label,
                    "parent": node.parent,
                    "at": node.at,
                    "ids": list(node.generation.ids),
                    "logprobs": list(node.generation.logprobs),
                    "raw_logprobs": list(node.generation.raw_logprobs),
                    "finish_reason": node.generation.finish_reason,
                    "notes": list(node.generation.notes),
                    "stream": node.generation.stream,
                    "kept": node.generation.kept,
                    "settings": node.generation.settings.to_dict(),
                }
                for node in self.nodes
            ],
            "visited": list(self._visited),
            "place": self._place,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tokenizer: Tokenizer | None = None) -> "BranchTree":
        """The tree that ``to_dict`` wrote down; with a tokenizer its generations have text."""
        nodes = []
        for node in data["nodes"]:
            fields = {
                name: node[name] for name in ("ids", "logprobs", "raw_logprobs", "finish_reason", "stream", "kept")
            }
            generation = Generation(
                prompt_ids=list(data["prompt_ids"]),
                notes=tuple(node["notes"]),
                settings=Settings(**node["settings"]),
                tokenizer=tokenizer,
                **fields,
            )
            nodes.append(Node(node["label"], node["parent"], node["at"], generation))
        tree = cls(nodes[0].generation, nodes[0].label)
        tree.nodes, tree._visited, tree._place = nodes, list(data["visited"]), data["place"]
        return tree
