"""Views: the same bytes for the same data, nothing from a token is ever markup, every number is in the text as well."""

import html.parser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from every_view import EVERY, alternative, answer, candidate, columns, compared, heat, segment, strip, strips, token
from hostile_text import HOSTILE

from labkit import views
from labkit.views import base, breaks, colours, stages, tokens

ROOT = Path(__file__).resolve().parent.parent


class Elements(html.parser.HTMLParser):
    """Which elements and attributes a page really has, and what it says."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.named: set[tuple[str, str]] = set()
        self.words: list[str] = []
        self.text = self.style = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.named |= {(tag, name) for name, _ in attrs} | {(tag, "")}
        self.words += [value or "" for name, value in attrs if name in ("title", "alt")]
        assert all(value.startswith("data:image/png;base64,") for name, value in attrs if name in ("src", "href"))

    def handle_data(self, data):
        self.text += f" {data}" if self.tags[-1:] != ["style"] else ""
        self.style += data if self.tags[-1:] == ["style"] else ""


DRAWN = (columns(), strips(), compared(), answer(), strip(), heat())
HARMLESS = "".join(draw("x").html for draw in EVERY.values())
every_view = pytest.mark.parametrize("draw", EVERY.values(), ids=EVERY)


def test_every_view_that_there_is_is_tested_here():
    assert set(EVERY) == set(views.__all__) - {"COLOURS", "View", "save"}


@every_view
def test_a_text_of_whatever_origin_is_never_markup(draw):
    harmless = Elements(draw("x").html)
    for text in HOSTILE:
        html = draw(text).html
        found = Elements(html)
        assert found.named <= Elements(HARMLESS).named, text
        if "\n" not in text:  # a newline is marked, by an element of its own
            assert found.tags == harmless.tags, text
        assert not re.search(r"[\x00\x1b\u200b\u2028\u202e\ufeff]", html + draw(text).text + draw(text).alt), text
        assert found.style == harmless.style, text


@every_view
def test_the_same_data_give_the_same_bytes(draw):
    first, second = draw("x"), draw("x")
    assert (first.html, first.text, first.alt, repr(first)) == (second.html, second.text, second.alt, repr(second))
    assert first.rows == second.rows and first == second
    assert draw("y").html != first.html


def test_the_bytes_are_the_same_in_another_process():
    code = (
        "import hashlib, every_view\n"
        "views = [draw('<x>') for draw in every_view.EVERY.values()]\n"
        "print(hashlib.sha256(repr([(v.html, v.text, v.alt, v.rows) for v in views]).encode()).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-X", "utf8", "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@every_view
def test_every_number_of_the_rows_is_in_the_html_and_in_the_text(draw):
    view = draw("x")
    assert view.rows
    said = Elements(view.html.replace("<style>", "<!--").replace("</style>", "-->"))
    in_html, in_text = numbers(" ".join([said.text, *said.words])), numbers(view.text)
    for value in filter(None, values_of(view.rows)):
        assert forms(value) & in_html, value
        assert forms(value) & in_text or draw is EVERY["lens_grid"], value


NOT_SHOWN = {"id", "index", "node", "parent", "layer", "head", "view", "token", "chosen", "current", "same", "now"}


def values_of(row):
    """Every number in rows, dictionaries and lists; but for what only names a row."""
    if isinstance(row, dict):
        return [v for key, value in row.items() if key not in NOT_SHOWN for v in values_of(value)]
    if isinstance(row, list | tuple):
        return [v for value in row for v in values_of(value)]
    return [row] if isinstance(row, int | float) and not isinstance(row, bool) else []


def forms(value):
    """How a number may be written."""
    percents = {base.percent(value)} if 0 <= value <= 1 else set()
    with_places = {base.decimals(value, n) for n in range(1, 5)} | {stages.signed(value), breaks.number(value)}
    return percents | ({str(value), f"{value:,}"} if isinstance(value, int) else with_places)


def numbers(text):
    return set(re.findall(r"[<>+−-]*\d[\d,]*(?:\.\d+)?", text)) | set(re.findall(r"\d[\d,]*(?:\.\d+)?", text))


def test_what_is_stored_does_not_hang_on_the_last_digits_of_a_processor():
    view = base.View(
        "", "", "", ({"p": 0.1 + 0.2, "d": -1e-9, "n": float("nan"), "in": [{"x": float("-inf")}], "i": 3},)
    )
    assert view.rows == ({"p": 0.3, "d": 0.0, "n": None, "in": [{"x": None}], "i": 3},)
    assert str(view.rows[0]["d"]) == "0.0"
    assert base.decimals(-0.0001, 2) == "0.00" and base.decimals(None, 2) == "–" and stages.signed(-0.001) == "+0.00"


def test_nothing_comes_from_elsewhere_and_nothing_is_a_script():
    assert not re.search(r"https?:|<script|@import|url\(|\bon[a-z]+=", HARMLESS)


def test_a_view_says_html_and_text_to_jupyter():
    view = columns()
    assert view._repr_mimebundle_() == {"text/html": view.html, "text/plain": view.text}
    assert repr(view) == "View(alt='3 candidates through 4 stages: after x')"
    assert " at 0x" not in repr(view)


def test_the_strips_text_has_every_number():
    text = views.token_strip([token()]).text
    for expected in ("25.0", "1.50", "b 50.0 → 45.0 → 55.0 → 60.0", "c 12.5 → 10.0 → 8.0 → removed by top-k"):
        assert expected in text


def cells(line):
    return re.split(r"  +", line.strip())


def test_the_columns_text_has_every_number():
    lines = columns().text.splitlines()
    assert lines[:2] == ["after x", "b won."]
    assert cells(lines[2]) == ["token", "model", "temperature 0.8", "top-k 2", "top-p 0.9", "ln p + noise = score"]
    assert cells(lines[4]) == [
        "in %, ○ in text",
        "reshaped KL 0.25",
        "lost 12.5 % 998 tokens",
        "no effect",
        "Gumbel(seed=1)",
    ]
    assert cells(lines[5]) == ["○ a", "50.0", "60.0", "70.0", "70.0", "−0.36 −0.50 = −0.86"]
    assert cells(lines[6]) == ["▶ b", "25.0", "20.0", "30.0", "30.0", "−1.20 +1.50 = +0.30"]
    assert cells(lines[7]) == ["c", "12.5", "10.0", "removed", "·", "1.5 < 2, logit b"]
    assert cells(lines[8]) == ["997 others", "12.5 (997)", "10.0 (997)", "·", "·"]  # what is not shown is counted
    assert cells(lines[9]) == ["tokens", "1,000", "1,000", "2", "2", "1.16 ahead of a"]
    assert cells(lines[10]) == ["entropy, nats", "2.00", "1.75", "0.50", "0.50"]


def test_the_break_strips_text_has_every_number():
    lines = [cells(line) for line in strips(note="a scan").text.splitlines()]
    assert lines[1] == ["parameter", "now", "from", "to", "token"]
    assert lines[3:5] == [["temperature", "1.25", "0", "0.75", "a", "a scan"], ["0.75", "5", "b"]]
    assert lines[5:8] == [["top-k", "10", "1", "1", "a"], ["2", "39", "b"], ["40", "1,000", "c"]]
    assert lines[8] == ["min-p", "off", "0", "1", "b"]


def test_a_strip_is_coloured_by_token_marks_the_present_value_and_writes_the_break_values():
    page = strips().html
    assert '<i class=c1 style="left:0.00%;width:37.50%" title="a: 0 … 0.75">a</i>' in page
    assert '<i class=c0 style="left:37.50%;width:62.50%"' in page  # the chosen token has the first colour
    assert '<u style="left:62.50%"></u>' in page
    assert "<b class=c1>a</b> 2 <b class=c0>b</b> 40 <b class=c2>c</b>" in page
    assert "<b class=c0>b</b> all along" in page and page.count("<u ") == 2  # what is off has no mark
    log = re.findall(r'left:([\d.]+)%;width:([\d.]+)%" title="[abc]: ', page)[2:5]
    assert [float(left) for left, _ in log] == pytest.approx([0, 100 * 0.30103 / 3, 100 * 1.60206 / 3], abs=0.01)
    assert sum(float(width) for _, width in log) == pytest.approx(100, abs=0.02)


def test_many_tokens_share_colours_but_none_the_chosen_ones():
    many = [{"segments": [segment(i, i + 1, i, "x") for i in range(20)]}]
    kinds = breaks.kinds_of(many, chosen=12)
    assert kinds[12] == 0 and set(kinds.values()) == set(range(8)) and list(kinds.values()).count(0) == 1


def test_the_what_ifs_text_has_every_number():
    lines = [cells(line) for line in compared().text.splitlines()]
    assert lines[:3] == [["a instead of b"], ["top-k off → 1, dialect b → hf"],
                         ["token", "model", "recorded", "score", "what if", "score"]]  # fmt: skip
    assert lines[4:] == [["a", "50.0", "62.5", "−0.50", "▶ 75.0", "+0.25"],
                         ["b", "25.0", "▶ 37.5", "+0.75", "removed", "top-k"]]  # fmt: skip


def test_the_answers_text_has_every_number():
    lines = [cells(line) for line in answer().text.splitlines()]
    assert lines[0] == ["b was removed."]
    assert lines[3:] == [["rank", "8"], ["b", "b"], ["top-p", "from 0.937"], ["top-k", "no value does"]]


HEADS = {"removed", "parameter", "token", "now", "from", "to", "score", "ln", "p", "noise", "why", "not"}


@pytest.mark.parametrize("view", DRAWN[:4], ids=["columns", "strips", "what if", "why not"])
def test_the_html_says_what_its_text_says(view):
    page = view.html.partition("</style>")[2]
    said = re.sub(r"\s+", "", Elements(page).text + "".join(re.findall(r'title="([^"]*)"', page)))
    for line in view.text.splitlines():
        missing = [word for word in re.findall(r"[\w.−+]+", line) if word not in said and word not in HEADS]
        assert missing == [] or set(line) <= set("- "), line


def test_a_heat_map_has_every_number_and_none_where_there_is_none():
    assert heat().text.splitlines()[1:] == ["   a      long", "-  -----  ----", "a  0.25", "b  -0.50  1.00"]
    page = heat().html.partition("</style>")[2]
    assert 'title="a · a: 0.250"' in page and 'title="b · long: 1.000"' in page and page.count("<td></td>") == 1
    assert '<th class="lk-mark">a</th><th class="lk-tall">long</th>' in page
    assert 'class=k9 title="b · long' in page and '<td title="b · a: -0.500">' in page  # below 0: the page's own colour
    assert ">0.25<" in views.heat_map([[0.25]], rows=["a"], columns=["a"], caption="c", numbers=True).html


def test_a_removed_candidate_is_struck_through_with_the_stage_that_removed_it():
    assert "<tr class=lk-x><td>c<td>12.5<td>10.0<td>8.0<td>✕ top-k" in views.token_strip([token()]).html
    assert '<td class=lk-x title="1.5 &lt; 2, logit b"><del>10.0</del><td class=lk-x>·' in columns().html
    assert all("line-through" in style for style in (base.CSS, stages.CSS))


def test_the_mass_that_a_stage_takes_stands_on_the_arrow_before_it():
    arrows = re.findall(r'<td class="(lk-a[^"]*)" rowspan=4 title="([^"]*)"><b>→</b>(.*?)<t', columns().html)
    assert [kind for kind, _, _ in arrows] == ["lk-a", "lk-a lk-cut", "lk-a"]
    assert arrows[1][1] == "top-k removed 998 of 1,000 tokens, with 12.5 % of the probability"
    assert arrows[1][2].startswith("<em>lost</em><em>12.5 %</em><em>998</em><em>tokens</em>")


def test_the_winner_and_the_runner_up_are_marked():
    page = columns().html
    assert "<i>wins</i>−1.20 +1.50 = +0.30" in page and "<i>2nd</i>−0.36 −0.50 = −0.86" in page
    assert "the draw" not in columns(draw="").html


def test_cards_are_shown_by_pointing_and_by_keyboard_without_a_script():
    page = views.token_strip([token()]).html
    assert 'tabindex=0 title="25.0 % · rank 1 · entropy 1.50"' in page
    assert "<span class=lk-c hidden>" in page  # without CSS it stays hidden, and the title says the numbers
    assert ".lk-t:hover > .lk-c,.lk-t:focus > .lk-c" in base.CSS


def test_prompt_tokens_are_told_apart_and_a_long_prompt_is_cut():
    assert '<span class="lk-p">x</span>' in views.token_strip([token()], prompt=["x"]).html
    long = views.token_strip([token()], prompt=["x"] * 100_000).html
    assert "99,600 earlier tokens" in long and len(long) < 30_000


@pytest.mark.parametrize("pieces", [list("the quick brown fox"), [" the", " quick", "\\xe2\\x80", "<br>", "日本"]])
def test_the_size_budget(pieces):
    alternatives = [alternative(p, 0.123456, 0.1, removed_by="typical_p") for p in [" there", "<&>", " a", "\\xf0"] * 3]
    strip = [token(piece, 0.123456, 12345, 10.123456, alternatives) for piece in pieces * 50]
    assert len(views.token_strip(strip).html.encode()) - len(base.CSS) <= 600 * len(strip)
    assert len("".join(tokens.token_html(t, index=i) for i, t in enumerate(strip)).encode()) <= 110 * len(strip)
    assert all(len(view.html) < 8_000 for view in DRAWN[:4])


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
    only = [{"stage": "model", "kept": 1, "kept_mass": 1.0, "entropy": 0.0, "kl": 0.0}]
    alone = candidate(0, "a", [1.0], noise=0.0, score=0.0)
    assert "100" in views.stage_columns(only, [alone], chosen=0, draw="Greedy()").text
    assert "nothing else was left" in views.stage_columns(only, [alone], chosen=0, draw="Greedy()").html
    assert views.break_strips([], chosen=0).html
