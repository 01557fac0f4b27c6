"""The ``labkit`` command. Sub-commands are imported when they are asked for, so that ``labkit --help`` is quick."""

import importlib
import sys
from typing import Any

import click

from ..errors import LabkitError

# Sub-command -> one line of help; each lives in the module of its name.
COMMANDS = {
    "generate": "Continue a text, token by token.",
    "inspect": "Say what a checkpoint is: family, size, tokenizer, training, and what looks odd.",
    "convert": "Write a checkpoint anew: as safetensors, for transformers, or weights alone.",
    "train": "Train a small model from a file of configs/training/.",
}


class LazyGroup(click.Group):
    """A group whose commands are known by name and imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f".{name}", __name__).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=LazyGroup,
    context_settings={
        # --top_k and --top-k are one option: the reference systems use either.
        "token_normalize_func": lambda name: name.replace("_", "-"),
        "help_option_names": ["-h", "--help"],
    },
)
@click.version_option(package_name="labkit")
def group() -> None:
    """See and steer how a small language model chooses its next token.

    SOURCE is a checkpoint file or folder, or the name of a shipped one: shakespeare-char, arithmetic.
    """


def main(arguments: list[str] | None = None) -> None:
    """Exit status 0; 1 when it failed, with one line on stderr; 2 for a usage error."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        group.main([a for a in arguments if a != "--debug"], prog_name="labkit", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is nobody to tell
        sys.exit(0)
    except LabkitError as error:
        if debug:
            raise
        fail(str(error))
    except Exception as error:
        if debug:
            raise
        fail(f"{type(error).__name__}: {error} (this is a fault of labkit; --debug shows where)")


def fail(message: str) -> None:
    """One line on stderr, exit status 1."""
    click.echo(f"labkit: {' '.join(message.split())}", err=True)
    sys.exit(1)


def common(function: Any) -> Any:
    """Options of every sub-command that opens a checkpoint."""
    for option in (
        click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
        click.option("--dtype", default="auto", help="auto, float32, float16 or bfloat16."),
        click.option("--device", default="auto", help="auto, cpu, cuda, mps; an absent one becomes the CPU."),
        click.option("--tokenizer", help='"char" or "bpe", to use instead of what the checkpoint says.'),
        click.option("--meta", type=click.Path(), help="A meta file to use instead of the one beside the model."),
        click.option("--checkpoint", type=click.Path(), help="The same as SOURCE."),
        click.argument("source", required=False),
    ):
        function = option(function)
    return function


def source_of(source: str | None, checkpoint: str | None) -> str:
    """SOURCE or --checkpoint, one of the two."""
    if (source is None) == (checkpoint is None):
        raise click.UsageError("name one checkpoint, as SOURCE or with --checkpoint (shipped: shakespeare-char)")
    return source or checkpoint or ""
