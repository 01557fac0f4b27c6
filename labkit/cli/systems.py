"""What the reference systems' own programs do with options and files, besides the defaults that ``settings`` has."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..settings import DIALECTS


@dataclass(frozen=True)
class Program:
    """The command line of a system.

    Attributes:
        device, dtype: where an option and a file say nothing.
        dtype_without_gpu: dtype -> what it becomes where CUDA was asked for and is absent.
        reads: the keys of [generation] that its generate command reads; None: all.
        unused: option that it accepts and never uses -> what it does instead.
        needs_prompt: without a prompt (or with an empty one) it fails; labkit has a default.
        converses: without a prompt it is a chat.
    """

    device: str = "auto"
    dtype: str = "auto"
    dtype_without_gpu: Mapping[str, str] = field(default_factory=dict)
    reads: frozenset[str] | None = None
    unused: Mapping[str, str] = field(default_factory=dict)
    needs_prompt: bool = False
    converses: bool = False


PROGRAMS: Mapping[str, Program] = {
    **{name: Program() for name in DIALECTS},
    "labcore": Program(
        device="cpu",
        reads=frozenset({"seed", "deterministic", "top_p", "repetition_penalty", "use_cache", "dialect"}),
    ),
    "swamla": Program(
        device="cuda",
        dtype="bfloat16",
        dtype_without_gpu={"bfloat16": "float32"},
        unused={"repetition_penalty": "its penalty is always 1.1"},
        converses=True,
    ),
    "gpt2seed": Program(device="cuda", needs_prompt=True),
    "nanochat": Program(needs_prompt=True),
}
