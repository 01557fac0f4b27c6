"""The chat as a person meets it: a real JupyterLab, a real browser, mouse and keyboard."""

import json
import re

import pytest
from real_lab import JupyterLab, cell_errors, skip_without_browser, wait_for, write_notebook

skip_without_browser()
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

CHAT = """
import labkit
from labkit.widgets import Chat
lm = labkit.load("shakespeare-char")
talk = Chat(lm, system="A play.", settings=labkit.Settings(max_new_tokens=60))
talk
"""
DEMO = "demo = Chat(lm, demo=True)\ndemo"
HOSTILE = """
import tiny
from labkit.models.labcore import LabCoreConfig
from labkit.tokenizers.char import CharTokenizer
attack = "window.hit = (window.hit || 0) + 1"
vocabulary = [*"abcdefgh <>/", "\\n", f"<script>{attack}</script>", f"<img src=x onerror='{attack}'>",
              f'"><svg onload="{attack}">', f"</div></div><iframe srcdoc='<script>parent.{attack}</script>'>"]
config = LabCoreConfig(len(vocabulary), block_size=64, n_layer=1, n_head=2, n_embd=16)
model = tiny.language_model("labcore", config, CharTokenizer(vocabulary))
hostile = Chat(model, template="plain", settings=labkit.Settings(temperature=2.0, top_p=1.0, max_new_tokens=60))
hostile.say("<b>a</b>")
hostile.message.value, hostile.seen_button.value = "<b>b</b>", True
hostile
"""


@pytest.fixture(scope="module")
def page(jupyterlab: JupyterLab):
    write_notebook(jupyterlab.folder / "chat.ipynb", CHAT, DEMO, HOSTILE)
    page = jupyterlab.open("chat.ipynb")
    jupyterlab.use_theme(page, "Light")
    jupyterlab.run_all(page)
    page.set_default_timeout(10_000)
    wait_for(lambda: page.locator(".lk-message").count() == 3 or cell_errors(page), 120)
    assert cell_errors(page) == []
    jupyterlab.wait_until_idle(page)
    part(page).evaluate("element => element.scrollIntoView({block: 'start'})")
    yield page
    page.close()


def part(page, name: str = "", number: int = 0):
    """The chat of the notebook's first cell, or something in it."""
    root = page.locator(".lk-playground").nth(number)
    return root.locator(name) if name else root


def box(page, number: int = 0):
    return part(page, ".lk-message textarea", number)


def button(page, name: str, number: int = 0):
    return part(page, number=number).get_by_role("button", name=name)


def say(page, text: str, number: int = 0) -> None:
    box(page, number).fill(text)
    box(page, number).press("Enter")


def finished(page, n_answers: int, number: int = 0) -> bool:
    return part(page, ".lk-foot", number).count() == n_answers and button(page, "Stop", number).is_disabled()


def text_of(page) -> str:
    return "".join(part(page, ".lk-live span[data-i]").all_inner_texts())


def test_enter_sends_and_the_answer_grows_token_by_token(page, jupyterlab):
    assert "trained to chat" in part(page, ".lk-above .lk-status").inner_text()
    assert box(page).input_value() == "Who goes there?"
    jupyterlab.screenshot(page, "chat-before")
    page.evaluate(
        "window.counts = []; const strip = document.querySelector('.lk-live');"
        "new MutationObserver(() => counts.push(strip.querySelectorAll('span[data-i]').length))"
        ".observe(strip, {childList: true})"
    )
    box(page).press("Enter")
    wait_for(lambda: finished(page, 1), 30)
    assert box(page).input_value() == ""
    counts = [count for count in page.evaluate("counts") if count]
    print(f"painted {len(counts)} times for 60 tokens")
    assert counts == sorted(counts) and len(counts) >= 3
    assert part(page, ".lk-said").inner_text() == "Who goes there?" and len(text_of(page)) >= 60
    assert re.search(
        r"60 tokens · reached the length · prompt \d+ of 256 · seed 1337", part(page, ".lk-foot").inner_text()
    )


def test_shift_enter_begins_a_new_line(page):
    box(page).press_sequentially("And then?")
    box(page).press("Shift+Enter")
    box(page).press_sequentially("Speak!")
    assert box(page).input_value() == "And then?\nSpeak!" and part(page, ".lk-said").count() == 1
    box(page).press("Enter")
    wait_for(lambda: finished(page, 2), 30)
    assert part(page, ".lk-said").nth(1).inner_text() == "And then?\nSpeak!"


def test_pointing_at_a_token_shows_what_else_it_could_have_been(page, jupyterlab):
    part(page, ".lk-live [data-i='12']").hover()
    card = part(page, ".lk-card:popover-open")
    card.locator("tr").nth(4).wait_for()
    assert "rank" in card.inner_text() and "after filters" in card.inner_text()
    jupyterlab.screenshot(page, "chat-light")
    page.mouse.move(5, 5)
    wait_for(lambda: card.count() == 0, 2)


def test_retry_and_undo_change_the_last_answer_and_bring_it_back(page):
    before = text_of(page)
    button(page, "Retry").click()
    wait_for(lambda: text_of(page) != before and finished(page, 2), 30)
    assert page.get_by_label("seed").first.input_value() == "1338"
    button(page, "Undo").click()
    wait_for(lambda: text_of(page) == before, 5)
    assert button(page, "Redo").is_enabled()


def test_a_message_is_edited_and_the_conversation_goes_on_from_there(page, jupyterlab):
    part(page, ".lk-said").first.click()
    button(page, "Edit").click()
    wait_for(lambda: box(page).input_value() == "Who goes there?", 3)
    assert "replaces message 1" in part(page, ".lk-above .lk-status").inner_text()
    box(page).press("End")
    box(page).press_sequentially(" Stand!")
    jupyterlab.screenshot(page, "chat-edit")
    box(page).press("Enter")
    wait_for(lambda: part(page, ".lk-said").all_inner_texts() == ["Who goes there? Stand!"] and finished(page, 1), 30)
    button(page, "Undo").click()
    wait_for(lambda: part(page, ".lk-said").count() == 2, 5)


def test_it_can_be_used_with_the_keyboard_alone(page):
    box(page).focus()
    page.keyboard.press("ArrowUp")  # in the empty box: the last message
    wait_for(lambda: box(page).input_value() == "And then?\nSpeak!", 3)
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.press("Escape")
    wait_for(lambda: "replaces" not in part(page, ".lk-above .lk-status").inner_text(), 3)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Home")
    wait_for(lambda: page.evaluate("document.activeElement.dataset.i") == "0", 3)
    page.keyboard.press("ArrowRight")
    wait_for(lambda: "rank" in part(page, ".lk-card").inner_text(), 3)
    page.keyboard.press("Escape")
    page.keyboard.press("End")
    wait_for(lambda: "lk-foot" in page.evaluate("document.activeElement.className"), 3)
    for expected in ("What you say", "What you say", "Another answer to the selected"):
        page.keyboard.press("Tab")
        wait_for(lambda expected=expected: expected in part(page, ".lk-help").inner_text(), 2)
    page.keyboard.press("Enter")
    wait_for(lambda: "seed 1340" in part(page, ".lk-foot").last.inner_text() and finished(page, 2), 30)


def test_stop_ends_an_answer_and_what_is_typed_meanwhile_is_kept(page):
    part(page, ".lk-sliders > *").filter(has_text="length").locator(".widget-readout").click()
    page.keyboard.press("Control+A")
    page.keyboard.type("1000\n")
    say(page, "Speak on.")
    wait_for(lambda: part(page, ".lk-said").count() == 3, 10)
    box(page).press_sequentially("More!")
    box(page).press("Enter")
    wait_for(lambda: "Still answering" in part(page, ".lk-above .lk-status").inner_text(), 5)
    button(page, "Stop").click()
    waited = wait_for(lambda: button(page, "Stop").is_disabled(), 5)
    print(f"stopped after {1000 * waited:.0f} ms")
    wait_for(lambda: "stopped" in part(page, ".lk-foot").last.inner_text(), 3)
    assert box(page).input_value() == "More!" and part(page, ".lk-said").count() == 3
    strip = part(page, ".lk-live")
    assert strip.evaluate("e => e.scrollHeight - e.scrollTop - e.clientHeight") < 24  # it stayed at its end


def test_what_the_context_cannot_hold_is_told_apart(page, jupyterlab):
    part(page, ".lk-cut").wait_for()
    assert re.search(r"above, not in the prompt: \d exchanges?, \d+ tokens", part(page, ".lk-cut").inner_text())
    assert "the next prompt leaves out" in part(page, ".lk-above .lk-status").inner_text()
    button(page, "As the model sees it").click()
    wait_for(lambda: "You: More!" in part(page, ".lk-seen").inner_text(), 5)
    part(page, ".lk-live").evaluate("e => e.scrollTop = 0")
    jupyterlab.screenshot(page, "chat-cut")
    button(page, "As the model sees it").click()


def test_what_the_model_cannot_read_is_a_message_and_stays_as_typed(page, jupyterlab):
    say(page, "Wherefore <b>art</b> thou 7?")
    part(page, ".lk-error").wait_for()
    assert "outside the vocabulary: '<' (position 10)" in part(page, ".lk-error").inner_text()
    assert box(page).input_value() == "Wherefore <b>art</b> thou 7?"
    jupyterlab.screenshot(page, "chat-message")
    button(page, "Leave them out").click()
    wait_for(lambda: part(page, ".lk-said").last.inner_text() == "Wherefore bartb thou ?", 5)
    button(page, "Stop").click()
    wait_for(lambda: finished(page, 4), 5)
    assert box(page).input_value() == ""


def test_a_conversation_is_saved_and_opened_again(page, jupyterlab):
    button(page, "Save").click()
    wait_for(lambda: (jupyterlab.folder / "chat.json").exists(), 5)
    saved = json.loads((jupyterlab.folder / "chat.json").read_text(encoding="utf-8"))
    assert len(saved["turns"]) == 8 and saved["template"]["name"] == "swa_mla"
    button(page, "Clear").click()
    wait_for(lambda: part(page, ".lk-said").count() == 0, 5)
    button(page, "Open").click()
    wait_for(lambda: part(page, ".lk-said").count() == 4, 5)


def test_a_paste_of_a_megabyte_is_answered(page):
    text = "to be or not " * 80_000
    box(page).evaluate("(e, text) => { e.value = text; e.dispatchEvent(new Event('input')); }", text)
    box(page).press("Enter")
    waited = wait_for(lambda: part(page, ".lk-said").count() == 5, 30)
    print(f"a megabyte was taken after {waited:.1f} s")
    button(page, "Stop").click()
    wait_for(lambda: finished(page, 5), 30)
    assert "more characters" in part(page, ".lk-said").last.inner_text() and box(page).input_value() == ""
    assert "the model does not see its beginning" in part(page, ".lk-above .lk-status").inner_text()
    button(page, "Clear").click()


def test_the_demo_chats_and_is_cleared(page, jupyterlab):
    assert part(page, ".lk-sliders > *", 1).count() == 6 and not button(page, "Save", 1).count()
    say(page, "Good morrow.", 1)
    wait_for(lambda: finished(page, 1, 1), 60)
    part(page, number=1).evaluate("element => element.scrollIntoView({block: 'start'})")
    jupyterlab.screenshot(page, "chat-demo")
    button(page, "Clear", 1).click()
    wait_for(lambda: "Nobody has spoken yet." in part(page, ".lk-live", 1).inner_text(), 5)


def test_nothing_that_is_said_is_ever_executed(page):
    assert "<script>" in part(page, ".lk-live", 2).inner_text()
    assert part(page, ".lk-said", 2).inner_text() == "<b>a</b>"
    assert part(page, ".lk-seen", 2).inner_text().endswith("<b>b</b>")
    assert page.evaluate("window.hit") is None


def test_the_dark_theme_is_readable(page, jupyterlab):
    say(page, "Who goes there?")
    wait_for(lambda: part(page, ".lk-live [data-i='60']").count(), 20)
    button(page, "Stop").click()
    jupyterlab.use_theme(page, "Dark")
    part(page).evaluate("element => element.scrollIntoView({block: 'start'})")
    jupyterlab.screenshot(page, "chat-dark")
    jupyterlab.use_theme(page, "Light")


def test_no_console_errors_and_nothing_from_other_hosts(page, jupyterlab):
    assert jupyterlab.console_errors == []
    assert jupyterlab.foreign_requests == []


def test_a_lost_kernel_is_said_and_what_was_typed_is_still_there(page, jupyterlab):
    jupyterlab.forsake(page)
    page.locator(".lm-MenuBar-itemLabel", has_text="Kernel").click()
    page.get_by_role("menuitem", name="Shut Down Kernel").click()
    page.get_by_text("No Kernel").first.wait_for()
    say(page, "Is anybody there?")
    part(page, ".lk-message .lk-note").wait_for(timeout=10_000)
    assert "kept" in part(page, ".lk-message .lk-note").inner_text()
    assert box(page).input_value() == "Is anybody there?"
    jupyterlab.screenshot(page, "chat-lost-kernel")
