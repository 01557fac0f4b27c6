"""HelpLine: one sentence about the control that someone points at or has tabbed to."""

from pathlib import Path

import anywidget
import ipywidgets as ipw
import traitlets


class HelpLine(anywidget.AnyWidget):
    """Shows the sentence of one control at a time; also as the control's tooltip."""

    _esm = Path(__file__).with_name("help.js").read_text(encoding="utf-8")
    sentences = traitlets.Dict().tag(sync=True)

    def __repr__(self) -> str:
        return "HelpLine()"

    def explain(self, name: str, control: ipw.DOMWidget, sentence: str) -> None:
        """Give a control its sentence; ``name`` is any word that no other control of the widget has."""
        control.add_class(f"lk-help-{name}")
        if control.has_trait("description"):  # others cannot be drawn with a tooltip
            control.tooltip = sentence
        self.sentences = {**self.sentences, name: sentence}
