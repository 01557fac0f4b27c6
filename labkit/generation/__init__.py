"""Generation: one prompt or many, to the end or token by token; branches, beams, and the score of a given text."""

from .batch import BatchRun, generate_batch, stream_batch
from .beam import Beam, Beams, beam_search
from .branching import branch, branch_run
from .rows import FinishReason, Generation, Row, Step, encode_prompt
from .run import Run, generate, stream
from .scoring import Score, score
from .steps import deterministic_kernels, visible_from
from .tree import BranchTree

__all__ = [
    "BatchRun", "Beam", "Beams", "BranchTree", "FinishReason", "Generation", "Row", "Run", "Score", "Step",
    "beam_search", "branch", "branch_run", "deterministic_kernels", "encode_prompt", "generate", "generate_batch",
    "score", "stream", "stream_batch", "visible_from",
]  # fmt: skip
