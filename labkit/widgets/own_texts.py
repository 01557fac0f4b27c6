"""Texts that a model writes by itself: for fitting a lens and for means, where no other text is given."""

from dataclasses import dataclass
from typing import Any

from ..generation import generate_batch
from ..language_model import LanguageModel


@dataclass(frozen=True)
class OwnTexts:
    """n texts, each of the same first token and ``length`` more, drawn from the model as it is."""

    first: int
    n: int
    length: int
    seed: int = 0

    def written(self, lm: LanguageModel) -> list[list[int]]:
        """Their ids."""
        texts = generate_batch(lm, [[self.first]], **self._settings())[0]
        return [text.prompt_ids + text.ids for text in texts]

    def code(self, name: str) -> str:
        """A line of Python that gives the same ids a name."""
        settings = ", ".join(f"{key}={value}" for key, value in self._settings().items())
        texts = f"labkit.generate_batch(lm, [[{self.first}]], {settings})[0]"
        return f"{name} = [text.prompt_ids + text.ids for text in {texts}]"

    def _settings(self) -> dict[str, Any]:
        free = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": self.seed}
        return {"n": self.n, "max_new_tokens": self.length, "min_new_tokens": self.length, **free}
