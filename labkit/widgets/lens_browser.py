"""LogitLensBrowser: what every layer would say next, at every place of a text."""

from collections.abc import Sequence
from typing import Any

import ipywidgets as ipw

from .. import views
from ..errors import LabkitError
from ..inspection import LensFit, LogitLens, fit_lens, logit_lens
from ..inspection.reading import token_id
from ..language_model import LanguageModel
from ..trace import Trace
from ..views import View
from ..views.base import decimals, percent, visible
from . import facts
from .code import source_of
from .inspector import Inspector
from .layout import row
from .own_texts import OwnTexts
from .panels import error_html, error_message, status_html
from .picker import Picker
from .selection import Selection
from .tables import table_view

MOST, WIDTH = 28, 90  # columns, and characters in a row of them; a longer text is shown in part
COLOURS = {"sureness": "p", "entropy": "entropy", "KL to the end": "kl"}
N_TOP = 8
PLAIN, FITTED = "plain", "fitted"
TOKENS_A_CHANNEL = 8  # that a lens is fitted on
LONGEST = 256  # tokens of one text that the model writes for the fit
HELP = {
    "colour": "What a cell's colour says: how sure the layer is, its entropy, or how far it is from the final answer.",
    "lens": "Plain reads a layer with the model's own head; fitted translates it first (fitted on what it writes).",
    "track": "Type a token and press Enter: it is followed through the layers; so is a choice that you click.",
    "forget": "Follow no token of your own any more, but the first choice at the selected place and what comes there.",
}


class LogitLensBrowser(Inspector):
    """The lens as a table, a row a layer and a column a token; click a cell for what it holds.

    The column before the selected token says how that token was arrived at; the last one, what comes next.

    Args:
        lm, text, selection: as of every Inspector.
        tracked: tokens to follow through the layers, as text or ids.
        fit: the maps of a fitted lens; without it they are fitted, when asked for, on what the model writes itself.

    Attributes:
        pins: ids that are followed; when there are none, the first choice at the selected place and what comes there.
    """

    NOTEBOOK = "21_logit_lens.ipynb"
    FILE = "lens.html"

    def __init__(
        self,
        lm: LanguageModel | str,
        text: str | Sequence[int] | Trace | None = None,
        *,
        tracked: Sequence[int | str] = (),
        fit: LensFit | None = None,
        selection: Selection | None = None,
    ):
        self.fit, self._given_fit = fit, fit is not None
        self.pins: list[int] = []
        self._asked = tracked
        self._point = -1  # the row that is looked at; -1: the last one
        self._start = 0  # the first column shown
        self._cells: list[dict[str, Any]] = []
        self._cells_of: LogitLens | None = None
        super().__init__(lm, text, selection=selection)

    def build(self) -> None:
        self.pins = [token_id(self.lm, token) for token in self._asked]
        narrow = {"style": {"description_width": "initial"}}
        self.colour = ipw.Dropdown(options=COLOURS, description="colour", **narrow)
        self.lens = ipw.Dropdown(
            options=[PLAIN, FITTED], value=FITTED if self._given_fit else PLAIN, description="lens", **narrow
        )
        self.track = ipw.Text(description="follow", placeholder="a token", continuous_update=False, **narrow)
        self.forget = ipw.Button(description="Forget", icon="eraser")
        self.track_error = ipw.HTML()
        self.grid, self.choices, self.paths = Picker(), Picker(), ipw.HTML()
        controls = {
            "colour": self.colour,
            "lens": self.lens,
            "track": self.track,
            "forget": self.forget,
        }
        self.explain(controls, HELP)
        self.colour.observe(lambda _: self.repaint(), "value")
        self.lens.observe(lambda _: self.run(wait=False), "value")
        self.track.observe(lambda change: self._on_track(change["new"]), "value")
        self.forget.on_click(lambda _: self._follow_tokens([]))
        self.grid.observe(lambda change: self._on_cell(change["new"]), "picked")
        self.choices.observe(lambda change: self._on_choice(change["new"]), "picked")
        self.fill(
            *self.above(),
            row("lk-options", self.lens, self.colour, self.track, self.forget, self.track_error),
            self.grid,
            row("lk-pair", self.choices, self.paths),
        )

    # what is asked

    @property
    def column(self) -> int:
        """The place that is looked at: before the selected token; the last one, if none is selected."""
        return self.column_of(len(self.ids))

    def column_of(self, n: int) -> int:
        return max(0, self.selection.token - 1) if 0 <= self.selection.token < n else n - 1

    def look(self, ids: list[int]) -> LogitLens:
        fit = self._fitted(ids) if self.lens.value == FITTED else None
        return logit_lens(self.lm, ids, tracked=self.pins or self._natural(ids), n_top=N_TOP, fit=fit)

    def _natural(self, ids: list[int]) -> list[int]:
        """What one wants to follow without having said so: the first choice at the place looked at, and what comes."""
        column = self.column_of(len(ids))
        first = int(self.lm.logits(ids[: column + 1])[-1].argmax())
        return list(dict.fromkeys([*ids[column + 1 : column + 2], first]))

    def _fitted(self, ids: list[int]) -> LensFit:
        if self.fit is None:
            texts = self._own_texts(ids)
            self.status.value = status_html(f"fitting the lens on {texts.n} texts that the model writes …")
            self.fit = fit_lens(self.lm, texts.written(self.lm))
        return self.fit

    def _own_texts(self, ids: list[int]) -> OwnTexts:
        """What a lens is fitted on."""
        length = min(LONGEST, self.lm.model.block_size) - 1
        return OwnTexts(ids[0], -(-TOKENS_A_CHANNEL * self.lm.model.lm_head.weight.shape[1] // length), length)

    # what the controls do

    def _on_cell(self, name: str) -> None:
        if not name:
            return
        self._point, place = map(int, name.split("."))
        selected = place + 1 if place + 1 < len(self.ids) else -1
        if selected != self.selection.token:
            self.selection.token = selected  # which paints
        else:
            self.repaint()

    def _on_choice(self, name: str) -> None:
        if name:
            token = int(self._result.top_ids[self._point, self.column, int(name)])
            self.choices.picked = ""  # so that a second click is one
            self._follow_tokens([pin for pin in self.pins if pin != token] + [token] * (token not in self.pins))

    def _on_track(self, text: str) -> None:
        self.track_error.value = ""
        if not text:
            return
        try:
            token = token_id(self.lm, text if self.lm.tokenizer is not None else int(text))
        except (LabkitError, ValueError) as error:
            self.track_error.value = error_html(error_message(error))
            return
        self.track.value = ""
        self._follow_tokens([*dict.fromkeys([*self.pins, token])])

    def _follow_tokens(self, pins: list[int]) -> None:
        self.pins = pins
        self.run(wait=False)

    def _on_selection(self, change: Any = None) -> None:
        super()._on_selection(change)
        if not self.pins and self._result is not None:
            self._typed()  # others come into question here

    # painting

    def _columns(self) -> range:
        """The columns that are shown; they stay as long as the one that is looked at is among them."""
        n, column = len(self.ids), self.column
        characters = sum(1 + len(piece) for piece in self._result.pieces) / n
        window = min(n, MOST, max(6, round(WIDTH / characters)))
        if not self._start <= column < self._start + window <= n:
            self._start = max(0, min(column - window * 2 // 3, n - window))
        return range(self._start, self._start + window)

    def paint(self) -> None:
        self._point %= len(self._result.points)
        self.grid.html = self._grid_view().html
        self.grid.picked = f"{self._point}.{self.column}"
        self.choices.html = self._choices_view().html
        self.paths.value = self._paths_view().html

    def view(self) -> View | None:
        if self._result is None:
            return None
        with self._lock:
            return views.stack([self._grid_view(), self._choices_view(), self._paths_view()])

    def _grid_view(self) -> View:
        lens, columns = self._result, self._columns()
        if self._cells_of is not lens:
            self._cells_of, self._cells = lens, lens.rows()
        cells = [cell for cell in self._cells if cell["position"] in columns]
        place = (
            f"tokens {columns.start} … {columns.stop - 1} of {len(self.ids)}" if len(columns) < len(self.ids) else ""
        )
        return views.lens_grid(cells, colour=self.colour.value, caption=place, note=lens.caution)

    def _choices_view(self) -> View:
        lens, i, t = self._result, self._point, self.column
        last = dict(zip(lens.top_ids[-1, t].tolist(), lens.top_probabilities[-1, t].tolist(), strict=True))
        rows = [
            {
                "token": visible(lens.names[token]),
                "p here": round(p, 4),
                "p in the end": round(last[token], 4) if token in last else None,
                "followed": "●" * (token in lens.tracked),
            }
            for token, p in zip(lens.top_ids[i, t].tolist(), lens.top_probabilities[i, t].tolist(), strict=True)
        ]
        return table_view(rows, self._said(), pick=str)

    def _said(self) -> str:
        """The numbers of the selected cell in a sentence."""
        lens, i, t = self._result, self._point, self.column
        before = visible("".join(lens.pieces[max(0, t - 11) : t + 1]), spaces=False)
        numbers = f"entropy {decimals(float(lens.entropy[i, t]), 2)}, KL {decimals(float(lens.kl[i, t]), 2)} nats"
        said = f"{lens.points[i]} after “{before}”: {numbers}"
        if t + 1 == len(lens.ids):
            return said
        p = percent(float(lens.next_logprob[i, t].exp()))
        return f"{said}; “{visible(lens.pieces[t + 1])}”, which comes, has {p} %"

    def _paths_view(self) -> View:
        return views.trajectories(**facts.trajectories(self._result, self.column))

    # taking it away

    def code(self) -> str:
        lines = [self.opening()]
        fit = ""
        if self.lens.value == FITTED:
            fit = ", fit=fit"
            lines.append(self._fit_code())
        lens = self._result
        tracked = f", tracked={list(lens.tracked)}" if lens is not None and lens.tracked else ""
        lines.append(f"lens = inspection.logit_lens(lm, {self.given!r}{tracked}{fit})")
        lines.append(f"print(lens.choices({self.column}))")
        if tracked:
            lines.append(f"print(lens.trajectory({lens.tracked[0]}, {self.column}))")
        return "\n".join(lines)

    def _fit_code(self) -> str:
        if self._given_fit:
            return "# fit is the one you gave to the widget"
        return f"{self._own_texts(self.ids).code('texts')}\nfit = inspection.fit_lens(lm, texts)"

    def parameters(self) -> dict[str, Any]:
        return {"checkpoint": source_of(self.lm), "text": "".join(self._result.pieces if self._result else [])}

    def __repr__(self) -> str:
        return f"LogitLensBrowser({self._result!r})"
