"""The notebooks as pages without a kernel and with JavaScript off, as in a report: every number is there."""

import html.parser
import re

import nbformat
import pytest
from nbconvert import HTMLExporter
from real_lab import ROOT, SCREENSHOTS, skip_without_browser

skip_without_browser()
pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]

NOTEBOOKS = sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))
EVERY_TEXT = """body => {
  const walker = document.createTreeWalker(body, NodeFilter.SHOW_TEXT);
  const said = [...body.querySelectorAll('[title],[aria-label]')].flatMap(node => [node.title, node.ariaLabel ?? '']);
  while (walker.nextNode()) said.push(walker.currentNode.data);
  return said;
}"""
NUMBER = re.compile(r"\d+(?:\.\d+)?")


class Texts(html.parser.HTMLParser):
    """Everything that an output says in words: its texts, and what stands in titles."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self._style = False

    def handle_starttag(self, tag, attrs):
        self._style = tag == "style"
        self.said += [value or "" for name, value in attrs if name in ("title", "aria-label")]

    def handle_endtag(self, tag):
        self._style = False

    def handle_data(self, data):
        if not self._style:
            self.said.append(data)


def numbers_of(output: nbformat.NotebookNode) -> set[str]:
    """The numbers in what a reader without script is to see: a view's HTML, else the text."""
    if "image/png" in output.get("data", {}):  # a figure, whose numbers are printed beside it
        return set()
    if "text/html" in output.get("data", {}):
        texts = Texts()
        texts.feed(output.data["text/html"])
        return set(NUMBER.findall(" ".join(texts.said)))
    return set(NUMBER.findall(output.get("text") or output.get("data", {}).get("text/plain", "")))


@pytest.fixture(scope="module")
def context(browser):
    made = browser.new_context(java_script_enabled=False, offline=True, viewport={"width": 1100, "height": 900})
    yield made
    made.close()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_every_number_of_a_stored_notebook_is_on_the_page_without_script(context, tmp_path, path):
    notebook = nbformat.read(path, as_version=4)
    expected = {n for cell in notebook.cells for output in cell.get("outputs", []) for n in numbers_of(output)}
    page_file = tmp_path / "page.html"
    page_file.write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")
    page = context.new_page()
    try:
        page.goto(page_file.as_uri(), wait_until="domcontentloaded")
        said = page.locator("body").evaluate(EVERY_TEXT)
        assert expected <= set(NUMBER.findall(" ".join(said)))
        heights = page.locator(".jp-OutputArea .lk").evaluate_all(
            "nodes => nodes.filter(node => !node.parentElement.closest('.lk')).map(node => node.clientHeight)"
        )
        assert all(heights), "a view takes no room: nothing of it can be seen"
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"no-script-{path.stem}.png")
    finally:
        page.close()
