"""configs/sweeps/*.toml: which points of the parameter space a sweep visits."""

import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError

Point = dict[str, Any]
TABLES = ("parameters", "sample", "repeats", "exclude", "weights")
STORABLE = "values are finite numbers (whole ones of 64 bits), texts, true or false, and lists and tables of these"
QMC = {"sobol": "Sobol", "halton": "Halton", "latin-hypercube": "LatinHypercube"}
MOST = 1_000_000  # points of a grid; a slip of the keyboard must not fill the memory
DIGITS = 12  # significant ones of a computed value, so that 0.30000000000000004 is 0.3 and keys agree between machines


@dataclass(frozen=True)
class Grid:
    """What a grid file asks for.

    Attributes:
        points: parameter values of each run, in order; no two are equal.
        weights: names of parameters that are checkpoints, besides those called checkpoint or ending so.
    """

    points: tuple[Point, ...]
    weights: tuple[str, ...] = ()


def read_grid(path: str | Path) -> Grid:
    """The points of a grid file: every combination of [parameters], times [sample], times [repeats], less [[exclude]].

    Raises:
        ConfigError: it cannot be read, something in it is unknown or out of range, or no point is left.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not TOML, a number of 5000 digits
        raise ConfigError(f"{path}: cannot be read as TOML ({error})") from None
    try:
        return grid_of(table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def grid_of(table: Mapping[str, Any]) -> Grid:
    """The same for a table that is read already."""
    refuse_unknown(table, TABLES, "the file")
    parts = [
        list(combinations(subtable(table, "parameters"))),
        list(samples(subtable(table, "sample"))),
        list(repeats(subtable(table, "repeats"))),
    ]
    names = [name for part in parts for name in next(iter(part), {})]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{', '.join(sorted(twice))} is set in two tables; keep one")
    excluded = table.get("exclude", [])
    if not isinstance(excluded, list) or not all(isinstance(rule, dict) and rule for rule in excluded):
        raise ConfigError("exclude must be written [[exclude]], each with at least one parameter")
    for rule in excluded:
        refuse_unknown(rule, names, "[[exclude]]")
    refuse_many(math.prod(len(part) for part in parts))
    points = [{k: v for part in parts_of for k, v in part.items()} for parts_of in itertools.product(*parts)]
    kept = [point for point in points if not any(matches(point, rule) for rule in excluded)]
    unique = list({repr(sorted(point.items())): point for point in kept}.values())
    if not names or not unique:
        left = f"all {len(points)} points are excluded" if points and names else "it names no value of any parameter"
        raise ConfigError(f"the grid is empty: {left}")
    for name, value in (item for point in unique for item in point.items() if not storable(item[1])):
        raise ConfigError(f"{name} is {value!r}; {STORABLE}")
    weights = table.get("weights", [])
    if not isinstance(weights, list) or not all(isinstance(name, str) for name in weights):
        raise ConfigError('weights must be a list of names of parameters, such as ["first", "second"]')
    return Grid(tuple(unique), tuple(weights))


def subtable(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = table.get(name, {})
    if not isinstance(found, dict):
        raise ConfigError(f"{name} must be a table, written [{name}]")
    return found


def refuse_unknown(table: Mapping[str, Any], known: tuple[str, ...] | list[str], where: str) -> None:
    if unknown := sorted(set(table) - set(known)):
        raise ConfigError(f"{where} has no {', '.join(unknown)}; known are {', '.join(known)}")


def refuse_many(count: int) -> None:
    if count > MOST:
        raise ConfigError(f"these are {count:,} points; a grid may have {MOST:,}")


def storable(value: Any) -> bool:
    """Whether JSON and Parquet hold a value as it is."""
    match value:
        case bool() | str():
            return True
        case int():
            return -(2**63) <= value < 2**63
        case float():
            return math.isfinite(value)
        case list():
            return all(map(storable, value))
        case dict():
            return all(map(storable, value.values()))
    return False


def combinations(parameters: Mapping[str, Any]) -> Iterator[Point]:
    """Every combination; the last parameter changes fastest."""
    values = {name: values_of(name, given) for name, given in parameters.items()}
    refuse_many(math.prod(map(len, values.values())))
    for combination in itertools.product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def values_of(name: str, given: Any) -> list[Any]:
    """A list as it is, a range or log range counted out, anything else as the one value."""
    if isinstance(given, list):
        return given
    if not isinstance(given, dict):
        return [given]
    refuse_unknown(given, ("from", "to", "steps", "step", "scale"), name)
    low, high, logarithmic = bounds(name, given)
    if ("steps" in given) == ("step" in given) or (logarithmic and "step" in given):
        raise ConfigError(f"{name}: give steps = how many values{', or step = how far apart' * (not logarithmic)}")
    whole = type(low) is type(high) is int
    if "step" in given:
        distance = given["step"]
        number = type(distance) in (int, float) and storable(distance)
        if not number or distance <= 0 or (high - low) / distance > MOST:
            raise ConfigError(f"{name}: step is {distance!r}; it must be above 0, for at most {MOST:,} values")
        if whole and type(distance) is int:
            return list(range(int(low), int(high) + 1, distance))
        shares = [i * distance / ((high - low) or 1) for i in range(math.floor((high - low) / distance + 1e-9) + 1)]
    else:
        steps = given["steps"]
        if type(steps) is not int or not 2 <= steps <= MOST:
            raise ConfigError(f"{name}: steps is {steps!r}; it must be a whole number from 2 to {MOST:,}")
        if whole and not logarithmic and (high - low) % (steps - 1) == 0:
            return list(range(int(low), int(high) + 1, max(int(high - low) // (steps - 1), 1)))
        shares = [i / (steps - 1) for i in range(steps)]
    return list(dict.fromkeys(between(low, high, share, logarithmic, whole and logarithmic) for share in shares))


def bounds(name: str, given: Mapping[str, Any]) -> tuple[float, float, bool]:
    """The two ends of a range, and whether it is logarithmic."""
    ends: list[Any] = [given.get(end) for end in ("from", "to")]
    low, high = (e if type(e) in (int, float) and storable(e) else math.nan for e in ends)
    scale = given.get("scale", "linear")
    if not low <= high:
        raise ConfigError(f"{name}: from is {ends[0]!r} and to is {ends[1]!r}; they must be numbers, from the smaller")
    if scale not in ("linear", "log") or (scale == "log" and low <= 0):
        raise ConfigError(f'{name}: scale is {scale!r}; it must be "linear", or "log" where from is above 0')
    return low, high, scale == "log"


def between(low: float, high: float, share: float, logarithmic: bool, whole: bool) -> int | float:
    """The value at a share (0 … 1) of the way from low to high."""
    value = low * (high / low) ** share if logarithmic else low + (high - low) * share
    return round(value) if whole else float(f"{value:.{DIGITS}g}")


def samples(table: Mapping[str, Any]) -> Iterator[Point]:
    """[sample]: points spread over ranges and lists by a quasi-random sequence of scipy.stats.qmc."""
    if not table:
        yield {}
        return
    refuse_unknown(table, ("count", "method", "seed", "parameters"), "[sample]")
    count, method, seed = table.get("count"), table.get("method", "sobol"), table.get("seed", 0)
    if type(count) is not int or not 1 <= count <= MOST or type(seed) is not int or seed < 0:
        allowed = f"count from 1 to {MOST:,}, seed from 0"
        raise ConfigError(f"[sample]: count is {count!r} and seed {seed!r}; whole numbers, {allowed}")
    if str(method) not in QMC:
        raise ConfigError(f"[sample]: method is {method!r}; it must be one of {', '.join(QMC)}")
    dimensions = subtable(table, "parameters")
    if not dimensions:
        raise ConfigError("[sample] needs [sample.parameters] with ranges or lists to draw from")
    from scipy.stats import qmc

    sequence = getattr(qmc, QMC[method])(len(dimensions), seed=seed)
    if method == "sobol":  # it comes in powers of two and warns of any other number
        shares = sequence.random_base2(max(count - 1, 0).bit_length())[:count]
    else:
        shares = sequence.random(count)
    for row in shares.tolist():
        yield {name: drawn(name, given, share) for (name, given), share in zip(dimensions.items(), row, strict=True)}


def drawn(name: str, given: Any, share: float) -> Any:
    """What a share (0 ≤ share < 1) of a range or list means."""
    if isinstance(given, list) and given:
        return given[int(share * len(given))]
    if not isinstance(given, dict):
        raise ConfigError(f"[sample.parameters] {name} is {given!r}; it must be a range (from, to) or a list")
    refuse_unknown(given, ("from", "to", "scale"), name)
    low, high, logarithmic = bounds(name, given)
    if type(given["from"]) is type(given["to"]) is int:  # every whole number has an equal share (of the log, there)
        low, high = low - 0.5, high + 0.5
        return min(max(between(low, high, share, logarithmic, whole=True), given["from"]), given["to"])
    return between(low, high, share, logarithmic, whole=False)


def repeats(table: Mapping[str, Any]) -> Iterator[Point]:
    """[repeats]: every point again with the next seed."""
    refuse_unknown(table, ("count", "seed", "parameter"), "[repeats]")
    if not table:
        yield {}
        return
    count, seed, name = table.get("count"), table.get("seed", 0), table.get("parameter", "seed")
    if type(count) is not int or not 1 <= count <= MOST or type(seed) is not int or not isinstance(name, str):
        allowed = f"they must be whole numbers, count from 1 to {MOST:,}, and parameter a name"
        raise ConfigError(f"[repeats]: count is {count!r} and seed {seed!r}; {allowed}")
    for i in range(count):
        yield {name: seed + i}


def matches(point: Point, rule: Mapping[str, Any]) -> bool:
    """Whether all parameters of an [[exclude]] rule have the value, one of the list, or one within the range."""
    return all(_is(point[name], wanted) for name, wanted in rule.items())


def _is(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        refuse_unknown(wanted, ("from", "to"), "a range of [[exclude]]")
        try:
            return wanted.get("from", value) <= value <= wanted.get("to", value)
        except TypeError:
            raise ConfigError(f"[[exclude]]: {value!r} cannot be compared with the range {wanted}") from None
    return value in wanted if isinstance(wanted, list) else value == wanted
