"""What a report of a sweep shows besides the table itself: curves with intervals, and what no other run beats."""

from collections.abc import Sequence

from ..errors import LabkitError
from .results import Results, Row

CONFIDENCE = 0.95
OWN = ("runs", "mean", "low", "high")  # names in the points of a curve
NUMBERS = ("BIGINT", "DOUBLE")


def curve(table: Results, x: str, y: str, by: str | None = None) -> list[Row]:
    """The mean of ``y`` at every value of ``x`` (and of ``by``), over seeds and whatever else varies.

    Returns:
        Rows {by, x, runs, mean, low, high}; low and high are Student's 95 % interval of the mean, None for one run.

    Raises:
        LabkitError: the table has no such column, ``y`` holds no numbers, or x or by is called runs, mean, low or high.
    """
    from scipy.stats import t

    names = [quoted(table, name) for name in (by, x) if name is not None]
    value = quoted(table, y)
    if taken := [name for name in (by, x) if name in OWN]:
        raise LabkitError(f"a curve has {', '.join(OWN)} of its own; give the parameter {taken[0]} another name")
    (kind,) = (row["column_type"] for row in table.sql("DESCRIBE runs") if row["column_name"] == y)
    if kind not in NUMBERS:
        raise LabkitError(f"{table.path.parent}: the column {y} holds no numbers ({kind}), so it has no mean")
    query = f"""SELECT {", ".join(names)}, count({value}) AS runs, avg({value}) AS mean,
        stddev_samp({value}) / sqrt(count({value})) AS error
        FROM runs WHERE {value} IS NOT NULL GROUP BY ALL ORDER BY ALL"""
    rows = []
    for row in table.sql(query):
        error = row.pop("error")
        half = None if error is None else error * float(t.ppf((1 + CONFIDENCE) / 2, row["runs"] - 1))
        rows.append(row | dict.fromkeys(("low", "high")))
        if half is not None:
            rows[-1] |= {"low": row["mean"] - half, "high": row["mean"] + half}
    return rows


def pareto_front(points: Sequence[Row], more: str, less: str) -> list[Row]:
    """The points that no other beats: none has as much of ``more`` and as little of ``less``, and one of them better.

    Args:
        points: rows with numbers in both columns; those with None are left out.

    Returns:
        The front, from the least to the most of ``less``.
    """
    numbers = [point for point in points if point[more] is not None and point[less] is not None]
    front: list[Row] = []
    for point in sorted(numbers, key=lambda point: (point[less], -point[more])):
        if not front or point[more] > front[-1][more]:
            front.append(point)
    return front


def slowest(table: Results, n: int = 5) -> list[Row]:
    """The runs that took longest: seconds, parameters and results, the executed notebook."""
    return table.sql(f"SELECT * FROM runs ORDER BY run_seconds DESC, run_key LIMIT {int(n)}")


def failed(table: Results) -> list[Row]:
    """The runs that failed, with the cell and the reason."""
    return table.sql("SELECT * FROM runs WHERE run_status = 'failed'")


def quoted(table: Results, name: str) -> str:
    """A column's name for a query."""
    if name not in table.columns:
        raise LabkitError(f"{table.path.parent} has no column {name}; it has {', '.join(table.columns)}")
    return '"' + name.replace('"', '""') + '"'


__all__ = ["curve", "failed", "pareto_front", "slowest"]
