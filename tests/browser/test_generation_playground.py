"""The playground as a person meets it: a real JupyterLab, a real browser, mouse and keyboard."""

import os
import re
import shutil
import signal

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
    page.set_default_timeout(15_000)
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


def said(page) -> str:
    return page.locator(".lk-above .lk-status").first.inner_text()


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
    assert re.search(r"\d+ tokens · reached the length · \d+ tokens/s · first token after \d+ ms", said(page))
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
    wait_for(lambda: "writing" in said(page), 5)
    wait_for(lambda: page.locator(".lk-live [data-i='100']").count(), 20)
    button(page, "Stop").click()
    waited = wait_for(lambda: finished(page), 1)
    print(f"stopped after {1000 * waited:.0f} ms")
    wait_for(lambda: "stopped" in said(page), 1)
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


def part(page, name: str):
    return page.locator(f".lk-playground .{name}")


def card_lines(page):
    return page.locator(".lk-choose tr[role='button']")


def test_a_click_opens_the_card_and_a_click_in_it_goes_on_with_that_token(page, jupyterlab):
    text = text_of(page)
    page.locator(".lk-live [data-i='9']").click()
    card_lines(page).nth(5).wait_for()
    jupyterlab.screenshot(page, "playground-choose")
    line = page.locator(".lk-choose tr[role='button']:not(.lk-y)").first
    chosen = line.locator("td").first.inner_text()
    line.click()
    wait_for(lambda: "of which 10 were given" in said(page) and finished(page), 10)
    assert page.locator(".lk-live [data-i='9']").inner_text().replace("↵\n", "↵").replace(" ", "␣") == chosen
    assert text_of(page) != text and not page.locator(".lk-choose").count()
    wait_for(lambda: part(page, "lk-branches").locator("tr[data-pick]").count() == 2, 3)
    jupyterlab.screenshot(page, "playground-branch")


def test_a_token_is_chosen_by_keyboard_alone(page):
    page.locator(".lk-live [tabindex='0']").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    card_lines(page).nth(5).wait_for()
    wait_for(lambda: page.evaluate("document.activeElement.getAttribute('role')") == "button", 3)
    page.keyboard.press("Escape")
    wait_for(lambda: not page.locator(".lk-choose").count(), 2)
    assert page.evaluate("document.activeElement.dataset.i") == "20"  # back where one was
    page.keyboard.press("Enter")
    wait_for(lambda: page.evaluate("document.activeElement.getAttribute('role')") == "button", 3)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    wait_for(lambda: "of which 21 were given" in said(page) and finished(page), 10)


def test_any_word_can_be_typed_in_place_of_a_token(page):
    page.locator(".lk-live [data-i='30']").click()
    page.keyboard.press("Escape")
    page.get_by_text("Token 31 of").wait_for()
    box = page.get_by_role("combobox", name="instead")
    box.fill("love")
    box.press("Enter")
    wait_for(lambda: "of which 34 were given" in said(page) and finished(page), 10)
    assert text_of(page)[:40].replace("↵", "").count("love")
    assert box.input_value() == ""


def test_a_click_in_the_tree_and_undo_bring_everything_back(page, jupyterlab):
    text = text_of(page)
    rows = part(page, "lk-branches").locator("tr[data-pick]")
    wait_for(lambda: rows.count() == 4, 3)
    rows.first.click()
    wait_for(lambda: "were given" not in said(page), 5)
    first = text_of(page)
    assert first != text
    button(page, "Undo").click()
    wait_for(lambda: text_of(page) == text, 5)
    button(page, "Redo").click()
    wait_for(lambda: text_of(page) == first, 5)


def test_continue_goes_on_from_the_end(page):
    text = text_of(page)
    button(page, "Continue").click()
    wait_for(lambda: "200 tokens" in said(page) and finished(page), 10)
    assert text_of(page).startswith(text)
    button(page, "Undo").click()
    wait_for(lambda: text_of(page) == text, 5)


def test_the_timeline_moves_with_the_selection(page, jupyterlab):
    button(page, "Timeline").click()
    bars = part(page, "lk-panels").locator("[data-pick]")
    bars.nth(50).wait_for()
    bars.nth(33).click()
    wait_for(lambda: "Token 34 of" in page.locator(".lk-playground caption").first.inner_text(), 3)
    jupyterlab.screenshot(page, "playground-timeline")
    button(page, "Timeline").click()


def save(page, name) -> bool:
    """Press Save; whether the file has this name. On a busy machine a click may overtake the name."""
    button(page, "Save").click()
    page.wait_for_timeout(500)
    return page.locator(".lk-playground", has_text=f"written: {name}").count() > 0


def test_a_run_is_saved_and_opened_again(page, jupyterlab):
    text, box = text_of(page), page.get_by_label("file", exact=True)
    for name in ("mine.trace", "mine.toml", "mine.html", "mine.svg"):
        box.fill(name)
        box.press("Tab")
        wait_for(lambda name=name: save(page, name), 15)
        assert (jupyterlab.folder / name).stat().st_size > 100
    page.get_by_label("prompt").fill("KING:\n")
    button(page, "Generate").click()
    wait_for(lambda: text_of(page) != text and finished(page), 10)
    box.fill("mine.trace")
    box.press("Tab")
    page.wait_for_timeout(1000)
    button(page, "Open").click()
    wait_for(lambda: text_of(page) == text, 5)
    assert page.get_by_label("prompt").input_value() == "JULIET:\n"


def test_it_can_be_taken_away_as_code_and_the_dark_theme_is_readable(page, jupyterlab):
    page.get_by_label("copy as").select_option("Python")
    page.locator(".lk-code pre", has_text="labkit.generate(lm, 'JULIET:\\n'").wait_for()
    page.locator(".lk-code").get_by_role("button", name="Copy", exact=True).click()
    button(page, "Copied").wait_for()
    jupyterlab.use_theme(page, "Dark")
    jupyterlab.screenshot(page, "playground-dark")
    page.locator(".lk-live [data-i='9']").click()
    card_lines(page).nth(5).wait_for()
    jupyterlab.screenshot(page, "playground-dark-choose")
    page.keyboard.press("Escape")
    striking = page.locator(".lk-live .k8, .lk-live .k9").first
    assert striking.evaluate("e => getComputedStyle(e).color") == "rgb(0, 0, 0)"  # on a bright ground
    jupyterlab.use_theme(page, "Light")


def test_a_megabyte_is_pasted_and_the_page_stays_alive(page):
    box = page.get_by_label("prompt")
    page.evaluate(
        """() => { const box = document.querySelector('.lk-playground textarea');
        box.value = 'To be or not to be\\n'.repeat(55000); box.dispatchEvent(new Event('input', {bubbles: true}));
        box.dispatchEvent(new Event('change', {bubbles: true})); }"""
    )
    button(page, "Generate").click()
    wait_for(lambda: "The prompt has 1,045,000 tokens" in said(page) and finished(page), 60)
    start = page.evaluate("performance.now()")
    page.locator(".lk-live [data-i='3']").hover()
    page.locator(".lk-card:popover-open tr").nth(3).wait_for()
    assert page.evaluate("performance.now()") - start < 5000
    box.fill("JULIET:\n")
    button(page, "Generate").click()
    page.locator(".lk-status", has_text="reached the length").wait_for()


LONG = """
import os
from labkit import Settings
from labkit.widgets import GenerationPlayground
print("kernel", os.getpid())
GenerationPlayground("shakespeare-char", "ROMEO:\\n", Settings(max_new_tokens=2000, seed=3))
"""
REPAINT = """async () => {
  const strip = document.querySelector('.lk-live');
  const select = document.querySelector('.lk-help-colour select');
  const painted = new Promise((done) => new MutationObserver((_, watch) => {
    watch.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now()), 0));
  }).observe(strip, {childList: true}));
  const start = performance.now();
  select.value = [...select.options].find((o) => o.text === 'entropy').value;
  select.dispatchEvent(new Event('change', {bubbles: true}));
  return (await painted) - start;
}"""


def heap(page) -> int:
    """Bytes in use after a collection."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.enable")
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return int(metrics["JSHeapUsedSize"])


def test_two_thousand_tokens_are_painted_at_once_and_a_lost_kernel_is_said(jupyterlab):
    write_notebook(jupyterlab.folder / "long.ipynb", LONG)
    page = jupyterlab.open("long.ipynb")
    page.set_default_timeout(15_000)
    jupyterlab.run_all(page)
    wait_for(lambda: page.locator(".lk-live [data-i='1999']").count(), 120)
    wait_for(lambda: finished(page), 20)
    milliseconds = page.evaluate(REPAINT)
    print(f"2,000 tokens in other colours, in the browser: {milliseconds:.0f} ms")
    assert milliseconds < 3000  # 300 on a machine that does nothing else
    page.locator(".lk-live [data-i='1990']").click()
    card_lines(page).nth(3).wait_for()
    page.keyboard.press("Escape")

    def rounds(n):
        for i in range(n):
            press_on_slider(page, "temperature", "ArrowRight" if i % 2 else "ArrowLeft", 1)
            page.wait_for_timeout(30)
        page.wait_for_timeout(500)
        return heap(page)

    before = rounds(20)
    after = rounds(100)
    print(f"browser heap after 100 more moves: {before / 1e6:.1f} -> {after / 1e6:.1f} MB")
    assert after < 1.05 * before + 1e6

    jupyterlab.forsake(page)
    page.get_by_label("prompt").fill("typed and not lost")
    os.kill(int(page.locator(".jp-OutputArea-output pre", has_text="kernel").inner_text().split()[1]), signal.SIGKILL)
    page.locator(".lk-lost", has_text="The kernel is gone").wait_for(timeout=30_000)
    assert page.get_by_label("prompt").input_value() == "typed and not lost"
    page.locator(".jp-Dialog-button.jp-mod-accept").click()
    jupyterlab.screenshot(page, "playground-lost")
    page.close()


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
