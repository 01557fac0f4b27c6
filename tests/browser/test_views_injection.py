"""Every view in a real browser: no text executes, fetches or hides anything; and a saved page needs no script."""

import sys
from pathlib import Path
from typing import Any

import pytest
import real_lab

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recorded
from every_view import EVERY
from hostile_text import HOSTILE
from test_views import Elements, forms, numbers, values_of

import labkit
from labkit import views
from labkit.tokenizers.base import Tokenizer
from labkit.tokenizers.bpe import GPT2Tokenizer
from labkit.tokenizers.char import CharTokenizer

real_lab.skip_without_browser()
AT_A_TIME = 10_000  # tokens of a vocabulary on one page
PROVOKE = """() => {
    for (const node of document.querySelectorAll("details")) node.open = true;
    for (const node of [...document.querySelectorAll("[tabindex]")].slice(0, 50)) node.focus();
    for (const node of document.querySelectorAll(".lk *"))
        for (const kind of ["mouseover", "focus", "load", "error"]) node.dispatchEvent(new Event(kind));
}"""
# Elements that no view has, and attributes that could run something.
FOREIGN = """() => [
    ...[...document.querySelectorAll("script, iframe, object, embed, link, base, form, video, audio, [http-equiv]")]
        .map(node => node.outerHTML),
    ...[...document.querySelectorAll("*")].flatMap(node => node.getAttributeNames())
        .filter(name => name.startsWith("on")),
]"""


class Watched:
    """A page that notes whatever a view should never bring about."""

    def __init__(self, page: Any):
        self.page, self.seen = page, []
        page.on("dialog", lambda dialog: (self.seen.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: self.seen.append(f"error {error}"))
        page.on("console", lambda message: message.type == "error" and self.seen.append(f"console {message.text}"))
        page.on("request", lambda request: request.url.startswith("data:image/png") or self.seen.append(request.url))
        page.on("frameattached", lambda frame: self.seen.append(f"frame {frame.url}"))

    def show(self, body: str) -> None:
        """The body without any policy that would keep it from running things."""
        self.page.set_content(f"<!doctype html><meta charset=utf-8><title>views</title>{body}")
        # What waits for the mouse or the focus gets it.
        self.page.evaluate(PROVOKE)
        self.page.wait_for_timeout(50)
        assert self.page.evaluate("typeof window.__xss") == "undefined"
        assert self.page.evaluate(FOREIGN) == []
        assert self.seen == []


@pytest.fixture
def watched(browser: Any) -> Any:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    yield Watched(page)
    page.close()


def test_the_watch_sees_what_executes(watched: Any) -> None:
    with pytest.raises(AssertionError):
        watched.show("<div class=lk><img src=x onerror=window.__xss=1></div>")


@pytest.mark.parametrize("name", EVERY)
def test_no_hostile_text_executes_in_any_view(watched: Any, name: str) -> None:
    assert len(HOSTILE) >= 50
    watched.show("".join(EVERY[name](text).html for text in HOSTILE))
    assert watched.page.locator(".lk").first.is_visible()


def vocabulary(kind: str) -> list[str]:
    """Every token of a tokenizer, as views get it."""
    if kind == "nanochat":
        described = recorded.read_json("nanochat", "tokenizer", "tokenizer_config.json")
        size = described["vocab_size"]
        tokenizer: Tokenizer = CharTokenizer(
            described["vocab_chars"], specials=described["special_tokens"], vocab_size=size, bos="<|bos|>"
        )
    elif kind == "gpt2":
        tokenizer = GPT2Tokenizer()
    else:
        try:
            tokenizer = labkit.load(kind).require_tokenizer()
        except labkit.CheckpointError as error:
            pytest.skip(str(error))
    return tokenizer.pieces(range(tokenizer.vocab_size))


@pytest.mark.parametrize("kind", ["shakespeare-char", "nanochat", "gpt2", "smollm2-135m-instruct"])
def test_no_token_of_a_whole_vocabulary_executes(watched: Any, kind: str) -> None:
    pieces = vocabulary(kind)
    for start in range(0, len(pieces), AT_A_TIME):
        tokens = [
            {"piece": piece, "probability": 0.5, "rank": 1, "entropy": 1.0, "alternatives": []}
            for piece in pieces[start : start + AT_A_TIME]
        ]
        watched.show(views.token_strip(tokens).html)
        shown = watched.page.locator(".lk-t").count()
        assert shown == len(tokens)


@pytest.mark.parametrize("name", EVERY)
def test_a_saved_page_says_every_number_without_script_and_python(browser: Any, name: str, tmp_path: Path) -> None:
    view = EVERY[name]("x")
    context = browser.new_context(java_script_enabled=False, color_scheme="dark")
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text))
    page.goto(views.save(view, tmp_path / "view.html").as_uri())
    found = Elements(page.content())
    words = numbers(" ".join([found.text, *found.words]))
    for value in filter(None, values_of(view.rows)):
        assert forms(value) & words, value
    assert errors == []
    context.close()
