"""Dialects."""

from typing import Any

from ..settings import PenaltyScope
from .draws import Draw, Greedy, Gumbel
from .stages import MinP, RepetitionPenalty, Stage, Temperature, TopK, TopP


def build(
    on: dict[str, Any], greedy: bool, seed: int, scope: PenaltyScope | None, dialect: str
) -> tuple[list[Stage], Draw]:
    stages: list[Stage] = []
    if "repetition_penalty" in on:
        stages.append(RepetitionPenalty(on["repetition_penalty"], scope or "all"))
    if on.get("temperature", 1.0) != 1.0:
        stages.append(Temperature(on["temperature"]))
    filters: tuple[Any, ...] = (TopK, TopP, MinP)
    stages += [stage(on[stage.name]) for stage in filters if stage.name in on]
    return stages, Greedy() if greedy or on.get("temperature") == 0 else Gumbel(seed)
