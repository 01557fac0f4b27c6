"""The demo app as its visitors meet it: several real browsers at one server, mouse and keyboard."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
from demo_server import DemoServer, serving
from real_lab import SCREENSHOTS, skip_without_browser, wait_for

skip_without_browser()
pytest.importorskip("solara", reason="the demo app is not installed: pip install 'labkit[serve]'")
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

MOST = 3


@dataclass
class Visitor:
    """Somebody with a browser of their own."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.page.get_by_label("message").fill(text)
        self.page.get_by_label("message").press("Enter")

    def answer(self) -> list[str]:
        """The tokens of all answers, as far as they are there."""
        return self.page.locator(".lk-transcript [data-i]:not(.lk-said, .lk-foot)").all_inner_texts()

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name).locator("visible=true")

    def finished(self) -> bool:
        return self.button("Stop").is_disabled()

    def status(self) -> str:
        return self.page.get_by_role("status").filter(has_text="Source:").inner_text()

    def slide(self, name: str, key: str, times: int = 1) -> None:
        handle = self.page.locator(".lk-sliders > *:visible", has_text=name).locator(".noUi-handle")
        for _ in range(times):
            handle.press(key)

    def leave(self) -> None:
        self.page.goto("about:blank")  # closing the context would not tell the page
        self.page.context.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    folder = tmp_path_factory.mktemp("demo")
    with serving(folder, "shakespeare-char", "--max-visitors", str(MOST)) as started:
        yield started


def visit(browser: Any, server: DemoServer, scheme: str = "light") -> Visitor:
    page = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme).new_page()
    visitor = Visitor(page)
    here = (server.origin, server.origin.replace("http", "ws"), "blob:", "data:")
    page.on("console", lambda message: message.type == "error" and visitor.complaints.append(message.text))
    page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
    page.on("request", lambda request: request.url.startswith(here) or visitor.complaints.append(request.url))
    page.goto(server.address)
    page.get_by_label("message").wait_for(timeout=60_000)
    return visitor


@pytest.fixture(scope="module")
def ann(browser: Any, server: DemoServer) -> Iterator[Visitor]:
    visitor = visit(browser, server)
    yield visitor
    visitor.leave()


@pytest.fixture(scope="module")
def bob(browser: Any, server: DemoServer) -> Iterator[Visitor]:
    visitor = visit(browser, server, "dark")
    yield visitor
    visitor.leave()


def picture(visitor: Visitor, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    visitor.page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_the_token_is_not_in_the_address_any_more(ann, server):
    assert len(server.token) >= 20 and server.token not in ann.page.url
    assert ann.page.evaluate("document.cookie.includes('labkit')") is False


def test_two_visitors_are_answered_at_the_same_time_with_settings_of_their_own(ann, bob, server):
    bob.slide("temperature", "Home")
    bob.slide("length", "End")
    ann.say("Who goes there?")
    bob.say("Who goes there?")
    wait_for(lambda: len(ann.answer()) > 5 and len(bob.answer()) > 5, 20)
    assert not bob.finished()
    seen = len(bob.answer())
    wait_for(lambda: len(bob.answer()) > seen, 10)  # it goes on streaming
    wait_for(lambda: ann.finished() and bob.finished(), 60)
    assert len(ann.answer()) == 160 and len(bob.answer()) == 512
    assert ann.answer()[:100] != bob.answer()[:100]
    assert (ann.page.locator(".lk-sliders", has_text="temperature").inner_text()).count("0.90") == 1
    models, pages = server.count()
    assert (models, pages) == (1, 2) and psutil.Process(server.process.pid).children() == []
    picture(ann, "serve-chat-light")
    picture(bob, "serve-chat-dark")


def test_the_status_line_is_that_of_labcores_demo_and_follows_the_boxes(ann):
    assert ann.status() == "Source: local | Device: cpu | KV cache available. | Stream: on | KV cache: on"
    ann.page.get_by_label("stream").uncheck()
    ann.page.get_by_label("KV cache").uncheck()
    words = "Source: local | Device: cpu | KV cache available. | Stream: off | KV cache: off"
    wait_for(lambda: ann.status() == words, 5)
    ann.page.get_by_label("stream").check()
    ann.page.get_by_label("KV cache").check()
    wait_for(lambda: ann.status().endswith("Stream: on | KV cache: on"), 5)


def test_clear_forgets_what_was_said_here_and_nowhere_else(ann, bob):
    ann.button("Clear").click()
    wait_for(lambda: ann.answer() == [], 5)
    assert len(bob.answer()) == 512


def test_stop_ends_an_answer_and_keeps_what_is_there(ann):
    ann.slide("length", "End")
    ann.say("Speak!")
    wait_for(lambda: len(ann.answer()) > 20, 20)
    ann.button("Stop").click()
    waited = wait_for(ann.finished, 3)
    print(f"stopped after {1000 * waited:.0f} ms")
    written = len(ann.answer())
    ann.page.wait_for_timeout(500)
    assert 20 < len(ann.answer()) == written < 512


def test_a_message_the_model_cannot_read_is_said_and_stays_as_typed(ann):
    ann.say("<script>7</script>")
    ann.page.locator(".lk-error").wait_for()
    assert ann.page.get_by_label("message").input_value() == "<script>7</script>"
    ann.page.get_by_label("message").fill("")


def test_the_playground_is_there_without_files_and_other_models(ann, bob, server):
    for visitor, name in ((ann, "serve-playground-light"), (bob, "serve-playground-dark")):
        visitor.page.get_by_role("tab", name="Playground").click()
        visitor.page.locator(".lk-live:visible [data-i='99']").wait_for(timeout=30_000)
        visitor.page.locator(".lk-columns:visible").wait_for()
        picture(visitor, name)
        for gone in ("Save", "Open"):
            assert visitor.page.get_by_role("button", name=gone).count() == 0
        assert visitor.page.get_by_label("model", exact=True).count() == 0
    assert server.count() == (1, 2)
    ann.page.get_by_role("tab", name="Chat").click()
    assert len(ann.answer()) > 20  # the chat is as it was


def test_whoever_comes_when_all_places_are_taken_reads_why(browser, server, ann, bob):
    third = visit(browser, server)
    page = browser.new_page()
    assert page.goto(server.address).status == 503
    assert "All places are taken" in page.inner_text("body")
    third.leave()
    wait_for(lambda: server.count()[1] == 2, 10)
    page.goto(server.address)
    page.get_by_label("message").wait_for(timeout=60_000)
    Visitor(page).leave()
    wait_for(lambda: server.count()[1] == 2, 10)


def test_a_page_that_is_reloaded_begins_anew_and_leaves_nothing_behind(ann, bob, server):
    ann.page.reload()
    ann.page.get_by_label("message").wait_for(timeout=60_000)
    wait_for(lambda: server.count() == (1, 2), 10)
    assert ann.answer() == []


def test_an_answer_whose_visitor_has_left_is_not_written_on(browser, server, ann, bob):
    carl = visit(browser, server)
    carl.slide("length", "End")
    carl.say("Speak!")
    wait_for(lambda: len(carl.answer()) > 20, 20)
    carl.leave()
    wait_for(lambda: server.count()[1] == 2, 10)
    process = psutil.Process(server.process.pid)
    process.cpu_percent()
    wait_for(lambda: process.cpu_percent(0.5) < 15, 5)  # an answer would go on for seconds, at 100 %


@pytest.mark.parametrize("visits", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_visitors_who_have_left_are_forgotten(browser, server, ann, bob, visits):
    megabytes = []
    for _ in range(visits):
        visitor = visit(browser, server)
        visitor.say("Who goes there?")
        wait_for(lambda visitor=visitor: len(visitor.answer()) > 20, 20)
        visitor.leave()
        wait_for(lambda: server.count() == (1, 2), 10)
        megabytes.append(server.megabytes())
    print(f"after {visits} visits: {megabytes[0]:.0f} -> {megabytes[-1]:.0f} MB")
    assert megabytes[-1] < 1.1 * megabytes[1]


def test_nothing_went_wrong_meanwhile_and_nobody_else_was_asked(ann, bob, server):
    assert ann.complaints + bob.complaints == []
    assert [line for line in server.lines if re.search("Error|Traceback|Exception", line)] == []
