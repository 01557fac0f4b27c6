"""Settings: the one frozen object that says how to generate, read from and written to [generation] TOML."""

import dataclasses
import difflib
import math
import re
import secrets
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import tomli_w

from .errors import ConfigError, SamplingError
from .files import atomic_write

Overflow = Literal["crop", "recrop", "stop", "labcore"]
PenaltyScope = Literal["all", "generated", "prompt"]
Dialect = Literal["labkit"]

# What each value must satisfy, in words and as a test; None means "off" for the optional ones.
RANGES: Mapping[str, tuple[str, Any]] = {
    "temperature": ("a number from 0 (0 is greedy)", lambda x: 0 <= x < math.inf),
    "top_k": ("a whole number from 0 (0 is off)", lambda x: x >= 0),
    "top_p": ("above 0 and at most 1 (1 is off)", lambda x: 0 < x <= 1),
    "min_p": ("from 0 (off) to below 1", lambda x: 0 <= x < 1),
    "repetition_penalty": ("above 0 (1 is off)", lambda x: 0 < x < math.inf),
}
# The value that switches a stage off; such a value is stored as None.
OFF: Mapping[str, float] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
INTEGERS = frozenset({"top_k"})

# Keys of a [generation] table that are about the program, not about sampling; LabCore's files have them.
PROGRAM_KEYS = frozenset({"stream", "system_prompt", "max_history_turns", "device", "dtype"})
LABCORE_NAMES = {"use_kv_cache": "use_cache"}
LABCORE_NULL = "__LABCORE_NULL__"


def check_range(name: str, value: Any) -> None:
    """Refuse a sampling value outside its range, with the value, the range and what switches the stage off."""
    words, inside = RANGES[name]
    wrong_type = isinstance(value, bool) or not isinstance(value, int if name in INTEGERS else int | float)
    if wrong_type or math.isnan(value) or not inside(value):
        raise SamplingError(f"{name} is {value!r}; it must be {words}")


def none_if_off(name: str, value: Any) -> Any:
    """None for a value that switches the stage off, so that "off" is one thing."""
    return None if value is not None and value == OFF.get(name) else value


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to generate.

    Attributes:
        temperature: logits are divided by it; 0 is greedy.
        top_k: keep the k largest logits, with all ties at the border; None: all.
        top_p: keep the smallest set of most probable tokens with at least this mass; None: all.
        min_p: keep tokens with at least this share of the largest probability; None: all.
        repetition_penalty: divides positive and multiplies negative logits of tokens seen before; None: off.
        greedy: take the largest logit after all stages instead of drawing.
        seed: of the draw; None is replaced by a fresh one, which is then recorded here.
        max_new_tokens, min_new_tokens: tokens to add; before the minimum, nothing ends generation.
        stop: strings or ids that end it.
        use_cache: keep keys and values instead of recomputing them at every step.
        overflow: which ids are visible once there are more than the context holds (see ``generation``).
        penalty_scope: whether penalties count the prompt, the new tokens, or both ("all").
        deterministic: ask torch for deterministic kernels while generating.
        dialect: whose rules apply; labkit's own.
    """

    temperature: float = 0.8
    top_k: int | None = 40
    top_p: float | None = 0.95
    min_p: float | None = None
    repetition_penalty: float | None = None
    greedy: bool = False
    seed: int | None = 1337
    max_new_tokens: int = 100
    min_new_tokens: int = 0
    stop: tuple[str | int, ...] = ()
    use_cache: bool = True
    overflow: Overflow = "crop"
    penalty_scope: PenaltyScope = "all"
    deterministic: bool = False
    dialect: Dialect = "labkit"

    def __post_init__(self) -> None:
        if self.temperature is None:
            self._set("temperature", 1.0)
        if self.seed is None:
            self._set("seed", secrets.randbits(31))
        stop = (self.stop,) if isinstance(self.stop, str | int) else tuple(self.stop)
        self._set("stop", stop)
        for name in RANGES:
            value = getattr(self, name)
            if value is not None:
                check_range(name, value)
            self._set(name, none_if_off(name, value))
        for name in ("max_new_tokens", "min_new_tokens", "seed"):
            value = getattr(self, name)
            if type(value) is not int or (value < 0 and name != "seed"):
                raise ConfigError(f"{name} is {value!r}; it must be a whole number{' from 0' * (name != 'seed')}")
        for name in ("greedy", "use_cache", "deterministic"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        for name, choices in (("overflow", Overflow), ("penalty_scope", PenaltyScope), ("dialect", Dialect)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(get_args(choices))}"
                )
        if not all(isinstance(s, str | int) and s != "" and not isinstance(s, bool) for s in stop):
            raise ConfigError(f"stop is {self.stop!r}; it must hold non-empty strings or token ids")
        if self.overflow == "labcore" and not self.use_cache:
            raise ConfigError('overflow="labcore" is what LabCore\'s cache does; it needs use_cache=True')

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def replace(self, **changes: Any) -> "Settings":
        """A copy with some fields changed; an unknown name is refused and the nearest one suggested."""
        check_names(changes)
        return dataclasses.replace(self, **changes)

    def sampling(self) -> dict[str, Any]:
        """The fields that ``Sampler.from_settings`` takes."""
        names = (*RANGES, "greedy", "seed", "penalty_scope", "dialect")
        return {name: getattr(self, name) for name in names}

    def changed(self) -> dict[str, Any]:
        """The fields that differ from the defaults, as one would type them."""
        default = Settings()
        return {
            field.name: off_value(field.name, getattr(self, field.name))
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != getattr(default, field.name)
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a stage that is off by its off value, since TOML has no null."""
        return {
            name: list(value) if isinstance(value, tuple) else off_value(name, value)
            for name, value in dataclasses.asdict(self).items()
        }

    def write(self, path: str | Path) -> None:
        """Write a [generation] table that ``Settings.read`` and ``--config`` read."""
        text = tomli_w.dumps({"generation": self.to_dict()})
        atomic_write(Path(path), lambda file: file.write(text.encode()))

    @classmethod
    def read(cls, path: str | Path) -> "Settings":
        """Settings of a TOML file's [generation] table; what it leaves out has labkit's default."""
        return read_config(path)[0]


def off_value(name: str, value: Any) -> Any:
    """The value that says "off" where None does in Python."""
    return OFF[name] if value is None else value


def check_names(changes: Mapping[str, Any]) -> None:
    """Refuse names that are no field of Settings."""
    known = [field.name for field in dataclasses.fields(Settings)]
    for name in changes:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"unknown setting {name!r}; {hint}")


def read_table(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The [generation] table of a file: fields of Settings that it sets, and the program's keys that it sets."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        # LabCore writes `seed = null`, which is no TOML, on a line of its own.
        text = re.sub(r"(?m)^(\s*seed\s*=\s*)null\s*(#.*)?$", rf'\g<1>"{LABCORE_NULL}"', text)
        table = tomllib.loads(text).get("generation", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML ({error})") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [generation] must be a table")
    values: dict[str, Any] = {}
    for key, value in table.items():
        values[LABCORE_NAMES.get(str(key), str(key))] = None if value == LABCORE_NULL else value
    program = {name: values.pop(name) for name in PROGRAM_KEYS & values.keys()}
    try:
        check_names(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return values, program


def read_config(path: str | Path) -> tuple[Settings, dict[str, Any]]:
    """Settings of a file, and the rest of its [generation] table (stream, system_prompt, device …)."""
    values, program = read_table(path)
    try:
        return Settings().replace(**values), program
    except (ConfigError, SamplingError) as error:
        raise type(error)(f"{path}: {error}") from None


def presets() -> dict[str, Path]:
    """Name -> file of the presets in configs/generation/."""
    folder = Path(__file__).parent.parent / "configs" / "generation"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}
