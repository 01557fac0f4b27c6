"""Any function from ids to logits, as a model: sampling and traces work on it, a cache and inspection do not."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import ConfigError
from .base import CausalLM

NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class FunctionConfig:
    vocab_size: int
    block_size: int


class FunctionModel(CausalLM):
    """``function``: ids (B, T) -> logits (B, T, V). It has no blocks, so there is nothing to cache or to look into."""

    rotary = None

    def __init__(self, function: Callable[[Tensor], Tensor], config: FunctionConfig):
        super().__init__()
        self.function = function
        self.config = config
        self.block_size = self.n_positions = config.block_size
        self.blocks = nn.ModuleList()
        self.norm_f = nn.Identity()

    def tie(self) -> None:
        """Nothing is tied."""

    def embed_ids(self, ids: Tensor, positions: Tensor) -> Tensor:
        logits = self.function(ids)
        expected = (*ids.shape, self.config.vocab_size)
        if tuple(logits.shape) != expected:
            raise ConfigError(f"the wrapped function gave logits {tuple(logits.shape)}; {expected} were expected")
        return logits

    def unembed(self, x: Tensor) -> Tensor:
        return x.float()
