"""What can be timed: labkit, and others on the same weights."""

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.convert import convert
from ..errors import ConfigError
from ..generation.rows import Row
from ..generation.run import settings_for
from ..generation.steps import Feed
from ..language_model import LanguageModel
from ..layers.packed import plain
from ..sampling import Sampler
from ..sampling.orders import TRANSFORMERS_WARPERS
from ..settings import LABKIT_RULES, Settings
from .llama_cpp import LlamaCpp
from .timing import Engine, Mark, unmarked


class Labkit:
    """What ``labkit.generate`` and ``generate_batch`` do, with a mark after every step.

    Nothing ends a run before its last token: no stop, no EOS.
    """

    name = "labkit"

    def __init__(self, lm: LanguageModel, settings: Settings):
        self.lm, self.device = lm, lm.device
        self.settings = settings_for(lm, settings, {"stop": (), "max_length": None})

    def generate(self, rows: Sequence[Sequence[int]], new_tokens: int, mark: Mark = unmarked) -> list[list[int]]:
        settings = self.settings.replace(max_new_tokens=new_tokens, min_new_tokens=new_tokens)
        sampler = Sampler.from_settings(**settings.sampling())
        running = [Row(self.lm, ids, settings, sampler) for ids in rows]
        feed = Feed(self.lm.model, settings)
        while running[0].finish_reason is None:
            logits = feed(running)
            if not running[0].ids:
                mark()
            for row, of_row in zip(running, logits, strict=True):
                row.choose(of_row)
            mark()
        return [row.ids for row in running]


class Plain(Labkit):
    """labkit without the fast path, on the same weights."""

    name = "plain"

    def __init__(self, lm: LanguageModel, settings: Settings):
        super().__init__(replace(lm, model=plain(lm.model)), settings)


class Transformers:
    """transformers' own ``generate``, on the same weights in the same dtype, with the same settings.

    Raises:
        CheckpointError: the family has no counterpart there.
        ConfigError: transformers is not installed, or has no such stage.
    """

    name = "hf"
    # What is called the same there; its value for "off" too, but for top_k, where None would be its default of 50.
    STAGES = frozenset({
        "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "no_repeat_ngram_size",
        "epsilon_cutoff", "eta_cutoff",
    })  # fmt: skip

    def __init__(self, lm: LanguageModel, settings: Settings):
        self.device, self.block_size = lm.device, lm.model.block_size
        stages = {name: value for name in LABKIT_RULES if (value := getattr(settings, name)) is not None}
        if missing := sorted(stages.keys() - self.STAGES):
            raise ConfigError(f"transformers has no {', '.join(missing)}; leave that out to compare with it")
        greedy = settings.greedy or settings.temperature == 0
        lasting = {name: value for name, value in stages.items() if name not in TRANSFORMERS_WARPERS}
        sampling = {"do_sample": False, **lasting} if greedy else {"do_sample": True, "top_k": 0, **stages}
        with warnings.catch_warnings(), torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")  # what it warns of when imported is not about this model
            transformers = imported()
            convert(lm, Path(folder) / "model", "huggingface")
            self.model = transformers.AutoModelForCausalLM.from_pretrained(
                Path(folder) / "model", dtype=lm.model.lm_head.weight.dtype, local_files_only=True
            ).to(lm.device)
        self.model.eval()
        ends = {"eos_token_id": None, "pad_token_id": 0}
        self.config = transformers.GenerationConfig(**sampling, **ends, use_cache=settings.use_cache)

    def generate(self, rows: Sequence[Sequence[int]], new_tokens: int, mark: Mark = unmarked) -> list[list[int]]:
        if len(rows[0]) + new_tokens > self.block_size:
            return []  # it has no rule for a context that is full
        prompts = torch.tensor(rows, device=self.device)
        marks = Marks(mark)
        self.config.max_new_tokens = new_tokens
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            ids = self.model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                generation_config=self.config,
                logits_processor=[marks],
                streamer=marks,
            )
        return ids[:, prompts.shape[1] :].tolist()


class Marks:
    """Marks where transformers calls it: as a logits processor, and as a streamer with the prompt, then with tokens."""

    def __init__(self, mark: Mark):
        self.mark = mark
        self.prefilled = self.prompt_seen = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.prefilled:
            self.prefilled = True
            self.mark()
        return scores

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            self.mark()
        self.prompt_seen = True

    def end(self) -> None:
        """Nothing is left to mark."""


def imported() -> Any:
    try:
        import transformers
    except ImportError:
        raise ConfigError('transformers is not installed; it comes with: pip install "transformers>=5"') from None
    transformers.utils.logging.disable_progress_bar()
    return transformers


# What --against names.
ENGINES: Mapping[str, Callable[[LanguageModel, Settings], Engine]] = {
    "hf": Transformers,
    "llama.cpp": LlamaCpp,
    "plain": Plain,
}
