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


def pytest_sessionfinish(session: pytest.Session) -> None:
    """All screenshots on one page, artifacts/screenshots/index.html, for somebody to look through."""
    pictures = sorted(real_lab.SCREENSHOTS.glob("*.png"))
    figures = "".join(
        f'<figure><a href="{p.name}"><img src="{p.name}" loading="lazy" width="460"></a>{p.stem}</figure>'
        for p in pictures
    )
    style = "body{font:14px sans-serif;display:flex;flex-wrap:wrap;background:#888}figure{margin:8px}"
    if pictures:
        sheet = f'<!doctype html><meta charset="utf-8"><title>labkit screenshots</title><style>{style}</style>{figures}'
        (real_lab.SCREENSHOTS / "index.html").write_text(sheet, encoding="utf-8")
