"""A file of configs/training/ -> a trained checkpoint in its native layout."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .. import checkpoints
from ..checkpoints import Checkpoint, CheckpointFacts, labcore, labkit_format, nanochat
from ..errors import ConfigError
from ..files import atomic_write
from ..models import FAMILIES, CausalLM
from ..models.labcore import LabCore
from ..models.nanochat import Nanochat, NanochatConfig
from ..tokenizers.char import CharTokenizer
from .data import ARITHMETIC_CHARACTERS, BOS, arithmetic_rows, text_rows
from .trainer import Report, TrainingSettings, train


def read_recipe(path: Path) -> dict[str, Any]:
    """The tables [data], [model] and [training] of a TOML file."""
    try:
        recipe = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error})") from None
    if missing := {"data", "model", "training"} - recipe.keys():
        raise ConfigError(f"{path}: tables missing: {', '.join(sorted(missing))}")
    return recipe


def run_recipe(recipe: Mapping[str, Any], text: str | None, out: Path, device: str, report: Report) -> None:
    """Train as the recipe says and write checkpoints into ``out``.

    Args:
        recipe: from ``read_recipe``; ``data.kind`` is "text" or "arithmetic".
        text: the corpus, for kind "text".
    """
    kind = recipe["data"]["kind"]
    if kind == "text":
        if text is None:
            raise ConfigError("this recipe trains on a text: pass its path with --data FILE")
        train_on_text(recipe, text, out, device, report)
    elif kind == "arithmetic":
        train_on_arithmetic(recipe, out, device, report)
    else:
        raise ConfigError(f'data.kind {kind!r} is unknown; "text" and "arithmetic" are')


def training_settings(recipe: Mapping[str, Any]) -> TrainingSettings:
    table = dict(recipe["training"])
    if unknown := table.keys() - TrainingSettings.__dataclass_fields__.keys():
        raise ConfigError(f"[training] has unknown keys: {', '.join(sorted(unknown))}")
    return TrainingSettings(**table | {"save_steps": tuple(table.get("save_steps", ()))})


def train_on_text(recipe: Mapping[str, Any], text: str, out: Path, device: str, report: Report) -> None:
    """A model over the characters of the text: LabCore's own two files; other families in labkit's format."""
    vocab = sorted(set(text))
    fields = dict(recipe["model"])
    family = FAMILIES[fields.pop("family")]
    model = family.model(family.config(vocab_size=len(vocab), **fields)).to(device)
    settings = training_settings(recipe)

    def save(model: CausalLM, step: int, losses: dict[str, float]) -> None:
        if isinstance(model, LabCore):
            tokenizer = {"type": "char", "vocab": vocab}
            trainer_config = asdict(settings)
            path = out / "ckpt_last.pt"
            labcore.write(path, model, step=step, losses=losses, tokenizer=tokenizer, trainer_config=trainer_config)
            labcore.write_meta(out / "meta.json", vocab, recipe["data"]["name"])
        else:
            facts = CheckpointFacts(recipe["model"]["family"], "labkit safetensors", out, "float32", step, losses)
            labkit_format.write(out, Checkpoint(facts, model.config, model.state_dict(), CharTokenizer(vocab)))

    train(model, text_rows(text, vocab, model.block_size), settings, save, report)


def train_on_arithmetic(recipe: Mapping[str, Any], out: Path, device: str, report: Report) -> None:
    """A nanochat model on generated problems: step_NNNNNN/ folders, each with its tokenizer_config.json."""
    config = NanochatConfig(padded_vocab_size=recipe["model"]["vocab_size"], **recipe["model"])
    model = Nanochat(config)
    settings = training_settings(recipe)
    if settings.start_step:
        started = checkpoints.read(out / f"step_{settings.start_step:06d}")
        if started.config != config:
            raise ConfigError(f"{started.facts.path}: its config is not that of the recipe, so it cannot be trained on")
        model.load_state_dict(dict(started.weights))
    data = {name: value for name, value in recipe["data"].items() if name not in ("kind", "name")}
    rows = arithmetic_rows(block_size=config.sequence_len, **data)

    def save(model: CausalLM, step: int, losses: dict[str, float]) -> None:
        folder = out / f"step_{step:06d}"
        user_config = asdict(settings) | {"data": dict(recipe["data"])}
        nanochat.write(folder, model, step=step, meta={"val_loss": losses["val"], "user_config": user_config})
        tokenizer = {
            "vocab_chars": list(ARITHMETIC_CHARACTERS),
            "special_tokens": [BOS],
            "vocab_size": config.vocab_size,
        }
        atomic_write(
            folder / "tokenizer_config.json", lambda file: file.write(json.dumps(tokenizer, indent=2).encode())
        )

    train(model.to(device), rows, settings, save, report)
