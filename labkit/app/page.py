"""What a visitor sees: the chat, and the playground, both with the one model that is served."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import ipywidgets as ipw
import solara
from reacton.ipywidgets import VBox

from ..chat import Template
from ..language_model import LanguageModel
from ..settings import Settings
from ..views.base import CSS, escape
from ..widgets import Chat, GenerationPlayground
from ..widgets.panel import Panel

TABS = ("Chat", "Playground")


@dataclass(frozen=True)
class Served:
    """What every visitor is given.

    Attributes:
        lm: one object for all of them.
        where: "local" or "hf": where the model came from.
        first: fields of Settings that the chat begins with; without a seed, every visitor has one of their own.
        system, template: of the chat.
        max_history_turns: earlier exchanges that a prompt may hold.
        stream: whether answers are shown while they are written.
    """

    lm: LanguageModel
    where: str
    first: Mapping[str, Any]
    system: str | None
    template: Template
    max_history_turns: int
    stream: bool

    @property
    def has_cache(self) -> bool:
        """Every model of labkit has; LabCore's demo used none for models from the hub."""
        return not (self.first["dialect"] == "labcore" and self.where == "hf")

    def status(self, stream: bool, use_cache: bool) -> str:
        """The line of LabCore's demo."""
        available = "available." if self.has_cache else "unsupported for current source."
        cache = "off (unsupported)" if not self.has_cache else "on" if use_cache else "off"
        return (
            f"Source: {self.where} | Device: {self.lm.device} | KV cache {available}"
            f" | Stream: {'on' if stream else 'off'} | KV cache: {cache}"
        )


# Solara finds a page by the name of its module, and a process serves one model; set before the first visitor comes.
served = cast(Served, None)


class Demo(ipw.VBox):
    """The page of one visitor."""

    def __init__(self, served: Served):
        self.served = served
        self.chat = Chat(served.lm, served.system, served.template, Settings(**served.first), demo=True)
        history = self.chat.history
        history.value = min(max(served.max_history_turns, history.min), history.max)
        self.chat.stream.value = served.stream
        self.playground: GenerationPlayground | None = None
        self.status = ipw.HTML()
        self.tabs = ipw.Tab([ipw.VBox([self.chat, self.status]), ipw.VBox()], titles=TABS)
        super().__init__([self.tabs])
        self.add_class("lk-demo")
        cache = self.chat.controls.boxes["use_cache"]
        cache.disabled = not served.has_cache
        cache.value = cache.value and served.has_cache
        for box in (cache, self.chat.stream):
            box.observe(lambda _: self._repaint_status(), "value")
        self.tabs.observe(self._on_tab, "selected_index")
        keep_out_of_reach(self.chat)
        self._repaint_status()

    def __repr__(self) -> str:
        return "Demo()"

    def close(self) -> None:
        """The visitor has left: nothing goes on."""
        for panel in (self.chat, self.playground):
            if panel is not None:
                panel.close()
        super().close()

    def _repaint_status(self) -> None:
        words = self.served.status(self.chat.stream.value, self.chat.controls.boxes["use_cache"].value)
        self.status.value = f'<style>{CSS}</style><div class="lk lk-status" role="status">{escape(words)}</div>'

    def _on_tab(self, change: dict[str, Any]) -> None:
        """The playground writes as soon as it is seen, so it is made when somebody wants to see it."""
        if change["new"] == 1 and self.playground is None:
            self.playground = GenerationPlayground(self.served.lm)
            keep_out_of_reach(self.playground)
            self.tabs.children[1].children = (self.playground,)


def keep_out_of_reach(panel: Panel) -> None:
    """Take away what reads and writes files where the server runs, and the choice of other models.

    Closed, not only left out: a browser can press a button that it does not show.
    """
    names = ("file_box", "save_button", "saved", "copy_as", "code_box", "open_button", "model")
    parts = [part for name in names if isinstance(part := getattr(panel, name, None), ipw.Widget)]
    boxes: list[Any] = [panel]
    for box in boxes:
        box.children = [child for child in box.children if child not in parts]
        boxes += [child for child in box.children if isinstance(child, ipw.Box)]
    for part in parts:
        part.close()


@solara.component
def Page() -> None:  # noqa: N802
    demo = solara.use_memo(lambda: Demo(served), [])
    solara.use_effect(lambda: demo.close, [])
    VBox(children=[demo])


@solara.component
def Layout(children: list[Any]) -> None:  # noqa: N802
    """Nothing around the page."""
    VBox(children=children)
