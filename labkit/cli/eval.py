"""labkit eval: the loss on a text file, or the share of a file's questions that are answered."""

import json
from pathlib import Path
from typing import Any, Literal

import click

from ..inspection.evaluate import evaluate_answers, evaluate_text, read_questions, read_text
from .display import printable
from .options import INPUT, LENGTH, OUTPUT, GroupedCommand, Model, model_options, option, tell_notes

QUESTIONS = (".jsonl", ".ndjson", ".tsv")
HELP = """Measure how well a model predicts a text, or how many questions it answers.

FILE is a text; or, called .jsonl or .tsv, a list of questions: {"prompt": …, "answer": …}
or prompt<tab>answer a line."""


@click.command("eval", cls=GroupedCommand, help=HELP)
@model_options
@click.argument("file", required=False)
@option(INPUT, "--as", "kind", type=click.Choice(["text", "questions"]), help="What FILE is, whatever it is called.")
@option(INPUT, "--stride", type=int, help="A text is read in windows, each so many tokens further on.")
@option(LENGTH, "--stop", default="\n", help="An answer ends at this text; left out: at the end of the line.")
@option(LENGTH, "--max-new-tokens", type=int, help="Of an answer; left out: as many as the longest one needs.")
@option(OUTPUT, "--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: Model,
    file: str | None,
    kind: Literal["text", "questions"] | None,
    stride: int | None,
    stop: str,
    max_new_tokens: int | None,
    as_json: bool,
) -> None:
    if file is None:
        raise click.UsageError("name a checkpoint and a FILE")
    if kind is None:
        kind = "questions" if Path(file).suffix in QUESTIONS else "text"
    read = read_text(file) if kind == "text" else read_questions(file)
    lm = model.load()
    tell_notes(lm.checkpoint.notes)
    lines: list[str]
    if isinstance(read, str):
        loss = evaluate_text(lm, read, stride=stride)
        tell_notes(loss.notes)
        facts = loss.to_dict()
        lines = [f"{name.replace('_', ' ')}: {number(value)}" for name, value in loss.rows()[0].items()]
    else:
        answers = evaluate_answers(lm, read, stop=stop, max_new_tokens=max_new_tokens)
        facts = answers.to_dict()
        low, high = answers.interval
        wrong = [row for row in answers.rows() if not row["right"]]
        lines = [
            f"{facts['right']} of {facts['n']} right: {answers.accuracy:.1%} (95 % interval {low:.1%} … {high:.1%})"
        ]
        lines += [f"  {row['prompt']!r}: {row['answer']!r}, not {row['said']!r}" for row in wrong[:10]]
        lines += [f"  … and {len(wrong) - 10} more wrong"] if len(wrong) > 10 else []
    click.echo(json.dumps(facts, ensure_ascii=False) if as_json else printable("\n".join(lines)))


def number(value: Any) -> str:
    return "–" if value is None else f"{value:,}"
