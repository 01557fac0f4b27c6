"""What a reader is given and returns, and what all readers check the same way."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from ..models import FAMILIES
from ..tokenizers.base import Tokenizer
from .safe_pickle import load_torch


@dataclass(frozen=True)
class CheckpointFacts:
    """What is known about a checkpoint besides its numbers.

    Attributes:
        family: key into ``models.FAMILIES``.
        format: the native format it was written in, in words.
        path: the model file.
        dtype: of the weights in the file, in words ("float32", or "bfloat16 and float32").
        step, losses: of the training run, where the file tells.
        notes: what was assumed, repaired or looks odd, in sentences.
    """

    family: str
    format: str
    path: Path
    dtype: str
    step: int | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Hash of the model file; computed when first asked for."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read into plain data.

    Attributes:
        config: the family's frozen config.
        weights: canonical name -> tensor, in the file's dtypes.
        tokenizer: what the file, or the files beside it, say; None with a note when there is none.
    """

    facts: CheckpointFacts
    config: Any
    weights: Mapping[str, Tensor]
    tokenizer: Tokenizer | None


class ModelFile:
    """One file that may hold a model; read at most once, however many readers look at it."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def payload(self) -> Any:
        """The object in a ``torch.save`` file."""
        return load_torch(self.path)


class Reader(Protocol):
    """One native format. A reader is a module with these two functions."""

    def recognises(self, file: ModelFile) -> bool:
        """By content, never by file name alone."""
        ...

    def read(self, file: ModelFile, meta: Path | None, options: Mapping[str, Any]) -> Checkpoint:
        """``meta``: a file given by the user in place of the one beside the model."""
        ...


def dtype_words(weights: Mapping[str, Tensor]) -> str:
    """'float32', or 'bfloat16 and float32'."""
    return " and ".join(sorted({str(w.dtype).removeprefix("torch.") for w in weights.values()}))


def odd_weights(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """A note naming the tensors that hold NaN or infinity."""
    odd = [name for name, w in weights.items() if w.is_floating_point() and not torch.isfinite(w.float().sum())]
    if not odd:
        return ()
    return (
        f"{len(odd)} tensors hold NaN or infinity ({', '.join(odd[:3])}{', …' * (len(odd) > 3)}): training diverged, or the file is damaged.",
    )


def meta_model(family: str, config: Any) -> nn.Module:
    """The family's model without memory for its weights: the shapes that a file must have."""
    with torch.device("meta"):
        return FAMILIES[family].model(config)


def read_json(path: Path) -> Any:
    """A JSON file as plain data."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from None


def make_config(cls: type, fields: Mapping[str, Any], where: Path) -> Any:
    """Build a config; what is impossible or of the wrong type is an error that names the file."""
    for name, value in fields.items():
        expected = cls.__dataclass_fields__[name].type  # type: ignore[attr-defined]
        if expected is int and (type(value) is not int or value < 1):
            raise CheckpointError(f"{where}: {name} is {value!r}; it must be a whole number from 1")
    try:
        return cls(**fields)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from None


def refuse_options(family: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Options that mean nothing to this family are a mistake, not a no-op."""
    if unknown := sorted(options.keys() - set(known)):
        offered = f"; it knows {', '.join(known)}" if known else "; it has none"
        raise ConfigError(f"{family} checkpoints have no option {', '.join(unknown)}{offered}")
