"""Where it ran: the machine, its memory, the versions; and what a decoded token has to read."""

import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..generation.steps import prefill
from ..language_model import LanguageModel

MIB = 2**20
LEAST, MOST = 4 * MIB, 256 * MIB  # of the buffer whose reading is timed
PACE_SECONDS = 0.04  # at least, of a reading of the pace
ROOT = Path(__file__).resolve().parent.parent.parent


def cpu_name() -> str:
    """What the CPU calls itself, or "CPU"."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "CPU"


def device_facts(device: torch.device) -> dict[str, Any]:
    """``type`` and ``name``; of a GPU its memory as well."""
    if device.type != "cuda":
        return {"type": device.type, "name": cpu_name()}
    properties = torch.cuda.get_device_properties(device)
    return {"type": "cuda", "name": properties.name, "memory_mib": properties.total_memory / MIB}


def platform_facts() -> dict[str, Any]:
    return {
        "os": platform.platform(),
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "memory_mib": psutil.virtual_memory().total / MIB,
    }


def torch_facts() -> dict[str, Any]:
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


# What pip calls a package, where it is not what Python calls it.
DISTRIBUTIONS = {"llama_cpp": "llama-cpp-python"}


def versions(*packages: str) -> dict[str, str]:
    """Of labkit, and of those of the packages that are loaded."""
    return {
        name: metadata.version(DISTRIBUTIONS.get(name, name)) for name in ("labkit", *packages) if name in sys.modules
    }


def commit() -> tuple[str | None, bool]:
    """The commit of the repository that labkit lies in, and whether it was changed since; None outside of one."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    if not (ROOT / ".git").exists():
        return None, False
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None, False
    name, _, changed = said.stdout.strip().partition("-")
    return (name if said.returncode == 0 and len(name) == 40 else None), bool(changed)


def rss_peak_mib() -> float:
    """The most memory that this process held since it began, loading included."""
    if sys.platform == "linux":  # of this program alone; getrusage also counts what ran in the process before it
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / MIB
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / MIB
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MIB  # bytes on macOS


class OtherPrograms:
    """How much of the machine's CPU everybody else used since this object was made."""

    def __init__(self) -> None:
        self.before = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: all, idle, this process."""
        times, own = psutil.cpu_times(), psutil.Process().cpu_times()
        # On Linux what guests use is counted in user and nice already.
        total = sum(times) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)
        return total, times.idle + getattr(times, "iowait", 0), own.user + own.system

    def share(self) -> float:
        """0 … 1 of all cores."""
        total, idle, own = (now - then for now, then in zip(self._now(), self.before, strict=True))
        return min(1.0, max(0.0, (total - idle - own) / total)) if total > 0 else 0.0


class MemoryBandwidth:
    """Times the reading of a buffer as large as what a decoding step has to read (4 to 256 MiB), in bytes a second.

    So a model that fits into a cache is held against that cache.
    """

    def __init__(self, n_bytes: float, device: torch.device):
        size = int(min(max(n_bytes, LEAST), MOST))
        self.buffer = torch.ones(size // 4, device=device)
        self.readings: list[float] = []

    def read(self) -> None:
        """The best of three readings is one more of ``readings``."""
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            self.buffer.sum().item()  # waits for the device
            seconds.append(time.perf_counter() - start)
        self.readings.append(self.buffer.nbytes / min(seconds))


class Pace:
    """How fast the machine is at the moment: the bare products of a decoding step, and nothing else of labkit.

    A product of a row with every weight matrix that a step reads. What a neighbour takes of the caches and of the
    memory slows these about as much as it slows the decoding, whatever the version of labkit that decodes.
    """

    def __init__(self, lm: LanguageModel):
        self.pairs = [
            (torch.ones(1, w.shape[1], dtype=w.dtype, device=w.device), w) for w in read_weights(lm) if w.dim() == 2
        ]

    @torch.inference_mode()
    def read(self) -> float:
        """Such steps a second."""
        start, steps = time.perf_counter(), 0
        while (seconds := time.perf_counter() - start) < PACE_SECONDS:
            for row, weight in self.pairs:
                product = functional.linear(row, weight)  # (1, out)
            product.sum().item()  # waits for the device
            steps += 1
        return steps / seconds


def read_weights(lm: LanguageModel) -> list[Tensor]:
    """What a step reads whole: all weights but the tables to look ids up in, of which it reads a row."""
    head = lm.model.lm_head.weight
    tables = {id(m.weight) for m in lm.model.modules() if isinstance(m, nn.Embedding) and m.weight is not head}
    return [weight for weight in lm.model.parameters() if id(weight) not in tables]


def weight_bytes(lm: LanguageModel) -> tuple[int, int]:
    """Bytes of all weights, and of those that a step reads whole."""
    return sum(w.nbytes for w in lm.model.parameters()), sum(w.nbytes for w in read_weights(lm))


@torch.inference_mode()
def cache_bytes(lm: LanguageModel, n_tokens: int) -> int:
    """Bytes of the keys and values of one row after so many tokens, at most a context full of them."""
    cache = lm.model.new_cache()
    prefill(lm.model, [[0] * min(n_tokens, lm.model.block_size)], cache)
    return cache.nbytes
