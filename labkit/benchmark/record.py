"""A benchmark as one record: the reference benchmark's JSON with everything else beside it, and its Markdown row."""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from ..errors import ConfigError
from ..files import atomic_write
from ..generation import encode_prompt
from ..language_model import LanguageModel
from ..settings import Settings, off_value
from ..tokenizers.base import OnSpecial, OnUnknown
from . import machine
from .engines import ENGINES, Labkit
from .intervals import Summary, paired
from .llama_cpp import LlamaCpp
from .timing import Case, Engine, Measurement, measure
from .timing import threads as torch_threads

Record = dict[str, Any]
Key = tuple[str, int, int]  # engine, rows, prompt tokens
BUSY = 0.08  # of the machine, by others: from here on a note says so
THREADS_A_CORE = 4  # more would but wait for each other
UNSTEADY = 1.5  # times the slowest pace was the fastest: from here on a note says so
RATES = ("tokens_per_sec", "prefill_tokens_per_sec", "decode_tokens_per_sec")
HEADER = (
    "| Device | Source | Model size (params M) | KV-cache | gen_tokens | mean tok/s | peak VRAM MiB |\n"
    "|---|---|---:|---|---:|---:|---:|\n"
)


def benchmark(
    lm: LanguageModel,
    prompt: str | Sequence[int] = "ROMEO:",
    settings: Settings | None = None,
    *,
    new_tokens: int = 256,
    iterations: int = 10,
    warmup_tokens: int = 64,
    batch_sizes: Sequence[int] = (1,),
    contexts: Sequence[int] = (),
    against: Sequence[str] = (),
    threads: int | None = None,
    source: str = "local",
    load_seconds: float | None = None,
    progress: bool = False,
    unknown: OnUnknown | None = None,
    special: OnSpecial | None = None,
) -> Record:
    """Measure a model, every case in turns with every other; the record is docs/bench.schema.json's.

    Args:
        new_tokens: of every row, exactly.
        batch_sizes: rows at once. The first row is the prompt; the others are random ids of the same length.
        contexts: prompt lengths in tokens to measure besides; the prompt is cut, or filled up with random ids.
        against: other engines on the same weights: names in ENGINES.
        threads: of torch; None: as it is.
        source, load_seconds: for the record, where the model is from ("local" or "hf") and how long loading took.
        unknown, special: as in ``encode_prompt``, for a prompt that is text.

    Raises:
        LabkitError: what cannot be measured, and why.
    """
    settings = settings or Settings()
    if not len(lm.model.blocks):
        raise ConfigError("a wrapped function has no weights to report on; time it with benchmark.measure")
    sizes = (("new_tokens", [new_tokens]), ("batch_sizes", batch_sizes), ("contexts", contexts))
    for name, values in (*sizes, ("threads", [threads or 1])):
        if wrong := [value for value in values if type(value) is not int or value < 1]:
            raise ConfigError(f"{name} is {wrong[0]!r}; it must be a whole number from 1")
    most_threads = THREADS_A_CORE * (os.cpu_count() or 1)
    if threads and threads > most_threads:
        raise ConfigError(f"threads is {threads}; with more than {most_threads} here they only wait for each other")
    if strange := [name for name in against if name not in ENGINES]:
        raise ConfigError(f"engine {strange[0]!r} is unknown; there is {', '.join(ENGINES)}")
    with torch_threads(threads):
        ids, notes = encode_prompt(lm, prompt, unknown=unknown, special=special)
        ours = Labkit(lm, settings)
        engines: list[Engine] = [ours, *(ENGINES[name](lm, settings) for name in against)]
        lengths = dict.fromkeys([len(ids), *contexts])
        check_memory(lm, max(batch_sizes), max(lengths) + new_tokens)
        cases = {
            (engine.name, batch, length): Case(engine, prompts(lm, ids, batch, length), new_tokens)
            for batch in dict.fromkeys(batch_sizes)
            for length in lengths
            for engine in engines
        }
        agree = {name: same_ids(cases, name) if ours.settings.greedy else None for name in against}
        # How many bytes its step reads of a file of other types, step_bytes cannot say.
        own_types = () if lm.checkpoint.dtype == "F32" else (LlamaCpp.name,)
        touched = {
            key: None if key[0] in own_types else step_bytes(lm, ours.settings, *key[1:], new_tokens) for key in cases
        }
        main = next(iter(cases))
        rss_before = machine.rss_peak_mib()
        bandwidth = machine.MemoryBandwidth(touched[main] or machine.weight_bytes(lm)[1], lm.device)
        others = machine.OtherPrograms()
        timed = measure(
            cases,
            iterations=iterations,
            warmup_tokens=warmup_tokens,
            before_round=bandwidth.read,
            pace=machine.Pace(lm).read,
            progress=progress,
        )
        busy = others.share()
        # Ours was there all the time, so a new peak includes it, and an old one does not.
        rss_peak = max(rss_before, machine.rss_peak_mib() - bandwidth.buffer.nbytes / machine.MIB)
    if LlamaCpp.name in against:
        notes += (f"llama.cpp multiplies with the file's {lm.checkpoint.dtype}, labkit with {weight_dtype(lm)}.",)
    if busy > BUSY:
        notes += (f"Other programs used {busy:.0%} of the CPU meanwhile; measure again when they have ended.",)
    paces = [run.pace for found in timed.values() for run in found.runs if run.pace]
    if max(paces) > UNSTEADY * min(paces):
        notes += (f"The machine's pace changed by {max(paces) / min(paces) - 1:.0%} meanwhile: it has neighbours.",)
    if max(lengths) + new_tokens > lm.model.block_size:
        notes += (
            f"Up to {max(lengths) + new_tokens} tokens in a context of {lm.model.block_size}: "
            f"what overflow={ours.settings.overflow!r} costs is part of the figures.",
        )
    named, changed = machine.commit()
    shown = ours.settings.replace(max_new_tokens=new_tokens).to_dict()
    return {
        "timestamp": datetime.now(UTC).isoformat(),
        "commit": named,
        "commit_changed": changed,
        "platform": machine.platform_facts() | {"other_programs": busy},
        "torch": machine.torch_facts() | ({"threads": threads} if threads else {}),
        "versions": machine.versions("torch", "numpy", "transformers", "llama_cpp"),
        "device": machine.device_facts(lm.device),
        "model": model_facts(lm, source) | {"load_seconds": load_seconds},
        "generation": {
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "gen_tokens": new_tokens,
            "temperature": ours.settings.temperature,
            **{
                name: off_value(name, getattr(ours.settings, name)) for name in ("top_k", "top_p", "repetition_penalty")
            },
            "use_kv_cache": ours.settings.use_cache,
            "stream": False,
            "warmup_tokens": warmup_tokens,
            "settings": shown,
        },
        "results": {
            "iters": iterations,
            "tokens_per_sec": timed[main].tokens_per_sec.to_dict(),
            "vram_peak_mib": timed[main].vram_peak_mib,
            "rss_peak_mib": rss_peak,
            "memory_bandwidth_gb_per_sec": Summary(tuple(b / 1e9 for b in bandwidth.readings)).to_dict(),
        },
        "measurements": [
            found.to_dict() | bandwidth_share(found, touched[key], bandwidth.readings) for key, found in timed.items()
        ],
        "ratios": [row for name in against for row in ratio_rows(timed, name)],
        "same_ids": agree,
        "notes": list(notes),
    }


def check_memory(lm: LanguageModel, rows: int, length: int) -> None:
    """Refuse what could never be held, before anything of that size is made."""
    needed, held = rows * machine.cache_bytes(lm, length), psutil.virtual_memory().total
    if needed > held:
        raise ConfigError(
            f"{rows} rows of {length} tokens have {needed / machine.MIB:,.0f} MiB of keys and values, and this machine "
            f"has {held / machine.MIB:,.0f} MiB of memory; take fewer rows"
        )


def same_ids(cases: Mapping[Key, Case], against: str) -> bool:
    """Whether the other engine makes the very tokens that labkit makes, in the first case."""
    made = []
    for name in (Labkit.name, against):
        case = next(case for case in cases.values() if case.engine.name == name)
        made.append(case.engine.generate(case.rows, case.new_tokens))
    return made[0] == made[1]


def prompts(lm: LanguageModel, ids: Sequence[int], batch: int, length: int) -> tuple[tuple[int, ...], ...]:
    """Rows (B, T) that differ, as equal ones would be computed once; the same ones at every call."""
    filler = torch.randint(lm.vocab_size, (batch, length), generator=torch.Generator().manual_seed(0))  # (B, T)
    first, *others = filler.tolist()
    return tuple(tuple(row) for row in ([*ids, *first[len(ids) :]][:length], *others))


def step_bytes(lm: LanguageModel, settings: Settings, batch: int, length: int, new_tokens: int) -> int | None:
    """Bytes that a decoding step reads in the middle of the run: weights once, keys and values of every row.

    None without a cache, where a step computes all over again and memory is not what limits it.
    """
    if not settings.use_cache:
        return None
    _, read = machine.weight_bytes(lm)
    return read + batch * machine.cache_bytes(lm, length + new_tokens // 2)


def bandwidth_share(found: Measurement, touched: int | None, readings: Sequence[float]) -> Record:
    """What decoding reads, against what the memory gave in the same round."""
    decode = found.decode_tokens_per_sec
    if touched is None or decode is None:
        return {"bytes_per_token": None, "bandwidth_share": None}
    per_token = touched / found.batch_size
    shares = (rate * per_token / reading for rate, reading in zip(decode.values, readings, strict=True))
    return {"bytes_per_token": per_token, "bandwidth_share": Summary(tuple(shares)).to_dict()}


def ratio_rows(timed: Mapping[Key, Measurement], against: str) -> list[Record]:
    """Every rate of labkit as a multiple of the other engine's, from rounds that both ran in."""
    rows = []
    for (engine, batch, length), ours in timed.items():
        if engine == Labkit.name:
            theirs = timed[against, batch, length]
            for rate in RATES:
                a, b = getattr(ours, rate), getattr(theirs, rate)
                if a is not None and b is not None:
                    place = {"against": against, "batch_size": batch, "prompt_tokens": length, "rate": rate}
                    rows.append(place | paired(a.values, b.values).to_dict())
    return rows


def model_facts(lm: LanguageModel, source: str) -> Record:
    config, facts = lm.config, lm.checkpoint
    held, read = machine.weight_bytes(lm)
    return {
        "source": source,
        "params_m": lm.n_parameters / 1e6,
        "block_size": lm.model.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "name": facts.path.name,
        "family": facts.family,
        "format": facts.format,
        "dtype": weight_dtype(lm),
        "fast_path": lm.fast,
        "sha256": facts.sha256,
        "weight_mib": held / machine.MIB,
        "weight_mib_read_per_step": read / machine.MIB,
    }


def weight_dtype(lm: LanguageModel) -> str:
    """float32, say."""
    return str(lm.model.lm_head.weight.dtype).removeprefix("torch.")


def markdown(record: Mapping[str, Any]) -> str:
    """The community table with the record's row."""
    device, generation, results = record["device"], record["generation"], record["results"]
    vram = results["vram_peak_mib"]
    cells = (
        f"{device['name']} ({device['type']})".replace("|", "\\|"),
        record["model"]["source"],
        f"{record['model']['params_m']:.3f}",
        "on" if generation["use_kv_cache"] else "off",
        generation["gen_tokens"],
        f"{results['tokens_per_sec']['mean']:.2f}",
        "N/A" if vram is None else f"{vram:.1f}",
    )
    return f"{HEADER}| {' | '.join(map(str, cells))} |\n"


def write(record: Mapping[str, Any], path: str | Path) -> None:
    """Write a record as JSON."""
    text = json.dumps(record, indent=2, ensure_ascii=False)
    atomic_write(Path(path), lambda file: file.write(text.encode()))
