"""Panel: what all widgets have in common: a line of help, one of status, copying as code, saving, a picture at rest."""

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as ipw
import tomli_w

from ..errors import ConfigError, LabkitError
from ..files import atomic_write
from ..settings import Settings
from ..views import View, save
from .code import CodeBox
from .help import HelpLine
from .layout import row, show
from .panels import error_html, error_message, status_html

HELP = {
    "copy_as": "Show what is set here as Python code, as a papermill line or as a settings file, to take away.",
    "file": "Write what is shown to this file: html, svg, png, pdf (picture), csv, json (numbers), toml (settings).",
    "save": "Write the file; an older one of that name is replaced.",
}
NOTHING, PYTHON, PAPERMILL, TOML = "…", "Python", "papermill", "settings (TOML)"


class Panel(ipw.VBox):
    """A widget: rows of parts, and below them what can be taken away.

    A subclass says what it shows as ``result`` (with ``rows()`` and ``to_dict()``; None as long as there is nothing)
    and as ``view()``, and how to get it by code.

    Attributes:
        NOTEBOOK: which notebook shows the same, for papermill.
        settings: None, but of a SettingsPanel what its controls say.
        take_away: the parts of the row that every panel ends with.
        error: what went wrong last, in one line; None if nothing did. It is shown, and what was there before stays.
    """

    NOTEBOOK: ClassVar[str] = ""
    FILE: ClassVar[str] = "labkit.html"
    settings: Settings | None = None

    def __init__(self) -> None:
        self.error: str | None = None
        self.help, self.status = HelpLine(), ipw.HTML()
        self.code_box = CodeBox(layout={"display": "none"})
        narrow = {"style": {"description_width": "initial"}}
        self.copy_as = ipw.Dropdown(options=self._ways_to_copy(), description="copy as", **narrow)
        self.file_box = ipw.Text(self.FILE, description="file", **narrow)
        self.save_button = self.button(HELP, "save", "download", self._on_save)
        self.saved = ipw.HTML()
        self.take_away: list[ipw.Widget] = [self.copy_as, self.file_box, self.save_button, self.saved]
        self.copy_as.observe(lambda _: self.refresh_code(), "value")
        super().__init__()
        self.add_class("lk-playground")
        self.explain({"copy_as": self.copy_as, "file": self.file_box}, HELP)

    def fill(self, *rows: ipw.Widget) -> None:
        """Show these rows, and below them the row that every panel has."""
        self.children = (*rows, row("lk-actions", *self.take_away), self.code_box)

    def explain(self, controls: Mapping[str, ipw.DOMWidget], sentences: Mapping[str, str]) -> None:
        """Give controls their sentences of help, by name."""
        for name, control in controls.items():
            self.help.explain(name, control, sentences[name])

    def button(
        self, sentences: Mapping[str, str], name: str, icon: str, act: Callable[[], object], **traits: Any
    ) -> ipw.Button:
        """A button that does this when it is pressed, and its sentence of help."""
        made = ipw.Button(description=name.replace("_", " ").capitalize(), icon=icon, **traits)
        made.on_click(lambda _: act())
        self.explain({name: made}, sentences)
        return made

    # what a subclass says

    @property
    def result(self) -> Any:
        """What is shown as plain data, with ``rows()`` and ``to_dict()``; None as long as there is nothing."""
        raise NotImplementedError

    def view(self) -> View | None:
        """What is shown, without controls and script; None as long as there is nothing."""
        raise NotImplementedError

    def code(self) -> str:
        """Lines of Python that give the same result."""
        raise NotImplementedError

    def parameters(self) -> dict[str, Any]:
        """What to hand to NOTEBOOK's parameters cell to see the same there."""
        raise NotImplementedError

    # what all of them do

    def papermill(self) -> str:
        """The line that runs NOTEBOOK with these parameters."""
        values = shlex.quote(json.dumps(self.parameters(), ensure_ascii=False))
        return f"papermill notebooks/{self.NOTEBOOK} runs/{self.NOTEBOOK} --execution-timeout 600 -y {values}"

    def save(self, path: str | Path) -> Path:
        """Write what is shown; the suffix says as what: html, svg, png, pdf, csv, json, txt or toml (the settings).

        Raises:
            ConfigError: there is nothing to write yet, or no such kind of file.
        """
        path = Path(path)
        if path.suffix == ".toml" and self.settings is not None:
            self.settings.write(path)
            return path
        result, view = self.result, self.view()
        if result is None or view is None:
            raise ConfigError(f"there is nothing to write to {path.name} yet: run it first")
        if path.suffix == ".json":
            text = json.dumps(result.to_dict(), ensure_ascii=False, indent=1)
            atomic_write(path, lambda file: file.write(text.encode()))
        elif path.suffix == ".csv":
            save(View(view.html, view.text, view.alt, rows=tuple(result.rows())), path)
        else:
            try:
                save(view, path)
            except ValueError as error:  # views know nothing of labkit's errors
                raise ConfigError(str(error)) from None
        return path

    def refresh_code(self) -> None:
        """Say anew, if it is open, how to get the same by code."""
        kind = self.copy_as.value
        show(self.code_box, kind != NOTHING)
        if kind == NOTHING:
            return
        try:
            self.code_box.code = {PYTHON: self.code, PAPERMILL: self.papermill, TOML: self._toml}[kind]()
        except LabkitError as error:
            self.code_box.code = f"# {error_message(error)}"

    def fail(self, error: Exception) -> None:
        """Say inside the widget what went wrong."""
        self.error = error_message(error)
        self.status.value = error_html(self.error)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The live widget, and for readers without a kernel or without script what it shows now."""
        bundle = super()._repr_mimebundle_(**kwargs)
        try:
            view = self.view()
        except LabkitError:
            view = None
        return bundle if view is None else bundle | {"text/html": view.html}

    def _ways_to_copy(self) -> list[str]:
        ways = [NOTHING, PYTHON, PAPERMILL] if self.NOTEBOOK else [NOTHING, PYTHON]
        return [*ways, TOML] if self.settings is not None else ways

    def _toml(self) -> str:
        assert self.settings is not None
        return tomli_w.dumps({"generation": self.settings.to_dict()})

    def _on_save(self) -> None:
        try:
            path = self.save(self.file_box.value.strip())
        except (LabkitError, OSError) as error:
            self.saved.value = error_html(error_message(error))
        else:
            self.saved.value = status_html(f"written: {path}")
