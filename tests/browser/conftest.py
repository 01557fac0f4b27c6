"""A real JupyterLab and a real Chromium for the tests in this folder."""

from collections.abc import Iterator
from typing import Any

import pytest
import real_lab


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if real_lab.chromium() is None:
        pytest.fail(real_lab.HOW_TO_GET_ONE)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=real_lab.chromium(), args=real_lab.CHROMIUM_ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def jupyterlab(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[real_lab.JupyterLab]:
    with real_lab.serving(tmp_path_factory.mktemp("jupyter"), browser) as lab:
        yield lab
