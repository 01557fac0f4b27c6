"""What a reader is given and returns, and what all readers check the same way."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import CheckpointError, ConfigError
from ..models import FAMILIES, CausalLM
from ..tokenizers.base import Tokenizer
from .gguf_file import GGUF_MAGIC, read_gguf
from .json_file import read_json
from .safe_pickle import load_torch
from .tensor_files import INDEX_SUFFIX, load_safetensors, load_shards, looks_like_safetensors

MOST = 1 << 24  # of anything that a config counts; more is damage, and must not reach an allocation


@dataclass(frozen=True)
class CheckpointFacts:
    """What is known about a checkpoint besides its numbers.

    Attributes:
        family: key into ``models.FAMILIES``.
        format: the native format it was written in, in words.
        recognised_by: what in the file told the format.
        path: the model file.
        dtype: of the weights in the file, in words ("float32", or "bfloat16 and float32").
        step, losses: of the training run, where the file tells.
        notes: what was assumed, repaired or looks odd, in sentences.
        stop_ids: tokens that end generation because the model's own config says so.
        chat_template: the file's own (Jinja) template for chat, as text.
    """

    family: str
    format: str
    path: Path
    dtype: str
    step: int | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    chat_template: str | None = field(default=None, repr=False)
    recognised_by: str = field(default="", repr=False)

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
    def kind(self) -> Literal["torch", "safetensors", "shards", "gguf"]:
        """How the file is built, by its first bytes; a damaged one by its name."""
        with self.path.open("rb") as file:
            head = file.read(9)
        if head.startswith(GGUF_MAGIC) or self.path.suffix == ".gguf":
            return "gguf"
        if self.path.name.endswith(INDEX_SUFFIX):
            return "shards"
        return "safetensors" if looks_like_safetensors(head) or self.path.suffix == ".safetensors" else "torch"

    @cached_property
    def payload(self) -> Any:
        """The object in a ``torch.save`` file, the tensors by name of safetensors or of shards, or a GGUF."""
        loaders = {"torch": load_torch, "safetensors": load_safetensors, "shards": load_shards, "gguf": read_gguf}
        return loaders[self.kind](self.path)

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The ``config.json`` beside the model; empty where there is none, or none that can be read."""
        return self.beside("config.json") or {}

    def beside(self, name: str) -> dict[str, Any] | None:
        """A JSON object in a file beside the model; None where there is none, or none that can be read."""
        try:
            found = read_json(self.path.with_name(name))
        except CheckpointError:
            return None
        return found if isinstance(found, dict) else None


class Reader(Protocol):
    """One native format. A reader is a module with these two functions."""

    def recognises(self, file: ModelFile) -> bool:
        """By content, never by file name alone. The docstring says by what: ``labkit inspect`` shows it."""
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
        f"{len(odd)} tensor{'s hold' if len(odd) > 1 else ' holds'} NaN or infinity "
        f"({', '.join(odd[:3])}{', …' * (len(odd) > 3)}): training diverged, or the file is damaged.",
    )


def whole_number(value: Any) -> int | None:
    """A step as files hold it; None for anything else."""
    return value if type(value) is int else None


def finite_loss(value: Any) -> dict[str, float]:
    """{"val": loss}, or nothing where there is no finite one."""
    return {"val": float(value)} if isinstance(value, int | float) and abs(value) < 1e300 else {}


def numbers_in(losses: Any) -> dict[str, float]:
    """{"train": …, "val": …}; empty for a save without evaluation."""
    return {str(name): x for name, x in losses.items() if finite_loss(x)} if isinstance(losses, dict) else {}


class NoInitialValues(TorchFunctionMode):
    """New modules without random values: a file's take their place, and for none at all on "meta" torch would import
    its whole compiler (1.5 s)."""

    DRAWS = (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func in self.DRAWS and "tensor" in kwargs else func(*args, **kwargs)


def meta_model(family: str, config: Any) -> CausalLM:
    """The family's model without memory for its weights: the shapes that a file must have."""
    try:
        with torch.device("meta"), NoInitialValues():
            return FAMILIES[family].model(config)
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        why = str(error).splitlines()[0]
        raise CheckpointError(f"a {family} model with the checkpoint's config cannot be laid out ({why})") from None


def ids_in(value: Any, vocab_size: int) -> tuple[int, ...]:
    """One id or a list of them -> those that the vocabulary has."""
    ids = value if isinstance(value, list) else [value]
    return tuple(i for i in ids if type(i) is int and 0 <= i < vocab_size)


def brief(value: Any) -> str:
    """A value out of a file for a message: one line, not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


def make_config(cls: type, fields: Mapping[str, Any], where: Path) -> Any:
    """Build a config; what is impossible or of the wrong type is an error that names the file."""
    for name, value in fields.items():
        expected = cls.__dataclass_fields__[name].type  # type: ignore[attr-defined]
        if expected is int and (type(value) is not int or not 1 <= value <= MOST):
            raise CheckpointError(f"{where}: {name} is {brief(value)}; it must be a whole number from 1 to {MOST:,}")
        if expected is float and (type(value) not in (int, float) or not 0 <= value < math.inf):
            raise CheckpointError(f"{where}: {name} is {brief(value)}; it must be a number from 0")
        if expected is bool and type(value) is not bool:
            raise CheckpointError(f"{where}: {name} is {brief(value)}; it must be true or false")
    try:
        return cls(**fields)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{where}: {error}") from None


def refuse_options(family: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Options that mean nothing to this family are a mistake, not a no-op."""
    if unknown := sorted(options.keys() - set(known)):
        offered = f"; it knows {', '.join(known)}" if known else "; it has none"
        raise ConfigError(f"{family} checkpoints have no option {', '.join(unknown)}{offered}")
