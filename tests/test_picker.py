"""Picker without a browser; what it does there is in tests/browser/test_inspectors.py."""

from labkit.widgets.picker import Picker


def test_it_holds_a_view_and_what_is_picked_of_it():
    picker = Picker('<td data-pick="1.2">x</td>', selector="tr")
    assert (picker.html, picker.selector, picker.picked, picker.pointed) == (
        '<td data-pick="1.2">x</td>',
        "tr",
        "",
        "",
    )
    seen = []
    picker.observe(lambda change: seen.append(change["new"]), "picked")
    picker.set_state({"picked": "1.2"})
    assert seen == ["1.2"] and repr(picker) == "Picker('1.2')"


def test_the_page_side_asks_for_nothing_from_elsewhere_and_runs_no_text():
    script = Picker._esm
    assert "http" not in script and "import" not in script and "eval" not in script
