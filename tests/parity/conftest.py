"""The table that ends a parity run: family, case, figure, what was measured, and what is allowed."""

from collections.abc import Callable

import pytest

Measured = Callable[[str, str, str, float, float], None]
_PROPERTY = "parity"


@pytest.fixture
def measured(record_property) -> Measured:
    """``measured(family, case, figure, value, allowed)``: into the table, and an assertion that value <= allowed."""

    def note(family: str, case: str, figure: str, value: float, allowed: float) -> None:
        record_property(_PROPERTY, (family, case, figure, float(value), float(allowed)))
        assert value <= allowed, f"{family} {case}: {figure} is {value:.3g}, allowed are {allowed:.3g}"

    return note


def pytest_terminal_summary(terminalreporter) -> None:
    """Reports carry the figures, so that they arrive from the processes of ``-n`` as well."""
    worst: dict[tuple[str, str, str], tuple[float, float, int]] = {}
    for report in [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]:
        for name, value in report.user_properties if report.when == "call" else ():
            if name == _PROPERTY:
                *key, figure, allowed = value
                before, _, count = worst.get(tuple(key), (0.0, 0.0, 0))
                worst[tuple(key)] = (max(before, figure), allowed, count + 1)
    if not worst:
        return
    missed = {key: found for key, found in worst.items() if found[0] > found[1]}
    terminalreporter.section("parity with the recorded numbers")
    terminalreporter.line(f"{len(worst)} figures, {len(missed)} of them missed; `make parity` shows them all")
    # The whole table only to who asked for this folder; in a run of everything, only what is wrong.
    shown = worst if any("parity" in argument for argument in terminalreporter.config.args) else missed
    widths = [max((len(key[column]) for key in shown), default=0) for column in range(3)]
    for key, (figure, allowed, count) in sorted(shown.items()):
        names = "  ".join(part.ljust(width) for part, width in zip(key, widths, strict=True))
        mark = "" if figure <= allowed else "  FAILED"
        terminalreporter.line(f"{names}  {figure:9.3g}  (allowed {allowed:.3g}, {count} measured){mark}")
