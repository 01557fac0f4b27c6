"""Workbench: the front door. One checkpoint, one prompt, one run, and six ways to look at it."""

import threading
from collections.abc import Callable
from typing import Any

import ipywidgets as ipw

from ..language_model import LanguageModel
from ..settings import Settings
from ..trace import Trace
from ..views import View
from .attention_browser import AttentionBrowser
from .background import Background
from .cache_map import CacheMap
from .duel import CheckpointDuel
from .generation import GenerationPlayground
from .lens_browser import LogitLensBrowser
from .microscope import SamplingMicroscope
from .panel import Panel
from .panels import error_html, error_message, status_html
from .settings_panel import SettingsPanel

GENERATE = "Generate"
# What each tab shows of a run. Compare begins with the model against itself at half the temperature.
TABS: dict[str, Callable[[LanguageModel, Trace], Panel]] = {
    "Sampling": lambda lm, trace: SamplingMicroscope(trace, lm.tokenizer),
    "Attention": AttentionBrowser,
    "Lens": LogitLensBrowser,
    "Cache": CacheMap,
    "Compare": lambda lm, trace: CheckpointDuel(
        lm, text=trace, changes_b={"temperature": round(trace.settings.temperature / 2, 2)}
    ),
}


class Workbench(SettingsPanel):
    """Type a prompt, let a checkpoint continue it, and open a tab to see how: stage by stage, head by head, layer by
    layer. What a tab shows is worked out when it is opened.

    Args:
        lm: a model, or what ``labkit.load`` takes; another can be chosen at any time.
        prompt, settings: to begin with, as in ``labkit.generate``.

    Attributes:
        playground: the first tab, with the run that all others look at.
        parts: the tabs that were opened since that run, by name.
    """

    NOTEBOOK = GenerationPlayground.NOTEBOOK
    FILE = "workbench.html"

    def __init__(
        self, lm: LanguageModel | str = "shakespeare-char", prompt: str | None = None, settings: Settings | None = None
    ):
        self.playground = GenerationPlayground(lm, prompt, settings)
        super().__init__(self.playground.controls)
        self.parts: dict[str, Panel] = {}
        self._boxes = {name: ipw.VBox() for name in TABS}
        self._background = Background()
        self._lock = threading.Lock()
        self.tabs = ipw.Tab([self.playground, *self._boxes.values()], titles=[GENERATE, *TABS])
        self.tabs.observe(lambda _: self._open(), "selected_index")
        self.playground.on_trace(lambda _: self._on_trace())
        self.children = (self.status, self.tabs)  # what can be taken away stands in each tab

    def __repr__(self) -> str:
        return f"Workbench({self.playground!r})"

    # what code can do with it

    @property
    def tab(self) -> str:
        """Name of the tab that is open; may be assigned."""
        return self.tabs.titles[self.tabs.selected_index or 0]

    @tab.setter
    def tab(self, name: str) -> None:
        self.tabs.selected_index = self.tabs.titles.index(name)

    @property
    def part(self) -> Panel:
        """The widget of the tab that is open; the playground while that is being made."""
        return self.parts.get(self.tab, self.playground)

    @property
    def result(self) -> Any:
        return self.part.result

    def view(self) -> View | None:
        return self.part.view()

    def code(self) -> str:
        return self.part.code()

    def parameters(self) -> dict[str, Any]:
        return self.playground.parameters()

    def settings_assigned(self) -> None:
        self.playground.settings_assigned()

    def run(self, wait: bool = True) -> Any:
        """Write on from the prompt; what the open tab shows of it, if it is waited for."""
        self.playground.run(wait)
        return self.wait() if wait else None

    def wait(self) -> Any:
        """Until the open tab shows the run; its result."""
        self._background.wait()
        return self.result

    def close(self) -> None:
        self._background.stop()
        for part in self.parts.values():
            part.close()
        self.playground.close()
        super().close()

    # the tabs

    def _on_trace(self) -> None:
        """There is another run: what was made of the one before is gone."""
        with self._lock:
            gone, self.parts = self.parts, {}
        for name, part in gone.items():
            self._boxes[name].children = ()
            part.close()
        self._open()

    def _open(self) -> None:
        """Show in the open tab what it has to say of the run; in a thread of its own, since it runs the model."""
        name = self.tab
        if name == GENERATE or name in self.parts:
            self.refresh_code()
            return
        self.status.value = status_html(f"{name} is being worked out …")
        self._background.start(lambda stopped: self._make(name, stopped))

    def _make(self, name: str, stopped: threading.Event) -> None:
        trace = self.playground.trace
        if trace is None:
            self.status.value = status_html("There is no run to look at yet: press Generate in the first tab.")
            return
        try:
            part = TABS[name](self.playground.lm, trace)
        except Exception as error:  # whatever a model raises belongs in the widget, not in the log
            self._boxes[name].children = (ipw.HTML(error_html(error_message(error))),)
            self.status.value = ""
            return
        with self._lock:
            if stopped.is_set() or trace is not self.playground.trace:
                part.close()
                return
            self.parts[name] = part
        self._boxes[name].children = (part,)
        self.status.value = ""
        self.refresh_code()
