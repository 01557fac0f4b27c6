"""What each view of a picture shows: the pixels, the marks, the order, the size."""

import base64
import html.parser
import io
import random
import re
import time

import numpy as np
import pytest
from every_view import EVERY, WEIGHTS, branches, cache, heads, pattern, sides
from PIL import Image

from labkit import views
from labkit.views import colours, panels, picture


class Inside(html.parser.HTMLParser):
    """Every element with its attributes, and what stands in it first."""

    def __init__(self, view, tag):
        super().__init__()
        self.tag, self.found = tag, []
        self.feed(view.html)

    def handle_starttag(self, tag, attrs):
        if tag == self.tag:
            self.found.append((dict(attrs), ""))

    def handle_data(self, data):
        if self.found and not self.found[-1][1]:
            self.found[-1] = (self.found[-1][0], data)


def weights(n, seed=0, shape=()):
    """Random causal patterns."""
    raw = np.random.default_rng(seed).random((*shape, n, n), dtype=np.float32) ** 4 * np.tri(n, dtype=np.float32)
    return raw / raw.sum(axis=-1, keepdims=True)


def pixels(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))


def test_a_picture_is_a_png_with_one_pixel_a_number_in_the_colours_of_the_scale():
    values = np.array([[0.0, 0.25], [1.0, 0.5]])
    image = pixels(picture.data_uri(picture.shades(values)))
    assert image.size == (2, 2) and image.mode == "P"
    shades = [image.getpixel(place) for place in ((0, 0), (1, 0), (0, 1), (1, 1))]
    assert shades == [0, round(0.5 * 31), 31, round(0.5**0.5 * 31)]
    assert image.convert("RGBA").getpixel((0, 0))[3] == 0 and image.convert("RGBA").getpixel((0, 1))[3] == 255
    ink = colours.palette(picture.SHADES)[31]
    assert image.convert("RGB").getpixel((0, 1)) == tuple(round(255 * channel) for channel in ink)


def test_the_palette_gets_darker_step_by_step():
    lightness = [colours.luminance(colour) for colour in colours.palette(picture.SHADES)]
    assert lightness == sorted(lightness, reverse=True) and lightness[0] == 1


def test_all_heads_of_a_small_model_fit_the_size_and_the_time():
    all_heads = list(weights(256, shape=(12, 12)))
    start = time.perf_counter()
    view = views.attention_grid(all_heads)
    assert time.perf_counter() - start < 10  # 0.5 s on a quiet machine; what is promised is 1
    assert len(view.html.encode()) <= 7_000_000 and view.html.count("<img ") == 144 and len(view.rows) == 144


def test_a_head_of_a_thousand_tokens_can_be_drawn():
    view = views.head_pattern(weights(1024), ["the"] * 1024)
    assert len(view.html.encode()) < 2_500_000 and len(view.rows) == 1024
    (attributes, _), *_ = Inside(view, "image").found
    assert pixels(attributes["href"]).size == (1024, 1024)


def test_a_pattern_says_what_each_token_looks_at_and_what_it_receives():
    rows = pattern("a").rows
    assert [row["received"] for row in rows] == [1.75, 1.125, 0.125]
    assert rows[0]["entropy"] == 0 and rows[1]["entropy"] == pytest.approx(0.5623, abs=1e-4)
    assert rows[2]["looks at"] == [{"position": 0, "piece": "a", "weight": 0.5},
                                   {"position": 1, "piece": "b", "weight": 0.375},
                                   {"position": 2, "piece": "a", "weight": 0.125}]  # fmt: skip
    assert "a@0 0.500, b@1 0.375, a@2 0.125" in pattern("a").text


def test_the_selected_token_is_marked_and_the_text_coloured_by_what_it_looks_at():
    spans = Inside(pattern("a"), "span").found
    assert [s[0]["title"] for s in spans] == ["0: 0.250", "1: 0.750", "2: 0.000"]
    assert [s[0]["class"] for s in spans] == ["k4", "k8 lk-here", "k0"]
    assert pattern("a").html.count('class="lk-row"') == 1
    without = views.head_pattern(WEIGHTS, ["a", "b", "c"])
    assert 'class="lk-row"' not in without.html and "what each token receives" in without.html


def test_a_head_is_found_by_layer_and_number_and_the_selected_one_is_marked():
    cells = {attrs["data-pick"]: (attrs, text) for attrs, text in Inside(heads("a"), "td").found}
    assert cells["1.2"][1] == "0.50" and cells["1.2"][0]["class"] == "k9 lk-here"
    assert cells["0.0"][1] == "0.00" and cells["0.0"][0]["class"] == "k0"
    assert all(attrs["tabindex"] == "0" and attrs["title"] for attrs, _ in cells.values())


def test_a_model_with_fewer_heads_in_a_layer_has_empty_places():
    rows = [{"layer": 0, "head": 0, "x": 0.5}, {"layer": 0, "head": 1, "x": None}, {"layer": 1, "head": 0, "x": 1.0}]
    view = views.head_grid(rows, "x")
    assert view.text.splitlines()[3:] == ["layer 0  0.50  –", "layer 1  1.00"] and "<td></td>" in view.html


def test_an_axis_of_ranks_has_a_place_for_0_and_can_run_downwards():
    ranks = panels.Panel("rank", [panels.Line("a", [0, 9, 99])], ranks=True)
    assert [ranks.place(v) for v in (0, 9, 99)] == pytest.approx([0, 0.5, 1])
    turned = panels.Panel("rank", ranks.lines, ranks=True, downwards=True)
    assert [turned.place(v) for v in (0, 99)] == [1, 0]
    assert [value for value, _ in ranks.ticks()] == [0, 10, 99]


def test_a_gap_in_a_line_stays_a_gap():
    line = panels.Line("a", [1.0, None, 0.5, 0.25])
    drawn = panels.svg([panels.Panel("x", [line])], ["0", "1", "2", "3"])
    (path,) = re.findall(r'<g class="s0"><path d="([^"]*)"', drawn)
    assert path.count("M") == 2 and path.count("L") == 1


def test_names_of_lines_that_end_in_one_place_do_not_lie_on_each_other():
    lines = [panels.Line(f"n{i}", [0.0, 0.0], i) for i in range(5)]
    drawn = panels.svg([panels.Panel("x", lines)], ["0", "1"])
    heights = sorted(float(y) for y in re.findall(r'class="f\d" x="[^"]*" y="([^"]*)"', drawn))
    assert min(b - a for a, b in zip(heights, heights[1:], strict=False)) >= 11.9
    assert heights[-1] <= panels.GAP + panels.HEIGHT + 5


def test_a_long_run_is_drawn_in_time_and_marks_the_step_that_is_selected():
    random.seed(0)
    step = {"piece": " a", "probability": 0.5, "drawn_from": 0.25, "rank": 7, "entropy": 1.5}
    start = time.perf_counter()
    view = views.run_timeline([step] * 2000, selected=1999)
    assert time.perf_counter() - start < 3
    hits = [attrs for attrs, _ in Inside(view, "rect").found]
    assert len(hits) == 2000 and hits[1999]["class"] == "lk-hit lk-here" and hits[7]["data-pick"] == "7"
    assert len(view.html) < 1_000_000


def test_a_strip_of_two_thousand_tokens_is_drawn_in_time():
    token = EVERY["token_strip"]("a").rows[0]
    start = time.perf_counter()
    view = views.token_strip([token] * 2000)
    assert time.perf_counter() - start < 3  # 0.2 s on a quiet machine; what is promised is 0.3
    assert len(view.html) < 1_300_000


def test_a_cache_says_what_it_holds_and_what_is_gone():
    places = [attrs for attrs, _ in Inside(cache("a"), "i").found]
    assert [p["class"] for p in places] == ["k6", "lk-gone", "k3", "k6", "k9", "k3"]
    assert places[1]["title"] == "1 b: key 2.25, value 0.25, evicted" and places[5]["data-pick"] == "1.2"
    assert "5,120 bytes, 62.5 % of what full keys and values take" in cache("a").text
    assert [row["evicted"] for row in cache("a").rows] == [1, 0]


def test_a_branch_stands_below_what_it_leaves_and_the_current_one_is_marked():
    lines = branches("x").text.splitlines()
    assert re.split("  +", lines[3].strip()) == ["0 x", "x", "30", "x", "17"]
    assert re.split("  +", lines[4].strip()) == ["▶", "1 x", "12", "x", "25", "x", "17"]
    first, second = (attrs for attrs, _ in Inside(branches("x"), "tr").found if "data-pick" in attrs)
    assert second["aria-current"] == "true" and "aria-current" not in first
    assert "--l:40.0%;--w:43.3%" in branches("x").html


def test_branches_of_branches_follow_their_parents():
    def node(i, parent):
        return {"node": i, "label": "n", "parent": parent, "at": i, "tokens": 9, "begins": "", "finish_reason": "stop",
                "seed": 1, "current": i == 0}  # fmt: skip

    view = views.branch_tree([node(0, None), node(1, 0), node(2, 0), node(3, 1)])
    assert re.findall(r"(\d) n", view.text) == ["0", "1", "3", "2"]


def test_where_two_texts_part_is_marked_once_and_what_differs_underlined():
    view = sides("a")
    columns = [attrs for attrs, _ in Inside(view, "span").found if "data-pick" in attrs]
    assert [c["class"] for c in columns] == ["lk-col", "lk-col lk-parted", "lk-col"]
    assert "first difference at token 1" in view.text and view.text.count("◀ first difference") == 1
    cells = [attrs for attrs, _ in Inside(view, "b").found]
    assert [c["class"] for c in cells] == ["down1", "", "up4", "lk-other", "lk-none", "lk-other"]
    assert cells[0]["title"] == "a, token 0 · delta -0.2500 · a -1.5000"
    same = views.comparison_strip([{"name": n, "tokens": [{"piece": "x"}]} for n in "ab"])
    assert "no difference" in same.alt and "lk-parted" not in same.html.partition("</style>")[2]


def test_checkpoints_stand_where_their_steps_are_and_one_without_is_in_the_table_alone():
    view = EVERY["checkpoint_trajectory"]("loss")
    xs = [float(x) for x in re.findall(r'<circle cx="([^"]*)"', view.html)]
    assert xs[:2] == [60.0, 632.0] and len(xs) == 4
    assert [row["step"] for row in view.rows] == [100, 400, None] and "c           –" in view.text


@pytest.mark.parametrize("name", ["run_timeline", "trajectories", "checkpoint_trajectory", "cache_map", "branch_tree"])
def test_nothing_at_all_can_be_drawn(name):
    view = getattr(views, name)([])
    assert view.html and view.text and view.rows == () and (view.draw is None or view.draw())


def test_no_heads_no_tokens_and_no_sides_can_be_drawn():
    assert views.head_grid([], "entropy").draw() and views.attention_grid([]).rows == ()
    assert views.head_pattern(np.zeros((0, 0)), []).rows == () and views.comparison_strip([]).text
    assert views.stack([]).rows == () and views.token_strip([]).draw()
