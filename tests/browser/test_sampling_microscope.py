"""The microscope as a person meets it: a real JupyterLab, a real browser, mouse and keyboard."""

import re

import pytest
from real_lab import JupyterLab, cell_errors, skip_without_browser, wait_for, write_notebook

skip_without_browser()
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

MICROSCOPE = """
import labkit
from labkit.widgets import SamplingMicroscope
lm = labkit.load("shakespeare-char")
settings = labkit.Settings(temperature=2.0, min_p=0.05, top_k=0, top_p=1.0, seed=6, max_new_tokens=40)
run = labkit.record(lm, "ROMEO:\\nI am", settings)
SamplingMicroscope(run)
"""


@pytest.fixture(scope="module")
def page(jupyterlab: JupyterLab):
    write_notebook(jupyterlab.folder / "microscope.ipynb", MICROSCOPE)
    page = jupyterlab.open("microscope.ipynb")
    page.set_viewport_size({"width": 1280, "height": 1250})
    jupyterlab.use_theme(page, "Light")
    jupyterlab.run_all(page)
    wait_for(lambda: page.locator(".lk-columns").count() or cell_errors(page), 120)
    assert cell_errors(page) == []
    page.locator(".lk-band").nth(3).wait_for()
    page.locator(".lk-playground").evaluate("element => element.scrollIntoView({block: 'start'})")
    yield page
    page.close()


def part(page, name: str):
    return page.locator(f".lk-playground .{name}")


def slider(page, name: str):
    return page.locator(".lk-with-strip", has_text=name)


def press_on_slider(page, name: str, key: str, times: int) -> None:
    slider(page, name).locator(".noUi-handle").focus()
    for _ in range(times):
        page.keyboard.press(key)


def why_box(page):
    return page.get_by_role("combobox", name="why not")


def button(page, name: str):
    return page.locator(".lk-playground").get_by_role("button", name=name)


def test_the_columns_say_how_the_token_won(page, jupyterlab):
    said = part(page, "lk-columns").inner_text()
    assert "“,” has 1.04 % from the model" in said and "the model's favourite with 98.2 %" in said
    assert re.search(r"lost\s*26.9 %\s*63\s*tokens", said)
    assert re.search(r"wins\s*−2.37 \+2.31 = −0.06", said)
    jupyterlab.screenshot(page, "microscope-light")


def test_a_strip_lies_under_its_slider_and_says_where_the_token_changes(page):
    strip = slider(page, "min-p")
    assert re.sub(r"\s+", " ", strip.locator(".lk-values").inner_text()) == ", 0.1031 ␣"
    track, band = (strip.locator(f".{name}").bounding_box() for name in ("noUi-target", "lk-band"))
    assert abs(track["x"] - band["x"]) < 12 and abs(track["width"] - band["width"]) < 24
    mark = strip.locator("u").bounding_box()["x"] + 1
    handle = strip.locator(".noUi-handle").bounding_box()
    assert abs(handle["x"] + handle["width"] / 2 - mark) < 12


def test_moving_a_slider_past_a_break_value_changes_the_token_and_compares(page, jupyterlab):
    before = part(page, "lk-columns").inner_text()
    press_on_slider(page, "min-p", "ArrowRight", 1)
    waited = wait_for(lambda: part(page, "lk-columns").inner_text() != before, 3)
    print(f"slider to columns, in the browser: {1000 * waited:.0f} ms")
    wait_for(lambda: "still picks" in part(page, "lk-if").inner_text(), 3)
    press_on_slider(page, "min-p", "ArrowRight", 10)  # 0.105: beyond 0.1031
    wait_for(lambda: "The same draw picks “␣” instead of “,”" in part(page, "lk-if").inner_text(), 3)
    assert "min-p 0.05 → 0.105" in part(page, "lk-if").inner_text()
    wait_for(lambda: "0.105" in slider(page, "min-p").inner_text(), 3)
    jupyterlab.screenshot(page, "microscope-what-if")


def test_undo_and_as_recorded(page):
    button(page, "As recorded").click()
    wait_for(lambda: not part(page, "lk-if").is_visible(), 3)
    wait_for(lambda: button(page, "Undo").is_enabled(), 3)
    button(page, "Undo").click()
    wait_for(lambda: part(page, "lk-if").is_visible(), 3)
    button(page, "As recorded").click()
    wait_for(lambda: not part(page, "lk-if").is_visible(), 3)


def test_why_not_is_answered_and_an_unknown_token_is_one_line(page, jupyterlab):
    box = why_box(page)
    box.fill(";")
    box.press("Enter")
    part(page, "lk-why").wait_for()
    said = part(page, "lk-why").inner_text()
    assert "was removed by min-p" in said and re.search(r"temperature\s*≥ 2.144", said)
    jupyterlab.screenshot(page, "microscope-why-not")
    box.fill("7")
    box.press("Enter")
    wait_for(lambda: part(page, "lk-why").inner_text() != said, 3)
    box.fill("<b>no</b>")
    box.press("Enter")
    part(page, "lk-error").wait_for()
    assert "no token is '<b>no</b>'" in part(page, "lk-error").inner_text()


def test_clicking_a_token_of_the_text_looks_at_its_step(page):
    page.locator(".lk-playground [data-i='7']").click()
    wait_for(lambda: "Token 8 of 40" in part(page, "lk-columns").inner_text(), 3)
    page.keyboard.press("ArrowLeft")
    wait_for(lambda: "Token 7 of 40" in part(page, "lk-columns").inner_text(), 3)


def test_another_dialect_disables_what_it_lacks_and_an_error_is_one_line(page):
    page.get_by_label("dialect", exact=True).select_option("nanochat")
    wait_for(lambda: slider(page, "min-p").locator(".noUi-target[disabled]").count(), 3)
    page.get_by_label("dialect", exact=True).select_option("hf")
    press_on_slider(page, "temperature", "Home", 1)
    page.locator(".lk-error", has_text="temperature is 0").wait_for()
    button(page, "As recorded").click()
    wait_for(lambda: not page.locator(".lk-error").count(), 3)


def test_the_dark_theme_is_readable_with_all_stages(page, jupyterlab):
    button(page, "More stages").click()
    press_on_slider(page, "temperature", "ArrowLeft", 60)
    page.locator(".lk-sliders > *", has_text="typical").wait_for()
    jupyterlab.use_theme(page, "Dark")
    page.locator(".lk-playground").evaluate("element => element.scrollIntoView({block: 'start'})")
    jupyterlab.screenshot(page, "microscope-dark")
    jupyterlab.use_theme(page, "Light")


HOSTILE = """
import torch
import labkit
from labkit import views
from labkit.sampling import questions
from labkit.tokenizers.char import CharTokenizer
from labkit.widgets import SamplingMicroscope, facts
attack = "window.hit = (window.hit || 0) + 1"
vocabulary = ["a", "\\n", f"<script>{attack}</script>", f"<img src=x onerror='{attack}'>", f'"><svg onload="{attack}">',
              f"' autofocus onfocus='{attack}' x='", f"</td></table><iframe srcdoc='<script>parent.{attack}</script>'>",
              f"<details open ontoggle='{attack}'>", f"<style>@import 'x'</style><body onload='{attack}'>"]
tokenizer = CharTokenizer(vocabulary)
logits = torch.linspace(1, 0, len(vocabulary))
trace = labkit.Sampler.from_settings(temperature=1.5, top_k=7, seed=1).trace(logits)
points, wonder = questions.break_points(trace), questions.why_not(trace, 3, lambda i: vocabulary[i])
"""
DRAWN = """
from IPython.display import display
display(views.break_strips(**facts.break_strips(points, trace.chosen, tokenizer)))
display(views.stage_columns(**facts.stage_columns(trace, tokenizer), caption=vocabulary[2]))
display(views.why_not(**facts.why_not(wonder, tokenizer)))
"""


def test_nothing_in_a_token_is_ever_executed_and_two_microscopes_get_along(jupyterlab):
    show = "SamplingMicroscope(trace, tokenizer)"
    write_notebook(jupyterlab.folder / "hostile-microscope.ipynb", HOSTILE, DRAWN, show, show)
    page = jupyterlab.open("hostile-microscope.ipynb")
    jupyterlab.run_all(page)
    for i in range(2):
        page.locator(".lk-playground").nth(i).locator(".lk-columns").wait_for(timeout=120_000)
    assert cell_errors(page) == []
    first, second = (page.locator(".lk-playground").nth(i) for i in range(2))
    untouched = second.inner_text()
    first.locator(".lk-with-strip", has_text="temperature").locator(".noUi-handle").focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    why_box(first).fill("<script>window.hit = (window.hit || 0) + 1</script>")
    why_box(first).press("Enter")
    first.locator(".lk-why").wait_for()
    first.locator(".lk-if").wait_for()
    for place in range(0, 9, 2):
        first.locator(".lk-columns tbody tr").nth(place).hover()
    jupyterlab.screenshot(page, "microscope-hostile")
    assert "<script>" in first.inner_text() and second.inner_text() == untouched
    assert page.evaluate("window.hit") is None
    page.close()


def test_no_console_errors_and_nothing_from_other_hosts(page, jupyterlab):
    assert jupyterlab.console_errors == []
    assert jupyterlab.foreign_requests == []
