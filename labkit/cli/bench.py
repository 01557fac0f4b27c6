"""labkit bench: tokens a second, latency and memory, with intervals; against another engine, and against last week."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import ConfigError, LabkitError
from ..files import atomic_write, check_writable
from ..language_model import LanguageModel
from ..tokenizers.base import OnSpecial, OnUnknown
from .compare import show_rows
from .options import INPUT, LENGTH, MODEL, OUTPUT, GroupedCommand, Request, generation_options, option, tell_notes
from .prompts import built_in

PROMPT, GEN_TOKENS = "ROMEO:", 256  # of the reference benchmark
ITERATIONS = {"labcore": 3}
HELP = """Measure how fast a checkpoint generates, and how sure that is.

Every case (batch size, prompt length, engine) runs once a round, after a warm-up. With each mean stands how far from it
another benchmark like this one stays; with --against, the other engine runs in turns with labkit, and ratios get
intervals; with --compare, the exit status is 1 where something has become slower by more than noise."""


class Counts(click.ParamType[Any]):
    """Whole numbers from 1 with commas between."""

    name = "1,2,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        if not all(part.strip().isdecimal() and int(part) for part in value.split(",")):
            self.fail(f"{value!r} is no list of whole numbers from 1 such as 1,8,32", param, ctx)
        return tuple(int(part) for part in value.split(","))


@click.command("bench", cls=GroupedCommand, help=HELP)
@generation_options("bench")
@option(INPUT, "--prompt", help="What is continued; left out: one that the model can write.")
@option(LENGTH, "--warmup-tokens", type=click.IntRange(0), default=64, show_default=True, help="Not counted; 0: none.")
@option(LENGTH, "--iters", "--iterations", "iters", type=click.IntRange(1), help="Rounds; 10, in labcore's dialect 3.")
@option(LENGTH, "--batch-sizes", type=Counts(), default=(1,), help="Rows at once: 1,8,32.")
@option(LENGTH, "--contexts", type=Counts(), default=(), help="Prompt lengths to measure besides: 128,512.")
@option(MODEL, "--threads", type=click.IntRange(1), help="Of torch; left out: as many as it takes itself.")
@option(OUTPUT, "--against", multiple=True, help="Another engine on the same weights: hf, llama.cpp, plain.")
@option(OUTPUT, "--compare", "old_path", metavar="OLD.json", help="Is anything slower than it was then?")
@option(
    OUTPUT, "--tolerance", type=click.FloatRange(0, 1), default=0.05, show_default=True,
    help="With --compare: a difference up to this share is noise.",
)  # fmt: skip
@option(OUTPUT, "--json-out", type=click.Path(path_type=Path), help="Write everything here (docs/bench.schema.json).")
@option(OUTPUT, "--md-out", type=click.Path(path_type=Path), help="Write the table row here.")
@option(OUTPUT, "--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(
    request: Request,
    prompt: str | None,
    warmup_tokens: int,
    iters: int | None,
    batch_sizes: tuple[int, ...],
    contexts: tuple[int, ...],
    threads: int | None,
    against: Sequence[str],
    old_path: str | None,
    tolerance: float,
    json_out: Path | None,
    md_out: Path | None,
    as_json: bool,
    unknown: OnUnknown | None,
    special: OnSpecial | None,
) -> None:
    try:
        from .. import benchmark
    except ImportError as error:
        raise ConfigError(f"labkit bench needs {error.name}; it comes with: pip install 'labkit[lab]'") from None
    settings, on_hub = request.settings, request.model.source.startswith("hf:")
    # Of [generation] the reference benchmark does not read max_new_tokens either.
    gen_tokens = settings.max_new_tokens if request.origins.get("max_new_tokens") == "option" else GEN_TOKENS
    if gen_tokens < 1:
        raise click.UsageError("--gen-tokens must be > 0")
    if json_out and md_out and json_out.absolute() == md_out.absolute():
        raise click.UsageError(f"--json-out and --md-out are both {json_out}; name two files")
    for path in filter(None, (json_out, md_out)):
        check_writable(path)  # a minute later would be too late
    if settings.dialect == "labcore" and on_hub and not click.get_current_context().params["config"]:
        settings = settings.replace(use_cache=settings.use_cache and "use_cache" in request.origins)
    old = benchmark.read(old_path) if old_path else None
    if click.get_current_context().params["streaming"]:
        tell_notes(["--stream is accepted and changes nothing here."])
    start = time.perf_counter()
    lm = request.load()
    load_seconds = time.perf_counter() - start
    record = benchmark.benchmark(
        lm,
        default_prompt(lm) if prompt is None else prompt,
        settings,
        new_tokens=gen_tokens,
        iterations=iters or ITERATIONS.get(settings.dialect, 10),
        warmup_tokens=warmup_tokens,
        batch_sizes=batch_sizes,
        contexts=contexts,
        against=against,
        threads=threads,
        source="hf" if on_hub else "local",
        load_seconds=load_seconds,
        progress=True,
        unknown=unknown,
        special=special,
    )
    tell_notes(record["notes"])
    compared, differences = benchmark.compare(old, record, tolerance) if old else ([], [])
    tell_notes([f"not the same as in {old_path}: {difference}" for difference in differences])
    if as_json:
        click.echo(json.dumps(record | ({"compared": compared} if old else {}), ensure_ascii=False))
    else:
        show(record, compared)
    if json_out:
        benchmark.write(record, json_out)
        click.echo(f"JSON written to: {json_out}", err=True)
    if md_out:
        atomic_write(md_out, lambda file: file.write(benchmark.markdown(record).encode()))
        click.echo(f"Markdown written to: {md_out}", err=True)
    if slower := [row for row in compared if row["verdict"] == "slower"]:
        worst = min(slower, key=lambda row: row["ratio"])
        raise LabkitError(
            f"slower than {old_path} in {len(slower)} of {len(compared)} cases: {times(worst)} with "
            f"{worst['batch_size']} rows of {worst['prompt_tokens'] or 'the same'} prompt tokens"
        )


def default_prompt(lm: LanguageModel) -> str | list[int]:
    """The reference benchmark's, or one that this model can write; without a tokenizer a token."""
    if lm.tokenizer is None:
        return [0]
    return PROMPT if not lm.tokenizer.unknown_in(PROMPT) else built_in(lm)[0]


def show(record: Mapping[str, Any], compared: Sequence[Mapping[str, Any]]) -> None:
    """Tables for people, and the row for the community's table."""
    from ..benchmark import markdown

    show_rows([measured(found) for found in record["measurements"]])
    bandwidth = record["results"]["memory_bandwidth_gb_per_sec"]["median"]
    click.echo(
        "tokens a second (± how far another benchmark's mean may be at this pace of the machine), ms, share of the "
        "memory's bandwidth\n\n"
        f"memory reads {bandwidth:.1f} GB/s, peak RSS {record['results']['rss_peak_mib']:.0f} MiB; threads: "
        f"{record['torch']['threads']}, {record['model']['dtype']}, {record['device']['name']}\n"
    )
    if record["ratios"]:
        show_rows(
            [
                place(row) | {"rate": row["rate"], "against": row["against"], "labkit is": times(row)}
                for row in record["ratios"]
            ]
        )
        for name, same in record["same_ids"].items():
            click.echo("" if same is None else f"{name} makes {'the same' if same else 'OTHER'} tokens\n")
    if compared:
        show_rows([place(row) | change(row) for row in compared])
        click.echo("tokens a second as measured; new / old at one pace of the machine, where both were read on it\n")
    click.echo(markdown(record), nl=False)


def place(row: Mapping[str, Any]) -> dict[str, Any]:
    """Which case a row is about."""
    return {"rows": row["batch_size"], "prompt": row["prompt_tokens"]}


def change(row: Mapping[str, Any]) -> dict[str, str]:
    """What --compare says of a case."""
    means = {when: f"{row[when]:.1f}" for when in ("old", "new")}
    pace = "–" if row["pace"] is None else f"{row['pace']:.2f} x"
    return means | {"pace": pace, "new / old": times(row), "verdict": row["verdict"]}


def measured(found: Mapping[str, Any]) -> dict[str, str | int]:
    """A line of the table: rates in tokens a second, times in milliseconds, and the share of the memory's bandwidth.

    "±" is how far another benchmark's mean stays from this one.
    """
    from ..benchmark import Summary

    decode, gaps, share = found["decode_tokens_per_sec"], found["inter_token_ms"], found["bandwidth_share"]
    return {
        "engine": found["engine"],
        **place(found),
        "tok/s": str(Summary(tuple(found["tokens_per_sec"]["values"]))),
        "prefill": short(found["prefill_tokens_per_sec"]["median"]),
        "decode": short(decode["median"]) if decode else "–",
        "first": short(found["first_token_ms"]["median"]),
        "p50": short(gaps["p50"]) if gaps else "–",
        "p99": short(gaps["p99"]) if gaps else "–",
        "mem": f"{share['median']:.0%}" if share else "–",
    }


def short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.{max(0, 3 - len(str(int(value))))}f}"


def times(row: Mapping[str, Any]) -> str:
    """A ratio with its interval, where there is one."""
    from ..benchmark import Ratio

    return str(Ratio(row["ratio"], row["low"], row["high"]))
