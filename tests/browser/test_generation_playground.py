"""The playground as a person meets it: a real JupyterLab, a real browser, mouse and keyboard."""

import re
import shutil

import pytest
from real_lab import ROOT, JupyterLab, cell_errors, skip_without_browser, wait_for, write_notebook

skip_without_browser()
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]  # the first test waits for a whole notebook

NOTEBOOK = ROOT / "notebooks" / "10_generate_text.ipynb"
PLAYGROUND = """
from labkit.widgets import GenerationPlayground
GenerationPlayground("shakespeare-char", "ROMEO:\\n")
"""


@pytest.fixture(scope="module")
def page(jupyterlab: JupyterLab):
    """The generation notebook, run from top to bottom, at its playground."""
    if NOTEBOOK.exists():
        shutil.copy(NOTEBOOK, jupyterlab.folder / "generate.ipynb")
    else:
        write_notebook(jupyterlab.folder / "generate.ipynb", PLAYGROUND)
    page = jupyterlab.open("generate.ipynb")
    jupyterlab.run_all(page)
    wait_for(lambda: page.locator(".lk-live [data-i='50']").count() or cell_errors(page), 240)
    assert cell_errors(page) == []
    jupyterlab.wait_until_idle(page)
    wait_for(lambda: finished(page), 60)
    page.locator(".lk-playground").evaluate("element => element.scrollIntoView({block: 'center'})")
    yield page
    page.close()


def text_of(page) -> str:
    """What the model wrote."""
    return "".join(page.locator(".lk-live [data-i]").all_inner_texts())


def finished(page) -> bool:
    return button(page, "Stop").is_disabled()


def button(page, name: str):
    return page.locator(".lk-playground").get_by_role("button", name=name, exact=name == "Copy")


def press_on_slider(page, name: str, key: str, times: int) -> None:
    page.locator(".lk-sliders > *", has_text=name).locator(".noUi-handle").focus()
    for _ in range(times):
        page.keyboard.press(key)


def type_length(page, length: int) -> None:
    page.locator(".lk-sliders > *", has_text="length").locator(".widget-readout").click()
    page.keyboard.press("Control+A")
    page.keyboard.type(f"{length}\n")


def test_it_has_written_text_and_says_how(page, jupyterlab):
    assert len(text_of(page)) > 50
    said = page.locator(".lk-status").inner_text()
    assert re.search(r"\d+ tokens · reached the length · \d+ tokens/s · first token after \d+ ms", said)
    assert page.locator(".lk-live .lk-p").first.inner_text() == "R"
    jupyterlab.screenshot(page, "playground-light")


def test_pointing_at_a_token_shows_what_else_it_could_have_been(page, jupyterlab):
    page.locator(".lk-live [data-i='12']").hover()
    card = page.locator(".lk-card:popover-open")
    card.locator("tr").nth(6).wait_for()
    assert "rank" in card.inner_text() and "model" in card.inner_text()
    assert card.locator(".lk-x").count() > 0  # removed candidates, with the stage
    jupyterlab.screenshot(page, "playground-card")
    page.mouse.move(5, 5)
    wait_for(lambda: card.count() == 0, 2)


def test_clicking_a_token_shows_its_stages_and_arrow_keys_go_on(page):
    caption = page.locator(".lk-playground caption")
    page.locator(".lk-live [data-i='20']").click()
    wait_for(lambda: caption.inner_text().startswith("Token 21 of"), 3)
    before = page.locator(".lk-playground .lk-columns tbody").inner_text()
    page.keyboard.press("ArrowRight")
    wait_for(lambda: caption.inner_text().startswith("Token 22 of"), 3)
    assert page.locator(".lk-playground .lk-columns tbody").inner_text() != before
    page.locator(".lk-card:popover-open tr").nth(6).wait_for()  # the card comes to the keyboard as well
    page.keyboard.press("Home")
    wait_for(lambda: caption.inner_text().startswith("Token 1 of"), 3)


def test_every_control_explains_itself_to_the_keyboard(page):
    page.get_by_label("seed").focus()
    for expected in ("Another random draw.", "Take the likeliest token"):
        page.keyboard.press("Tab")
        wait_for(lambda expected=expected: expected in page.locator(".lk-help").inner_text(), 2)


def test_moving_a_slider_changes_the_distribution_and_the_text(page):
    bars, text = page.locator(".lk-playground .lk-columns").inner_text(), text_of(page)
    press_on_slider(page, "temperature", "ArrowRight", 1)
    waited = wait_for(lambda: page.locator(".lk-playground .lk-columns").inner_text() != bars, 3)
    print(f"slider to distribution, in the browser: {1000 * waited:.0f} ms")
    press_on_slider(page, "temperature", "ArrowRight", 24)
    wait_for(lambda: text_of(page) != text, 20)
    press_on_slider(page, "temperature", "ArrowLeft", 25)
    wait_for(lambda: text_of(page) == text, 20)  # the same settings, the same draw, the same text


def test_stop_ends_a_long_run_within_a_second(page, jupyterlab):
    type_length(page, 1000)
    button(page, "Generate").click()
    wait_for(lambda: "writing" in page.locator(".lk-status").inner_text(), 5)
    wait_for(lambda: page.locator(".lk-live [data-i='100']").count(), 20)
    button(page, "Stop").click()
    waited = wait_for(lambda: finished(page), 1)
    print(f"stopped after {1000 * waited:.0f} ms")
    wait_for(lambda: "stopped" in page.locator(".lk-status").inner_text(), 1)
    written = page.locator(".lk-live [data-i]").count()
    page.wait_for_timeout(500)
    assert 100 < written < 1000 and page.locator(".lk-live [data-i]").count() == written
    jupyterlab.screenshot(page, "playground-stopped")


def test_a_prompt_the_model_cannot_read_is_a_message_and_stays_as_typed(page, jupyterlab):
    type_length(page, 100)
    page.get_by_label("prompt").fill("Wherefore <b>art</b> thou 7?")
    button(page, "Generate").click()
    page.locator(".lk-error").wait_for()
    assert "outside the vocabulary: '<' (position 10)" in page.locator(".lk-error").inner_text()
    assert page.get_by_label("prompt").input_value() == "Wherefore <b>art</b> thou 7?"
    jupyterlab.screenshot(page, "playground-message")
    button(page, "Leave them out").click()
    wait_for(lambda: page.get_by_label("prompt").input_value() == "Wherefore bartb thou ?", 5)
    page.get_by_label("prompt").fill("JULIET:\n")
    button(page, "Generate").click()
    page.locator(".lk-live .lk-p", has_text="J").wait_for()
    page.locator(".lk-status", has_text="100 tokens · reached the length").wait_for()


def test_it_can_be_taken_away_as_code_and_the_dark_theme_is_readable(page, jupyterlab):
    button(page, "Copy as code").click()
    page.locator(".lk-code pre", has_text="labkit.generate(lm, 'JULIET:\\n'").wait_for()
    button(page, "Copy").click()
    button(page, "Copied").wait_for()
    jupyterlab.use_theme(page, "Dark")
    jupyterlab.screenshot(page, "playground-dark")
    striking = page.locator(".lk-live .k8, .lk-live .k9").first
    assert striking.evaluate("e => getComputedStyle(e).color") == "rgb(0, 0, 0)"  # on a bright ground


HOSTILE = """
import tiny
from labkit import Settings, views
from labkit.models.labcore import LabCoreConfig
from labkit.tokenizers.char import CharTokenizer
from labkit.widgets import GenerationPlayground
attack = "window.hit = (window.hit || 0) + 1"
vocabulary = ["a", "\\n", f"<script>{attack}</script>", f"<img src=x onerror='{attack}'>", f'"><svg onload="{attack}">',
              f"' autofocus onfocus='{attack}' x='", f"</td></table><iframe srcdoc='<script>parent.{attack}</script>'>",
              f"<details open ontoggle='{attack}'>", f"<style>@import 'x'</style><body onload='{attack}'>"]
config = LabCoreConfig(len(vocabulary), block_size=64, n_layer=1, n_head=2, n_embd=16)
lm = tiny.language_model("labcore", config, CharTokenizer(vocabulary))
settings = Settings(temperature=1.5, top_k=5, top_p=1.0, max_new_tokens=60)
"""


def test_nothing_in_a_token_is_ever_executed_and_two_playgrounds_get_along(jupyterlab):
    show = "GenerationPlayground(lm, 'a', settings)"
    strip = f"views.token_strip({show}.run().rows(), prompt=lm.tokenizer.vocab)"
    write_notebook(jupyterlab.folder / "hostile.ipynb", HOSTILE, strip, show, show)
    page = jupyterlab.open("hostile.ipynb")
    jupyterlab.run_all(page)
    for i in range(2):  # written because they came into view
        page.locator(".lk-playground").nth(i).locator("[data-i='59']").wait_for(timeout=120_000)
    live = page.locator(".lk-playground").first
    for index in range(0, 60, 9):
        live.locator(f"[data-i='{index}']").click()
        page.locator(".lk-card:popover-open tr").nth(3).wait_for()
    static = page.locator(".lk-t")
    for index in (0, 5):
        static.nth(index).focus()
        assert static.nth(index).locator("table").is_visible()
    jupyterlab.screenshot(page, "playground-hostile")
    assert "<script>" in page.locator(".lk-live").first.inner_text()
    assert page.evaluate("window.hit") is None
    page.close()


def test_no_console_errors_and_nothing_from_other_hosts(page, jupyterlab):
    assert jupyterlab.console_errors == []
    assert jupyterlab.foreign_requests == []
