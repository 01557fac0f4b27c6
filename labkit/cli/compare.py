"""labkit compare: two checkpoints, settings or precisions side by side; several checkpoints in a table."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from ..inspection.compare import Comparison, compare, trajectory
from ..inspection.evaluate import read_questions, read_text
from ..language_model import LanguageModel
from ..settings import check_names
from ..views.base import visible
from .display import printable
from .options import (
    FIELD_OPTIONS,
    INPUT,
    MODEL,
    OTHER,
    OUTPUT,
    GroupedCommand,
    Model,
    Pair,
    given_settings,
    option,
    plain,
    resolve,
    tell_notes,
    with_options,
)
from .prompts import built_in

HELP = """Put checkpoints side by side.

Two read the same text (or what the first one writes), and continue the same prompt on the same random draw: how far
apart are they, where do they part, and was it the model? Named once, a checkpoint is compared with itself under
other settings (--with temperature=1.2) or in another precision (--dtype-b bfloat16). Three and more, or --questions,
make a table."""


@click.command("compare", cls=GroupedCommand, help=HELP)
@click.argument("sources", nargs=-1, required=True, metavar="A [B] [MORE]...")
@option(INPUT, "--text", "text_file", metavar="FILE", help="The text that all read; left out: what A writes.")
@option(INPUT, "--prompt", help="What A and B continue; left out: one that A can write.")
@option(
    INPUT, "--questions", "questions_file", metavar="FILE", help="For the table: .jsonl or .tsv, as in labkit eval."
)
@option(
    INPUT,
    "--with",
    "changes_b",
    multiple=True,
    type=Pair(str, plain, "temperature=1.2"),
    metavar="NAME=VALUE",
    help="A setting in which B differs from A; may be given several times.",
)
@option(
    OUTPUT,
    "--rows",
    "n_rows",
    type=click.IntRange(0),
    default=8,
    show_default=True,
    help="So many tokens at which they differ most.",
)
@option(OUTPUT, "--json", "as_json", is_flag=True, help="Print JSON, with every token.")
@option(MODEL, "--device", help="auto, cpu, cuda, mps; an absent one becomes the CPU.")
@option(MODEL, "--dtype", help="auto, float32, float16 or bfloat16.")
@option(MODEL, "--dtype-b", help="The same, of B alone.")
@option(OTHER, "--config", help="A TOML file with a [generation] table; an option beats it.")
@option(OTHER, "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
@functools.partial(with_options, options=tuple(FIELD_OPTIONS.values()))
def command(
    sources: Sequence[str],
    text_file: str | None,
    prompt: str | None,
    questions_file: str | None,
    changes_b: Sequence[tuple[str, Any]],
    n_rows: int,
    as_json: bool,
    device: str | None,
    dtype: str | None,
    dtype_b: str | None,
    config: str | None,
    **params: Any,
) -> None:
    text = read_text(text_file) if text_file else None
    dtypes = [dtype, dtype_b or dtype, *[dtype] * len(sources)]
    named = [*sources, sources[0]] if len(sources) == 1 else sources
    models = [Model(source, device, its_own) for source, its_own in zip(named, dtypes, strict=False)]
    if questions_file or len(sources) > 2:
        tabulate(models[: len(sources)], text, questions_file, as_json)
        return
    changes = {name.replace("-", "_"): value for name, value in changes_b}
    check_names(changes)
    if len(sources) == 1 and not changes and not dtype_b:
        raise click.UsageError("name a second checkpoint, or how B differs: --with NAME=VALUE, --dtype-b")
    request = resolve(models[0], "compare", config, given_settings(params | {"stop_id": ()}), None, False)
    a = opened(request.model)
    b = opened(models[1]) if len(sources) > 1 or dtype_b else a
    prompt = built_in(a)[0] if prompt is None else prompt
    found = compare(a, b, text, prompt=prompt, settings=request.settings, changes_b=changes)
    tell_notes((*found.text.notes, *(found.run.notes if found.run else ())))
    if as_json:
        names = {"a": sources[0], "b": sources[-1], "prompt": prompt, "changes_b": changes}
        facts = {**names, "settings": request.settings.to_dict(), **found.to_dict()}
        click.echo(json.dumps(facts, ensure_ascii=False))
    else:
        report(found, n_rows)


def tabulate(models: Sequence[Model], text: str | None, questions_file: str | None, as_json: bool) -> None:
    """Several checkpoints, one row each."""
    if text is None and not questions_file:
        raise click.UsageError("for a table give --text FILE, --questions FILE, or both")
    questions = read_questions(questions_file) if questions_file else None
    points = trajectory(map(opened, models), text=text, questions=questions)
    if as_json:
        click.echo(json.dumps(points.to_dict(), ensure_ascii=False))
    else:
        show_rows(points.rows())


def opened(model: Model) -> LanguageModel:
    lm = model.load()
    tell_notes([f"{model.source}: {note}" for note in lm.checkpoint.notes])
    return lm


def report(found: Comparison, n_rows: int) -> None:
    """Totals, where they differ most, and what both wrote, for people."""
    totals = found.text.totals()
    summary = Table("", "A", "B", box=None, pad_edge=False)
    for name in ("surprisal", "bits_per_byte", "ruled_out"):
        summary.add_row(name.replace("_", " "), *(cell(totals[f"{name}_{side}"]) for side in "ab"))
    Console(markup=False, highlight=False).print(summary)
    rest = {name: totals[name] for name in ("parts", "delta", "largest_delta", "kl", "js", "agreement")}
    click.echo(", ".join(f"{name.replace('_', ' ')} {cell(value)}" for name, value in rest.items()) + "\n")
    if n_rows:
        show_rows(found.text.most_different(n_rows))
    if found.run is not None:
        click.echo(f"\nEach by itself: {printable(found.run.verdict)}")
        for name, run in (("A", found.run.a), ("B", found.run.b)):
            click.echo(f"\n{name} ({len(run.ids)} tokens, {run.finish_reason}):\n{printable(run.text)}")


def show_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(cell(row.get(name)) for name in columns))
    Console(markup=False, highlight=False).print(table)


def cell(value: Any) -> str:
    return visible(value) if isinstance(value, str) else "–" if value is None else f"{value}"
