"""The colour scale: ten steps from calm (the page itself) to striking, in the light and in the dark theme.

From pale yellow over green to blue, as ColorBrewer's YlGnBu: its lightness falls all the way, so it reads the same to
every kind of colour vision and in grey. In the dark theme it runs the other way, so that in both what is
surprising stands out from the page.
"""

LEVELS = 10
ANCHORS = ("#ffffe0", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494", "#081d58")

Colour = tuple[float, float, float]


def scale(position: float) -> Colour:
    """0 (pale) … 1 (dark) -> red, green, blue in 0 … 1."""
    place = min(max(position, 0.0), 1.0) * (len(ANCHORS) - 1)
    i = min(int(place), len(ANCHORS) - 2)
    low, high = rgb(ANCHORS[i]), rgb(ANCHORS[i + 1])
    red, green, blue = (a + (place - i) * (b - a) for a, b in zip(low, high, strict=True))
    return red, green, blue


def luminance(colour: Colour) -> float:
    """Relative luminance (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: Colour, b: Colour) -> float:
    """Contrast ratio (WCAG 2): 1 … 21; text needs 4.5."""
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def ink(background: Colour) -> Colour:
    """Black or white, whichever reads better."""
    return max(((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), key=lambda text: contrast(text, background))


def level_colours(dark: bool) -> list[Colour]:
    """Backgrounds of the levels; level 0 is the page's own."""
    # Not to the dark end of the scale: whole words of night blue are tiring to read.
    steps = [0.74 * level / (LEVELS - 1) for level in range(LEVELS)]
    return [scale(0.9 - step) if dark else scale(step) for step in steps]


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{round(255 * c):02x}" for c in colour)


def _variables(dark: bool) -> str:
    colours = level_colours(dark)
    return ";".join(f"--k{i}:{_hex(c)};--i{i}:{_hex(ink(c))}" for i, c in enumerate(colours) if i)


def palette(n: int) -> list[Colour]:
    """n colours for pictures on a light page: white, then the scale without its darkest end."""
    return [(1.0, 1.0, 1.0), *(scale(0.14 + 0.76 * i / (n - 2)) for i in range(n - 1))]


# For things that have no order (which token), eight colours that every kind of colour vision tells apart (Okabe and Ito
# 2008), the same in both themes; what they stand for is always written beside them.
KINDS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")


def rgb(hexadecimal: str) -> Colour:
    """#rrggbb -> red, green, blue in 0 … 1."""
    red, green, blue = (int(hexadecimal[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


# A picture has the colours of the light theme; this turns light into dark and leaves the hues.
FLIP = "invert(1) hue-rotate(180deg) brightness(1.6)"

# JupyterLab and nbconvert say which theme is on; VS Code has a class for it.
DARK = '[data-jp-theme-light="false"] .lk,.vscode-dark .lk'
# A page that stands alone follows the reader's system.
DARK_PAGE = f"@media (prefers-color-scheme:dark){{.lk.lk{{{_variables(dark=True)};--flip:{FLIP}}}}}"
THEME = f".lk{{{_variables(dark=False)}}}{DARK}{{{_variables(dark=True)};--flip:{FLIP}}}" + "".join(
    f".k{i}{{background:var(--k{i});color:var(--i{i})}}" for i in range(1, LEVELS)
)
KIND_COLOURS = "".join(f".c{i}{{background:{colour};color:{_hex(ink(rgb(colour)))}}}" for i, colour in enumerate(KINDS))
KIND_LINES = "".join(f".s{i}{{stroke:{c};fill:{c}}}.lk svg .f{i}{{fill:{c}}}" for i, c in enumerate(KINDS))
