"""Tiny models with random weights, one or more of every family: what the contract tests run on."""

import functools
from pathlib import Path
from typing import Any

import torch

from labkit.checkpoints import Checkpoint, CheckpointFacts
from labkit.checkpoints.base import meta_model
from labkit.language_model import LanguageModel, build
from labkit.models import FAMILIES
from labkit.models.gpt2 import GPT2Config
from labkit.models.labcore import LabCoreConfig
from labkit.models.llama import LlamaConfig
from labkit.models.nanochat import NanochatConfig
from labkit.models.swa_mla import SwaMlaConfig
from labkit.tokenizers.base import Tokenizer
from labkit.tokenizers.bpe import CHARACTER_OF, TableTokenizer
from labkit.tokenizers.char import CharTokenizer

V, CONTEXT = 37, 24
CHARACTERS = "\n !,.0123456789abcdefghijklmnopqrstu="[:V]

# Family -> variant -> config. A family of FAMILIES that is missing here fails the contract tests.
TINY: dict[str, dict[str, Any]] = {
    "gpt2": {
        "tied": GPT2Config(V, CONTEXT, n_layer=2, n_head=2, n_embd=16, n_hidden=40),
        "untied_nobias": GPT2Config(
            V, CONTEXT, 2, 4, 16, 24, activation="gelu", norm_eps=1e-2, bias=False, norm_bias=False, tied=False
        ),
    },
    "labcore": {
        "learned": LabCoreConfig(V, block_size=CONTEXT, n_layer=2, n_head=4, n_embd=16),
        "rope_nobias": LabCoreConfig(V, block_size=CONTEXT, n_layer=3, n_head=2, n_embd=16, bias=False, use_rope=True),
    },
    "llama": {
        "grouped": LlamaConfig(
            V, CONTEXT, n_layer=2, n_head=4, n_kv_head=2, head_dim=6, n_embd=16, n_hidden=24, tied=True
        ),
        "biased": LlamaConfig(V, CONTEXT, 2, 2, 1, 8, 16, 24, attn_bias=True, mlp_bias=True),
    },
    "nanochat": {
        "grouped": NanochatConfig(
            3, V, n_layer=3, n_head=4, n_kv_head=2, n_embd=16, padded_vocab_size=64, rope_positions_per_sequence=8
        ),
        "newest": NanochatConfig(
            6, V, n_layer=5, n_head=4, n_kv_head=2, n_embd=16, padded_vocab_size=64, rope_positions_per_sequence=4,
            rope_base=1e5, qk_scale=1.2, window_pattern="SSL", short_window=3, lambdas=True, value_gate_channels=4,
            value_gate_scale=3.0, smear_channels=3, backout_layer=2,
        ),
    },
    "swa_mla": {
        "executed": SwaMlaConfig(
            V, CONTEXT, n_layer=3, n_head=4, n_embd=16, ratio_kv=2, swa_window=5, swa_sink_size=2,
            kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=6,
        ),
        "configured": SwaMlaConfig(
            V, CONTEXT, n_layer=5, n_head=2, n_embd=16, bias=True, norm="dynamic_tanh", swa_window=5, swa_sink_size=2,
            q_lora_rank=6, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=6,
            depth_scale_first=0.5, depth_scale_last=2.0, window="configured", query_positions="token",
        ),
    },
}  # fmt: skip

CASES = [(family, variant) for family in sorted(FAMILIES) for variant in TINY.get(family, {"none": None})]


def characters() -> CharTokenizer:
    """One id per character, as many as the tiny models have."""
    return CharTokenizer(CHARACTERS)


def single_bytes() -> TableTokenizer:
    """One id per byte: characters span tokens."""
    return TableTokenizer([CHARACTER_OF[b] for b in range(256)], [], "gpt-2", special_ids={})


def random_weights(family: str, config: Any, seed: int) -> dict[str, torch.Tensor]:
    """Matrices large enough that logits differ clearly, gains around one; from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: w.shape for name, w in meta_model(family, config).state_dict().items()}
    weights = {}
    for name, shape in shapes.items():
        spread = 0.5 if len(shape) > 1 else 0.3
        weights[name] = spread * torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            weights[name] += 1
    return weights


def language_model(
    family: str, config: Any, tokenizer: Tokenizer | None = None, seed: int = 0, **facts: Any
) -> LanguageModel:
    """A LanguageModel that never was a file."""
    known = CheckpointFacts(family=family, format="in memory", path=Path("tiny.pt"), dtype="float32", **facts)
    checkpoint = Checkpoint(known, config, random_weights(family, config, seed), tokenizer)
    return LanguageModel(build(checkpoint, torch.device("cpu"), torch.float32), config, tokenizer, known)


@functools.cache
def tiny(family: str, variant: str) -> LanguageModel:
    """A tiny model of a family, with the character tokenizer; made once, so leave it as it is."""
    return language_model(family, TINY[family][variant], characters())


def random_ids(n: int, seed: int = 0, vocab_size: int = V) -> list[int]:
    """n ids, always the same."""
    return torch.randint(vocab_size, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
