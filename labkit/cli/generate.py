"""labkit generate: continue a text."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import click

from ..errors import ConfigError
from ..generation import Generation, Step, encode_prompt, generate_batch, stream
from ..language_model import LanguageModel
from ..tokenizers.base import OnSpecial, OnUnknown
from . import batch, chat
from .display import Display
from .options import INPUT, LENGTH, OUTPUT, GroupedCommand, Ids, Request, generation_options, option, tell_notes
from .prompts import built_in, read_text, unescaped
from .repl import prompts_loop
from .systems import PROGRAMS


@click.command("generate", cls=GroupedCommand, help="Continue a text, token by token.")
@generation_options("generate")
@option(INPUT, "--prompt", help='The text to continue; left out: "To be", where the model can write that.')
@option(INPUT, "--prompt-file", metavar="FILE", help="A file with the text to continue; - is standard input.")
@option(INPUT, "--prompt-ids", type=Ids(), metavar="1,2,3", help="Token ids to continue, used as they are.")
@option(INPUT, "--escape", is_flag=True, help=r"Read \n, \t, \\ and \uXXXX in prompts and in --stop.")
@option(INPUT, "--interactive", is_flag=True, help="Ask for prompts, one after the other, each by itself.")
@option(INPUT, "--mode", type=click.Choice(["chat", "batch"]), help="The same as labkit chat, or labkit batch.")
@option(LENGTH, "--n", type=click.IntRange(1), default=1, show_default=True, help="Continuations, each its own draw.")
@option(OUTPUT, "--show-probabilities", is_flag=True, help="Colour every token by its probability, on a terminal.")
@option(OUTPUT, "--logprobs", type=click.IntRange(0), help="In --json: of every token, and of so many others.")
@option(OUTPUT, "--json", "as_json", is_flag=True, help="One JSON object for each continuation, instead of text.")
@option(INPUT, "--system", hidden=True, help="For --mode chat.")
@option(INPUT, "--chatml", is_flag=True, hidden=True, help="For --mode chat.")
@option(INPUT, "--prompts-file", hidden=True, help="For --mode batch.")
@click.pass_context
def command(
    ctx: click.Context,
    request: Request,
    prompt: str | None,
    prompt_file: str | None,
    prompt_ids: tuple[int, ...] | None,
    escape: bool,
    interactive: bool,
    mode: str | None,
    n: int,
    show_probabilities: bool,
    logprobs: int | None,
    as_json: bool,
    unknown: OnUnknown | None,
    special: OnSpecial | None,
    **_: Any,
) -> None:
    system, settings = PROGRAMS[request.settings.dialect], request.settings
    asked = [value for value in (prompt, prompt_file, prompt_ids) if value is not None]
    if len(asked) > 1:
        raise click.UsageError("name one prompt: --prompt, --prompt-file or --prompt-ids")
    if logprobs is not None and (not as_json or n > 1):
        raise click.UsageError("--logprobs is part of --json, for one continuation")
    if mode and asked:
        raise click.UsageError(f"--mode {mode} takes no prompt of its own; leave --mode out to continue one")
    if mode or (system.converses and not asked and not interactive):
        hand_over(ctx, batch.command if mode == "batch" else chat.command)
        return
    prepare = unescaped if escape else str
    settings = settings.replace(stop=[prepare(s) if isinstance(s, str) else s for s in settings.stop])
    streaming = request.streaming and not as_json
    if interactive:
        lm = request.load()
        prompts_loop(
            lm, settings, streaming=streaming, color=show_probabilities, as_json=as_json, unknown=unknown,
            special=special, prepare=prepare,
        )  # fmt: skip
        return
    prompt = prompt if prompt_file is None else read_text(prompt_file)
    if not (prompt or prompt_ids) and system.needs_prompt:
        raise ConfigError(f"{settings.dialect} needs something to continue: give --prompt or --interactive")
    start: str | Sequence[int] | None = prompt_ids if prompt is None else prepare(prompt)
    lm = request.load()
    if start is None:
        start = built_in(lm)[0]
    ids, notes = encode_prompt(lm, start, unknown, special)
    tell_notes(notes)
    said = start if isinstance(start, str) else written(lm, ids)
    display = Display(streaming and n == 1 and lm.tokenizer is not None, show_probabilities, silent=as_json)
    rows: list[dict[str, Any]] = []
    if n > 1:
        results = generate_batch(lm, [ids], settings, n=n)[0]
    else:
        run = stream(lm, ids, settings)
        display.legend()
        if display.streaming:
            display.text(said)
        timing = display.show(run if logprobs is None else recorded(run, lm, logprobs, rows))
        results = [run.result()]
        if request.verbose:
            click.echo(f"{len(run.ids)} tokens, {timing.words}; ended by {results[0].finish_reason}", err=True)
    notes = (*lm.checkpoint.notes, *notes)
    for i, result in enumerate(results):
        if as_json:
            more = ({"continuation": i} if n > 1 else {}) | ({} if logprobs is None else {"logprobs": rows})
            click.echo(json.dumps(facts(result, said, notes) | more, ensure_ascii=False))
        elif display.streaming:
            display.text("\n")
        else:
            heading = f"[{i + 1}/{n}]\n" if n > 1 else ""
            display.text(f"{heading}{said}{result.text if lm.tokenizer else written(lm, result.ids)}\n")


def hand_over(ctx: click.Context, other: click.Command) -> None:
    """Go on as another command, with what was given for the options that it has as well."""
    names = {parameter.name for parameter in other.params if parameter.expose_value}
    ctx.invoke(other, **{name: value for name, value in ctx.params.items() if name in names})


def written(lm: LanguageModel, ids: Sequence[int]) -> str:
    """Ids as text; of a model without a tokenizer as numbers."""
    return lm.tokenizer.decode(ids) if lm.tokenizer is not None else "".join(f" {i}" for i in ids)


def facts(result: Generation, prompt: str, notes: Sequence[str]) -> dict[str, Any]:
    """A finished run as plain data."""
    return {
        "prompt": prompt,
        "text": result.text,
        "ids": result.ids,
        "prompt_ids": result.prompt_ids,
        "finish_reason": result.finish_reason,
        "notes": [*notes, *result.notes],
        "settings": result.settings.to_dict(),
    }


def recorded(run: Iterable[Step], lm: LanguageModel, most: int, rows: list[dict[str, Any]]) -> Iterator[Step]:
    """The steps as they come, with a row of ``rows`` for each: its probability and those of ``most`` others."""
    for step in run:
        log_p = step.logits.log_softmax(dim=-1)  # (V,)
        best = log_p.topk(min(most, len(log_p)))
        rows.append(
            token(lm, step.id)
            | {"logprob": step.logprob, "raw_logprob": step.raw_logprob}
            | {"rank": step.rank, "entropy": step.entropy}
            | {
                "top": [
                    token(lm, i) | {"raw_logprob": value}
                    for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                ]
            }
        )
        yield step


def token(lm: LanguageModel, token_id: int) -> dict[str, Any]:
    """What a token is called."""
    return {"id": token_id, "piece": lm.tokenizer.pieces([token_id])[0] if lm.tokenizer is not None else None}
