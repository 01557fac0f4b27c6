"""load_trace: a trace from its file, checked before anything is believed."""

import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from torch import Tensor

from ..errors import LabkitError, TraceError
from ..sampling import Sampler
from ..sampling.partial import PartialLogits
from ..settings import LABKIT_RULES, Settings, stage_value
from .run import RecordedStep, Trace
from .writing import DRAWS, FORMAT, JSON_NAME, LOGITS_NAME, STAGES, VERSION, VOCABULARY_NAME, vocabulary_hash


def load_trace(path: str | Path) -> Trace:
    """Open a file that ``Trace.save`` wrote. It answers every question without the model.

    Raises:
        TraceError: no such file, not a trace, one of a version after this labkit, or damaged.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        data = json.loads(members[JSON_NAME])
        check(data["format"] == FORMAT, f"its format is {data['format']!r}")
        version = data["version"]
        if version[0] != VERSION[0]:
            raise TraceError(
                f"{path}: a trace of version {'.'.join(map(str, version))}; this labkit reads version {VERSION[0]}.x"
            )
        vocabulary = json.loads(members[VOCABULARY_NAME]) if VOCABULARY_NAME in members else None
        return trace_from(data, tensors_from(members[LOGITS_NAME]), vocabulary)
    except FileNotFoundError:
        raise TraceError(f"{path}: there is no such file") from None
    except LabkitError as error:
        raise TraceError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    except KeyError as error:
        raise TraceError(f"{path}: not a whole labkit trace ({error} is missing)") from None
    except (
        OSError, zipfile.BadZipFile, NotImplementedError, SafetensorError, ValueError, TypeError, IndexError,
        AttributeError, RuntimeError,
    ) as error:  # fmt: skip
        raise TraceError(f"{path}: not a whole labkit trace ({error})") from None


def check(fine: bool, what: str) -> None:
    if not fine:
        raise ValueError(what)


def trace_from(data: Mapping[str, Any], tensors: Mapping[str, Tensor], vocabulary: list[str] | None) -> Trace:
    """A trace from the parts of its file."""
    model = dict(data["model"])
    n, written = model["vocab_size"], model.pop("vocabulary_sha256")
    for name in ("prompt_ids", "ids", "end_ids"):
        inside = all(type(i) is int and 0 <= i < n for i in data[name])
        check(inside, f"{name} holds ids outside the vocabulary 0 … {n - 1}")
    check(vocabulary is None or len(vocabulary) == n, "the vocabulary has another size than the logits")
    check(vocabulary_hash(vocabulary) == written, "the vocabulary is not the one it was saved with")
    steps = steps_from(data["steps"], tensors, n)
    check([step.id for step in steps] == data["ids"], "ids and steps do not agree")
    given = data.get("given", 0)  # not there before 1.1
    check(type(given) is int and 0 <= given <= len(steps), f"given is {given!r}, of {len(steps)} ids")
    return Trace(
        prompt_ids=data["prompt_ids"],
        ids=data["ids"],
        text=data["text"],
        finish_reason=data["finish_reason"],
        notes=tuple(data["notes"]),
        settings=Settings(**data["settings"]),
        sampler=sampler_from(data["sampler"]),
        steps=steps,
        end_ids=tuple(data["end_ids"]),
        model=model,
        pieces_by_id=None if vocabulary is None else tuple(vocabulary),
        given=given,
    )


def steps_from(
    rows: list[Mapping[str, Any]], tensors: Mapping[str, Tensor], vocab_size: int
) -> tuple[RecordedStep, ...]:
    """The steps with their logits, which come in the order of the steps."""
    full = list(tensors["full"])
    partial = list(partial_from(tensors, vocab_size))
    counts = [sum(row["full"] is wanted for row in rows) for wanted in (True, False)]
    check(
        counts == [len(full), len(partial)], f"{counts} full and compact steps, logits for {len(full)}, {len(partial)}"
    )
    check(tensors["full"].shape[1:] == (vocab_size,), f"the logits have the shape {tuple(tensors['full'].shape)}")
    steps = []
    for row in rows:
        logits: Any = (full if row["full"] else partial).pop(0)
        logprob = -math.inf if row["logprob"] is None else float(row["logprob"])
        numbers = logprob, float(row["raw_logprob"]), int(row["rank"]), float(row["entropy"])
        steps.append(RecordedStep(row["id"], *numbers, logits))
    return tuple(steps)


def partial_from(tensors: Mapping[str, Tensor], vocab_size: int) -> list[PartialLogits]:
    if "partial.ids" not in tensors:
        return []
    ids, logits, starts = (tensors[f"partial.{name}"] for name in ("ids", "logits", "starts"))
    border, rest = tensors["partial.border"].tolist(), tensors["partial.rest"].tolist()
    out = []
    for i, (a, b) in enumerate(zip(starts.tolist(), starts.tolist()[1:], strict=False)):
        known = ids[a:b]
        inside = len(known) > 0 and int(known[0]) >= 0 and int(known[-1]) < vocab_size
        check(inside and bool((known.diff() > 0).all()), f"the ids of compact step {i} are not in order")
        out.append(PartialLogits(known, logits[a:b], border[i], rest[i], vocab_size))
    check(len(out) == len(border) == len(rest), "the compact steps do not agree")
    return out


def sampler_from(data: Mapping[str, Any]) -> Sampler:
    """The very stages and draw, and the settings they were made from."""
    named = dict(data["named"])
    for name in named.keys() & LABKIT_RULES.keys():
        named[name] = stage_value(name, named[name], named.get("dialect", "labkit"))
    stages = [part_from(part, STAGES) for part in data["stages"]]
    return Sampler(stages, part_from(data["draw"], DRAWS), named)


def part_from(data: Mapping[str, Any], kinds: Mapping[str, Any]) -> Any:
    values = {name: hashable(value) for name, value in data.items() if name != "kind"}
    check(data["kind"] in kinds, f"{data['kind']!r} is no stage or draw of this labkit")
    return kinds[data["kind"]](**values)


def hashable(value: Any) -> Any:
    """Lists as the tuples that stages have."""
    return tuple(map(hashable, value)) if isinstance(value, list) else value


__all__ = ["load_trace"]
