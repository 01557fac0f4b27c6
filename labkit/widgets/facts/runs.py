"""The data of the views of whole runs: a timeline, a tree of branches, two runs or models side by side, checkpoints."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...generation import BranchTree
from ...inspection import FreeRunning, TeacherForced, Trajectory
from ...trace import Trace
from .base import Source, pieces

BEGINS = 8  # tokens of a branch that are shown


def run_timeline(run: Trace | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything that views.run_timeline draws of a trace, or of the rows of a playground's result."""
    if not isinstance(run, Trace):
        return {"steps": run}
    steps = [row | {"probability": row["p_model"], "drawn_from": row["p"]} for row in run.rows()]
    return {"steps": steps, "caption": f"{len(run)} tokens, {run.sampler!r}"}


def branch_tree(tree: BranchTree, source: Source = None) -> dict[str, Any]:
    """Everything that views.branch_tree draws.

    Args:
        source: whose pieces the tokens are written as; ids without it.
    """
    own = [node.generation.ids[node.at : node.at + BEGINS] for node in tree.nodes]
    return {
        "nodes": [row | {"begins": "".join(pieces(source, ids))} for row, ids in zip(tree.rows(), own, strict=True)]
    }


def comparison_strip(compared: TeacherForced | FreeRunning, names: tuple[str, str] = ("A", "B")) -> dict[str, Any]:
    """Everything that views.comparison_strip draws: of one text by how much it is likelier to the second; of two runs
    their tokens, each with its log probability."""
    a, b = names
    if isinstance(compared, TeacherForced):
        keys = {"delta": "delta", f"logprob {a}": "logprob_a", f"logprob {b}": "logprob_b", "kl": "kl"}
        tokens = [
            {"piece": row["piece"], **{name: row[key] for name, key in keys.items() if key in row}}
            for row in compared.rows()
        ]
        words = f"blue: likelier to {b}, orange: likelier to {a}; nats"
        return {"sides": [{"name": f"{a} → {b}", "tokens": tokens}], "words": words}
    sides = ((a, compared.pieces_a, compared.a), (b, compared.pieces_b, compared.b))
    return {
        "sides": [
            {
                "name": name,
                "tokens": [
                    {"piece": piece, "logprob": round(logprob, 4)}
                    for piece, logprob in zip(parts, run.logprobs, strict=True)
                ],
            }
            for name, parts, run in sides
        ],
        "words": compared.verdict,
    }


def checkpoint_trajectory(trajectory: Trajectory) -> dict[str, Any]:
    """Everything that views.checkpoint_trajectory draws."""
    return {"points": trajectory.rows()}
