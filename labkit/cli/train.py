"""labkit train: a file of configs/training/ -> a checkpoint in its native layout."""

from pathlib import Path

import click

from ..errors import ConfigError
from ..language_model import resolve_device
from ..training.recipe import read_recipe, run_recipe


@click.command("train", help="Train a small model from a file of configs/training/.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write checkpoints into.")
@click.option("--data", type=click.Path(path_type=Path), help="The text file to train on, where the recipe needs one.")
@click.option("--device", default="auto", help="auto, cpu, cuda or mps.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def command(recipe: Path, out: Path, data: Path | None, device: str) -> None:
    try:
        text = data.read_text(encoding="utf-8") if data else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{data}: cannot be read as UTF-8 text ({error})") from None
    chosen, notes = resolve_device(device)
    for note in notes:
        click.echo(f"note: {note}", err=True)

    def report(step: int, losses: dict[str, float], seconds: float) -> None:
        click.echo(f"step {step}: train {losses['train']:.4f}, val {losses['val']:.4f}, {seconds:.0f} s")

    run_recipe(read_recipe(recipe), text, out, str(chosen), report)
