"""The widgets that look inside, as a person meets them: a real JupyterLab, a real browser, mouse and keyboard."""

import re

import pytest
from real_lab import JupyterLab, cell_errors, skip_without_browser, wait_for, write_notebook

skip_without_browser()
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

RECORD = """
import labkit
from labkit.widgets import AblationView, AttentionBrowser, LogitLensBrowser
lm = labkit.load("shakespeare-char")
settings = labkit.Settings(temperature=2.0, min_p=0.05, top_k=0, top_p=1.0, seed=6, max_new_tokens=40)
run = labkit.record(lm, "ROMEO:\\nI am", settings)
"""
ATTENTION, LENS, ABLATION = range(3)
PARTS = {ATTENTION: ".lk-heads", LENS: ".lk-lens", ABLATION: ".lk-if"}


@pytest.fixture(scope="module")
def page(jupyterlab: JupyterLab):
    cells = [f"{name}(lm, run)" for name in ("AttentionBrowser", "LogitLensBrowser", "AblationView")]
    write_notebook(jupyterlab.folder / "inspectors.ipynb", RECORD, *cells)
    page = jupyterlab.open("inspectors.ipynb")
    page.set_viewport_size({"width": 1280, "height": 1250})
    jupyterlab.use_theme(page, "Light")
    jupyterlab.run_all(page)
    wait_for(lambda: page.locator(".lk-playground").count() == 3 or cell_errors(page), 120)
    assert cell_errors(page) == []
    for i, part in PARTS.items():
        panel(page, i).locator(part).first.wait_for()
    yield page
    page.close()


def panel(page, i: int):
    return page.locator(".lk-playground").nth(i)


def show(page, i: int):
    """A widget, at the top of the window."""
    panel(page, i).evaluate("element => element.scrollIntoView({block: 'start'})")
    return panel(page, i)


def says(part, words: str, seconds: float = 5):
    wait_for(lambda: re.search(words, re.sub(r"\s+", " ", part.inner_text())), seconds)


def test_pointing_at_a_head_shows_it_for_the_time_and_a_click_keeps_it(page, jupyterlab):
    attention = show(page, ATTENTION)
    kept = attention.locator(".lk-heads .lk-s").get_attribute("data-pick")
    attention.locator("[data-pick='3.1']").first.hover()
    says(attention, "layer 3, head 1")
    attention.locator(".lk-strip").first.hover()
    says(attention, "layer {}, head {}".format(*kept.split(".")))
    attention.locator("[data-pick='3.1']").first.click()
    attention.locator(".lk-strip").first.hover()
    page.wait_for_timeout(300)
    says(attention, "layer 3, head 1")
    assert attention.locator(".lk-heads .lk-s").get_attribute("data-pick") == "3.1"
    jupyterlab.screenshot(page, "attention-light")


def test_heads_are_walked_through_by_keyboard_alone(page):
    attention = show(page, ATTENTION)
    attention.locator(".lk-heads [tabindex='0']").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    says(attention, "layer 2, head 2")
    page.keyboard.press("Enter")
    wait_for(lambda: attention.locator(".lk-heads .lk-s").get_attribute("data-pick") == "2.2", 5)
    focused = page.evaluate("document.activeElement.dataset.pick")
    assert focused == "2.2"  # the focus outlives the repainting
    attention.locator(".widget-slider", has_text="layer").locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    says(attention, "layer 3, head 2")


def test_a_token_selected_in_one_is_selected_in_all(page, jupyterlab):
    attention = show(page, ATTENTION)
    attention.locator(".lk-strip [data-i='20']").click()
    says(attention, r"token 20, \S+, reads")
    lens = show(page, LENS)
    assert lens.locator(".lk-strip .lk-s").get_attribute("data-i") == "20"
    says(lens, "which comes, has")
    assert lens.locator(".lk-lens .lk-s").get_attribute("data-pick") == "6.19"
    lens.locator("[data-pick='3.24']").click()
    says(lens, "block 2 after")
    ablation = show(page, ABLATION)
    assert ablation.locator(".lk-strip .lk-s").get_attribute("data-i") == "25"
    wait_for(lambda: "51 tokens" in ablation.inner_text(), 20)
    jupyterlab.screenshot(page, "ablation-light")


def test_choices_are_pinned_by_a_click_and_tokens_by_typing(page, jupyterlab):
    lens = show(page, LENS)
    lens.locator(".lk-rows tbody tr").nth(1).click()
    wait_for(lambda: lens.locator(".lk-rows tbody tr").nth(1).inner_text().count("●") == 1, 10)
    box = lens.get_by_label("follow")
    box.fill("z")
    box.press("Enter")
    wait_for(lambda: "z" in lens.locator("svg").first.text_content(), 10)
    box.fill("zz")
    box.press("Enter")
    lens.locator(".lk-error", has_text="'zz' is 2 tokens").wait_for()
    jupyterlab.screenshot(page, "lens-light")


def test_the_lens_is_walked_through_by_keyboard_alone(page):
    lens = show(page, LENS)
    lens.locator("[data-pick='4.22']").click()
    says(lens, "block 3 after")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    says(lens, "block 2 after")
    assert page.evaluate("document.activeElement.dataset.pick") == "3.23"


def test_a_fitted_lens_is_a_choice_away_and_says_what_it_cannot_show(page, jupyterlab):
    lens = show(page, LENS)
    assert "The plain lens reads every layer with the head" in lens.inner_text()
    lens.get_by_label("lens", exact=True).select_option("fitted")
    says(lens, "fitting the lens on", 10)
    says(lens, "This lens reads each layer through a map", 60)
    jupyterlab.screenshot(page, "lens-fitted")


def test_a_part_is_looked_at_closely_by_a_click(page, jupyterlab):
    ablation = show(page, ABLATION)
    ablation.locator("[data-pick='14']").click()
    says(ablation, "Without block 2 head 2 the same draw")
    ablation.get_by_label("take out").select_option("positions")
    says(ablation, "KL, nats, without each position", 20)
    ablation.get_by_label("colour").select_option("share of draws that change")
    says(ablation, "share of draws that change, without each position")
    jupyterlab.screenshot(page, "ablation-positions")
    ablation.get_by_label("target").fill("no token")
    ablation.get_by_label("target").press("Enter")
    ablation.locator(".lk-error", has_text="'no token' is 8 tokens").wait_for()
    ablation.get_by_label("target").fill("")
    ablation.get_by_label("target").press("Enter")
    wait_for(lambda: not ablation.locator(".lk-error").count(), 20)


def test_all_heads_at_once(page, jupyterlab):
    attention = show(page, ATTENTION)
    attention.get_by_role("button", name="All heads").click()
    wait_for(lambda: attention.locator(".lk-patterns img").count() == 36, 10)
    jupyterlab.screenshot(page, "attention-all-heads")
    attention.locator(".lk-patterns [data-pick='5.0']").click()
    says(attention, "layer 5, head 0")
    attention.get_by_role("button", name="All heads").click()
    wait_for(lambda: not attention.locator(".lk-patterns").is_visible(), 5)


def test_the_dark_theme_and_a_narrow_window_are_readable(page, jupyterlab):
    jupyterlab.use_theme(page, "Dark")
    for i, name in enumerate(("attention", "lens", "ablation")):
        show(page, i)
        jupyterlab.screenshot(page, f"{name}-dark")
    page.set_viewport_size({"width": 760, "height": 1250})
    show(page, ATTENTION)
    jupyterlab.screenshot(page, "attention-narrow")
    page.set_viewport_size({"width": 1280, "height": 1250})
    jupyterlab.use_theme(page, "Light")


def test_no_console_errors_and_nothing_from_other_hosts(page, jupyterlab):
    assert jupyterlab.console_errors == []
    assert jupyterlab.foreign_requests == []
