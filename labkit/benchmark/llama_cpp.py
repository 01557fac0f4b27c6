"""llama.cpp on the GGUF file that a model came from, by the C API of the package llama-cpp-python."""

import contextlib
import ctypes
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ..errors import ConfigError, LabkitError
from ..language_model import LanguageModel
from ..sampling.orders import LLAMA_CPP_LAST_N, ORDERS
from ..settings import LABKIT_RULES, Settings
from .timing import Mark, unmarked

# By the name in Settings; penalties want the size of the vocabulary, and how many ids they look back.
STAGES: Mapping[str, Callable[[Any, Any, tuple[int, int]], Any]] = {
    "repetition_penalty": lambda lib, value, seen: lib.llama_sampler_init_penalties(*seen, value, 0, 0),
    "frequency_penalty": lambda lib, value, seen: lib.llama_sampler_init_penalties(*seen, 1, value, 0),
    "presence_penalty": lambda lib, value, seen: lib.llama_sampler_init_penalties(*seen, 1, 0, value),
    "top_n_sigma": lambda lib, value, seen: lib.llama_sampler_init_top_n_sigma(value),
    "top_k": lambda lib, value, seen: lib.llama_sampler_init_top_k(value),
    "typical_p": lambda lib, value, seen: lib.llama_sampler_init_typical(value, 1),
    "top_p": lambda lib, value, seen: lib.llama_sampler_init_top_p(value, 1),
    "min_p": lambda lib, value, seen: lib.llama_sampler_init_min_p(value, 1),
    "temperature": lambda lib, value, seen: lib.llama_sampler_init_temp(value),
}
PENALTIES = frozenset({"repetition_penalty", "frequency_penalty", "presence_penalty"})
LOG_ERROR = 4  # GGML_LOG_LEVEL_ERROR
ROOM = 1024  # new tokens that a row has room for at least, so that warm-up and timed runs share a context


class LlamaCpp:
    """llama.cpp on the CPU, with the same settings in its own order, its own draw, and as many threads as torch.

    It multiplies with the types in the file, labkit with what it has made of them. Where that is float32, keys and
    values are too, without flash attention; else they are as llama.cpp has them by default.

    Raises:
        ConfigError: the model is not from a GGUF file or not on the CPU, llama.cpp has no such setting, its package is
            not installed, or it does not read the file.
    """

    name = "llama.cpp"

    def __init__(self, lm: LanguageModel, settings: Settings):
        self.device, self.block_size, self.vocab_size = lm.device, lm.model.block_size, lm.vocab_size
        path = lm.checkpoint.path
        if lm.checkpoint.format != "GGUF file":
            raise ConfigError(
                f"llama.cpp reads GGUF files and nothing else, and {path} is a {lm.checkpoint.format}; "
                "measure a .gguf file of this model, which llama.cpp's own converter writes"
            )
        if lm.device.type != "cpu":
            raise ConfigError(f"llama.cpp is measured on the CPU, and the model is on {lm.device}; take --device cpu")
        self.settings = settings
        self.stages = {name: value for name in LABKIT_RULES if (value := getattr(settings, name)) is not None}
        missing = sorted(self.stages.keys() - STAGES.keys())
        if PENALTIES & self.stages.keys() and settings.penalty_scope != "all":
            missing.append(f"penalty_scope={settings.penalty_scope!r}")
        if not settings.use_cache:
            missing.append("use_cache=False")
        if missing:
            raise ConfigError(f"llama.cpp has no {', '.join(missing)}; leave that out to compare with it")
        self.lib, self.threads = imported(), torch.get_num_threads()
        self.full_precision = lm.model.lm_head.weight.dtype == torch.float32
        params = self.lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = made(
            self.lib, lambda: self.lib.llama_model_load_from_file(str(path).encode(), params), f"read {path}"
        )
        self.contexts: dict[tuple[int, int], Any] = {}  # rows, tokens of each
        weakref.finalize(self, free, self.lib, self.model, self.contexts)

    def generate(self, rows: Sequence[Sequence[int]], new_tokens: int, mark: Mark = unmarked) -> list[list[int]]:
        lib, length = self.lib, len(rows[0])
        if length + new_tokens > self.block_size:
            return []  # it has no rule for a context that is full
        context = self.context(len(rows), min(self.block_size, length + max(new_tokens, ROOM)))
        lib.llama_memory_clear(lib.llama_get_memory(context), False)
        prompt, step = batch(lib, rows, 0), batch(lib, [[0]] * len(rows), length - 1)
        new: list[list[int]] = [[] for _ in rows]
        with silenced(lib), contextlib.ExitStack() as stack:
            samplers = [self.sampler(ids, row) for row, ids in enumerate(rows)]
            for sampler in samplers:
                stack.callback(lib.llama_sampler_free, sampler)
            now, last = prompt, range(length - 1, len(rows) * length, length)
            for _ in range(new_tokens):
                if failed := lib.llama_decode(context, now):
                    raise LabkitError(
                        f"llama.cpp fails ({failed}) after {len(rows)} rows of {length}; leave it out here"
                    )
                if now is prompt:
                    mark()
                for row, sampler in enumerate(samplers):
                    step.token[row] = lib.llama_sampler_sample(sampler, context, last[row])
                    step.pos[row] += 1
                    new[row].append(step.token[row])
                mark()
                now, last = step, range(len(rows))
        return new

    def context(self, rows: int, tokens: int) -> Any:
        """Room for so many rows of so many tokens, kept, as whoever uses llama.cpp keeps it."""
        if (rows, tokens) not in self.contexts:
            params = self.lib.llama_context_default_params()
            params.n_ctx = params.n_batch = rows * tokens
            params.n_seq_max = rows
            params.n_threads = params.n_threads_batch = self.threads
            if self.full_precision:  # flash attention rounds to 16 bits, whatever the keys are
                params.type_k = params.type_v = self.lib.GGML_TYPE_F32
                params.flash_attn_type = self.lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
            self.contexts[rows, tokens] = made(
                self.lib,
                lambda: self.lib.llama_init_from_model(self.model, params),
                f"hold {rows} rows of {tokens} tokens",
            )
        return self.contexts[rows, tokens]

    def sampler(self, ids: Sequence[int], row: int) -> Any:
        """The stages of one row, which have seen its prompt, and a draw."""
        lib, settings = self.lib, self.settings
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        seen = (self.vocab_size, LLAMA_CPP_LAST_N if settings.dialect == "llama.cpp" else self.block_size)
        for kind in ORDERS["llama.cpp"]:
            if kind.name in self.stages:
                lib.llama_sampler_chain_add(chain, STAGES[kind.name](lib, self.stages[kind.name], seen))
        greedy = settings.greedy or settings.temperature == 0
        seed = ((settings.seed or 0) + row) % 0xFFFFFFFF  # 2**32 - 1 stands for a random one there
        lib.llama_sampler_chain_add(
            chain, lib.llama_sampler_init_greedy() if greedy else lib.llama_sampler_init_dist(seed)
        )
        for token_id in ids:
            lib.llama_sampler_accept(chain, token_id)
        return chain


def batch(lib: Any, rows: Sequence[Sequence[int]], position: int) -> Any:
    """Rows (B, T) from a position on; logits are wanted after the last token of each."""
    length, count = len(rows[0]), len(rows) * len(rows[0])
    each = range(count)
    one = [(lib.llama_seq_id * 1)(row) for row in range(len(rows))]
    return lib.llama_batch(
        n_tokens=count,
        token=(lib.llama_token * count)(*(token_id for ids in rows for token_id in ids)),
        pos=(lib.llama_pos * count)(*(position + i % length for i in each)),
        n_seq_id=(ctypes.c_int32 * count)(*[1] * count),
        seq_id=(ctypes.POINTER(lib.llama_seq_id) * count)(*(one[i // length] for i in each)),
        logits=(ctypes.c_int8 * count)(*(i % length == length - 1 for i in each)),
    )


def made(lib: Any, make: Callable[[], Any], what: str) -> Any:
    """What llama.cpp makes; if it does not, its reason goes into the error."""
    with silenced(lib) as said:
        found = make()
    if not found:
        raise ConfigError(f"llama.cpp does not {what} ({said[0] if said else 'it says nothing'}); leave it out here")
    return found


def free(lib: Any, model: Any, contexts: Mapping[Any, Any]) -> None:
    with silenced(lib):
        for context in contexts.values():
            lib.llama_free(context)
        lib.llama_model_free(model)


@contextlib.contextmanager
def silenced(lib: Any) -> Iterator[list[str]]:
    """Nothing of what llama.cpp says goes to stderr; its errors are in the list."""
    errors: list[str] = []

    def keep(level: int, text: bytes, _: Any) -> None:
        if level == LOG_ERROR:
            errors.append(text.decode(errors="replace").strip())

    callback, before, data = lib.llama_log_callback(keep), lib.llama_log_callback(), ctypes.c_void_p()
    lib.llama_log_get(ctypes.byref(before), ctypes.byref(data))
    lib.llama_log_set(callback, None)
    try:
        yield errors
    finally:
        lib.llama_log_set(before, data)


def imported() -> Any:
    try:
        import llama_cpp

        with silenced(llama_cpp):
            llama_cpp.llama_backend_init()
    # The middle two: its shared library is not there or broken; the last: it is older than what is asked for.
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"llama.cpp cannot be used here ({error}); it comes with: pip install 'llama-cpp-python>=0.3.36'"
        ) from None
    return llama_cpp
