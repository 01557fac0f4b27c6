"""Break-point strips: which token one draw gives along a slider, and at which values it changes."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from .base import BASE_CSS, View, captioned, escape, label, page, style_sheet, text_table, visible
from .colours import KIND_COLOURS, KINDS, ink, rgb
from .figures import Drawing, short
from .tokens import stage_name

CSS = BASE_CSS + KIND_COLOURS + style_sheet("breaks.css")

# A strip: parameter, value (the present one; None: off), low, high and log (the range that is drawn), segments
# (dictionaries with start, end, id (None: it cannot be told) and piece, in order) and note (what to say of it, such as
# why it is not exact).
Strip = Mapping[str, Any]


def break_strips(strips: Sequence[Strip], *, chosen: int, caption: str = "") -> View:
    """One strip a parameter, coloured by the token that the draw gives at each value.

    Args:
        chosen: id that the draw picks at the present values; it has the first colour.
        caption: what this is a draw of.
    """
    kinds = kinds_of(strips, chosen)
    rows = "".join(
        f"<div class=lk-name>{label(stage_name(s['parameter']))} <span>{value_text(s)}</span></div>{band(s, kinds)}"
        for s in strips
    )
    alt = ": ".join([f"{len(strips)} sliders and the tokens of one draw along them", *captioned(caption)])
    head = f"<p>{label(caption)}</p>" if caption else ""
    text = "\n".join(captioned(caption, _text(strips)))
    data = tuple(
        {
            "parameter": strip["parameter"],
            "now": strip["value"],
            **{key: segment[key] for key in ("start", "end", "id", "piece")},
            "note": strip.get("note", ""),
        }
        for strip in strips
        for segment in strip["segments"]
    )
    body = f"{head}<div class=lk-breaks>{rows}</div>"
    return View(page(body, alt, CSS), text, alt, data, _drawing(strips, kinds, caption))


def band(strip: Strip, kinds: Mapping[int | None, int]) -> str:
    """One strip, and below it the tokens with the values between them."""
    parts = []
    starts = [_place(strip, segment["start"]) for segment in strip["segments"]]
    for segment, (left, right) in zip(strip["segments"], pairwise([*starts, 100.0]), strict=True):
        if right > left:
            piece = escape(visible(segment["piece"]))
            words = f"{piece}: {number(segment['start'])} … {number(segment['end'])}"
            place = f'style="left:{left:.2f}%;width:{right - left:.2f}%"'
            parts.append(f'<i class=c{kinds[segment["id"]]} {place} title="{words}">{piece}</i>')
    here = "" if strip["value"] is None else f'<u style="left:{_place(strip, strip["value"]):.2f}%"></u>'
    note = f"<em>{label(strip['note'])}</em>" if strip.get("note") else ""
    return f"<div class=lk-band>{''.join(parts)}{here}</div><div class=lk-values>{_values(strip, kinds)}{note}</div>"


def band_page(strip: Strip, kinds: Mapping[int | None, int]) -> str:
    """One strip by itself, for below a slider."""
    return page(band(strip, kinds), f"which token the draw gives along {stage_name(strip['parameter'])}", CSS)


def kinds_of(strips: Sequence[Strip], chosen: int) -> dict[int | None, int]:
    """Token id -> which colour it has in all strips; the chosen one the first; of many, some share one."""
    ids = dict.fromkeys([chosen, *(segment["id"] for strip in strips for segment in strip["segments"])])
    return {i: n if n < len(KINDS) else 1 + (n - 1) % (len(KINDS) - 1) for n, i in enumerate(ids)}


def number(value: float) -> str:
    """Four digits; whole numbers in full, and the least float that there is to ask about as 0."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if value > 1e-6 else "0"


def value_text(strip: Strip) -> str:
    return "off" if strip["value"] is None else number(strip["value"])


def _place(strip: Strip, value: float) -> float:
    """Where on the strip, in percent of its width."""
    low, high = strip["low"], strip["high"]
    value = min(max(value, low), high)
    if strip.get("log"):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return 100 * (value - low) / (high - low)


def _values(strip: Strip, kinds: Mapping[int | None, int]) -> str:
    parts = []
    for i, segment in enumerate(strip["segments"]):
        parts += [number(segment["start"])] if i else []
        parts.append(f"<b class=c{kinds[segment['id']]}>{escape(visible(segment['piece']))}</b>")
    return " ".join(parts) if len(strip["segments"]) > 1 else f"{parts[0]} all along" if parts else ""


def _text(strips: Sequence[Strip]) -> str:
    rows = [["parameter", "now", "from", "to", "token", ""]]
    for strip in strips:
        name, note = visible(stage_name(strip["parameter"]), spaces=False), visible(strip.get("note", ""), spaces=False)
        for i, segment in enumerate(strip["segments"]):
            first, last = ([name, value_text(strip)], [note]) if i == 0 else (["", ""], [""])
            rows.append([*first, number(segment["start"]), number(segment["end"]), visible(segment["piece"]), *last])
    return text_table(rows)


def _drawing(strips: Sequence[Strip], kinds: Mapping[int | None, int], caption: str) -> Drawing:
    def paint(figure: Any) -> None:
        axes = figure.subplots(max(1, len(strips)), 1, squeeze=False)[:, 0]
        for axis, strip in zip(axes, strips, strict=False):
            ends = [*(_place(strip, segment["start"]) for segment in strip["segments"]), 100.0]
            for segment, (left, right) in zip(strip["segments"], pairwise(ends), strict=True):
                colour = rgb(KINDS[kinds[segment["id"]]])
                axis.barh(0, right - left, left=left, height=1, color=colour, edgecolor="w")
                if right - left > 3:
                    words = {"ha": "center", "va": "center", "color": ink(colour)}
                    axis.text((left + right) / 2, 0, short(visible(segment["piece"]), 12), clip_on=True, **words)
            values = [number(segment["start"]) for segment in strip["segments"][1:]]
            axis.set_xticks(ends[1:-1], values, fontsize="small")
            if strip["value"] is not None:
                axis.axvline(_place(strip, strip["value"]), color="k", lw=2)
            axis.set(xlim=(0, 100), ylim=(-0.5, 0.5), yticks=[])
            name = visible(stage_name(strip["parameter"]), spaces=False)
            axis.set_title(f"{name} {value_text(strip)}", loc="left", fontsize="medium")
        figure.suptitle(short(visible(caption, spaces=False), 90), x=0.01, ha="left", fontsize="medium")

    return Drawing(8.0, 0.5 + 0.7 * max(1, len(strips)), paint)
