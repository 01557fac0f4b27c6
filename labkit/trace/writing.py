"""The file of a trace: a zip of trace.json (docs/trace.schema.json), logits.safetensors and vocabulary.json.

Times in the zip are fixed and compression is one and the same, so that equal traces are equal bytes.
"""

import dataclasses
import hashlib
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from ..errors import SamplingError
from ..files import atomic_write
from ..sampling import Greedy, Gumbel, LlamaCppDist, NanochatMultinomial, Sampler, SoftmaxArgmax, TorchMultinomial
from ..sampling.orders import LLAMA_CPP_MIROSTAT, ORDERS
from ..sampling.partial import PartialLogits

FORMAT, VERSION = "labkit-trace", (1, 1)  # a reader refuses another first number, and ignores fields it does not know
STAGES = {kind.__name__: kind for order in (*ORDERS.values(), LLAMA_CPP_MIROSTAT) for kind in order}
DRAWS = {
    kind.__name__: kind
    for kind in (Greedy, Gumbel, TorchMultinomial, NanochatMultinomial, LlamaCppDist, SoftmaxArgmax)
}  # fmt: skip
JSON_NAME, LOGITS_NAME, VOCABULARY_NAME = "trace.json", "logits.safetensors", "vocabulary.json"
SAME_TIME = (1980, 1, 1, 0, 0, 0)


def header(trace: Any) -> dict[str, Any]:
    """All of a trace but its logits and vocabulary, as plain values."""
    return {
        "format": FORMAT,
        "version": list(VERSION),
        "model": dict(trace.model) | {"vocabulary_sha256": vocabulary_hash(trace.vocabulary)},
        "prompt_ids": list(trace.prompt_ids),
        "ids": list(trace.ids),
        "text": trace.text,
        "finish_reason": trace.finish_reason,
        "notes": list(trace.notes),
        "settings": trace.settings.to_dict(),
        "sampler": sampler_dict(trace.sampler),
        "end_ids": list(trace.end_ids),
        "given": trace.given,
        "steps": [
            {
                "id": step.id,
                "logprob": step.logprob if step.logprob > -math.inf else None,
                "raw_logprob": step.raw_logprob,
                "rank": step.rank,
                "entropy": step.entropy,
                "full": isinstance(step.logits, Tensor),
            }
            for step in trace.steps
        ],
    }


def sampler_dict(sampler: Sampler) -> dict[str, Any]:
    """The settings it was made from, its stages and its draw."""
    return {
        "named": plain(sampler.named),
        "stages": [part_dict(stage, STAGES) for stage in sampler.stages],
        "draw": part_dict(sampler.draw, DRAWS),
    }


def part_dict(part: Any, kinds: Mapping[str, Any]) -> dict[str, Any]:
    kind = type(part).__name__
    if kinds.get(kind) is not type(part):
        raise SamplingError(f"{kind} is none of labkit's own ({', '.join(kinds)}), so a file cannot say what it does")
    return {"kind": kind} | {f.name: plain(getattr(part, f.name)) for f in dataclasses.fields(part)}


def plain(value: Any) -> Any:
    """Tuples as lists, and the keys of tables as strings: what JSON has."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, tuple | list) else value


def save(trace: Any, path: Path) -> None:
    """Write the file, whole or not at all."""
    text = json.dumps(header(trace), ensure_ascii=False, indent=1)
    members = {JSON_NAME: text.encode(errors="backslashreplace"), LOGITS_NAME: tensor_bytes(tensors(trace))}
    if trace.vocabulary is not None:
        members[VOCABULARY_NAME] = json.dumps(list(trace.vocabulary)).encode()

    def write(file: Any) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in members.items():
                entry = zipfile.ZipInfo(name, SAME_TIME)
                # Logits do not get smaller by it.
                entry.compress_type = zipfile.ZIP_STORED if name == LOGITS_NAME else zipfile.ZIP_DEFLATED
                archive.writestr(entry, data)

    atomic_write(path, write)


def tensors(trace: Any) -> dict[str, Tensor]:
    """Logits of the full steps (N, V), and those of the compact ones side by side with where each begins."""
    full = [step.logits for step in trace.steps if isinstance(step.logits, Tensor)]
    partial = [step.logits for step in trace.steps if isinstance(step.logits, PartialLogits)]
    lengths = torch.tensor([0, *(len(p.ids) for p in partial)])
    out = {"full": torch.stack(full) if full else torch.empty(0, trace.model["vocab_size"])}  # (N, V)
    if partial:
        out["partial.ids"] = torch.cat([p.ids for p in partial])
        out["partial.logits"] = torch.cat([p.logits for p in partial])
        out["partial.starts"] = lengths.cumsum(dim=0)
        out["partial.border"] = torch.tensor([p.border for p in partial], dtype=torch.float64)
        out["partial.rest"] = torch.tensor([p.rest for p in partial], dtype=torch.float64)
    return out


def vocabulary_hash(pieces: Sequence[str] | None) -> str | None:
    """SHA-256 of what the ids stand for."""
    return None if pieces is None else hashlib.sha256(json.dumps(list(pieces)).encode()).hexdigest()
