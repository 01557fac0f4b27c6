"""A JupyterLab server of the tests' own, and the pages that a real browser opens on it."""

import importlib.util
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "artifacts" / "screenshots"
HOW_TO_GET_ONE = "no Chromium: apt-get install chromium (or point LABKIT_CHROMIUM at one), and pip install playwright"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


PATIENCE = 4


def chromium() -> str | None:
    """The browser to use; none is downloaded."""
    names = (os.environ.get("LABKIT_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


def skip_without_browser() -> None:
    """Called by a test module: skips it with one line, unless LABKIT_REQUIRE_BROWSER=1."""
    found = chromium() is not None and importlib.util.find_spec("playwright") is not None
    if not found and os.environ.get("LABKIT_REQUIRE_BROWSER") != "1":
        pytest.skip(HOW_TO_GET_ONE, allow_module_level=True)


def wait_for(condition: Callable[[], object], seconds: float) -> float:
    """Seconds until it holds. ``seconds`` is for a machine with nothing else to do; others get more."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < PATIENCE * seconds, f"not within {PATIENCE} x {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - start


@dataclass
class JupyterLab:
    """A running server. What its pages complain of, and what they ask of other hosts, is collected."""

    address: str
    token: str
    folder: Path
    browser: Any
    program: str = "jupyterlab"
    foreign_requests: list[str] = field(default_factory=list)
    console_errors: list[str] = field(default_factory=list)
    _forsaken: set[Any] = field(default_factory=set)

    def open(self, notebook: str) -> Any:
        """A page with this notebook, its kernel connected."""
        page = self.browser.new_page(viewport={"width": 1280, "height": 1000})
        page.on("console", lambda message: message.type == "error" and self._note_error(page, message.text))
        page.on("pageerror", lambda error: self._note_error(page, str(error)))
        page.on("request", lambda request: self._note_foreign(request.url))
        place = "lab/tree" if self.program == "jupyterlab" else "notebooks"
        page.goto(f"{self.address}/{place}/{notebook}?token={self.token}&reset")
        self.wait_until_idle(page)
        # The indicator says idle before the kernel is connected, and cells run then are dropped without a word.
        page.wait_for_timeout(1500)
        return page

    def run_all(self, page: Any) -> None:
        """By the menu, as a person does."""
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
        page.get_by_role("menuitem", name="Run All Cells").first.click()

    def use_theme(self, page: Any, name: str) -> None:
        """ "Light" or "Dark", by the menu; it stays for pages opened later."""
        page.locator(".lm-MenuBar-itemLabel", has_text="Settings").click()
        page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Theme$")).hover()
        page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^JupyterLab {name}$")).click()
        page.locator(f"body[data-jp-theme-light='{'true' if name == 'Light' else 'false'}']").wait_for(state="attached")
        page.wait_for_timeout(500)

    def wait_until_idle(self, page: Any) -> None:
        if self.program == "jupyterlab":
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)
        else:
            page.locator(".jp-NotebookKernelStatus, .jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for()

    def screenshot(self, page: Any, name: str) -> None:
        """Kept for people to look at."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def forsake(self, page: Any) -> None:
        """Its kernel is about to be lost: what it complains of from now on is not counted."""
        self._forsaken.add(page)

    def _note_error(self, page: Any, text: str) -> None:
        if page not in self._forsaken:
            self.console_errors.append(text)

    def _note_foreign(self, url: str) -> None:
        if url.startswith(("http", "ws")) and not url.startswith((self.address, self.address.replace("http", "ws"))):
            self.foreign_requests.append(url)


@contextmanager
def serving(home: Path, browser: Any, program: str = "jupyterlab") -> Iterator[JupyterLab]:
    """A server ("jupyterlab" or "notebook") with everything it reads and writes below ``home``, on a free port."""
    folder, token, port = home / "notebooks", secrets.token_hex(16), free_port()
    folder.mkdir()
    write_setting(home, "apputils-extension/notification", {"fetchNews": "false", "checkForUpdates": False})
    # Cells outside the window stay in the page, so that the tests find them.
    write_setting(home, "notebook-extension/tracker", {"windowingMode": "none"})
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "OMP_NUM_THREADS": "1",  # the models are small, and threads that wait for each other crawl on a busy machine
        **{f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")},
    }
    command = [
        sys.executable, "-m", program, "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
    ]  # fmt: skip
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_it_answers(f"{address}/api/status?token={token}", server, home / "server.log")
            yield JupyterLab(address, token, folder, browser, program)
        finally:
            server.terminate()
            server.wait(timeout=20)


def write_notebook(path: Path, *cells: str) -> None:
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    code = [nbformat.v4.new_code_cell(cell.strip()) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=code, metadata={"kernelspec": kernel}), path)


def cell_errors(page: Any) -> list[str]:
    return page.locator(
        ".jp-OutputArea-output:is([data-mime-type*='error'], [data-mime-type$='.stderr']:has(.ansi-red-fg))"
    ).all_inner_texts()


def write_setting(home: Path, plugin: str, values: dict[str, Any]) -> None:
    path = home / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_it_answers(url: str, server: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
