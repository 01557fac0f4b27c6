"""SettingsPanel: what all widgets have in common that generate with settings."""

from pathlib import Path
from typing import Any

from ..errors import LabkitError
from ..settings import Settings
from .controls import HELP as SETTINGS_HELP
from .controls import GenerationControls
from .panel import Panel
from .panels import error_html, error_message, status_html

HELP = {"open": "Take over the settings in this file (toml), also one that was saved elsewhere."}


class SettingsPanel(Panel):
    """A panel with controls of generation, and a button that takes settings over from a file."""

    def __init__(self, controls: GenerationControls):
        self.controls = controls
        super().__init__()
        self.open_button = self.button(HELP, "open", "folder-open", lambda: self.on_open())
        self.take_away.insert(-1, self.open_button)
        self.explain(controls.every, SETTINGS_HELP)

    @property
    def settings(self) -> Settings:
        """What the controls say; may be assigned."""
        return self.controls.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self.controls.settings = settings
        self.settings_assigned()

    def settings_assigned(self) -> None:
        """The controls were set, by code or from a file: as if somebody had moved them, where nothing else is said."""
        self.controls.on_change()

    def read(self, source: str | Path) -> Any:
        """Take over the settings of a TOML file, as ``save`` and ``labkit generate --config`` know them.

        Raises:
            LabkitError: it cannot be read, or says what makes no sense; then everything stays as it was.
        """
        self.settings = Settings.read(source)

    def on_open(self) -> None:
        """Read the file in the box."""
        path = self.file_box.value.strip()
        try:
            self.read(path)
        except (LabkitError, OSError) as error:
            self.saved.value = error_html(error_message(error))
        else:
            self.saved.value = status_html(f"read: {path}")
