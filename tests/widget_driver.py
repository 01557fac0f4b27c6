"""Driving widgets without a kernel: what a browser would send, sent by hand."""

import time
from collections.abc import Callable
from typing import Any

import ipywidgets as ipw
import tiny

from labkit.language_model import LanguageModel
from labkit.models.labcore import LabCoreConfig
from labkit.tokenizers.char import CharTokenizer

PROMPT = "ab\n"


def tiny_model(tokenizer: Any) -> LanguageModel:
    config = LabCoreConfig(tokenizer.vocab_size, block_size=64, n_layer=1, n_head=2, n_embd=16)
    return tiny.language_model("labcore", config, tokenizer)


def small_alphabet() -> CharTokenizer:
    """A few characters, and two tokens that must never become markup."""
    return CharTokenizer([*"abcdefgh \n", "<script>", '"'])


def eventually(condition: Callable[[], bool], seconds: float = 10) -> float:
    """Seconds until it holds."""
    start = time.perf_counter()
    while not condition():
        assert time.perf_counter() - start < seconds, "it never came"
        time.sleep(0.002)
    return time.perf_counter() - start


def move(control: ipw.Widget, value: Any) -> None:
    """As the browser does it."""
    control.set_state({"value": value})


def press(button: ipw.Button) -> None:
    button._handle_button_msg(button, {"event": "click"}, [])


def all_parts(widget: ipw.Widget) -> list[ipw.Widget]:
    return [widget, *(part for child in getattr(widget, "children", ()) for part in all_parts(child))]
