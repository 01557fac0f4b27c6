"""AttentionBrowser: every head as a number, one of them as a pattern, and what one token reads in it."""

from collections.abc import Sequence
from typing import Any

import ipywidgets as ipw
from torch import Tensor

from .. import views
from ..errors import ConfigError
from ..inspection import AttentionMaps, attention
from ..inspection.attention import PROPERTIES
from ..language_model import LanguageModel
from ..layers.latent_attention import LatentAttention
from ..trace import Trace
from ..views import View
from ..views.base import visible
from . import facts
from .code import source_of
from .inspector import Inspector
from .layout import row, show
from .panels import status_html
from .picker import Picker
from .selection import Selection
from .tables import table_view

TARGETS = 8  # tokens named beside the pattern
MOST_TOKENS = 256  # of which all heads are shown at once
RESTING = 0.5  # of a head's weight on the first token, from which on that is said
HELP = {
    "value": "What the grid says of every head, as a mean over the text.",
    "layer": "The layer of the head that is shown.",
    "head": "The head that is shown; so is the one in the grid that you point at or click.",
    "all": f"Show the patterns of all heads at once (texts of up to {MOST_TOKENS} tokens).",
}
WEIGHTS = "Weights say where a head reads, not what it makes of what it finds there."


class AttentionBrowser(Inspector):
    """A grid with a number for every head. Point at a head to see its pattern, click it to keep it; select a token to
    see what it reads there, and who reads it.

    Args:
        lm, text, selection: as of every Inspector.
        value: what the grid says first: a name from ``inspection.attention.PROPERTIES``.
        head: (layer, head) to begin with; None: the one with most of ``value``.

    Attributes:
        locked: (layer, head) that is shown while no other one is pointed at.
    """

    NOTEBOOK = "20_attention_patterns.ipynb"
    FILE = "attention.html"

    def __init__(
        self,
        lm: LanguageModel | str,
        text: str | Sequence[int] | Trace | None = None,
        *,
        value: str = "previous",
        head: tuple[int, int] | None = None,
        selection: Selection | None = None,
    ):
        self._value = value
        self.locked = head or (-1, -1)
        self._heads: dict[tuple[int, int], dict[str, Any]] = {}
        self._heads_of: AttentionMaps | None = None
        self._drawn: AttentionMaps | None = None  # of which all heads have been drawn
        super().__init__(lm, text, selection=selection)

    def build(self) -> None:
        if self._value not in PROPERTIES:
            raise ConfigError(f"{self._value!r} is no property of a head; they are {', '.join(PROPERTIES)}")
        narrow = {"style": {"description_width": "initial"}}
        self.value = ipw.Dropdown(options=list(PROPERTIES), value=self._value, description="heads by", **narrow)
        self.layer = ipw.IntSlider(0, 0, 0, description="layer")
        self.head = ipw.IntSlider(0, 0, 0, description="head")
        self.all_button = ipw.ToggleButton(description="All heads", icon="th")
        self.meaning, self.note = ipw.HTML(), ipw.HTML()
        self.grid, self.all_heads, self.pattern = Picker(), Picker(), Picker()
        self.reads, self.read_by = Picker(), Picker()
        self.explain({"value": self.value, "layer": self.layer, "head": self.head, "all": self.all_button}, HELP)
        self.value.observe(lambda _: self.repaint(), "value")
        self.all_button.observe(lambda _: self.repaint(), "value")
        self.layer.observe(lambda change: self.lock(change["new"], self.locked[1]), "value")
        self.head.observe(lambda change: self.lock(self.locked[0], change["new"]), "value")
        for grid in (self.grid, self.all_heads):
            grid.observe(lambda change: self._on_head(change["new"]), "picked")
            grid.observe(lambda _: self.repaint(), "pointed")
        for picker in (self.pattern, self.reads, self.read_by):
            picker.observe(lambda change: self._on_token(change["new"]), "picked")
        self.fill(
            *self.above(),
            row("lk-options", self.value, self.all_button, self.meaning),
            row("lk-sliders", self.layer, self.head),
            self.grid,
            self.all_heads,
            row("lk-pair", self.pattern, row("lk-column", self.reads, self.read_by)),
            self.note,
        )

    # what is asked

    def look(self, ids: list[int]) -> AttentionMaps:
        return attention(self.lm, ids)

    @property
    def shown(self) -> tuple[int, int]:
        """Layer and head that are shown: the ones pointed at, else the ones that are locked."""
        pointed = self.grid.pointed or self.all_heads.pointed
        at = at_of(pointed) if pointed else self.locked
        return at if at in self._heads else self.locked

    def lock(self, layer: int, head: int) -> None:
        """Show this head until another one is locked."""
        if (layer, head) == self.locked:
            return
        self.locked = (layer, head)
        self.layer.value, self.head.value = layer, head
        self.repaint()

    def _arrived(self) -> None:
        """Maps of another text, or of another model: measure their heads."""
        maps: AttentionMaps = self._result
        self._heads_of = maps
        self._heads = {(one["layer"], one["head"]): one for one in facts.head_grid(maps)["heads"]}
        self.layer.max, self.head.max = max(at[0] for at in self._heads), max(at[1] for at in self._heads)
        if self.locked not in self._heads:
            self.lock(*max(self._heads, key=lambda at: self._heads[at][self.value.value] or 0.0))

    # what the controls do

    def _on_head(self, name: str) -> None:
        if name:
            self.lock(*at_of(name))

    def _on_token(self, name: str) -> None:
        if name and int(name) != self.token:
            self.selection.token = int(name)

    # painting

    def paint(self) -> None:
        if self._heads_of is not self._result:
            self._arrived()
        layer, head = self.locked
        self.meaning.value = status_html(PROPERTIES[self.value.value])
        self.grid.html = self._grid_view().html
        self.grid.picked = self.all_heads.picked = f"{layer}.{head}"
        show(self.all_heads, self.all_button.value)
        if self.all_button.value:
            self._paint_all_heads()
        self.pattern.html = self._pattern_view(*self.shown).html
        self.pattern.picked = str(self.token)
        self.reads.html, self.read_by.html = (view.html for view in self._tables(*self.shown))
        self.note.value = status_html("", notes=self._notes())

    def _paint_all_heads(self) -> None:
        if self._drawn is not self._result:
            self._drawn = self._result
            self.all_heads.html = self._all_view().html

    def view(self) -> View | None:
        if self._result is None:
            return None
        with self._lock:
            every = [self._all_view()] if self.all_button.value else []
            tables = views.side_by_side(self._tables(*self.locked))
            return views.stack([self._grid_view(), *every, self._pattern_view(*self.locked), tables])

    def _grid_view(self) -> View:
        return views.head_grid(list(self._heads.values()), self.value.value, selected=self.locked)

    def _all_view(self) -> View:
        maps: AttentionMaps = self._result
        if len(maps.ids) > MOST_TOKENS:
            raise ConfigError(
                f"all heads at once are shown of up to {MOST_TOKENS} tokens, and the text has {len(maps.ids)}; "
                "look at them one by one"
            )
        patterns = [maps.pattern(i) for i in range(maps.n_layer)]
        return views.attention_grid(patterns, list(self._heads.values()), self.value.value)

    def _pattern_view(self, layer: int, head: int) -> View:
        return views.head_pattern(**facts.head_pattern(self._result, layer, head, self.token))

    def _tables(self, layer: int, head: int) -> list[View]:
        """What the selected token reads, and which tokens read it."""
        token, weights = self.token, self._result.pattern(layer, head)
        name = f"token {token}, {visible(self._result.pieces[token])},"
        return [
            self._table(weights[token], f"{name} reads"),
            self._table(weights[:, token], f"{name} is read by"),
        ]

    def _table(self, weights: Tensor, caption: str) -> View:
        found = [i for i in weights.argsort(descending=True, stable=True)[:TARGETS].tolist() if weights[i] >= 5e-4]
        pieces = self._result.pieces
        rows = [{"token": i, "piece": visible(pieces[i]), "weight": round(float(weights[i]), 3)} for i in found]
        return table_view(rows, caption, pick=lambda i: str(found[i]))

    def _notes(self) -> list[str]:
        """What the reader of this head's pattern must know."""
        layer, head = self.shown
        window, notes = self._result.windows[layer], [WEIGHTS]
        if self._heads[layer, head]["first"] >= RESTING:
            share = round(100 * self._heads[layer, head]["first"])
            notes.append(
                f"{share} % of this head's weight rests on the first token: often it has nothing to say there."
            )
        if window is not None:
            sinks = f" and the first {window.sinks}" * bool(window.sinks)
            notes.append(
                f"Layer {layer} has a window: a token sees itself, the {window.size} before it{sinks}; all else is 0."
            )
        if isinstance(self.lm.model.blocks[layer].get_submodule("attn"), LatentAttention):
            notes.append(f"Layer {layer} keeps one latent for all heads instead of keys; the weights are what it used.")
        return notes

    # taking it away

    def code(self) -> str:
        layer, head = self.locked
        return (
            f"{self.opening()}\n"
            f"maps = inspection.attention(lm, {self.given!r})\n"
            f"print(maps.top_heads({self.value.value!r}))\n"
            f"print(maps.looks_at({layer}, {head}, {self.token}))\n"
            f"labkit.views.head_pattern(maps.pattern({layer}, {head}), maps.pieces, selected={self.token})"
        )

    def parameters(self) -> dict[str, Any]:
        return {"checkpoint": source_of(self.lm), "text": "".join(self._result.pieces if self._result else [])}

    def __repr__(self) -> str:
        if self._result is None:
            return "AttentionBrowser()"
        return f"AttentionBrowser({self._result!r}, layer {self.locked[0]} head {self.locked[1]})"


def at_of(name: str) -> tuple[int, int]:
    """(layer, head) of what a grid calls "layer.head"."""
    layer, head = map(int, name.split("."))
    return layer, head
