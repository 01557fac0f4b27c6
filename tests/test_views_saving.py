"""Saving a view: every kind of file for every view, whole or not at all, the same bytes every time."""

import csv
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from every_view import EVERY, heads, timeline
from hostile_text import HOSTILE

from labkit import views
from labkit.views import figures, saving

every_view = pytest.mark.parametrize("draw", EVERY.values(), ids=EVERY)
STARTS = {"html": b"<!doctype html>", "svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF", "json": b"{"}


@every_view
@pytest.mark.parametrize("suffix", saving.WRITERS)
def test_every_view_is_saved_as_every_kind_of_file(draw, suffix, tmp_path):
    path = views.save(draw("$x_$"), tmp_path / f"a.{suffix}")
    assert path.read_bytes().startswith(STARTS.get(suffix, b"")) and path.stat().st_size > 40
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    if suffix == "svg":
        assert saving.WRITERS["svg"](draw("$x_$")) == path.read_bytes()
        assert b"<dc:date>" not in path.read_bytes()
        assert "$x_$" in "".join(ElementTree.parse(path).getroot().itertext())


def test_a_pdf_and_a_png_are_the_same_bytes_again():
    view = heads("x")
    for suffix in ("png", "pdf"):
        assert saving.WRITERS[suffix](view) == saving.WRITERS[suffix](view)


def test_whatever_a_token_says_can_be_drawn():
    for text in HOSTILE:
        for draw in (EVERY["token_strip"], EVERY["head_pattern"]):
            view = draw(text)
            ElementTree.fromstring(figures.file_bytes(view.draw or figures.of_text(view.text), "svg"))


def test_several_views_are_one_figure():
    one, two = timeline("x").draw, heads("y").draw
    below, beside = views.stack([timeline("x"), heads("y")]).draw, views.side_by_side([timeline("x"), heads("y")]).draw
    assert below.height == one.height + two.height and beside.width == one.width + two.width
    assert len(below().axes) == len(one().axes) + len(two().axes)


def test_drawing_leaves_matplotlib_as_it_was_and_needs_no_pyplot(tmp_path):
    code = (
        "import sys, every_view; from labkit import views\n"
        "assert 'matplotlib' not in sys.modules\n"
        "import matplotlib; before = matplotlib.rcParams.copy()\n"
        "views.save(every_view.heads('x'), sys.argv[1])\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    here = Path(__file__).resolve().parent
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.svg"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(here.parent), str(here)))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "False"


def test_a_saved_page_is_complete_follows_the_readers_theme_and_may_run_nothing(tmp_path):
    page = views.save(heads("<script>"), tmp_path / "a.html").read_text(encoding="utf-8")
    assert '<meta charset="utf-8">' in page and "<title>&lt;script&gt; of 6 heads in 2 layers</title>" in page
    assert "prefers-color-scheme:dark" in page and "<script" not in page
    assert "default-src 'none'" in page


def test_rows_are_a_table_and_nested_ones_are_json_in_it(tmp_path):
    view = EVERY["cache_map"]('a,\n"b"')
    rows = list(csv.DictReader(io.StringIO(views.save(view, tmp_path / "a.csv").read_text(), newline="")))
    assert [row["bytes"] for row in rows] == ["1024", "4096"] and json.loads(rows[0]["key_norms"]) == [1.5, 2.25, 0.75]
    assert rows[0]["kind"] == 'a,\n"b"'
    data = json.loads(views.save(view, tmp_path / "a.json").read_text())
    assert data == {"alt": view.alt, "rows": [dict(row) for row in view.rows]}
    assert views.save(view, tmp_path / "a.txt").read_text() == view.text + "\n"


def test_rows_of_several_views_say_whose_they_are():
    rows = views.stack([heads("x"), timeline("y")]).rows
    assert {row["view"] for row in rows} == {1, 2} and rows[0]["x"] == 0.0 and rows[-1]["piece"] == "b"


def test_an_unknown_kind_is_refused_in_one_line_that_names_the_known_ones(tmp_path):
    for name in ("a.docx", "a"):
        with pytest.raises(ValueError, match=r"^a[^\n]*; use one of html, svg, png, pdf, csv, json, txt$"):
            views.save(heads("x"), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_file_is_whole_or_not_there_and_others_may_read_it(tmp_path, monkeypatch):
    path = views.save(heads("x"), tmp_path / "new folder" / "a.TXT")
    before = path.read_bytes()
    if os.name == "posix":
        mask = os.umask(0o022)
        os.umask(mask)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        views.save(heads("y"), path)
    assert path.read_bytes() == before and [each.name for each in path.parent.iterdir()] == [path.name]
