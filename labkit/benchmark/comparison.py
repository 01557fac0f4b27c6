"""Two records held against each other: what is faster or slower, and what else was not the same."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .engines import Labkit
from .intervals import Ratio, unpaired

Record = dict[str, Any]
LONE = (1, None)  # rows, prompt tokens of the one case of the reference benchmark
# What must be the same for two records to be about the code alone: what it ran on, and what was asked.
CONDITIONS = (
    ("platform", "cpu"), ("device", "name"), ("torch", "version"), ("torch", "threads"), ("model", "sha256"),
    ("model", "params_m"), ("model", "dtype"),
)  # fmt: skip
ASKED = (
    ("generation", "prompt"), ("generation", "gen_tokens"), ("generation", "use_kv_cache"), ("model", "fast_path"),
)  # fmt: skip


def read(path: str | Path) -> Record:
    """A record of ``write``, or of the reference benchmark.

    Raises:
        ConfigError: it cannot be read, or is something else.
    """
    try:
        record: Record = json.loads(Path(path).read_text(encoding="utf-8"))
        check(record)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: is not the JSON of a benchmark ({type(error).__name__}: {error})") from None
    return record


def check(record: Mapping[str, Any]) -> None:
    """Raises what its damage raises, if a record is not what ``compare`` can read."""
    rates = [record["results"]["tokens_per_sec"]]
    for found in record.get("measurements", ()):
        rates += [found["tokens_per_sec"], *filter(None, [found.get("pace")])]
    for rate in rates:
        values = rate.get("values", [rate["mean"]])
        if not values or not all(isinstance(x, int | float) and 0 < x < math.inf for x in (rate["mean"], *values)):
            raise ValueError(f"{rate['mean']} and {values} are not all numbers above 0")
    places(record)
    differences(record, record, (*CONDITIONS, *ASKED))
    other_settings(record, record)


def compare(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: float = 0.05) -> tuple[list[Record], list[str]]:
    """Where labkit is faster or slower in ``new`` than in ``old``, case by case.

    Of one machine, torch and model, the ratio is that at the same pace of the machine, where both records have it: what
    neighbours do in the hours between changes both the decoding and the pace.

    Args:
        tolerance: a difference of at most this share is noise, whatever the intervals say (see ``Ratio.verdict``).

    Returns:
        A row for each case that both have: its place, both means as measured, ``pace`` (the new one by the old one, if
        it was taken into account, or None), the ratio with its 99 % interval and the verdict.
        And what else differs between the two, in sentences.
    """
    if not 0 <= tolerance <= 1:
        raise ConfigError(f"the tolerance is {tolerance}; it must be a share from 0 to 1")
    before, after = places(old), places(new)
    if not ("measurements" in old and "measurements" in new):
        before, after = ({LONE: record["results"]} for record in (old, new))
    shared = [place for place in after if place in before]
    if not shared:
        raise ConfigError("the two benchmarks have no case in common: no batch size with a prompt length")
    conditions = differences(old, new, CONDITIONS)
    rows = [
        dict(zip(("batch_size", "prompt_tokens"), place, strict=True))
        | compared(before[place], after[place], not conditions, tolerance)
        for place in shared
    ]
    return rows, conditions + differences(old, new, ASKED) + other_settings(old, new)


def compared(old: Mapping[str, Any], new: Mapping[str, Any], same_machine: bool, tolerance: float) -> Record:
    """One case."""
    b, a = old["tokens_per_sec"], new["tokens_per_sec"]
    ratio, pace = Ratio(a["mean"] / b["mean"]), None
    if "values" in b and "values" in a:  # the reference benchmark does not write them
        before, after = ((found.get("pace") if same_machine else None) for found in (old, new))
        if before and after:
            ratio = unpaired(a["values"], b["values"], (after["values"], before["values"]))
            pace = after["mean"] / before["mean"]
        else:
            ratio = unpaired(a["values"], b["values"])
    return {"old": b["mean"], "new": a["mean"], "pace": pace, **ratio.to_dict(), "verdict": ratio.verdict(tolerance)}


def places(record: Mapping[str, Any]) -> dict[tuple[Any, ...], Record]:
    """What was measured of labkit in every case."""
    return {
        (found["batch_size"], found["prompt_tokens"]): found
        for found in record.get("measurements", ())
        if found["engine"] == Labkit.name
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any], conditions: Sequence[tuple[str, str]]) -> list[str]:
    """Conditions that both records state, and not alike."""
    pairs = [(f"{section}.{name}", *(r[section].get(name) for r in (old, new))) for section, name in conditions]
    return [f"{what} was {a!r} and is {b!r}" for what, a, b in pairs if None not in (a, b) and a != b]


def other_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Settings that both records state, and not alike."""
    before, after = (record["generation"].get("settings", {}) for record in (old, new))
    return [
        f"the setting {name} was {before[name]!r} and is {value!r}"
        for name, value in after.items()
        if name != "max_new_tokens" and None not in (before.get(name), value) and before[name] != value
    ]
