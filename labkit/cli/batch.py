"""labkit batch: continue many prompts, into JSON Lines; a run that was interrupted goes on where it was."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from ..errors import ConfigError, LabkitError
from ..generation import Generation, encode_prompt, stream_batch
from ..language_model import LanguageModel
from ..settings import Settings, default_of
from ..tokenizers.base import OnSpecial, OnUnknown
from .display import printable
from .options import INPUT, LENGTH, OUTPUT, SAMPLING, GroupedCommand, Request, generation_options, option
from .prompts import STDIN, Kind, Line, built_in, read_lines, unescaped
from .records import Record, as_line, record_file


@dataclass(frozen=True)
class Job:
    """A prompt ready to run, or why it cannot: ``error``."""

    index: int
    line: Line
    settings: Settings
    prompt_ids: list[int]
    notes: tuple[str, ...] = ()
    error: str | None = None


class Batch:
    """Everything that all prompts of a run have in common.

    Attributes:
        n: continuations of every prompt.
        seed, seed_step: of the first prompt, and by how much it goes up from prompt to prompt.
    """

    def __init__(
        self, lm: LanguageModel, settings: Settings, n: int, seed_per_line: bool, escape: bool, **encoding: Any
    ):
        assert settings.seed is not None  # Settings draws one where none is given
        self.lm, self.settings, self.n = lm, settings, n
        self.seed, self.seed_step = settings.seed, int(seed_per_line)
        self.escape, self.encoding = escape, encoding
        dtype = str(lm.model.lm_head.weight.dtype).removeprefix("torch.")
        self.model = {"sha256": lm.checkpoint.sha256, "dtype": dtype}

    def job(self, index: int, line: Line) -> Job:
        """What to run for a line; nothing that is wrong with it raises."""
        settings = self.settings.replace(seed=self.seed + index * self.seed_step)
        if line.prompt is None:
            return Job(index, line, settings, [], error=line.error)
        try:
            settings = settings.replace(**line.changes)
            prompt = unescaped(line.prompt) if self.escape and isinstance(line.prompt, str) else line.prompt
            ids, notes = encode_prompt(self.lm, prompt, **self.encoding)
        except LabkitError as error:
            return Job(index, line, settings, [], error=str(error))
        return Job(index, line, settings, ids, notes)

    def groups(self, jobs: Iterable[Job], size: int) -> Iterator[list[Job]]:
        """Jobs that run at once: neighbours with the same settings."""
        group: list[Job] = []
        for job in jobs:
            if group and (len(group) == size or job.settings != group[0].settings):
                yield group
                group = []
            group.append(job)
        if group:
            yield group

    def run(self, jobs: Sequence[Job]) -> list[list[Record]]:
        """Jobs of the same settings, at once -> the records of each.

        Raises:
            KeyboardInterrupt: by Ctrl-C; what did not come to its end is lost.
        """
        ready = [job for job in jobs if job.error is None]
        try:
            done = iter(self.results(ready))
        except LabkitError as error:
            if len(jobs) > 1:
                return [self.run([job])[0] for job in jobs]
            return [[self.failure(jobs[0], str(error).removeprefix("prompts[0]: "))]]
        return [
            [self.success(job, *numbered) for numbered in enumerate(next(done))]
            if job.error is None
            else [self.failure(job, job.error)]
            for job in jobs
        ]

    def results(self, jobs: Sequence[Job]) -> list[list[Generation]]:
        if not jobs:
            return []
        prompts = [job.prompt_ids for job in jobs]
        run = stream_batch(self.lm, prompts, jobs[0].settings, n=self.n, batch_size=len(jobs) * self.n)
        for _ in run:
            pass
        return run.results()

    def success(self, job: Job, continuation: int, result: Generation) -> Record:
        made = {
            "continuation": continuation,
            "text": result.text,
            "ids": result.ids,
            "prompt_ids": job.prompt_ids,
            "finish_reason": result.finish_reason,
            "notes": [*job.notes, *result.notes],
        }
        return self.place(job) | made | self.origin(job)

    def failure(self, job: Job, error: str) -> Record:
        return self.place(job) | {"error": " ".join(error.split())} | self.origin(job)

    def place(self, job: Job) -> Record:
        """Which prompt a record belongs to."""
        return {"index": job.index, "line": job.line.number, "id": job.line.id, "prompt": job.line.prompt}

    def origin(self, job: Job) -> Record:
        """What a record was made with."""
        return {"settings": job.settings.to_dict(), "model": self.model}

    def done(self, lines: Sequence[Line], there: Sequence[Record], out: Path) -> tuple[int, int]:
        """How many prompts an earlier run did, and how many continuations of the next one.

        Raises:
            ConfigError: what is there is not what this run would write.
        """
        place = index = 0
        while place < len(there):
            if index == len(lines):
                raise ConfigError(f"{out}: holds more than the {len(lines)} prompts of this run; name another --out")
            job = self.job(index, lines[index])
            for continuation in range(1 if "error" in there[place] else self.n):
                if place == len(there):
                    return index, continuation
                if wrong := self.difference(there[place], job, continuation):
                    raise ConfigError(f"{out}: line {place + 1} {wrong}; name another --out")
                place += 1
            index += 1
        return index, 0

    def difference(self, record: Record, job: Job, continuation: int) -> str | None:
        """What in a record of an earlier run is not as this run would write it; None: nothing."""
        due = json.loads(json.dumps(self.place(job) | self.origin(job)))
        if any(record.get(name) != due[name] for name in ("index", "id", "prompt")):
            return f"is from other prompts or another --n ({record.get('prompt')!r}; {due['prompt']!r} is due)"
        if record.get("model") != due["model"]:
            return f"is from other weights ({record.get('model')}; now {due['model']})"
        was, now = record.get("settings") or {}, due["settings"]
        if changed := [f"{name} {was.get(name)!r}, now {now[name]!r}" for name in now if was.get(name) != now[name]]:
            return f"is from other settings ({'; '.join(changed)})"
        if "error" not in record and (record.get("prompt_ids"), record.get("continuation")) != (
            job.prompt_ids, continuation,
        ):  # fmt: skip
            return "is from another tokenizer or another --n"
        return None


@click.command("batch", cls=GroupedCommand)
@generation_options("batch")
@click.argument("file", required=False)
@option(INPUT, "--prompts-file", hidden=True, help="The same as FILE.")
@option(INPUT, "--mode", type=click.Choice(["batch"]), hidden=True, expose_value=False)
@option(INPUT, "--system", hidden=True, expose_value=False, help="SWA-MLA's, which uses it in a chat only.")
@option(INPUT, "--input-format", type=click.Choice(["auto", "text", "jsonl"]), default="auto", help="Of FILE.")
@option(INPUT, "--escape", is_flag=True, help=r"Read \n, \t, \\ and \uXXXX in prompts and in --stop.")
@option(SAMPLING, "--seed-per-line", is_flag=True, help="Seed, seed + 1, … instead of one seed for all prompts.")
@option(LENGTH, "--n", type=click.IntRange(1), default=1, show_default=True, help="Continuations of each prompt.")
@option(LENGTH, "--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Prompts run at once.")
@option(OUTPUT, "--out", type=click.Path(path_type=Path), help="Write here; what is there already is not done again.")
@option(OUTPUT, "--json", "as_json", is_flag=True, help="Without --out: print JSON Lines instead of text.")
def command(
    request: Request,
    file: str | None,
    prompts_file: str | None,
    input_format: Kind,
    escape: bool,
    seed_per_line: bool,
    n: int,
    batch_size: int,
    out: Path | None,
    as_json: bool,
    unknown: OnUnknown | None,
    special: OnSpecial | None,
) -> None:
    """Continue the prompts of FILE ("-": standard input), or a few built-in ones.

    FILE holds one prompt a line, or is JSON Lines: {"prompt": "To be", "id": 1, "temperature": 0.5}, of which all but
    the prompt may be left out. With --out every result is one line of JSON, in the order of the prompts; the same
    command again goes on after the last whole line, wherever it was interrupted. What comes out does not depend on
    --batch-size; every prompt is drawn with the same seed, as labkit generate would alone, unless --seed-per-line or
    a line says otherwise. A line that cannot be done is reported and written as one with "error", the rest is done,
    and the exit status is 1.
    """
    if file is not None and prompts_file is not None:
        raise click.UsageError("name one file of prompts, as FILE or with --prompts-file")
    file = file or prompts_file
    lines = None if file is None else read_lines(file, input_format)
    settings = request.settings
    if escape:
        settings = settings.replace(stop=[unescaped(s) if isinstance(s, str) else s for s in settings.stop])
    lm = request.load()
    if lines is None:
        lines = [Line(number, prompt) for number, prompt in enumerate(built_in(lm), start=1)]
    where = "standard input" if file == STDIN else file or "built-in prompts"
    with record_file(out) if out is not None else nullcontext(Shown(len(lines), as_json)) as results:
        if "seed" not in request.origins and default_of("seed", settings.dialect) is None:
            settings = settings.replace(seed=first_seed(results.there, lines, seed_per_line) or settings.seed)
        batch = Batch(lm, settings, n, seed_per_line, escape, unknown=unknown, special=special)
        done, skip = batch.done(lines, results.there, out or Path())
        failed = sum("error" in record for record in results.there)
        jobs = (batch.job(index, lines[index]) for index in range(done, len(lines)))
        with tqdm(total=len(lines), initial=done, unit="prompt", file=sys.stderr, disable=None) as bar:
            try:
                for group in batch.groups(jobs, batch_size):
                    made = [record for of_job in batch.run(group) for record in of_job][skip:]
                    results.append(made)
                    done, skip = done + len(group), 0
                    for record in made:
                        if "error" in record:
                            failed += 1
                            bar.write(f"labkit: {where}, line {record['line']}: {record['error']}", file=sys.stderr)
                    bar.update(len(group))
            except KeyboardInterrupt:
                again = "; the same command goes on with the rest" * (out is not None)
                bar.write(f"labkit: interrupted; {done} of {len(lines)} prompts are done{again}", file=sys.stderr)
                raise
    if failed:
        raise ConfigError(f"{failed} of {len(lines)} prompts failed ({where})")


@dataclass(frozen=True)
class Shown:
    """What stands for a RecordFile where results go to stdout."""

    total: int
    as_json: bool
    there: tuple[Record, ...] = ()

    def append(self, records: Sequence[Record]) -> None:
        for record in records:
            if self.as_json:
                click.echo(as_line(record), nl=False)
            elif "error" not in record:
                text = f"[{record['index'] + 1}/{self.total}] {record['prompt']}\n{record['text']}\n"
                click.echo(printable(text))


def first_seed(there: Sequence[Record], lines: Sequence[Line], seed_per_line: bool) -> int | None:
    """The seed of the run that is continued, where nobody chose one; None if there is no such run."""
    for record in there:
        index = record["index"]
        if index < len(lines) and "seed" not in lines[index].changes:
            return int(record["settings"]["seed"]) - index * seed_per_line
    return None
