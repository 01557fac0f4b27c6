"""What runs report, and the table that a sweep's results make: one Parquet file, asked with DuckDB."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import LabkitError
from ..files import atomic_write
from .folder import SweepFolder
from .plan import COLUMNS

VARIABLE = "LABKIT_RESULTS"  # names the file for write_results; set by a sweep and by the papermill engine
TABLE = "results.parquet"
REPOSITORY = Path(__file__).parents[2]
Row = dict[str, Any]


def write_results(rows: Mapping[str, Any] | Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """Write what a notebook has measured, as JSON: a list of flat rows. A second call replaces the first.

    Args:
        rows: one row or several: names -> numbers, strings, truth values, None, or lists of these.
        path: where to, in a run by hand; in a sweep LABKIT_RESULTS names the file instead.

    Raises:
        LabkitError: no rows, a name that the table needs itself, or a value that JSON cannot hold (a tensor, NaN).
    """
    try:
        listed = [dict(rows)] if isinstance(rows, Mapping) else [dict(row) for row in rows]
    except (TypeError, ValueError):
        raise LabkitError(f"write_results: {rows!r} is neither a dictionary nor a list of them") from None
    for row in listed:
        for name, value in row.items():
            if name in COLUMNS:
                raise LabkitError(f"write_results: the table has a column {name} of its own; take another name")
            if isinstance(value, float) and not math.isfinite(value):
                raise LabkitError(f"write_results: {name} is {value}; leave it out, or write None")
    try:
        text = json.dumps(listed, ensure_ascii=False, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LabkitError(f"write_results: {error}; give plain numbers, such as tensor.item()") from None
    atomic_write(Path(os.environ.get(VARIABLE) or path), lambda file: file.write(text.encode()))


def results(folder: str | Path) -> "Results":
    """The table of a sweep, such as "runs/temperature", also while it runs; of a folder as seen from here, or from the
    repository.

    Raises:
        LabkitError: there is no sweep in this folder, or DuckDB is not installed.
    """
    there = Path(folder).expanduser()
    sweep = SweepFolder(there if there.exists() else REPOSITORY / there)
    table = sweep.path / TABLE
    if not sweep.plan_file.is_file():
        raise LabkitError(f"{folder}: there is no sweep in this folder; `labkit sweep` makes one")
    if sweep.records.is_dir():  # a table alone is as good as its records, and all that need be passed on
        changed = max(path.stat().st_mtime_ns for path in (sweep.plan_file, sweep.records))
        if not table.is_file() or table.stat().st_mtime_ns < changed:
            with sweep.writing():
                write_table(rows_of(sweep), table)
                os.utime(table, ns=(changed, changed))  # a record that came while it was written makes it old at once
    return Results(table)


class Results:
    """A sweep's table; one row for every row that a run reported, at least one for each run.

    Columns: run_key, run_status ("done", "failed"), run_seconds, run_error, run_notebook (the executed notebook, below
    the sweep's folder), the parameters, and what the notebooks reported.
    """

    def __init__(self, path: Path):
        self.path = path

    def __repr__(self) -> str:
        (count,) = self.sql("SELECT count(*) AS rows, count(DISTINCT run_key) AS runs FROM runs")
        return f"Results({count['runs']} runs, {count['rows']} rows, {len(self.columns)} columns)"

    @property
    def columns(self) -> list[str]:
        return [row["column_name"] for row in self.sql("DESCRIBE runs")]

    def rows(self) -> list[Row]:
        """Everything, in the order of the plan."""
        return self.sql("SELECT * FROM runs")

    def sql(self, query: str) -> list[Row]:
        """The rows of a query to the table ``runs``: "SELECT temperature, avg(loss) AS loss FROM runs GROUP BY 1".

        Raises:
            LabkitError: what DuckDB says of the query.
        """
        answer = self._ask(query)
        decode = [str(kind) == "JSON" for kind in answer.types]
        return [
            {
                name: json.loads(value) if coded and value is not None else value
                for name, value, coded in zip(answer.columns, values, decode, strict=True)
            }
            for values in answer.fetchall()
        ]

    def to_pandas(self) -> Any:
        """The table as a pandas DataFrame (pandas must be installed)."""
        return self._ask("SELECT * FROM runs").df()

    def to_arrow(self) -> Any:
        """The table as a pyarrow Table (pyarrow must be installed)."""
        return self._ask("SELECT * FROM runs").arrow()

    def _ask(self, query: str) -> Any:
        duckdb = import_duckdb()
        connection = duckdb.connect()
        try:
            connection.read_parquet(str(self.path)).create_view("runs")
        except duckdb.Error as error:
            raise LabkitError(f"{self.path}: damaged ({error}); delete it, it is made again") from None
        try:
            return connection.sql(query)
        except duckdb.Error as error:
            raise LabkitError(f"{self.path.parent}: {error}") from None


def rows_of(sweep: SweepFolder) -> list[Row]:
    """One row for each reported row, in the order of the plan; runs that are not done yet have none."""
    records, rows = sweep.read_records(), []
    for key in sweep.planned_keys():
        record = records.get(key)
        if record is None:
            continue
        own = {column: record[column.removeprefix("run_")] for column in COLUMNS}
        rows += [own | record["parameters"] | row for row in record["results"] or [{}]]
    return rows


def write_table(rows: list[Row], path: Path) -> None:
    """Rows as a Parquet file; a column that rows lack is empty. To DuckDB n and N are one: the later becomes N_."""
    duckdb = import_duckdb()
    kinds = dict.fromkeys(COLUMNS, "VARCHAR") | {"run_seconds": "DOUBLE"}
    for row in rows:
        for name, value in row.items():
            kinds[name] = common_kind(kinds.get(name), kind_of(value))
    names: dict[str, str] = {}
    for name in kinds:
        column = name or "_"
        while column.lower() in map(str.lower, names.values()):
            column += "_"
        names[name] = column
    columns = {names[name]: kind or "VARCHAR" for name, kind in kinds.items()}
    lines = "".join(f"{json.dumps({names[name]: value for name, value in row.items()})}\n" for row in rows)

    def write(file: Any) -> None:
        source = Path(f"{file.name}.ndjson.part")
        try:
            source.write_text(lines, encoding="utf-8")
            table = duckdb.read_json(str(source), format="newline_delimited", columns=columns)
            table.write_parquet(file.name)
        finally:
            source.unlink(missing_ok=True)

    atomic_write(path, write)


def kind_of(value: Any) -> str:
    """The DuckDB type of a plain value; "" for None, which goes with any."""
    if value is None:
        return ""
    if isinstance(value, list):
        inner = ""
        for entry in value:
            inner = common_kind(inner, kind_of(entry))
        return f"{inner or 'VARCHAR'}[]" if inner != "JSON" else "JSON"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return "JSON"  # DOUBLE would round it
    return {bool: "BOOLEAN", int: "BIGINT", float: "DOUBLE", str: "VARCHAR"}.get(type(value), "JSON")


def common_kind(a: str | None, b: str) -> str:
    """The type of a column that holds both."""
    if not a or not b or a == b:
        return a or b
    return "DOUBLE" if {a, b} == {"BIGINT", "DOUBLE"} else "JSON"


def import_duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise LabkitError('the table of a sweep needs DuckDB: pip install "labkit[sweep]"') from None
    return duckdb
