"""Cache map, duel, tokenizer explorer and sample board as a person meets them, in a real JupyterLab."""

import re

import pytest
from real_lab import JupyterLab, cell_errors, skip_without_browser, wait_for, write_notebook

skip_without_browser()
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

WIDGETS = """
import labkit
from IPython.display import display
from labkit.widgets import CacheMap, CheckpointDuel, SampleBoard, TokenizerExplorer
from labkit.tokenizers.bpe import GPT2Tokenizer
lm = labkit.load("shakespeare-swa-mla")
trace = labkit.record(lm, "ROMEO:\\nBut, soft! what light ", seed=3, max_new_tokens=40)
cache = CacheMap(lm, trace)
duel = CheckpointDuel(lm, "shakespeare-char", trace)
explorer = TokenizerExplorer({"characters": lm, "GPT-2": GPT2Tokenizer()}, "To be, or naïve: 漢字 12345")
board = SampleBoard("shakespeare-char", "ROMEO:\\n")
names = ["cache", "duel", "explorer", "board"]
for name, widget in zip(names, (cache, duel, explorer, board)):
    display(widget.add_class(f"my-{name}"))
"""


@pytest.fixture(scope="module")
def page(jupyterlab: JupyterLab):
    write_notebook(jupyterlab.folder / "comparing.ipynb", WIDGETS)
    page = jupyterlab.open("comparing.ipynb")
    page.set_viewport_size({"width": 1200, "height": 1050})
    jupyterlab.use_theme(page, "Light")
    jupyterlab.run_all(page)
    wait_for(lambda: page.locator(".my-board .lk-board").count() or cell_errors(page), 120)
    assert cell_errors(page) == []
    yield page
    page.close()


def see(page, name: str):
    """The widget, scrolled to."""
    widget = page.locator(f".my-{name}")
    widget.evaluate("element => element.scrollIntoView({block: 'start'})")
    return widget


def test_the_board_has_filled_and_a_continuation_is_gone_on_from_by_keyboard(page, jupyterlab):
    board = see(page, "board")
    wait_for(lambda: "12 continuations, 720 tokens" in board.locator(".lk-status").inner_text(), 30)
    assert board.locator("mark").count() >= 4
    jupyterlab.screenshot(page, "sample-board-light")
    cell = board.locator("[data-pick='0,0']")
    cell.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    button = board.get_by_role("button", name="Continue the chosen one")
    wait_for(button.is_enabled, 5)
    text = board.locator("[data-pick='1,1'] .lk-strip").inner_text().split("\n")[0].rstrip("↵")
    button.click()
    wait_for(lambda: text in board.get_by_role("textbox", name="prompt").input_value(), 10)


def test_columns_are_chosen_and_stop_acts_at_once(page):
    board = see(page, "board")
    board.get_by_role("combobox", name="columns").select_option("top-k")
    box = board.get_by_role("textbox", name="values")
    box.fill("2, 30")
    box.press("Enter")
    board.locator(".lk-sliders .noUi-handle").nth(5).focus()
    page.keyboard.press("End")  # length: 1,000
    board.get_by_role("button", name="Generate").click()
    wait_for(lambda: "writing" in board.locator(".lk-status").inner_text(), 10)
    wait_for(lambda: "top-k 30" in board.locator("thead").inner_text(), 10)
    board.get_by_role("button", name="Stop").click()
    waited = wait_for(lambda: "writing" not in board.locator(".lk-status").inner_text(), 5)
    print(f"stop, in the browser: {1000 * waited:.0f} ms")
    assert "stopped" in board.locator("[data-pick='0,0']").inner_text()


def test_a_token_selected_in_the_cache_map_is_selected_in_the_duel_of_the_same_trace(page, jupyterlab):
    cache = see(page, "cache")
    cache.locator("[data-pick='0.7']").wait_for(timeout=60_000)
    cache.locator("[data-pick='0.7']").click()
    wait_for(lambda: "Token 7" in cache.inner_text(), 20)
    assert re.search(r"until 4\d tokens were read", cache.inner_text())
    duel = page.locator(".my-duel")
    wait_for(lambda: duel.locator(".lk-compare [data-pick='6'].lk-s").count() == 1, 20)
    jupyterlab.screenshot(page, "cache-map-light")


def test_the_moment_slider_moves_the_window(page):
    cache = see(page, "cache")
    gone = cache.locator(".lk-places .lk-gone")
    assert gone.count() > 0
    cache.locator(".lk-wide-slider .noUi-handle").focus()
    page.keyboard.press("Home")
    waited = wait_for(lambda: gone.count() == 0, 20)
    print(f"slider to map, in the browser: {1000 * waited:.0f} ms")
    assert "the cache after 1 tokens" in cache.inner_text()
    page.keyboard.press("End")
    wait_for(lambda: gone.count() > 0, 20)


def test_the_audit_gives_its_verdict(page):
    cache = see(page, "cache")
    cache.get_by_role("button", name="Audit").click()
    wait_for(lambda: "healthy: 7 checks" in cache.inner_text(), 60)


def test_the_duel_marks_where_the_runs_part_and_the_table_leads_there(page, jupyterlab):
    duel = see(page, "duel")
    assert "parted at step" in duel.inner_text() and duel.locator(".lk-col.lk-parted").count() == 1
    last = duel.locator(".lk-rows [data-pick]").last
    part = last.get_attribute("data-pick")
    last.click()
    wait_for(lambda: duel.locator(f".lk-compare [data-pick='{part}'].lk-s").count() == 1, 5)
    jupyterlab.screenshot(page, "checkpoint-duel-light")


def test_b_with_settings_of_its_own_is_compared_after_a_moment(page):
    duel = see(page, "duel")
    duel.get_by_role("combobox", name="B").select_option("shakespeare-swa-mla")
    wait_for(lambda: "the same 40 tokens" in duel.inner_text(), 20)
    duel.get_by_role("button", name="B draws differently").click()
    duel.locator(".lk-of-b .noUi-handle").first.wait_for()  # the kernel shows them
    duel.locator(".lk-of-b .noUi-handle").first.focus()
    page.keyboard.press("End")
    wait_for(lambda: "by the settings" in duel.inner_text(), 20)
    assert "(temperature 2" in duel.inner_text()


def test_pointing_at_a_token_lights_up_its_characters_in_every_tokenizer(page, jupyterlab):
    explorer = see(page, "explorer")
    spans = explorer.locator("section").nth(1).locator("[data-pick]")
    spans.nth(3).hover()  # " or"
    lit = "elements => elements.filter(e => getComputedStyle(e).outlineStyle === 'solid').map(e => e.textContent)"
    first = explorer.locator("section").nth(0).locator("[data-pick]")
    wait_for(lambda: first.evaluate_all(lit) == [" ", "o", "r"], 5)
    spans.nth(3).click()
    wait_for(lambda: "Ġo + r" in explorer.inner_text(), 5)
    jupyterlab.screenshot(page, "tokenizer-explorer-light")


def test_typing_a_text_and_searching_the_vocabulary(page):
    explorer = see(page, "explorer")
    explorer.get_by_role("textbox", name="text").fill("<script>alert(1)</script> hello")
    wait_for(lambda: "alert" in explorer.locator("section").nth(1).inner_text(), 5)
    explorer.get_by_role("textbox", name="find tokens").fill("hether")
    wait_for(lambda: "GPT-2: 4 tokens" in explorer.inner_text(), 5)
    explorer.locator("[data-pick='1#1771']").click()
    wait_for(lambda: "the token “␣whether”" in explorer.inner_text(), 5)


def test_copy_save_and_a_narrow_dark_window(page, jupyterlab):
    explorer = see(page, "explorer")
    explorer.get_by_role("combobox", name="copy as").select_option("Python")
    wait_for(lambda: "tokenization(GPT2Tokenizer()" in explorer.inner_text(), 5)
    explorer.get_by_role("textbox", name="file").fill("cut.csv")
    page.wait_for_timeout(1000)  # on a busy machine a click may overtake the name
    explorer.get_by_role("button", name="Save").click()
    wait_for(lambda: "written: cut.csv" in explorer.inner_text(), 5)
    assert "tokenizer,index,id,piece" in (jupyterlab.folder / "cut.csv").read_text(encoding="utf-8")
    jupyterlab.use_theme(page, "Dark")
    page.set_viewport_size({"width": 820, "height": 1050})
    for name in ("cache", "duel", "explorer", "board"):
        see(page, name)
        page.wait_for_timeout(300)
        jupyterlab.screenshot(page, f"{name}-dark-narrow")
    jupyterlab.use_theme(page, "Light")


def test_nothing_was_complained_of_and_no_other_host_was_asked(jupyterlab):
    assert jupyterlab.console_errors == [] and jupyterlab.foreign_requests == []
