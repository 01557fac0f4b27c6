"""Jupyter Notebook 7, which shares JupyterLab's parts but not its page: the widgets live there as well."""

import importlib.util

import pytest
import real_lab
from real_lab import cell_errors, skip_without_browser, wait_for, write_notebook

skip_without_browser()
pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]
if importlib.util.find_spec("notebook") is None:
    pytest.skip("Jupyter Notebook is not installed", allow_module_level=True)

PLAYGROUND = """
from labkit.widgets import GenerationPlayground
GenerationPlayground("shakespeare-char", "ROMEO:\\n")
"""


def test_the_playground_writes_and_its_tokens_can_be_pointed_at_in_notebook_7(browser, tmp_path):
    with real_lab.serving(tmp_path, browser, "notebook") as server:
        write_notebook(server.folder / "playground.ipynb", PLAYGROUND)
        page = server.open("playground.ipynb")
        server.console_errors.clear()  # one is Notebook's own, from opening a page with fresh settings
        server.run_all(page)
        wait_for(lambda: page.locator(".lk-live [data-i='50']").count() or cell_errors(page), 90)
        assert cell_errors(page) == []
        page.locator(".lk-live [data-i='12']").hover()
        page.locator(".lk-card:popover-open tr").nth(3).wait_for()
        server.screenshot(page, "notebook-7")
        page.close()
        assert server.foreign_requests == []
        assert server.console_errors == []
