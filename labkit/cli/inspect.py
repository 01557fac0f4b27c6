"""labkit inspect: the facts of a checkpoint, or of every checkpoint below a folder."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ..checkpoints import MODEL_SUFFIXES, model_files, read
from ..errors import LabkitError
from ..language_model import LanguageModel, shipped_folder
from .options import Model, model_options


@click.command("inspect", help="Say what a checkpoint is; of a folder with several, list them and mark the best.")
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: Model, as_json: bool) -> None:
    name = model.source
    folder = next((f for f in (Path(name).expanduser(), shipped_folder() / name) if f.is_dir()), None)
    if folder is not None and not model_files(folder):
        found = below(folder)
        if len(found) > 1:
            show_rows(found, folder, as_json)
            return
    lm = model.load()
    facts = describe(lm)
    if as_json:
        click.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in facts.items():
        for i, line in enumerate(lines_of(value)):
            table.add_row(key if i == 0 else "", line)
    Console(markup=False).print(table)


def describe(lm: LanguageModel) -> dict[str, Any]:
    """What labkit knows about a loaded checkpoint, as plain data."""
    facts = lm.checkpoint
    return {
        "path": str(facts.path),
        "format": facts.format,
        "recognised by": facts.recognised_by,
        "family": facts.family,
        "parameters": lm.n_parameters,
        "context": lm.model.block_size,
        "config": asdict(lm.config),
        "tokenizer": repr(lm.tokenizer) if lm.tokenizer is not None else None,
        "dtype in file": facts.dtype,
        "running as": f"{str(lm.model.lm_head.weight.dtype).removeprefix('torch.')} on {lm.device}",
        "step": facts.step,
        "losses": dict(facts.losses),
        "bytes": facts.path.stat().st_size,
        "sha256": facts.sha256,
        "notes": list(facts.notes),
    }


def lines_of(value: Any) -> list[str]:
    """A value as lines of a table cell."""
    if isinstance(value, dict):
        return [f"{key} = {inner}" for key, inner in value.items()] or ["–"]
    if isinstance(value, list):
        return [f"• {inner}" for inner in value] or ["none"]
    if isinstance(value, int) and value >= 10000:
        return [f"{value:,}"]
    return ["–" if value is None else str(value)]


def below(folder: Path) -> list[dict[str, Any]]:
    """One row per checkpoint at any depth; one that cannot be read has the reason in place of its facts."""
    rows = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix in MODEL_SUFFIXES and p in model_files(p.parent)):
        row: dict[str, Any] = {"checkpoint": str(path.relative_to(folder)), "bytes": path.stat().st_size}
        try:
            facts = read(path).facts
            row |= {"family": facts.family, "step": facts.step, "losses": dict(facts.losses), "error": None}
        except LabkitError as error:
            row |= {"family": None, "step": None, "losses": {}, "error": str(error)}
        rows.append(row)
    best = min((row["losses"]["val"] for row in rows if "val" in row["losses"]), default=None)
    return [row | {"best": best is not None and row["losses"].get("val") == best} for row in rows]


def show_rows(rows: list[dict[str, Any]], folder: Path, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    table = Table(title=f"Checkpoints below {folder}", title_justify="left")
    for column in ("checkpoint", "family", "step", "losses", "MB", ""):
        table.add_column(column, overflow="fold", justify="right" if column in ("step", "MB") else "left")
    for row in rows:
        losses = ", ".join(f"{name} {loss:.4f}" for name, loss in row["losses"].items())
        remark = row["error"] or ("best" if row["best"] else "")
        step = "–" if row["step"] is None else str(row["step"])
        table.add_row(row["checkpoint"], row["family"] or "–", step, losses, f"{row['bytes'] / 1e6:.2f}", remark)
    Console(markup=False).print(table)
