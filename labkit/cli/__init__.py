"""The ``labkit`` command. Sub-commands are imported when they are asked for, so that ``labkit --help`` is quick."""

import importlib
import io
import sys

import click

from ..errors import LabkitError

# Sub-command -> one line of help; each lives in the module of its name.
COMMANDS = {
    "generate": "Continue a text, token by token.",
    "chat": "Talk with a model.",
    "batch": "Continue many prompts from a file, into JSON Lines.",
    "compare": "Put two checkpoints, settings or precisions side by side; several in a table.",
    "bench": "Measure how fast a checkpoint is, with intervals; against another engine, and against last week.",
    "sweep": "Run a notebook over a grid of parameters, resumable, here or on a cluster.",
    "eval": "Measure the loss on a text, or the share of questions answered.",
    "inspect": "Say what a checkpoint is: family, size, tokenizer, training, and what looks odd.",
    "convert": "Write a checkpoint anew: as safetensors, for transformers, or weights alone.",
    "serve": "Chat and playground in a browser, for several visitors and people without JupyterLab.",
    "train": "Train a small model from a file of configs/training/.",
}


# What the reference systems call an option -> what it is called here, for every sub-command that has it.
ALIASES = {
    "model-path": "checkpoint",
    "hf-repo-id": "hf-model",
    "repo-id": "hf-model",
    "repo-revision": "revision",
    "max-tokens": "max-new-tokens",
    "gen-tokens": "max-new-tokens",
    "use-kv-cache": "use-cache",
    "no-use-kv-cache": "no-use-cache",
    "no-sample": "greedy",
    "system-prompt": "system",
}


def canonical(name: str) -> str:
    """One name for an option, however it is spelt: --top_k and --top-k are one, and the aliases."""
    name = name.replace("_", "-")
    return ALIASES.get(name, name)


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
        "token_normalize_func": canonical,
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a model may write what this terminal or pipe cannot
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
    except OSError as error:  # a full disk, a folder that may not be written to
        if debug:
            raise
        fail(f"{error.filename or 'a file'}: {error.strerror or error}")
    except Exception as error:
        if debug:
            raise
        fail(f"{type(error).__name__}: {error} (this is a fault of labkit; --debug shows where)")


def fail(message: str) -> None:
    """One line on stderr, exit status 1."""
    click.echo(f"labkit: {' '.join(message.split())}", err=True)
    sys.exit(1)
