"""CodeBox: what the controls say, as code that runs as it is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ..checkpoints import model_files
from ..language_model import WHEELS, LanguageModel, shipped, shipped_folder
from ..settings import Settings
from .recording import Recording, differences


class CodeBox(anywidget.AnyWidget):
    """Code with a button that copies it."""

    _esm = Path(__file__).with_name("code.js").read_text(encoding="utf-8")
    code = traitlets.Unicode().tag(sync=True)

    def __repr__(self) -> str:
        return "CodeBox()"


def generate_code(lm: LanguageModel, prompt: str | list[int], settings: Settings) -> str:
    """Lines that generate the same; of the settings only what differs from the defaults."""
    arguments = ", ".join([repr(prompt), *as_arguments(settings.changed())])
    return f"{opening(lm)}generation = labkit.generate(lm, {arguments})\n{printing(lm)}"


def branch_code(recording: Recording) -> str:
    """Lines that generate the same branch: those from the first run to it."""
    lm = recording.lm
    return f"{opening(lm)}{_lines_to(recording)}{printing(lm)}"


def _lines_to(recording: Recording) -> str:
    origin = recording.origin
    if origin is None:
        arguments = ", ".join([repr(recording.prompt), *as_arguments(recording.settings.changed())])
        return f"generation = labkit.generate(lm, {arguments})\n"
    base, at, forced = origin.recording, origin.at, origin.forced
    if not forced and at:  # labkit.branch wants a token: the one that is there
        at, forced = at - 1, (base.ids[at - 1],)
    lines = _lines_to(base)
    changes = "".join(f", {one}" for one in as_arguments(differences(base.settings, recording.settings)))
    for i, token in enumerate(forced):
        lines += f"generation = labkit.branch(lm, generation, {at + i}, {token}{changes if not i else ''})\n"
    return lines


def opening(lm: LanguageModel) -> str:
    """The first lines: labkit, and the model."""
    # A model that never was a file cannot be opened again: the code then goes on from the variable that holds it.
    is_file = lm.checkpoint.path.exists()
    opened = f"lm = labkit.load({source_of(lm)!r})" if is_file else "# lm is the model you gave to the widget"
    return f"import labkit\n\n{opened}\n"


def printing(lm: LanguageModel) -> str:
    """The last line."""
    return f"print(generation.{'text' if lm.tokenizer is not None else 'ids'})"


def as_arguments(changes: Mapping[str, Any]) -> list[str]:
    """Settings as one types them."""
    return [f"{name}={value!r}" for name, value in changes.items()]


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
