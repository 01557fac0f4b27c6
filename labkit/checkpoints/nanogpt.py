"""nanoGPT's native checkpoint: ``ckpt.pt``, with the ``meta.pkl`` of its data set where there is one."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, ConfigError
from ..models.gpt2 import GPT2Config
from ..tokenizers.base import Tokenizer
from ..tokenizers.bpe import GPT2_VOCAB_SIZE, GPT2Tokenizer
from ..tokenizers.char import CharTokenizer
from .base import (
    Checkpoint,
    CheckpointFacts,
    ModelFile,
    brief,
    dtype_words,
    finite_loss,
    make_config,
    meta_model,
    odd_weights,
    refuse_options,
    whole_number,
)
from .labcore import TABLE as GPT2_TABLE  # LabCore and nanoGPT name their tensors as GPT-2 does
from .rename import check_layers, tensors_in, tie, to_canonical

MODEL_ARGS = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "bias", "dropout")
MASK = re.compile(r"h\.\d+\.attn\.bias")  # the causal mask that versions before PyTorch 2 saved
PADDED_VOCAB_SIZE = 50304  # GPT-2's vocabulary, filled up to a multiple of 64
MOST_META_BYTES = 1 << 24


def recognises(file: ModelFile) -> bool:
    """A dict with ``model`` and ``model_args``."""
    return isinstance(file.payload, dict) and {"model", "model_args"} <= file.payload.keys()


def read(file: ModelFile, meta: Path | None, options: Mapping[str, Any]) -> Checkpoint:
    """Read it strictly. Option ``activation``: "gelu" (default), or "gelu_tanh" for files from before June 2023."""
    refuse_options("nanoGPT", options, known=("activation",))
    path, payload = file.path, file.payload
    activation = options.get("activation", "gelu")
    if activation not in ("gelu", "gelu_tanh"):
        raise ConfigError(f'option activation is {activation!r}; nanoGPT used "gelu", and "gelu_tanh" before June 2023')
    notes: list[str] = []
    native = {name.removeprefix("transformer."): w for name, w in tensors_in(payload["model"], str(path)).items()}
    native = {name: w for name, w in native.items() if not MASK.fullmatch(name)}
    tie(native, "wte.weight", "lm_head.weight", notes)
    config = read_config(payload["model_args"], activation, path)
    check_layers(native, "h.", config.n_layer, str(path))
    weights = to_canonical(native, GPT2_TABLE, meta_model("gpt2", config), str(path))
    tokenizer = find_tokenizer(path, meta, payload.get("config"), config.vocab_size, notes)
    loss = payload.get("best_val_loss")  # a number, or a tensor of one
    loss = loss.item() if torch.is_tensor(loss) and loss.numel() == 1 else loss
    facts = CheckpointFacts(
        family="gpt2",
        format="nanoGPT checkpoint",
        path=path,
        dtype=dtype_words(weights),
        step=whole_number(payload.get("iter_num")),
        losses=finite_loss(loss),
        notes=(*notes, *odd_weights(weights)),
    )
    return Checkpoint(facts, config, weights, tokenizer)


def read_config(model_args: Any, activation: str, path: Path) -> GPT2Config:
    """model_args; ``bias`` came later than the first files, which all have biases."""
    if not isinstance(model_args, dict):
        raise CheckpointError(f"{path}: model_args is a {type(model_args).__name__}; it must be a dict")
    if missing := [name for name in MODEL_ARGS[:5] if name not in model_args]:
        raise CheckpointError(f"{path}: model_args lacks {', '.join(missing)}")
    if unknown := sorted(map(str, model_args.keys() - set(MODEL_ARGS))):
        raise CheckpointError(f"{path}: model_args has fields that nanoGPT does not know: {', '.join(unknown)}")
    bias = model_args.get("bias", True)
    fields = {name: model_args[name] for name in MODEL_ARGS[:5]}
    if type(fields["n_embd"]) is not int:
        raise CheckpointError(f"{path}: n_embd is {brief(fields['n_embd'])}; it must be a whole number")
    rest = {"bias": bias, "norm_bias": bias, "dropout": model_args.get("dropout", 0.0)}
    return make_config(GPT2Config, {**fields, "n_hidden": 4 * fields["n_embd"], "activation": activation, **rest}, path)


def find_meta(path: Path, config: Any) -> Path | None:
    """meta.pkl beside the model, else in nanoGPT's ``data/<dataset>/`` beside the folder of the model."""
    dataset = config.get("dataset") if isinstance(config, dict) else None
    places = [path.with_name("meta.pkl")]
    if isinstance(dataset, str) and re.fullmatch(r"\w[\w-]*", dataset):
        places.append(path.parent.parent / "data" / dataset / "meta.pkl")
    return next((place for place in places if place.is_file()), None)


def find_tokenizer(path: Path, meta: Path | None, dataset: Any, vocab_size: int, notes: list[str]) -> Tokenizer | None:
    """The characters of a meta.pkl, else GPT-2's where the vocabulary has its size, padded or not. A meta.pkl given by
    the user must fit; one that merely lies there and does not fit is passed over with a note."""
    found = meta or find_meta(path, dataset)
    if found is not None:
        try:
            return characters_in(found, vocab_size)
        except CheckpointError as error:
            if meta is not None:
                raise
            notes.append(f"{error}; passed over.")
    if vocab_size in (GPT2_VOCAB_SIZE, PADDED_VOCAB_SIZE):
        return GPT2Tokenizer(on_special="parse", vocab_size=vocab_size)
    notes.append(
        f"No meta.pkl that fits this vocabulary of {vocab_size}: ids work, text does not. "
        "Pass meta= (--meta) with the meta.pkl of its data set."
    )
    return None


def characters_in(meta: Path, vocab_size: int) -> CharTokenizer:
    characters = read_meta(meta)
    if len(characters) != vocab_size:
        raise CheckpointError(
            f"{meta}: its vocabulary has {len(characters)} entries, the embedding {vocab_size} rows; "
            "they belong to different runs"
        )
    return CharTokenizer(characters)


class PlainUnpickler(pickle.Unpickler):
    """Numbers, strings and containers; any name of a class or function is refused, so nothing can be called."""

    def find_class(self, module: str, name: str) -> Any:
        raise CheckpointError(f"refused, because it asks for {module}.{name}, which is code and not data")

    def persistent_load(self, pid: Any) -> Any:
        raise CheckpointError("refused, because it refers to something outside itself")


def read_meta(path: Path) -> list[str]:
    """The characters of nanoGPT's {"vocab_size", "itos", "stoi"}, read as data."""
    if path.stat().st_size > MOST_META_BYTES:
        raise CheckpointError(f"{path}: {path.stat().st_size:,} bytes is too large for a table of characters")
    try:
        with path.open("rb") as file:
            meta = PlainUnpickler(file).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; nothing was run") from None
    except Exception as error:  # whatever a malformed pickle provokes
        raise CheckpointError(f"{path}: no readable meta.pkl ({type(error).__name__}: {error})") from None
    itos, stoi = (meta.get(key) if isinstance(meta, dict) else None for key in ("itos", "stoi"))
    if not isinstance(itos, dict) or set(itos) != set(range(len(itos))):
        raise CheckpointError(f"{path}: no table itos that numbers characters from 0")
    characters = [itos[i] for i in range(len(itos))]
    if not all(isinstance(c, str) and len(c) == 1 for c in characters):
        raise CheckpointError(f"{path}: itos holds something else than characters")
    if stoi != {c: i for i, c in enumerate(characters)}:
        raise CheckpointError(f"{path}: itos and stoi contradict each other")
    return characters
