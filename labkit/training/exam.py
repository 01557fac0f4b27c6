"""The exam of the arithmetic checkpoints: held-out additions, answered greedily."""

from collections import defaultdict
from collections.abc import Sequence

import torch

from ..models import CausalLM
from ..tokenizers.base import Tokenizer
from .data import Problem


@torch.inference_mode()
def share_answered(model: CausalLM, tokenizer: Tokenizer, problems: Sequence[Problem]) -> float:
    """Share of the problems whose answer, up to the newline, is exactly right. Problems of one length go together."""
    by_length = defaultdict(list)
    for problem in problems:
        by_length[len(problem.question)].append(problem)
    right = 0
    for group in by_length.values():
        start = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
        ids = torch.tensor([start + tokenizer.encode(problem.question) for problem in group])  # (B, T)
        n_prompt = ids.shape[1]
        for _ in range(max(len(problem.answer) for problem in group) + 1):
            ids = torch.cat((ids, model(ids)[:, -1].argmax(dim=-1, keepdim=True)), dim=1)  # (B, T + 1)
        for row, problem in zip(ids[:, n_prompt:].tolist(), group, strict=True):
            right += tokenizer.decode(row).split("\n")[0] == problem.answer
    return right / len(problems)
