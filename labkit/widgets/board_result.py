"""What a sample board holds: continuations of a prompt under several settings, and where each leaves the first one."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from ..generation import Generation
from ..settings import Settings


@dataclass(frozen=True)
class Cell:
    """One continuation.

    Attributes:
        row, column: which of the n continuations, under which settings.
        parted: the first token that is not that of the first column in the same row; None: there is none so far.
        mean_logprob: nats a token, the model's own, whatever the settings; None of no tokens.
        distinct: share of its token pairs that are no repetition; None of less than two tokens.
    """

    row: int
    column: int
    generation: Generation
    parted: int | None
    mean_logprob: float | None
    distinct: float | None


@dataclass(frozen=True, repr=False)
class BoardResult:
    """Continuations of one prompt, several under each settings, on the same draws.

    Attributes:
        prompt_ids: of the prompt, as the model saw it.
        columns: the settings of each column, and what they are called.
        cells: row after row.
    """

    prompt_ids: list[int]
    columns: tuple[tuple[str, Settings], ...]
    cells: tuple[Cell, ...]

    @classmethod
    def of(cls, columns: Sequence[tuple[str, Settings]], generations: Sequence[Sequence[Generation]]) -> "BoardResult":
        """From the generations of each column, which may still be under way."""
        cells = []
        for r, row in enumerate(zip(*generations, strict=True)):
            for c, one in enumerate(row):
                pairs = list(itertools.pairwise(one.ids))
                cells.append(
                    Cell(
                        row=r,
                        column=c,
                        generation=one,
                        parted=first_difference(row[0].ids, one.ids),
                        mean_logprob=round(mean(one.raw_logprobs), 4) + 0.0 if one.ids else None,
                        distinct=round(len(set(pairs)) / len(pairs), 4) if pairs else None,
                    )
                )
        return cls(generations[0][0].prompt_ids, tuple(columns), tuple(cells))

    def cell(self, row: int, column: int) -> Cell:
        return self.cells[row * len(self.columns) + column]

    def totals(self) -> list[dict[str, Any]]:
        """One row a column: means over its continuations, and how many different pairs they have together."""
        rows = []
        for c, (name, _) in enumerate(self.columns):
            cells = [cell for cell in self.cells if cell.column == c]
            pairs = [pair for cell in cells for pair in itertools.pairwise(cell.generation.ids)]
            logprobs = [cell.mean_logprob for cell in cells if cell.mean_logprob is not None]
            rows.append(
                {
                    "settings": name,
                    "mean_logprob": round(mean(logprobs), 4) + 0.0 if logprobs else None,
                    "distinct": round(len(set(pairs)) / len(pairs), 4) if pairs else None,
                    "as the first": sum(cell.parted is None for cell in cells),
                }
            )
        return rows

    def rows(self) -> list[dict[str, Any]]:
        """One row a continuation."""
        return [
            {
                "row": cell.row,
                "settings": self.columns[cell.column][0],
                "text": cell.generation.text,
                "tokens": len(cell.generation.ids),
                "finish_reason": cell.generation.finish_reason,
                "parted": cell.parted,
                "mean_logprob": cell.mean_logprob,
                "distinct": cell.distinct,
            }
            for cell in self.cells
        ]

    def to_dict(self) -> dict[str, Any]:
        cells = [row | {"ids": cell.generation.ids} for row, cell in zip(self.rows(), self.cells, strict=True)]
        columns: list[Mapping[str, Any]] = [{"name": name, **settings.to_dict()} for name, settings in self.columns]
        return {"prompt_ids": self.prompt_ids, "columns": columns, "totals": self.totals(), "cells": cells}

    def __repr__(self) -> str:
        rows = len(self.cells) // len(self.columns)
        return f"BoardResult({rows} continuations under {len(self.columns)} settings)"


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """The first place at which both have a token, and not the same one."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
