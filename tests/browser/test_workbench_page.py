"""The front door as a person meets it: one run, the tabs beside it, by mouse and by keyboard."""

import pytest
from real_lab import JupyterLab, cell_errors, skip_without_browser, wait_for, write_notebook

skip_without_browser()
pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

WORKBENCH = """
from labkit.widgets import Workbench
bench = Workbench("shakespeare-char", "ROMEO:\\n")
bench
"""


@pytest.fixture(scope="module")
def page(jupyterlab: JupyterLab):
    write_notebook(jupyterlab.folder / "workbench.ipynb", WORKBENCH)
    page = jupyterlab.open("workbench.ipynb")
    page.set_viewport_size({"width": 1280, "height": 1500})
    jupyterlab.run_all(page)
    wait_for(lambda: page.locator(".lk-live [data-i='90']").count() or cell_errors(page), 120)
    assert cell_errors(page) == []
    jupyterlab.wait_until_idle(page)
    yield page
    page.close()


def tab(page, name: str):
    return page.locator(".lm-TabBar-tab", has_text=name)


SHOWN = {  # what is on the page when the tab's widget is there
    "Sampling": ".lk-columns",
    "Attention": ".lk-heads, .lk-pattern",
    "Lens": ".lk-lens",
    "Cache": ".lk-cache",
    "Compare": ".lk-rows",
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_tab_opens_on_the_run(page, jupyterlab, name):
    tab(page, name).click()
    wait_for(lambda: page.locator(SHOWN[name]).filter(visible=True).count(), 30)
    page.wait_for_timeout(400)
    jupyterlab.screenshot(page, f"workbench-{name.lower()}")


def test_a_token_that_is_clicked_in_one_tab_is_selected_in_another(page):
    tab(page, "Attention").click()
    page.locator(".lk-live [data-i='30']").filter(visible=True).click()
    tab(page, "Lens").click()
    wait_for(lambda: page.locator(".lk-live [data-i='30'].lk-s").filter(visible=True).count(), 10)
    tab(page, "Generate").click()
    wait_for(
        lambda: page.locator(f".lk-live [data-i='{30 - len('ROMEO:') - 1}'].lk-s").filter(visible=True).count(), 10
    )


def test_the_tabs_are_reached_by_keyboard(page):
    tab(page, "Generate").click()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    wait_for(lambda: page.locator(".lk-columns").filter(visible=True).count(), 10)


def test_it_is_legible_in_the_dark(page, jupyterlab):
    jupyterlab.use_theme(page, "Dark")
    for name in ("Attention", "Lens"):
        tab(page, name).click()
        page.wait_for_timeout(600)
        jupyterlab.screenshot(page, f"workbench-{name.lower()}-dark")
    jupyterlab.use_theme(page, "Light")


def test_nothing_was_asked_of_another_host_and_nothing_complained(page, jupyterlab):
    assert jupyterlab.foreign_requests == []
    assert jupyterlab.console_errors == []
