"""labkit generate: continue a text."""

import json
import sys
import time
from typing import Any

import click

from ..generation import Run, encode_prompt, stream
from ..language_model import load
from ..settings import Settings, read_table
from . import common, source_of

# Fields of Settings that are options here; None: not given.
FIELDS = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "greedy", "seed", "max_new_tokens",
    "min_new_tokens", "stop", "use_cache", "overflow", "penalty_scope", "deterministic",
)  # fmt: skip


@click.command("generate", help="Continue a text, token by token.")
@common
@click.option("--prompt", default="To be", show_default=True, help="The text to continue.")
@click.option("--config", type=click.Path(), help="A TOML file with a [generation] table.")
@click.option("--max-new-tokens", "--max-tokens", type=int, help="Tokens to add.")
@click.option("--min-new-tokens", type=int, help="Nothing ends generation before this many.")
@click.option("--temperature", type=float, help="0 is greedy; below 1 sharper, above 1 flatter.")
@click.option("--top-k", type=int, help="Keep the k most probable tokens; 0: all.")
@click.option("--top-p", type=float, help="Keep the most probable tokens up to this mass; 1: all.")
@click.option("--min-p", type=float, help="Keep tokens with this share of the largest probability; 0: all.")
@click.option("--repetition-penalty", type=float, help="Make tokens seen before less likely; 1: off.")
@click.option("--greedy/--sample", default=None, help="Always take the most probable token.")
@click.option("--no-sample", "greedy", flag_value=True, default=None, help="The same as --greedy.")
@click.option("--seed", type=int, help="Of the draw; the same seed gives the same text.")
@click.option("--stop", multiple=True, help="End at this text; may be given several times.")
@click.option(
    "--use-cache/--no-use-cache", "--use-kv-cache/--no-use-kv-cache", default=None, help="Keep keys and values."
)
@click.option("--overflow", type=click.Choice(["crop", "recrop", "stop", "labcore"]), help="When the context is full.")
@click.option("--penalty-scope", type=click.Choice(["all", "generated", "prompt"]), help="What the penalty counts.")
@click.option("--deterministic/--no-deterministic", default=None, help="Ask torch for deterministic kernels.")
@click.option("--unknown", type=click.Choice(["raise", "drop"]), help="Characters outside the vocabulary.")
@click.option("--special", type=click.Choice(["parse", "text", "refuse"]), help="Special tokens typed as text.")
@click.option("--stream/--no-stream", "streaming", default=True, show_default=True, help="Show tokens as they come.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@click.option("--verbose", is_flag=True, help="Say where each setting comes from, and how fast it was (on stderr).")
def command(
    source: str | None,
    checkpoint: str | None,
    meta: str | None,
    tokenizer: str | None,
    device: str,
    dtype: str,
    prompt: str,
    config: str | None,
    unknown: Any,
    special: Any,
    streaming: bool,
    as_json: bool,
    verbose: bool,
    **options: Any,
) -> None:
    settings, origins = resolve(config, {name: options[name] for name in FIELDS if options[name] not in (None, ())})
    lm = load(source_of(source, checkpoint), device=device, dtype=dtype, meta=meta, tokenizer=tokenizer)
    prompt_ids, notes = encode_prompt(lm, prompt, unknown=unknown, special=special)
    for note in (*lm.checkpoint.notes, *notes):
        click.echo(f"note: {note}", err=True)
    if verbose:
        for name, value in settings.to_dict().items():
            click.echo(f"{name} = {value!r} ({origins.get(name, 'default')})", err=True)
    run = stream(lm, prompt_ids, settings)
    started = time.perf_counter()
    show(run, prompt, streaming and not as_json)
    result = run.result()
    if as_json:
        click.echo(
            json.dumps(
                {
                    "prompt": prompt,
                    "text": result.text,
                    "ids": result.ids,
                    "prompt_ids": result.prompt_ids,
                    "finish_reason": result.finish_reason,
                    "notes": [*lm.checkpoint.notes, *notes],
                    "settings": settings.to_dict(),
                },
                ensure_ascii=False,
            )
        )
    elif not streaming:
        click.echo(printable(prompt + result.text))
    if verbose:
        rate = len(result.ids) / (time.perf_counter() - started)
        click.echo(f"{len(result.ids)} tokens, {rate:.1f} a second; ended by {result.finish_reason}", err=True)


def resolve(config: str | None, given: dict[str, Any]) -> tuple[Settings, dict[str, str]]:
    """Settings and where each comes from: option before file before default."""
    from_file = read_table(config)[0] if config else {}
    origins = dict.fromkeys(from_file, f"file {config}") | dict.fromkeys(given, "option")
    return Settings().replace(**from_file | given), origins


def show(run: Run, prompt: str, streaming: bool) -> None:
    """Run to the end, printing as it goes; Ctrl-C ends it and keeps what is there."""
    try:
        if streaming:
            click.echo(printable(prompt), nl=False)
        for step in run:
            if streaming:
                click.echo(printable(step.text), nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    if streaming:
        click.echo()


def printable(text: str) -> str:
    """Control characters made visible on a terminal, where a model's output could otherwise steer it."""
    if not sys.stdout.isatty():
        return text
    return "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\n\t" else c for c in text)
