"""CacheMap: what every layer keeps of a text, what it let go and when, what that costs, and whether it is sound."""

import threading
from dataclasses import dataclass
from typing import Any, ClassVar

import ipywidgets as ipw

from .. import views
from ..inspection import Audit, CacheReport, Stopped, audit_cache, cache_growth
from ..inspection.cache import TOLERANCE
from ..inspection.cache_history import CacheHistory, cache_history
from ..views import View
from ..views.base import visible
from . import facts
from .background import Background
from .code import source_of
from .facts import pieces
from .inspector import Inspector
from .layout import row
from .panels import error_html, error_message, status_html
from .picker import Picker
from .stopping import until
from .tables import table_view

HELP = {
    "moment": "How much of the text has been read: the map shows what the cache held then.",
    "audit": "Write on, and check at every eighth token that the cache says what a run without it says.",
    "audit_tokens": "How many tokens the audit writes; beyond the context, it also checks how the text is cropped.",
    "stop": "Stop the audit.",
}
GROWTH = (32, 64, 128, 256, 512)  # lengths at which the bytes are measured
AUDIT_EVERY = 8


@dataclass(frozen=True, repr=False)
class CacheMapResult:
    """What the map shows, as plain data.

    Attributes:
        report: what the cache held after so many tokens.
        growth: bytes for texts of several lengths.
        audit: the last one of this text; None before the first.
    """

    report: CacheReport
    growth: tuple[dict[str, int], ...]
    audit: Audit | None = None

    def rows(self) -> list[dict[str, Any]]:
        """One row a layer."""
        return self.report.rows()

    def to_dict(self) -> dict[str, Any]:
        audit = None if self.audit is None else self.audit.to_dict()
        return {"report": self.report.to_dict(), "growth": list(self.growth), "audit": audit}

    def __repr__(self) -> str:
        return f"CacheMapResult({self.report!r}, audit={self.audit!r})"


class CacheMap(Inspector):
    """A row a layer, a column a token: what the KV cache held after any part of the text, and its bytes.

    The selected token's life is told below: in which layer it is held how long.
    """

    NOTEBOOK: ClassVar[str] = "24_kv_cache_windows_latents.ipynb"
    FILE: ClassVar[str] = "cache.html"

    def build(self) -> None:
        narrow = {"style": {"description_width": "initial"}}
        self.moment = ipw.IntSlider(1, min=1, max=1, description="after reading", **narrow)
        self.audit_tokens = ipw.IntSlider(
            48, min=8, max=512, step=8, description="new tokens", layout={"min_width": "20em"}, **narrow
        )
        self.audit_button = ipw.Button(description="Audit", icon="check")
        self.stop_button = ipw.Button(description="Stop", icon="stop", disabled=True)
        self.map = Picker()
        self.life, self.growth, self.verdict = (ipw.HTML() for _ in range(3))
        self._audit: Audit | None = None
        self._growth: tuple[dict[str, int], ...] = ()
        self._auditing = Background()
        self.moment.observe(lambda _: self.repaint(), "value")
        self.audit_button.on_click(lambda _: self.audit(wait=False))
        self.stop_button.on_click(lambda _: self._auditing.stop())
        self.map.observe(lambda change: self._on_pick(change["new"]), "picked")
        controls = {"moment": self.moment, "audit_tokens": self.audit_tokens}
        self.explain({**controls, "audit": self.audit_button, "stop": self.stop_button}, HELP)
        self.fill(
            *self.above(),
            row("lk-wide-slider", self.moment),
            self.map,
            row("lk-tables", self.life, self.growth),
            row("lk-above", self.audit_button, self.stop_button, self.audit_tokens, self.verdict),
        )

    # what code can do with it

    @property
    def result(self) -> CacheMapResult | None:
        if self._result is None:
            return None
        return CacheMapResult(self._result.at(self.moment.value), self._growth, self._audit)

    def audit(self, wait: bool = True) -> Audit | None:
        """Check the cache against runs without it; with ``wait`` until that is done, and return the verdict."""
        self._auditing.start(lambda stopped: self._check(list(self.ids), self.audit_tokens.value, stopped))
        if not wait:
            return None
        self._auditing.wait()
        return self._audit

    def view(self) -> View | None:
        result = self.result
        if result is None:
            return None
        parts = [self._map_view(result.report), self._life_view(), self._growth_view()]
        if result.audit is not None:
            parts.append(table_view(list(result.audit.rows()), verdict(result.audit)))
        return views.stack(parts)

    def code(self) -> str:
        n = self.moment.value
        read = repr(self.given if n == len(self.ids) else self.ids[:n])
        return (
            f"{self.opening()}for row in inspection.cache_report(lm, {read}).rows():\n    print(row)\n"
            f"print(inspection.audit_cache(lm, {self.given!r}, max_new_tokens={self.audit_tokens.value}))"
        )

    def parameters(self) -> dict[str, Any]:
        given = self.given
        text = given if isinstance(given, str) else self.lm.require_tokenizer().decode(given)
        return {"checkpoint": source_of(self.lm), "text": text}

    def close(self) -> None:
        self._auditing.stop()
        super().close()

    # looking and painting

    def look(self, ids: list[int]) -> CacheHistory | None:
        self._auditing.stop()
        try:
            history = cache_history(self.lm, ids, progress=until(self.stopped, self.status, "reading"))
        except Stopped:
            return None
        longest = min(self.lm.model.block_size, GROWTH[-1])
        self._growth = tuple(cache_growth(self.lm, [n for n in GROWTH if n <= longest] or [longest]))
        self._audit, self.verdict.value = None, ""
        return history

    def paint(self) -> None:
        self._reach(self._result.n_tokens)
        self.map.html = self._map_view(self._result.at(self.moment.value)).html
        self.map.picked = f"0.{self.token - self._result.skipped}"
        self.life.value = self._life_view().html
        self.growth.value = self._growth_view().html

    def _reach(self, n: int) -> None:
        """Let the slider go from 1 to n; where it stood at the end, it stays there."""
        at_end = self.moment.value == self.moment.max
        self.moment.max = n
        if at_end:
            self.moment.value = n

    def _on_pick(self, place: str) -> None:
        if place:
            self.selection.token = int(place.partition(".")[2]) + self._result.skipped

    def _map_view(self, report: CacheReport) -> View:
        return views.cache_map(**facts.cache_map(report, pieces(self.lm, self._result.ids[: report.n_tokens])))

    def _life_view(self) -> View:
        """What becomes of the selected token, layer by layer."""
        history: CacheHistory = self._result
        place = self.token - history.skipped
        if place < 0:
            return table_view([], f"Token {self.token} was cropped: it lies before the context")
        rows = [
            {
                "layer": layer.layer,
                "kind": layer.kind,
                "held": "to the end" if gone[place] is None else f"until {gone[place]} tokens were read",
                "key norm": layer.key_norms[place],
                "value norm": layer.value_norms[place],
            }
            for layer, gone in zip(history.report.layers, history.gone_after, strict=True)
        ]
        piece = visible(pieces(self.lm, [history.ids[place]])[0])
        return table_view(rows, f"Token {self.token}, “{piece}”: how long it is held")

    def _growth_view(self) -> View:
        report: CacheReport = self._result.report
        whole = sum(layer.nbytes_full for layer in report.layers) // report.n_tokens
        rows = [
            {
                **one,
                "all keys and values": whole * one["tokens"],
                "share": f"{one['bytes'] / whole / one['tokens']:.0%}",
            }
            for one in self._growth
        ]
        return table_view(rows, "Bytes as the text grows, measured")

    # the audit, in a thread of its own

    def _check(self, ids: list[int], n: int, stopped: threading.Event) -> None:
        self.audit_button.disabled, self.stop_button.disabled = True, False
        tell = until(stopped, self.verdict, "auditing")
        try:
            self._audit = audit_cache(self.lm, ids, max_new_tokens=n, every=AUDIT_EVERY, progress=tell)
        except Stopped:
            self.verdict.value = status_html("audit stopped")
        except Exception as error:  # whatever a model raises belongs in the widget, not in the log
            self.verdict.value = error_html(error_message(error))
        else:
            self.verdict.value = verdict_html(self._audit)
        finally:
            self.audit_button.disabled, self.stop_button.disabled = False, True


def verdict(audit: Audit) -> str:
    """What an audit found, in a line."""
    if not audit.ok:
        return f"{len(audit.faults)} faults: {audit.faults[0]}"
    last = audit.checks[-1]["tokens"]
    return f"healthy: {len(audit.checks)} checks up to {last} tokens, the same logits within {TOLERANCE:g} each time"


def verdict_html(audit: Audit) -> str:
    return status_html(verdict(audit)) if audit.ok else error_html(verdict(audit))
