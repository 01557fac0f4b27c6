"""AblationView: take parts of the model out, one at a time, and see what becomes of the next token."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as ipw
from torch import Tensor

from .. import views
from ..errors import ConfigError
from ..inspection import Ablation, At, Stopped, ablate, edit
from ..inspection.ablation import parts_of, stand_ins
from ..inspection.hooks import apart
from ..inspection.reading import token_id
from ..inspection.site_names import resolve
from ..language_model import LanguageModel
from ..sampling import Sampler, StepContext
from ..sampling.questions import WhatIf
from ..trace import Trace
from ..views import View
from ..views.base import percent, visible
from .ablated import VALUES, Ablated
from .code import source_of
from .facts import named, pieces, what_if
from .inspector import Inspector
from .layout import row, show
from .own_texts import OwnTexts
from .panels import status_html
from .picker import Picker
from .prompt import read_prompt
from .selection import Selection
from .tables import table_view

OWN_TEXTS = 16  # that the model writes where no other texts are given
CANDIDATES = 10
NAMES = {"heads": "head", "attention": "attention", "mlps": "MLP", "layers": "layer", "positions": "position"}
WHAT = {"heads": "heads", "attention": "attention", "MLPs": "mlps", "whole layers": "layers", "positions": "positions"}
HOW = {"nothing (zeros)": "zero", "their mean elsewhere": "mean", "another text's": "resample"}
CELLS = ".lk-heads td[data-pick], .lk-heat tbody td"
HELP = {
    "what": "Which parts are taken out, one at a time; of a position, what others may read of it.",
    "how": "What stands in for a part: zeros (which no model has seen), its mean over other texts, or another's.",
    "reference": "A longer text, cut up, that stand-ins come from; empty: what the model writes by itself.",
    "target": "The token whose logit and rank are looked at; empty: the token that comes, or the first choice.",
    "versus": "A token whose logit is subtracted from the target's; empty: none.",
    "value": "What the colour and the number of a cell say.",
    "seed": "Seed of the draw (a recorded run has its own), and of the other texts.",
    "stop": "Stop; what has been measured by then is shown.",
}


class AblationView(Inspector):
    """Every part of a kind in a grid: what its absence does to the selected token. Click one for what the model says
    with it and without it, and whether the same draw takes another token.

    Args:
        lm, text, selection: as of every Inspector. Of a run the selected token's own draw is repeated.
        what, how: to begin with: "heads", "attention", "mlps", "layers" or "positions"; "zero", "mean" or "resample".
        target, versus: tokens as text, or the digits of their ids for a model without tokenizer.
        reference: a longer text for "mean" and "resample".
    """

    NOTEBOOK = "22_attribute_and_ablate.ipynb"
    FILE = "ablation.html"

    def __init__(
        self,
        lm: LanguageModel | str,
        text: str | Sequence[int] | Trace | None = None,
        *,
        what: str = "heads",
        how: str = "zero",
        target: str = "",
        versus: str = "",
        reference: str = "",
        selection: Selection | None = None,
    ):
        self._begin = {"what": what, "how": how, "target": target, "versus": versus, "reference": reference}
        self._picked, self._picked_of = 0, ""  # the part that is looked at closely, and of which kind it is
        self._halted = False
        self._compared: tuple[Ablated, int, WhatIf] | None = None
        super().__init__(lm, text, selection=selection)

    def build(self) -> None:
        narrow, begin = {"style": {"description_width": "initial"}}, self._begin
        slow = {"continuous_update": False, **narrow}
        self.what = ipw.Dropdown(options=WHAT, value=begin["what"], description="take out", **narrow)
        self.how = ipw.Dropdown(options=HOW, value=begin["how"], description="put in", **narrow)
        self.value = ipw.Dropdown(options=list(VALUES), description="colour", **narrow)
        self.target = ipw.Text(begin["target"], description="target", placeholder="what comes", **slow)
        self.versus = ipw.Text(begin["versus"], description="versus", placeholder="none", **slow)
        self.reference = ipw.Text(begin["reference"], description="other texts", placeholder="its own", **slow)
        self.seed = ipw.IntText(0, description="seed", **slow)
        self.stop_button = ipw.Button(description="Stop", icon="stop", disabled=True)
        self.grid, self.numbers, self.before_after = Picker(selector=CELLS), ipw.HTML(), ipw.HTML()
        asked = {
            "what": self.what, "how": self.how, "target": self.target, "versus": self.versus,
            "reference": self.reference, "seed": self.seed,
        }  # fmt: skip
        self.explain({**asked, "value": self.value, "stop": self.stop_button}, HELP)
        for control in asked.values():
            control.observe(lambda _: self.run(wait=False), "value")
        self.value.observe(lambda _: self.repaint(), "value")
        self.stop_button.on_click(lambda _: self.stop())
        self.grid.observe(lambda change: self._on_part(change["new"]), "picked")
        self.fill(
            *self.above(),
            row("lk-options", self.what, self.how, self.value, self.stop_button),
            row("lk-options", self.target, self.versus, self.seed, self.reference).add_class("lk-short"),
            self.grid,
            self.numbers,
            self.before_after,
        )

    # what is asked

    @property
    def result(self) -> Ablation | None:
        return None if self._result is None else self._result.ablation

    def look(self, ids: list[int]) -> Ablated:
        show(self.reference, self.how.value != "zero")
        self._halted = self.stop_button.disabled = False
        try:
            before = self.selection.token if 0 < self.selection.token < len(ids) else len(ids)
            arguments = self._arguments(ids[:before], ids[before : before + 1])
            return Ablated(self._ablate(ids[:before], arguments), self.what.value, arguments)
        finally:
            self.stop_button.disabled = True

    def _ablate(self, read: list[int], arguments: Mapping[str, Any]) -> Ablation:
        parts = self._parts(len(read))
        self._tell(0, len(parts))
        whole = ablate(self.lm, read, parts, **arguments, progress=self._tell)
        if self.what.value != "layers":
            return whole
        return dataclasses.replace(whole, labels=tuple(f"block {i}" for i in range(len(whole.parts))))

    def _tell(self, done: int, total: int) -> None:
        self.status.value = status_html(f"{done} of {total} parts taken out …")
        if done and (self._halted or self.stopped.is_set()):
            raise Stopped

    def _arguments(self, read: list[int], comes: list[int]) -> dict[str, Any]:
        """What ablate is asked besides text and parts."""
        return {
            "how": self.how.value,
            "target": self._token(self.target.value) if self.target.value else next(iter(comes), None),
            "versus": self._token(self.versus.value) if self.versus.value else None,
            "reference": None if self.how.value == "zero" else self._reference(read),
            "seed": self.seed.value,
            **self._draw(read),
        }

    def _token(self, text: str) -> int:
        if self.lm.tokenizer is not None:
            return token_id(self.lm, text)
        if not text.strip().isdigit():
            raise ConfigError(f"this model has no tokenizer: write a token as its id, not {text!r}")
        return token_id(self.lm, int(text))

    def _parts(self, n: int) -> list[At]:
        if self.what.value == "layers":
            return [At(f"blocks.{i}.*_out") for i in range(len(self.lm.model.blocks))]
        return parts_of(self.lm, self.what.value, n)

    def _reference(self, read: list[int]) -> Any:
        if self.reference.value:
            return read_prompt(self.lm, self.reference.value)
        return self._own_texts(read).written(self.lm)

    def _own_texts(self, read: list[int]) -> OwnTexts:
        return OwnTexts(read[0], OWN_TEXTS, len(read) - 1, self.seed.value)

    def _draw(self, read: list[int]) -> dict[str, Any]:
        """How the token after these is drawn: of a run as it was, with the same noise."""
        trace = self._of_trace
        step = -1 if trace is None else len(read) - len(trace.prompt_ids)
        if trace is None or not 0 <= step < len(trace):
            sampler = Sampler.from_settings(temperature=1.0, seed=self.seed.value)
            return {"sampler": sampler, "context": StepContext([read], [[]])}
        return {"sampler": trace.sampler, "context": trace.step(step).context}

    # what the controls do

    def stop(self) -> None:
        """End what goes on after the part that is being taken out now, and show what has been measured."""
        self._halted = True

    def _on_part(self, name: str) -> None:
        if name and int(name) != self._picked:
            self._picked = int(name)
            self.repaint()

    def _on_selection(self, change: Any = None) -> None:
        super()._on_selection(change)
        self._typed()  # the effect on another token is another one

    # painting

    def paint(self) -> None:
        done: Ablated = self._result
        if done.what != self._picked_of:
            self._picked_of, self._picked = done.what, done.strongest()
        self._picked = min(self._picked, len(done.ablation.parts) - 1)
        views_of = (self._grid_view(done), self._numbers_view(done), self._compared_view(done))
        self.grid.html, self.numbers.value, self.before_after.value = (view.html for view in views_of)
        self.grid.picked = str(self._picked)

    def view(self) -> View | None:
        if self._result is None:
            return None
        with self._lock:
            done: Ablated = self._result
            return views.stack([self._grid_view(done), self._numbers_view(done), self._compared_view(done)])

    def _grid_view(self, done: Ablated) -> View:
        name = self.value.value
        worth = [VALUES[name](one) for one in done.ablation.rows()]
        high = max([*map(abs, worth), 0.01])
        after = f"after “{visible(''.join(pieces(self.lm, done.ids[-12:])), spaces=False)}”"
        if done.what == "heads":
            n_head = len(parts_of(self.lm, "heads", 1)) // len(self.lm.model.blocks)
            heads = [{"layer": i // n_head, "head": i % n_head, name: value} for i, value in enumerate(worth)]
            return views.head_grid(heads, name, high=high, caption=f"without it, {after}")
        columns = pieces(self.lm, done.ids) if done.what == "positions" else list(map(str, range(len(worth))))
        caption = f"{name}, without each {NAMES[done.what]}, {after}"
        line = [NAMES[done.what]]
        return views.heat_map(
            [worth], rows=line, columns=columns[: len(worth)], caption=caption, numbers=True, high=high
        )

    def _numbers_view(self, done: Ablated) -> View:
        """The effect of the picked part in words."""
        one, numbers = done.ablation.effects[self._picked], done.ablation.rows()[self._picked]
        rank, rank_before = int(one.rank[0]), int(one.rank_before[0])
        facts = {
            "target": named(self.lm, done.ablation.targets[0]),
            "Δ logit": numbers["delta_logit"],
            "KL, nats": numbers["kl"],
            "its rank": str(rank) if rank == rank_before else f"{rank_before} → {rank}",
            "first choice": self._change(one.first_before, one.first),
            "this draw": self._change(one.drawn_before, one.drawn),
            "of all draws": f"{percent(numbers['redrawn'])} % change",
        }
        return table_view([facts], f"without {done.ablation.labels[self._picked]}")

    def _change(self, before: Tensor, after: Tensor) -> str:
        was, now = (named(self.lm, int(ids[0])) for ids in (before, after))
        return f"stays {was}" if was == now else f"{was} → {now}"

    def _compared_view(self, done: Ablated) -> View:
        """The distribution with the picked part and without it."""
        if self._compared is None or self._compared[:2] != (done, self._picked):
            before, after = (done.draw(logits) for logits in self._before_and_after(done))
            self._compared = (done, self._picked, WhatIf(before, after, ()))
        answer, part = self._compared[2], done.ablation.labels[self._picked]
        was, now = (named(self.lm, side.chosen) for side in (answer.before, answer.after))
        came = f"still takes {was}" if answer.same else f"takes {now} instead of {was}"
        data = what_if(answer, self.lm, CANDIDATES) | {
            "caption": f"Without {part} the same draw {came}.",
            "names": ("with it", "without it"),
            "changes": [
                (part, "as it is", {"zero": "zeros", "mean": "mean", "resample": "another's"}[done.ablation.how])
            ],
        }
        return views.what_if(**data)

    def _before_and_after(self, done: Ablated) -> tuple[Tensor, Tensor]:
        """Logits (V,) with the picked part and without it."""
        part = done.ablation.parts[self._picked]
        sites = [At(site.name, part.heads, part.positions) for site in resolve(self.lm, part.site)]
        how, reference, seed = (done.arguments[name] for name in ("how", "reference", "seed"))
        with apart():
            stand_in, _ = stand_ins(self.lm, how, sites, reference, len(done.ids), seed)
            before = self.lm.logits(done.ids)[-1]
            with edit(self.lm, {one: stand_in(one) for one in sites}):
                return before, self.lm.logits(done.ids)[-1]

    # taking it away

    def code(self) -> str:
        done: Ablated | None = self._result
        if done is None:
            return self.opening()
        how, position = done.arguments["how"], len(done.ids) - 1
        words = [repr(how), f"position={position}", f"seed={done.arguments['seed']}"]
        words += [f"{name}={done.arguments[name]}" for name in ("target", "versus") if done.arguments[name] is not None]
        lines, what = [self.opening()], repr(done.what)
        if done.what == "layers":
            what = "[inspection.At(f'blocks.{i}.*_out') for i in range(len(lm.model.blocks))]"
        if how != "zero":
            lines.append(self._reference_code(done.ids))
            words.append("reference=reference")
        lines.append(f"ablation = inspection.ablate(lm, {self.given!r}, {what}, {', '.join(words)})")
        return "\n".join([*lines, "for part in ablation.top():", "    print(part)"])

    def _reference_code(self, read: list[int]) -> str:
        if self.reference.value:
            return f"reference = {read_prompt(self.lm, self.reference.value)!r}"
        return self._own_texts(read).code("reference")

    def parameters(self) -> dict[str, Any]:
        return {"checkpoint": source_of(self.lm), "seed": self.seed.value}

    def __repr__(self) -> str:
        return f"AblationView({self.result!r})"
