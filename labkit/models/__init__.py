"""One file per family over the shared layers. FAMILIES is the only list of them."""

from typing import NamedTuple

from .base import CausalLM
from .labcore import LabCore, LabCoreConfig
from .nanochat import Nanochat, NanochatConfig


class Family(NamedTuple):
    """A family's frozen config dataclass and its model class."""

    config: type
    model: type[CausalLM]


FAMILIES: dict[str, Family] = {
    "labcore": Family(LabCoreConfig, LabCore),
    "nanochat": Family(NanochatConfig, Nanochat),
}

__all__ = ["FAMILIES", "CausalLM", "Family"]
