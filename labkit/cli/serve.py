"""labkit serve: the chat and the playground in a browser, for people without JupyterLab."""

import secrets
from dataclasses import replace
from typing import Any

import click

from ..errors import ConfigError, SamplingError
from ..settings import DIALECTS, Settings, read_table
from .options import MODEL_OPTIONS, SAMPLING, GroupedCommand, Model, option, tell_notes, with_options

SERVER, CHAT = "Server", "Chat"
DEFAULT_SOURCE = "shakespeare-char"
LABCORE_SOURCE = "hf:GhostPunishR/labcore-llm-50M"  # what LabCore's demo opens with --source hf
HISTORY_TURNS = 6  # as in LabCore's demo
NO_TOKEN = "none"
CLASSROOM = "Whoever reaches this machine and has the address can come in, and nothing that is sent is encrypted."
OPTIONS = (
    *MODEL_OPTIONS,
    option(SERVER, "--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0: for a classroom."),
    option(SERVER, "--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="0: any free one."),
    option(SERVER, "--token", help="What the address must contain; else a random one; none: nothing (here alone)."),
    option(SERVER, "--max-visitors", type=click.IntRange(1), default=20, show_default=True, help="Pages at a time."),
    option(CHAT, "--system", help="Text in front of the conversation."),
    option(CHAT, "--template", help="How turns are written: a name such as chatml, or a .toml file; else as trained."),
    option(SAMPLING, "--config", help="A TOML file with a [generation] table: what the controls begin with."),
    option(SAMPLING, "--dialect", type=click.Choice(list(DIALECTS)), help="Whose rules apply; else labkit's."),
)


def serve(
    where: str | None,
    host: str,
    port: int,
    token: str | None,
    max_visitors: int,
    system: str | None,
    template: str | None,
    config: str | None,
    dialect: str | None,
    **params: Any,
) -> None:
    try:
        from ..app import page, server
    except ModuleNotFoundError as error:
        raise ConfigError(f"labkit serve needs {error.name}; it comes with: pip install 'labkit[serve]'") from None
    from ..widgets.templates import fitting_template

    if not any(params[name] for name in ("source", "checkpoint", "hf_model")):
        params["source"] = LABCORE_SOURCE if where == "hf" else DEFAULT_SOURCE
    model = Model.of(params)
    loopback = server.is_loopback(host)
    if token == NO_TOKEN and not loopback:
        raise click.UsageError(f"--token none is for this machine alone; with --host {host} leave it out")
    token = None if token == NO_TOKEN else token or secrets.token_urlsafe(18)
    first, program = first_settings(config, dialect)
    with server.listen(host, port) as listening:  # before anything slow: a port that is taken is said at once
        model = replace(model, device=model.device or program.get("device"), dtype=model.dtype or program.get("dtype"))
        lm = model.load(first["dialect"])
        tell_notes([*lm.checkpoint.notes, *([] if loopback else [CLASSROOM])])
        served = page.Served(
            lm,
            where="hf" if model.source.startswith("hf:") else "local",
            first=first,
            system=program.get("system_prompt") if system is None else system,
            template=fitting_template(lm, template, first["dialect"]),
            max_history_turns=program.get("max_history_turns", HISTORY_TURNS),
            stream=program.get("stream", True),
        )
        there = server.address(host, listening.getsockname()[1], token)
        click.echo(f"{model.source} on {lm.device}: {there} (Ctrl-C ends)")
        try:
            server.run(served, listening, host, token, max_visitors)
        except KeyboardInterrupt:
            click.echo("Ended.")


def first_settings(config: str | None, dialect: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the controls begin with, as in LabCore's demo, and what the file says about the program."""
    from ..widgets.chat_demo import DEMO_SETTINGS

    values, program = read_table(config) if config else ({}, {})
    top_p = {"top_p": 1.0} if config else {}  # what LabCore's reader of files fills in
    first = {"dialect": "labkit", "seed": None, **DEMO_SETTINGS, **top_p, **values}
    if dialect:
        first["dialect"] = dialect
    try:
        Settings(**first)
    except (ConfigError, SamplingError) as error:
        raise type(error)(f"{config}: {error}") from None
    return first, program


command = click.command(
    "serve",
    cls=GroupedCommand,
    help="Serve a chat and a playground to browsers: one model, several visitors. Without SOURCE: shakespeare-char.",
)(with_options(serve, OPTIONS))
next(p for p in command.params if p.name == "where").expose_value = True  # LabCore's --source, which has a default here
