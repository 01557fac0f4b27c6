"""labkit convert: a checkpoint in another format, or without its training state."""

from pathlib import Path

import click

from ..checkpoints.convert import convert
from ..language_model import locate


@click.command("convert", help="Write a checkpoint anew: as safetensors, as a Hugging Face folder, or weights alone.")
@click.argument("source")
@click.argument("destination", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_",
    type=click.Choice(["labkit", "native", "huggingface"]),
    default="labkit",
    show_default=True,
    help="labkit: safetensors, config.json and tokenizer. native: the same file without training state. "
    "huggingface: a GPT-2 or Llama folder for transformers.",
)
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Of all weights.")
@click.option("--revision", help="Branch, tag or commit of a hub model.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def command(source: str, destination: Path, format_: str, dtype: str | None, revision: str | None) -> None:
    path, notes = locate(source, revision)
    done = convert(path, destination, format_, dtype)  # type: ignore[arg-type]
    for note in (*notes, *done.notes):
        click.echo(f"note: {note}", err=True)
    click.echo(f"{done.path}: written as {done.format}, read back, and every weight compared")
