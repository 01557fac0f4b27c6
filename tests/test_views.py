"""Views: the same bytes for the same data, nothing from a token is ever markup, every number is in the text as well."""

import html.parser
import re
import subprocess
import sys

import pytest

from labkit import views
from labkit.views import base, colours, tokens

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</td></table></span><b>",
    "&lt;script&gt;",
    '" tabindex=0 onfocus=alert(1) x="',
    "</style><style>*{display:none}",
    "javascript:alert(1)",
    "\u202eevil",
    "\x00\x1b[31m",
]


def token(piece="a", probability=0.25, rank=1, entropy=1.5, alternatives=None):
    if alternatives is None:
        alternatives = [("b", 0.5, 0.6, None), (piece, probability, 0.4, None), ("c", 0.125, 0.0, "top_k")]
    return {"piece": piece, "probability": probability, "rank": rank, "entropy": entropy, "alternatives": alternatives}


def bars(piece="b", caption="after x", setting="2"):
    stages = [
        {"stage": "model", "setting": "", "kept": 1000, "kept_mass": 1.0, "entropy": 2.0},
        {"stage": "temperature", "setting": "0.8", "kept": 1000, "kept_mass": 1.0, "entropy": 1.75},
        {"stage": "top_k", "setting": setting, "kept": 2, "kept_mass": 0.875, "entropy": 0.5},
        {"stage": "top_p", "setting": "0.9", "kept": 2, "kept_mass": 1.0, "entropy": 0.5},
    ]
    candidates = [
        {"id": 7, "piece": "a", "probabilities": [0.5, 0.6, 0.7, 0.7], "removed_by": None},
        {"id": 3, "piece": piece, "probabilities": [0.25, 0.2, 0.3, 0.3], "removed_by": None},
        {"id": 9, "piece": "c", "probabilities": [0.125, 0.1, 0.0, 0.0], "removed_by": "top_k"},
    ]
    return views.stage_bars(stages, candidates, chosen=3, in_text=7, caption=caption)


class Elements(html.parser.HTMLParser):
    """Which elements and attributes a page really has, and what it says."""

    def __init__(self, page: str):
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


VIEWS_OF_A_PIECE = {
    "strip": lambda piece: views.token_strip([token(piece, alternatives=[(piece, 0.5, 0.0, piece)])], prompt=[piece]),
    "strip without cards": lambda piece: views.token_strip([token(piece, alternatives=[])]),
    "bars": lambda piece: bars(piece, caption=piece, setting=piece),
}
HARMLESS = bars().html + views.token_strip([token()], prompt=["x"]).html


@pytest.mark.parametrize("piece", HOSTILE)
@pytest.mark.parametrize("draw", VIEWS_OF_A_PIECE.values(), ids=VIEWS_OF_A_PIECE)
def test_a_token_is_never_markup(draw, piece):
    page, harmless = Elements(draw(piece).html), Elements(HARMLESS)
    assert page.names <= harmless.names
    assert page.attributes <= harmless.attributes
    assert not re.search(r"[\x00\x1b\u202e]", draw(piece).html)


@pytest.mark.parametrize("draw", VIEWS_OF_A_PIECE.values(), ids=VIEWS_OF_A_PIECE)
def test_the_same_data_give_the_same_bytes(draw):
    first, second = draw("x"), draw("x")
    assert (first.html, first.text, first.alt, repr(first)) == (second.html, second.text, second.alt, repr(second))
    assert draw("y").html != first.html


def test_the_bytes_are_the_same_in_another_process():
    code = (
        "from labkit import views\n"
        "token = dict(piece='a', probability=.25, rank=1, entropy=1.5, alternatives=[('b', .5, .6, None)])\n"
        "print(views.token_strip([token]).html)"
    )
    outputs = {
        subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1


def test_nothing_comes_from_elsewhere_and_nothing_is_a_script():
    assert not re.search(r"https?:|<script|@import|url\(|\bon[a-z]+=", HARMLESS)


def test_a_view_says_html_and_text_to_jupyter():
    view = bars()
    assert view._repr_mimebundle_() == {"text/html": view.html, "text/plain": view.text}
    assert repr(view) == "View(alt='3 candidates through 4 stages: after x')"
    assert " at 0x" not in repr(view)


def test_the_strips_text_has_every_number():
    text = views.token_strip([token()]).text
    for expected in ("25.0", "1.50", "b 50.0 → 60.0", "c 12.5 → removed by top-k"):
        assert expected in text


def test_the_bars_text_has_every_number():
    lines = bars().text.splitlines()
    assert lines[0].split() == ["token", "model", "temperature", "0.8", "top-k", "2", "top-p", "0.9"]
    assert re.split(r"  +", lines[2]) == [
        "▶ drawn ○ in text",
        "1,000 tokens",
        "→ all stay",
        "→ 2 left, lost 12.5 %",
        "→ all stay",
    ]
    assert lines[3].split() == ["○", "a", "50.0", "60.0", "70.0", "70.0"]
    assert lines[4].split() == ["▶", "b", "25.0", "20.0", "30.0", "30.0"]
    assert lines[5].split() == ["c", "12.5", "10.0", "removed", "·"]
    left_out = re.split(r"  +", lines[6])  # what a long list leaves out is counted, with its mass
    assert left_out == ["not shown", "997: 12.5 %", "997: 10.0 %", "none", "none"]
    assert lines[7].split()[-4:] == ["2.00", "1.75", "0.50", "0.50"]


def test_the_html_of_the_bars_says_what_its_text_says():
    view = bars()
    said = re.sub(r"\s+", " ", Elements(view.html).text)
    for cell in re.split(r"\s{2,}|\n", view.text):
        assert cell.strip("- ") in said or cell == "removed"


def test_a_removed_candidate_is_struck_through_with_the_stage_that_removed_it():
    assert "<tr class=lk-x><td>c<td>12.5<td>top-k" in views.token_strip([token()]).html
    assert "<td class=lk-x><del>10.0</del><td class=lk-x>·" in bars().html
    assert "line-through" in base.CSS


def test_cards_are_shown_by_pointing_and_by_keyboard_without_a_script():
    page = views.token_strip([token()]).html
    assert 'tabindex=0 title="25.0 % · rank 1 · entropy 1.50"' in page
    assert "<span class=lk-c hidden>" in page  # without CSS it stays hidden, and the title says the numbers
    assert ".lk-t:hover > .lk-c, .lk-t:focus > .lk-c" in base.CSS


def test_prompt_tokens_are_told_apart_and_a_long_prompt_is_cut():
    assert '<span class="lk-p">x</span>' in views.token_strip([token()], prompt=["x"]).html
    long = views.token_strip([token()], prompt=["x"] * 100_000).html
    assert "99,600 earlier tokens" in long and len(long) < 30_000


@pytest.mark.parametrize("pieces", [list("the quick brown fox"), [" the", " quick", "\\xe2\\x80", "<br>", "日本"]])
def test_the_size_budget(pieces):
    alternatives = [(piece, 0.123456, 0.0, "repetition_penalty") for piece in [" there", "<&>", " a", "\\xf0\\x9f"] * 3]
    strip = [token(piece, 0.123456, 12345, 10.123456, alternatives) for piece in pieces * 50]
    assert len(views.token_strip(strip).html.encode()) - len(base.CSS) <= 600 * len(strip)
    assert len("".join(tokens.token_html(t, index=i) for i, t in enumerate(strip)).encode()) <= 110 * len(strip)
    assert len(bars().html) < 12_000


@pytest.mark.parametrize(
    ("piece", "shown"),
    [
        ("a", "a"),
        (" ", "␣"),
        (" the", "␣the"),
        ("a b", "a b"),
        ("a  b", "a␣␣b"),
        ("a ", "a␣"),
        ("   ", "␣␣␣"),
        ("\n\n", "↵↵"),
        ("\t", "⇥"),
        ("\r\n", "␍↵"),
        ("\x00", "␀"),
        ("\x7f", "␡"),
        ("\x85", r"\x85"),
        ("\xa0", r"\xa0"),
        ("\u200b", r"\u200b"),
        ("\u202e", r"\u202e"),
        ("\u2028", r"\u2028"),
        ("\U000e0041", r"\U000e0041"),
        ("\u0301", "◌\u0301"),
        ("é日😀", "é日😀"),
        (r"\xf0\x9f", r"\xf0\x9f"),
    ],
)
def test_nothing_stays_invisible(piece, shown):
    assert base.visible(piece) == shown


def test_in_the_text_a_newline_is_marked_and_breaks_the_line_and_a_space_is_a_space():
    assert tokens.in_text(" a\n\n b") == " a<i>↵</i>\n<i>↵</i>\n b"


@pytest.mark.parametrize(
    ("probability", "shown"),
    [(0, "0"), (1, "100"), (0.5, "50.0"), (0.0004, "<0.1"), (1e-30, "<0.1"), (0.9996, ">99.9"), (None, "–")],
)
def test_percent_never_rounds_to_certain_or_impossible(probability, shown):
    assert base.percent(probability) == shown


@pytest.mark.parametrize("colour", views.COLOURS)
def test_every_colour_puts_every_token_on_the_scale(colour):
    for probability, rank, entropy in [(1.0, 0, 0.0), (0.0, 50_256, 10.8), (1e-30, 3, 0.1)]:
        page = tokens.token_html(token("a", probability, rank, entropy), colour)
        assert re.search(r"class=k\d ", page)
    calm, striking = (tokens.token_html(token("a", *numbers), colour) for numbers in ((1.0, 0, 0.0), (0.0, 5000, 9.0)))
    assert "class=k0 " in calm and "class=k9 " in striking


@pytest.mark.parametrize(
    ("rank", "level"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (8, 4), (9, 5), (128, 8), (129, 9), (50_000, 9)]
)
def test_ranks_are_put_in_octaves(rank, level):
    assert f"class=k{level} " in tokens.token_html(token(rank=rank), "rank")


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_legible_on_every_colour_and_lightness_runs_one_way(dark):
    levels = colours.level_colours(dark)
    assert all(colours.contrast(colour, colours.ink(colour)) >= 4.5 for colour in levels)
    lightness = [colours.luminance(colour) for colour in levels]
    assert lightness == sorted(lightness, reverse=not dark)
    page = (0.07, 0.07, 0.07) if dark else (1.0, 1.0, 1.0)
    assert colours.contrast(levels[-1], page) > 4.5  # what is surprising stands out


def test_an_empty_strip_and_a_step_without_stages_can_be_drawn():
    assert views.token_strip([]).text
    only = [{"stage": "model", "kept": 2, "kept_mass": 1.0, "entropy": 0.0}]
    candidate = {"id": 0, "piece": "a", "probabilities": [1.0], "removed_by": None}
    assert "100" in views.stage_bars(only, [candidate], chosen=0).text
