"""labkit's own format, for every family: ``model.safetensors`` with canonical names, and ``config.json``."""

import dataclasses
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import safetensors.torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError, TokenizerError
from ..files import atomic_write
from ..models import FAMILIES
from ..tokenizers.base import Tokenizer
from ..tokenizers.bpe import GPT2Tokenizer, TableTokenizer
from ..tokenizers.char import CharTokenizer
from ..tokenizers.hf import HFTokenizer
from .base import (
    Checkpoint,
    CheckpointFacts,
    ModelFile,
    brief,
    dtype_words,
    ids_in,
    make_config,
    meta_model,
    numbers_in,
    odd_weights,
    refuse_options,
    whole_number,
)
from .rename import check_layers, tensors_in, to_canonical
from .tokenizer_json import json_of, table_of

FORMAT, VERSION = "labkit", 1
# What may be read otherwise than it is written, by family: the options of the formats that these families come from.
OPTIONS = {"swa_mla": ("window", "query_positions"), "nanochat": ("softcap",)}
TOKENIZER_FILE = "tokenizer.json"
FORMAT_WORDS, FROM = "labkit safetensors", ", from a "


def recognises(file: ModelFile) -> bool:
    """safetensors with a config.json of this format beside them."""
    return file.kind == "safetensors" and file.config.get("format") == FORMAT


def read(file: ModelFile, meta: Path | None, options: Mapping[str, Any]) -> Checkpoint:
    """Read it strictly: every tensor is accounted for. An option overrides the field of the config that it names."""
    path, described = file.path, file.config
    where = path.with_name("config.json")
    if described.get("version") != VERSION:
        raise CheckpointError(f"{where}: version {brief(described.get('version'))}; this labkit reads {VERSION}")
    family = described.get("family")
    if not isinstance(family, str) or family not in FAMILIES:
        raise CheckpointError(f"{where}: family {brief(family)}; this labkit knows {', '.join(FAMILIES)}")
    refuse_options(family, options, known=OPTIONS.get(family, ()))
    config = decode_config(FAMILIES[family].config, described.get("config"), where)
    try:
        config = dataclasses.replace(config, **options)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    native = tensors_in(file.payload, str(path))
    check_layers(native, "blocks.", config.n_layer, str(path))
    model = meta_model(family, config)
    for name, kept in tied_names(model).items():
        if kept in native:
            native[name] = native[kept]
    weights = to_canonical(native, {name: name for name in model.state_dict()}, model, str(path))
    template, said = described.get("chat_template"), list_of(described.get("notes"))
    facts = CheckpointFacts(
        family=family,
        format=FORMAT_WORDS + (f"{FROM}{described['origin']}" if described.get("origin") else ""),
        path=path,
        dtype=dtype_words(weights),
        step=whole_number(described.get("step")),
        losses=numbers_in(described.get("losses")),
        notes=tuple(dict.fromkeys([*(note for note in said if isinstance(note, str)), *odd_weights(weights)])),
        stop_ids=ids_in(described.get("stop_ids"), config.vocab_size),
        chat_template=template if isinstance(template, str) else None,
    )
    tokenizer = read_tokenizer(described.get("tokenizer"), path.parent, config.vocab_size)
    return Checkpoint(facts, config, weights, tokenizer)


def list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the weights in their own dtypes, a tied matrix once, and last config.json, which makes it a checkpoint."""
    facts, config = checkpoint.facts, checkpoint.config
    tokenizer_text, tokenizer = describe_tokenizer(checkpoint.tokenizer)
    described = {
        "format": FORMAT,
        "version": VERSION,
        "family": facts.family,
        "origin": facts.format.removeprefix(FORMAT_WORDS).removeprefix(FROM) or None,
        "step": facts.step,
        "losses": dict(facts.losses),
        "stop_ids": list(facts.stop_ids),
        "config": encode(config),
        "tokenizer": tokenizer,
        "chat_template": facts.chat_template,
        "notes": list(facts.notes),
    }
    left_out = tied_names(meta_model(facts.family, config))
    save_safetensors(folder / "model.safetensors", {n: w for n, w in checkpoint.weights.items() if n not in left_out})
    if tokenizer_text is not None:
        write_text(folder / TOKENIZER_FILE, tokenizer_text)
    write_text(folder / "config.json", json.dumps(described, indent=2, ensure_ascii=False) + "\n")


def save_safetensors(path: Path, weights: Mapping[str, Tensor]) -> None:
    """The same bytes for the same weights; the metadata is what transformers asks for."""
    data = safetensors.torch.save({name: w.contiguous() for name, w in weights.items()}, metadata={"format": "pt"})
    atomic_write(path, lambda file: file.write(data))


def write_text(path: Path, text: str) -> None:
    atomic_write(path, lambda file: file.write(text.encode()))


def tied_names(model: nn.Module) -> dict[str, str]:
    """Names of matrices that are another one once more -> the name of that one."""
    seen: dict[int, str] = {}
    names = model.state_dict(keep_vars=True)
    return {name: seen[id(w)] for name, w in names.items() if seen.setdefault(id(w), name) != name}


def encode(value: Any) -> Any:
    """A config as JSON; a value that is an object of its own (a window, a scaling) says its kind."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    return [encode(each) for each in value] if isinstance(value, tuple | list) else value


def decode_config(cls: type, described: Any, where: Path) -> Any:
    """The config of a family; its values can only be of the classes that its fields name."""
    config = decode(described, {cls.__name__: cls, **value_classes(cls)}, where)
    if not isinstance(config, cls):
        raise CheckpointError(f"{where}: holds no config of this family ({cls.__name__})")
    return config


def decode(value: Any, classes: Mapping[str, type], where: Path) -> Any:
    if isinstance(value, list):
        return tuple(decode(each, classes, where) for each in value)
    if not isinstance(value, dict):
        return value
    cls = classes.get(str(value.get("kind")))
    if cls is None:
        raise CheckpointError(f"{where}: {brief(value.get('kind'))} is no kind of value that this family has")
    fields = {name: decode(each, classes, where) for name, each in value.items() if name != "kind"}
    if unknown := sorted(fields.keys() - {field.name for field in dataclasses.fields(cls)}):
        raise CheckpointError(f"{where}: {cls.__name__} has no {', '.join(unknown)}; written by a newer labkit?")
    return make_config(cls, fields, where)


def value_classes(cls: type) -> dict[str, type]:
    """The dataclasses that the fields of a config may hold, by name."""
    found: dict[str, type] = {}
    hints = list(get_type_hints(cls).values())
    while hints:
        hint = hints.pop()
        hints += get_args(hint)
        if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) and dataclasses.is_dataclass(hint):
            found[hint.__name__] = hint
            hints += get_type_hints(hint).values()
    return found


def describe_tokenizer(tokenizer: Tokenizer | None) -> tuple[str | None, dict[str, Any] | None]:
    """What goes into tokenizer.json, and what goes into config.json."""
    match tokenizer:
        case None:
            return None, None
        case CharTokenizer():
            names = {i: name for name, i in tokenizer.special_ids.items()}
            return None, {
                "type": "char",
                "vocab": tokenizer.vocab,
                "specials": list(tokenizer.special_ids),
                "vocab_size": tokenizer.vocab_size,
                "bos": None if tokenizer.bos_id is None else names[tokenizer.bos_id],
                "on_unknown": tokenizer.on_unknown,
            }
        case GPT2Tokenizer():
            return None, {"type": "gpt2", "on_special": tokenizer.on_special, "vocab_size": tokenizer.vocab_size}
        case TableTokenizer() | HFTokenizer():
            kind = {"type": "table", "pre": tokenizer.pre} if isinstance(tokenizer, TableTokenizer) else {"type": "hf"}
            ids = {"vocab_size": tokenizer.vocab_size, "bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
            return json_of(tokenizer), {**kind, **ids}
    raise TokenizerError(f"{tokenizer!r} cannot be written to a labkit checkpoint")


def read_tokenizer(described: Any, folder: Path, vocab_size: int) -> Tokenizer | None:
    """The inverse of describe_tokenizer."""
    if described is None:
        return None
    where = folder / "config.json"
    try:
        fields = dict(described)
        kind = fields.pop("type")
        if kind == "char":
            tokenizer: Tokenizer = CharTokenizer(fields.pop("vocab"), **fields)
        elif kind == "gpt2":
            tokenizer = GPT2Tokenizer(**fields)
        elif kind == "hf":
            tokenizer = HFTokenizer((folder / TOKENIZER_FILE).read_text(encoding="utf-8"), **fields)
        elif kind == "table":
            tokenizer = table_of((folder / TOKENIZER_FILE).read_text(encoding="utf-8"), **fields)
        else:
            raise TokenizerError(f"a tokenizer of type {brief(kind)} is unknown")
    except (TokenizerError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{where}: its tokenizer cannot be read ({error})") from None
    if tokenizer.vocab_size != vocab_size:
        raise CheckpointError(f"{where}: the tokenizer has {tokenizer.vocab_size} entries, the embedding {vocab_size}")
    return tokenizer
