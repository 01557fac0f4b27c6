"""Settings: the one frozen object that says how to generate, read from and written to [generation] TOML.

What a field may be, what it is when left out, and what switches it off depend on the dialect: DIALECTS says so as data.
"""

import dataclasses
import difflib
import math
import re
import secrets
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import tomli_w

from .errors import ConfigError, SamplingError
from .files import atomic_write

Overflow = Literal["crop", "recrop", "stop", "labcore"]
PenaltyScope = Literal["all", "generated", "prompt"]
Dialect = Literal["labkit", "hf", "llama.cpp", "labcore", "swamla", "nanochat", "gpt2seed"]


class Rule(NamedTuple):
    """What a sampling value must satisfy, in words and as a test, and the value that stands for "not used"."""

    words: str
    inside: Callable[[Any], bool]
    off: Any = None
    is_off: Callable[[Any], bool] | None = None

    def unused(self, value: Any) -> bool:
        """Whether the value switches its stage off (for a parameter of a stage: says what is meant anyway)."""
        return self.is_off(value) if self.is_off else self.off is not None and bool(value == self.off)


def finite(x: float) -> bool:
    return math.isfinite(x)


ANY = Rule("a number", lambda x: True)
WHOLE = "a whole number"
LABKIT_RULES: dict[str, Rule] = {
    "temperature": Rule("a number from 0 (0 is greedy)", lambda x: 0 <= x < math.inf),
    "top_k": Rule("a whole number from 0 (0 is off)", lambda x: x >= 0, 0),
    "top_p": Rule("above 0 and at most 1 (1 is off)", lambda x: 0 < x <= 1, 1.0),
    "min_p": Rule("from 0 (off) to below 1", lambda x: 0 <= x < 1, 0.0),
    "repetition_penalty": Rule("above 0 (1 is off)", lambda x: 0 < x < math.inf, 1.0),
    "frequency_penalty": Rule("a finite number (0 is off)", finite, 0.0),
    "presence_penalty": Rule("a finite number (0 is off)", finite, 0.0),
    "dry_multiplier": Rule("from 0 (off)", lambda x: 0 <= x < math.inf, 0.0),
    "dry_base": Rule("a number from 1", lambda x: 1 <= x < math.inf, 1.75),
    "dry_allowed_length": Rule("a whole number from 1", lambda x: x >= 1, 2),
    "no_repeat_ngram_size": Rule("a whole number from 0 (0 is off)", lambda x: x >= 0, 0),
    "logit_bias": Rule("a table of token id -> number", lambda x: True, {}),
    "allowed_ids": Rule("a list of token ids", lambda x: True, ()),
    "forbidden_ids": Rule("a list of token ids", lambda x: True, ()),
    "top_n_sigma": Rule("from 0 (off)", lambda x: 0 <= x < math.inf, 0.0),
    "typical_p": Rule("above 0 and at most 1 (1 is off)", lambda x: 0 < x <= 1, 1.0),
    "epsilon_cutoff": Rule("from 0 (off) to below 1", lambda x: 0 <= x < 1, 0.0),
    "eta_cutoff": Rule("from 0 (off) to below 1", lambda x: 0 <= x < 1, 0.0),
    "xtc_probability": Rule("from 0 (off) to 1", lambda x: 0 <= x <= 1, 0.0),
    "xtc_threshold": Rule("above 0 and at most 1", lambda x: 0 < x <= 1, 0.1),
    "mirostat_tau": Rule("from 0 (off)", lambda x: 0 <= x < math.inf, 0.0),
    "mirostat_eta": Rule("above 0", lambda x: 0 < x < math.inf, 0.1),
}
INTEGERS = frozenset({"top_k", "dry_allowed_length", "no_repeat_ngram_size"})
# The value of labkit that switches a stage off, or that a stage's own parameter has when nothing is said.
OFF: Mapping[str, Any] = {name: rule.off for name, rule in LABKIT_RULES.items() if rule.off is not None}


class DialectRules(NamedTuple):
    """What a system does with its settings.

    Attributes:
        defaults: of its generate command, where they differ from "off" and from labkit's.
        rules: the stages it has, and what it accepts; a stage that is not named here does not exist there.
        stop_at_eos: whether the tokenizer's end of text ends a run, whatever the checkpoint says.
    """

    defaults: Mapping[str, Any]
    rules: Mapping[str, Rule]
    stop_at_eos: bool = False


def at_most_0_is_off(words: str = WHOLE) -> Rule:
    return Rule(f"{words} (0 or below is off)", lambda x: True, 0, lambda x: x <= 0)


ANY_TEMPERATURE = {"temperature": ANY}
DIALECTS: Mapping[Dialect, DialectRules] = {
    "labkit": DialectRules({"top_k": 40, "top_p": 0.95, "seed": 1337}, LABKIT_RULES),
    # transformers 5, generate(do_sample=True) without a generation config of the checkpoint's own.
    "hf": DialectRules(
        {"temperature": 1.0, "top_k": 50, "max_new_tokens": 20, "overflow": "stop"},
        {
            "temperature": Rule("above 0", lambda x: 0 < x < math.inf),
            "top_k": LABKIT_RULES["top_k"],
            "top_p": Rule("from 0 to 1 (1 is off)", lambda x: 0 <= x <= 1, 1.0),
            "min_p": Rule("from 0 (off) to 1", lambda x: 0 <= x <= 1, 0.0),
            "typical_p": Rule("above 0 and below 1 (1 is off)", lambda x: 0 < x <= 1, 1.0),
            **{
                name: LABKIT_RULES[name]
                for name in (
                    "repetition_penalty",
                    "no_repeat_ngram_size",
                    "logit_bias",
                    "forbidden_ids",
                    "epsilon_cutoff",
                    "eta_cutoff",
                )
            },
        },
    ),  # fmt: skip
    "llama.cpp": DialectRules(
        {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "overflow": "stop"},
        {
            "temperature": ANY,
            "top_k": at_most_0_is_off(),
            "top_p": Rule("a number (1 or above is off)", lambda x: True, 1.0, lambda x: x >= 1),
            "min_p": at_most_0_is_off("a number"),
            "repetition_penalty": Rule("a number (1 is off)", lambda x: True, 1.0),
            "frequency_penalty": LABKIT_RULES["frequency_penalty"],
            "presence_penalty": LABKIT_RULES["presence_penalty"],
            "dry_multiplier": LABKIT_RULES["dry_multiplier"],
            "dry_base": LABKIT_RULES["dry_base"],
            "dry_allowed_length": LABKIT_RULES["dry_allowed_length"],
            "logit_bias": LABKIT_RULES["logit_bias"],
            "top_n_sigma": at_most_0_is_off("a number"),
            "typical_p": Rule("a number (1 or above is off)", lambda x: True, 1.0, lambda x: x >= 1),
            "xtc_probability": at_most_0_is_off("a number"),
            "xtc_threshold": Rule("a number (above 0.5 is off)", lambda x: True, 0.1),
            "mirostat_tau": LABKIT_RULES["mirostat_tau"],
            "mirostat_eta": LABKIT_RULES["mirostat_eta"],
        },
    ),
    "labcore": DialectRules(
        {"temperature": 0.9, "top_k": 40, "max_new_tokens": 200, "overflow": "labcore", "penalty_scope": "generated"},
        {
            "temperature": ANY,  # clamped to 1e-6, so 0 is a very cold softmax and not greedy
            "top_k": at_most_0_is_off(),
            "top_p": Rule("above 0 and at most 1 (1 is off)", lambda x: 0 < x <= 1, 1.0),
            "repetition_penalty": Rule("a number (1 is off)", lambda x: True, 1.0),
        },
    ),
    "swamla": DialectRules(
        {
            "top_k": 50,
            "top_p": 0.9,
            "repetition_penalty": 1.1,
            "max_new_tokens": 256,
            "max_length": 2048,
            "use_cache": False,
            "overflow": "recrop",
            "penalty_scope": "generated",
        },
        {
            "temperature": ANY,
            "top_k": at_most_0_is_off(),
            "top_p": Rule("a number (1 or above is off)", lambda x: True, 1.0, lambda x: x >= 1),
            "repetition_penalty": Rule("a number (1 is off)", lambda x: True, 1.0),
        },
    ),  # fmt: skip
    "nanochat": DialectRules(
        {"max_length": 2048, "use_cache": False, "overflow": "stop"},
        {"temperature": ANY, "top_k": at_most_0_is_off()},
    ),
    # It checks nothing; only None switches a stage off (top_p = 1 still drops what rounding puts beyond 1).
    "gpt2seed": DialectRules(
        {
            "top_k": 50,
            "top_p": 0.95,
            "repetition_penalty": 1.2,
            "use_cache": False,
            "overflow": "recrop",
        },
        {
            "temperature": ANY,
            "top_k": Rule(WHOLE, lambda x: True),
            "top_p": ANY,
            "repetition_penalty": Rule("a number (1 is off)", lambda x: True, 1.0),
        },
        stop_at_eos=True,
    ),  # fmt: skip
}

# Keys of a [generation] table that are about the program, not about sampling, and what LabCore demands of them.
PROGRAM_KEYS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "stream": ("true or false", lambda x: isinstance(x, bool)),
    "system_prompt": ("a string", lambda x: isinstance(x, str)),
    "max_history_turns": ("a whole number from 0", lambda x: type(x) is int and x >= 0),
    "device": ("a string", lambda x: isinstance(x, str)),
    "dtype": ("a string", lambda x: isinstance(x, str)),
}
LABCORE_NAMES = {"use_kv_cache": "use_cache"}
LABCORE_NULL = "__LABCORE_NULL__"
OFF_WORD = "off"  # how a value without an off value is switched off in TOML, which has no null


def rule_of(name: str, dialect: str) -> Rule:
    """The rule of a sampling value in a dialect; SamplingError where that system has no such stage."""
    rules = DIALECTS[dialect_named(dialect)].rules
    if name not in rules:
        raise SamplingError(f"{name}: {dialect} has no such stage; it has {', '.join(rules)}")
    return rules[name]


def dialect_named(name: Any) -> Dialect:
    if not isinstance(name, str) or name not in DIALECTS:
        raise ConfigError(f"dialect is {name!r}; it must be one of {', '.join(DIALECTS)}")
    return cast(Dialect, name)


def check_range(name: str, value: Any, dialect: str = "labkit") -> None:
    """Refuse a sampling value outside its range, with the value, the range and what switches the stage off."""
    words, inside, *_ = rule_of(name, dialect)
    if name == "logit_bias":
        wrong = not isinstance(value, Mapping) or not all(
            type(k) is int and k >= 0 and not isinstance(v, bool) and isinstance(v, int | float) and v < math.inf
            for k, v in value.items()
        )
    elif name in ("allowed_ids", "forbidden_ids"):
        wrong = not isinstance(value, tuple | list) or not all(type(x) is int and x >= 0 for x in value)
    else:
        wrong = isinstance(value, bool) or not isinstance(value, int if name in INTEGERS else int | float)
        wrong = wrong or math.isnan(value) or not inside(value)
    if wrong:
        raise SamplingError(f"{name} is {value!r}; it must be {words}")


def stage_value(name: str, value: Any, dialect: str = "labkit") -> Any:
    """The value checked and in its one form; None where it switches the stage off, so that "off" is one thing."""
    if value is None or (isinstance(value, str) and value == OFF_WORD):
        return None
    if name == "logit_bias" and isinstance(value, Mapping):
        value = {int(k) if isinstance(k, str) and k.isdecimal() else k: v for k, v in value.items()}
    elif name in ("allowed_ids", "forbidden_ids") and isinstance(value, list | range):
        value = tuple(value)
    if name not in DIALECTS[dialect_named(dialect)].rules and name in OFF and LABKIT_RULES[name].unused(value):
        return None
    check_range(name, value, dialect)
    return None if rule_of(name, dialect).unused(value) else value


class Omitted:
    """Stands for a field that was left out, which the dialect then fills."""

    def __repr__(self) -> str:
        return "as the dialect has it"


OMITTED: Any = Omitted()
BASE_DEFAULTS: Mapping[str, Any] = {
    "temperature": 0.8, "greedy": False, "seed": None, "max_new_tokens": 100, "max_length": None, "min_new_tokens": 0,
    "stop": (), "use_cache": True, "overflow": "crop", "penalty_scope": "all", "deterministic": False,
}  # fmt: skip


def default_of(name: str, dialect: str) -> Any:
    """What a dialect has for a field that is left out."""
    return DIALECTS[dialect_named(dialect)].defaults.get(name, BASE_DEFAULTS.get(name))


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to generate. A field that is left out is what the dialect has for it.

    Attributes:
        temperature: logits are divided by it; 0 is greedy.
        top_k: keep the k largest logits, with all ties at the border; None: all.
        top_p: keep the smallest set of most probable tokens with at least this mass; None: all.
        min_p: keep tokens with at least this share of the largest probability; None: all.
        repetition_penalty: divides positive and multiplies negative logits of tokens seen before; None: off.
        frequency_penalty, presence_penalty: taken off a logit per occurrence, and once for having occurred.
        dry_multiplier, dry_base, dry_allowed_length: against repeating what followed the same words before.
        no_repeat_ngram_size: no run of so many tokens twice.
        logit_bias: token id -> number added to its logit.
        allowed_ids, forbidden_ids: only these tokens; never these.
        top_n_sigma: keep logits within so many standard deviations of the largest.
        typical_p: keep the tokens whose surprisal is nearest the entropy, up to this mass.
        epsilon_cutoff, eta_cutoff: remove tokens below this probability; below one that falls with the entropy.
        xtc_probability, xtc_threshold: so often, remove all tokens above the threshold but the least of them.
        mirostat_tau, mirostat_eta: keep the surprisal of what is drawn near tau bits; eta is how fast it adapts.
        greedy: take the largest logit after all stages instead of drawing.
        seed: of the draw; None is replaced by a fresh one, which is then recorded here.
        max_new_tokens, min_new_tokens: tokens to add; before the minimum, nothing ends generation.
        stop: strings or ids that end it.
        use_cache: keep keys and values instead of recomputing them at every step.
        overflow: which ids are visible once there are more than the context holds (see ``generation``).
        penalty_scope: whether penalties count the prompt, the new tokens, or both ("all").
        deterministic: ask torch for deterministic kernels while generating.
        dialect: whose rules and defaults apply (see ``sampling.dialects``).
        max_length: prompt and new tokens together; a longer prompt loses its beginning. None or 0: no such limit.
    """

    temperature: float = OMITTED
    top_k: int | None = OMITTED
    top_p: float | None = OMITTED
    min_p: float | None = OMITTED
    repetition_penalty: float | None = OMITTED
    frequency_penalty: float | None = OMITTED
    presence_penalty: float | None = OMITTED
    dry_multiplier: float | None = OMITTED
    dry_base: float | None = OMITTED
    dry_allowed_length: int | None = OMITTED
    no_repeat_ngram_size: int | None = OMITTED
    logit_bias: Mapping[int, float] | None = OMITTED
    allowed_ids: tuple[int, ...] | None = OMITTED
    forbidden_ids: tuple[int, ...] | None = OMITTED
    top_n_sigma: float | None = OMITTED
    typical_p: float | None = OMITTED
    epsilon_cutoff: float | None = OMITTED
    eta_cutoff: float | None = OMITTED
    xtc_probability: float | None = OMITTED
    xtc_threshold: float | None = OMITTED
    mirostat_tau: float | None = OMITTED
    mirostat_eta: float | None = OMITTED
    greedy: bool = OMITTED
    seed: int | None = OMITTED
    max_new_tokens: int = OMITTED
    min_new_tokens: int = OMITTED
    stop: tuple[str | int, ...] = OMITTED
    use_cache: bool = OMITTED
    overflow: Overflow = OMITTED
    penalty_scope: PenaltyScope = OMITTED
    deterministic: bool = OMITTED
    dialect: Dialect = "labkit"
    max_length: int | None = OMITTED

    def __post_init__(self) -> None:
        dialect_named(self.dialect)
        given = [name for name in FIELDS if getattr(self, name) is not OMITTED]
        for name in FIELDS:
            if getattr(self, name) is OMITTED:
                self._set(name, default_of(name, self.dialect))
        # Not a field: another dialect fills in only what nobody chose.
        self._set("_given", frozenset([*given, "seed"]))
        if self.temperature is None:
            self._set("temperature", 1.0)
        if self.seed is None:
            self._set("seed", secrets.randbits(31))
        stop: Any = (self.stop,) if isinstance(self.stop, str | int) else self.stop
        is_list = isinstance(stop, tuple | list)
        if not is_list or not all(isinstance(s, str | int) and s != "" and not isinstance(s, bool) for s in stop):
            raise ConfigError(f"stop is {self.stop!r}; it must hold non-empty strings or token ids")
        self._set("stop", tuple(stop))
        for name in LABKIT_RULES:
            self._set(name, stage_value(name, getattr(self, name), self.dialect))
        for name in ("max_new_tokens", "min_new_tokens", "seed", "max_length"):
            value = getattr(self, name)
            if value is None and name == "max_length":
                continue
            if type(value) is not int or (value < 0 and name != "seed"):
                raise ConfigError(f"{name} is {value!r}; it must be {WHOLE}{' from 0' * (name != 'seed')}")
        self._set("max_length", self.max_length or None)
        for name in ("greedy", "use_cache", "deterministic"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        for name, choices in (("overflow", Overflow), ("penalty_scope", PenaltyScope)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(get_args(choices))}"
                )
        if self.overflow == "labcore" and not self.use_cache:
            if "overflow" in given:
                raise ConfigError('overflow="labcore" is what LabCore\'s cache does; it needs use_cache=True')
            self._set("overflow", "recrop")  # as LabCore does without its cache

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def given(self) -> frozenset[str]:
        """The fields that somebody chose; the others are the dialect's."""
        return self.__dict__["_given"]

    def __hash__(self) -> int:
        values = (getattr(self, name) for name in FIELDS)
        return hash(tuple(frozenset(v.items()) if isinstance(v, Mapping) else v for v in values))

    def replace(self, **changes: Any) -> "Settings":
        """A copy with some fields changed; an unknown name is refused and the nearest one suggested.

        With another dialect, fields that were left out become that dialect's.
        """
        check_names(changes)
        kept = {name: getattr(self, name) for name in self.given}
        return Settings(**{"dialect": self.dialect} | kept | changes)

    def sampling(self) -> dict[str, Any]:
        """What ``Sampler.from_settings`` takes: the stages that are on, and the draw."""
        names = ("greedy", "seed", "penalty_scope", "dialect")
        stages = {name: getattr(self, name) for name in LABKIT_RULES if getattr(self, name) is not None}
        return stages | {name: getattr(self, name) for name in names}

    def changed(self) -> dict[str, Any]:
        """The fields that differ from the dialect's defaults, as one would type them."""
        default = Settings(dialect=self.dialect)
        values = {name: self._off_value(name) for name in FIELDS if getattr(self, name) != getattr(default, name)}
        return values if self.dialect == "labkit" else values | {"dialect": self.dialect}

    def to_dict(self) -> dict[str, Any]:
        """Plain values; a stage that is off by its off value, since TOML has no null."""
        values = {name: self._off_value(name) for name in FIELDS}
        for name, value in values.items():
            if isinstance(value, tuple):
                values[name] = list(value)
            elif isinstance(value, Mapping):
                values[name] = {str(k): v for k, v in value.items()}
        return values | {"max_length": self.max_length or 0, "dialect": self.dialect}

    def _off_value(self, name: str) -> Any:
        value = getattr(self, name)
        if value is not None or name not in LABKIT_RULES:
            return value
        rule = DIALECTS[self.dialect].rules.get(name, LABKIT_RULES[name])
        return OFF_WORD if rule.off is None else rule.off

    def write(self, path: str | Path) -> None:
        """Write a [generation] table that ``Settings.read`` and ``--config`` read."""
        text = tomli_w.dumps({"generation": self.to_dict()})
        atomic_write(Path(path), lambda file: file.write(text.encode()))

    @classmethod
    def read(cls, path: str | Path) -> "Settings":
        """Settings of a TOML file's [generation] table; what it leaves out has the dialect's default."""
        return read_config(path)[0]


FIELDS = tuple(field.name for field in dataclasses.fields(Settings) if field.name != "dialect")


def off_value(name: str, value: Any) -> Any:
    """The value that says "off" where None does in Python."""
    return OFF[name] if value is None else value


def check_names(changes: Mapping[str, Any]) -> None:
    """Refuse names that are no field of Settings."""
    known = [*FIELDS, "dialect"]
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
    program = {name: values.pop(name) for name in PROGRAM_KEYS if name in values}
    for name, value in program.items():
        words, inside = PROGRAM_KEYS[name]
        if not inside(value):
            raise ConfigError(f"{path}: {name} is {value!r}; it must be {words}")
    try:
        check_names(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return values, program


def read_config(path: str | Path, dialect: Dialect | None = None) -> tuple[Settings, dict[str, Any]]:
    """Settings of a file, and the rest of its [generation] table (stream, system_prompt, device …).

    ``dialect`` is whose defaults fill in what the file leaves out, if the file itself names none.
    """
    values, program = read_table(path)
    try:
        return Settings(**({"dialect": dialect} if dialect else {}) | values), program
    except (ConfigError, SamplingError) as error:
        raise type(error)(f"{path}: {error}") from None


def presets() -> dict[str, Path]:
    """Name -> file of the presets in configs/generation/."""
    folder = Path(__file__).parent.parent / "configs" / "generation"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}
