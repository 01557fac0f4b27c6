"""CodeBox: what the controls say, as code that runs as it is."""

from pathlib import Path

import anywidget
import traitlets

from ..checkpoints import model_files
from ..language_model import WHEELS, LanguageModel, shipped, shipped_folder
from ..settings import Settings


class CodeBox(anywidget.AnyWidget):
    """Code with a button that copies it."""

    _esm = Path(__file__).with_name("code.js").read_text(encoding="utf-8")
    code = traitlets.Unicode().tag(sync=True)

    def __repr__(self) -> str:
        return "CodeBox()"


def generate_code(lm: LanguageModel, prompt: str | list[int], settings: Settings) -> str:
    """Lines that generate the same; of the settings only what differs from the defaults."""
    arguments = [repr(prompt), *(f"{name}={value!r}" for name, value in settings.changed().items())]
    # A model that never was a file cannot be opened again: the code then goes on from the variable that holds it.
    is_file = lm.checkpoint.path.exists()
    opened = f"lm = labkit.load({source_of(lm)!r})" if is_file else "# lm is the model you gave to the widget"
    return (
        f"import labkit\n\n{opened}\n"
        f"generation = labkit.generate(lm, {', '.join(arguments)})\n"
        f"print(generation.{'text' if lm.tokenizer is not None else 'ids'})"
    )


def models_beside(lm: LanguageModel) -> list[str]:
    """Names to choose a model from: this one, the shipped ones, and those that come in wheels."""
    return list(dict.fromkeys([source_of(lm), *shipped(), *WHEELS]))


def source_of(lm: LanguageModel) -> str:
    """What labkit.load takes to open the same checkpoint: its name if it is a shipped one, else its path."""
    path, shipped = lm.checkpoint.path.absolute(), shipped_folder().absolute()
    if not path.is_relative_to(shipped):
        return str(path)
    folder = path if path.is_dir() else path.parent
    named = folder if len(model_files(folder)) == 1 else path  # a folder with several does not say which one
    return named.relative_to(shipped).as_posix()
