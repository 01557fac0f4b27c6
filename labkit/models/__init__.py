"""One file per family over the shared layers. FAMILIES is the only list of them."""

from typing import NamedTuple

from .base import CausalLM
from .gpt2 import GPT2, GPT2Config
from .labcore import LabCore, LabCoreConfig
from .llama import Llama, LlamaConfig
from .nanochat import Nanochat, NanochatConfig
from .swa_mla import SwaMla, SwaMlaConfig


class Family(NamedTuple):
    """A family's frozen config dataclass and its model class."""

    config: type
    model: type[CausalLM]


FAMILIES: dict[str, Family] = {
    "gpt2": Family(GPT2Config, GPT2),
    "labcore": Family(LabCoreConfig, LabCore),
    "llama": Family(LlamaConfig, Llama),
    "nanochat": Family(NanochatConfig, Nanochat),
    "swa_mla": Family(SwaMlaConfig, SwaMla),
}

__all__ = ["FAMILIES", "CausalLM", "Family"]
