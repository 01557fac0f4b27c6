"""Settings: defaults, ranges, one meaning of "off", and the TOML they come from and go to."""

import dataclasses
import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from recorded import fixtures_root, read_json

import labkit
from labkit.errors import ConfigError, LabkitError, SamplingError
from labkit.settings import presets, read_config

NAMES = [field.name for field in dataclasses.fields(labkit.Settings)]


def write_toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


# --- the object


def test_the_defaults_are_those_of_the_contract():
    s = labkit.Settings()
    assert (s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty) == (0.8, 40, 0.95, None, None)
    assert (s.greedy, s.seed, s.max_new_tokens, s.min_new_tokens, s.stop) == (False, 1337, 100, 0, ())
    assert (s.use_cache, s.overflow, s.penalty_scope) == (True, "crop", "all")
    assert (s.deterministic, s.dialect) == (False, "labkit")


def test_it_is_frozen_hashable_and_compared_by_value():
    s = labkit.Settings(top_k=3, stop=["a", 5])
    with pytest.raises(dataclasses.FrozenInstanceError):
        s.top_k = 4
    assert s == labkit.Settings(top_k=3, stop=("a", 5)) and hash(s) == hash(labkit.Settings(top_k=3, stop=("a", 5)))


@pytest.mark.parametrize(
    ("name", "off"), [("top_k", 0), ("top_p", 1.0), ("top_p", 1), ("min_p", 0), ("repetition_penalty", 1.0)]
)
def test_none_and_the_value_that_means_off_are_one_thing(name, off):
    a, b = labkit.Settings(**{name: None}), labkit.Settings(**{name: off})
    assert a == b and hash(a) == hash(b) and getattr(b, name) is None
    assert a.to_dict()[name] == off


def test_replace_changes_some_fields_and_checks_them():
    s = labkit.Settings(top_k=7).replace(temperature=0.3, stop="x")
    assert (s.top_k, s.temperature, s.stop) == (7, 0.3, ("x",))
    assert labkit.Settings(top_k=7).top_k == 7
    with pytest.raises(SamplingError, match="top_p is 2"):
        s.replace(top_p=2)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("temprature", "temperature"), ("topk", "top_k"), ("max_tokens", "max_new_tokens"), ("Seed", "seed"),
     ("repetition_penality", "repetition_penalty"), ("use_kv_cache", "use_cache")],
)  # fmt: skip
def test_of_an_unknown_name_the_nearest_is_suggested(typed, meant):
    with pytest.raises(ConfigError, match=f"unknown setting '{typed}'; did you mean {meant}"):
        labkit.Settings().replace(**{typed: 1})


def test_of_a_name_that_is_near_to_none_all_are_listed():
    with pytest.raises(ConfigError, match="known are temperature, .*dialect"):
        labkit.Settings().replace(zzz=1)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("temperature", -0.5, "from 0"), ("temperature", math.nan, "from 0"), ("temperature", math.inf, "from 0"),
        ("temperature", "warm", "from 0"), ("top_k", -1, "from 0"), ("top_k", 2.0, "whole number"),
        ("top_k", True, "whole number"), ("top_p", 0, "above 0"), ("top_p", 1.5, "at most 1"), ("min_p", 1, "below 1"),
        ("min_p", -0.1, "from 0"), ("repetition_penalty", 0, "above 0"), ("repetition_penalty", -2, "above 0"),
        ("max_new_tokens", -1, "whole number from 0"), ("max_new_tokens", 1.5, "whole number"),
        ("max_new_tokens", True, "whole number"), ("min_new_tokens", -3, "whole number from 0"),
        ("seed", 1.5, "whole number"), ("seed", "abc", "whole number"), ("greedy", 1, "true or false"),
        ("use_cache", "yes", "true or false"), ("deterministic", None, "true or false"),
        ("overflow", "slide", "crop, recrop, stop, labcore"), ("penalty_scope", "none", "all, generated, prompt"),
        ("dialect", "klingon", "labkit"), ("stop", ("",), "non-empty"), ("stop", (1.5,), "strings or token ids"),
        ("stop", (True,), "strings or token ids"), ("stop", "", "non-empty"), ("stop", None, "non-empty"),
        ("stop", 1.5, "non-empty"), ("dialect", [], "labkit"), ("dialect", None, "labkit"),
    ],
)  # fmt: skip
def test_a_value_outside_its_range_is_refused_with_name_value_and_range(name, value, words):
    with pytest.raises(LabkitError, match=f"^{name} is .*must .*{words}") as refused:
        labkit.Settings(**{name: value})
    assert "\n" not in str(refused.value)
    if name != "stop":
        assert repr(value) in str(refused.value)


def test_stop_may_be_one_thing_or_several():
    assert labkit.Settings(stop="\n").stop == ("\n",)
    assert labkit.Settings(stop=17).stop == (17,)
    assert labkit.Settings(stop=["a", 3]).stop == ("a", 3)


def test_labcores_overflow_needs_its_cache():
    with pytest.raises(ConfigError, match="use_cache=True"):
        labkit.Settings(overflow="labcore", use_cache=False)


def test_a_seed_of_none_is_replaced_by_a_fresh_one_that_is_recorded():
    seeds = {labkit.Settings(seed=None).seed for _ in range(20)}
    assert len(seeds) > 15 and all(type(seed) is int and seed >= 0 for seed in seeds)


def test_changed_names_what_differs_from_the_defaults_as_one_would_type_it():
    assert labkit.Settings().changed() == {}
    assert labkit.Settings(top_k=None, temperature=0.1).changed() == {"temperature": 0.1, "top_k": 0}
    assert labkit.Settings(**labkit.Settings(top_p=None, stop=("x",)).changed()) == labkit.Settings(
        top_p=None, stop=("x",)
    )


def test_a_sampler_can_be_made_from_the_sampling_part():
    s = labkit.Settings(min_p=0.1, seed=5, penalty_scope="prompt", repetition_penalty=1.2)
    sampler = labkit.Sampler.from_settings(**s.sampling())
    assert [stage.name for stage in sampler.stages] == ["repetition_penalty", "temperature", "top_k", "top_p", "min_p"]
    assert sampler.stages[0].scope == "prompt" and sampler.draw.seed == 5


# --- TOML

ANY_SETTINGS = st.builds(
    labkit.Settings,
    temperature=st.floats(0, 10),
    top_k=st.none() | st.integers(0, 10**6),
    top_p=st.none() | st.floats(1e-9, 1),
    min_p=st.none() | st.floats(0, 0.999),
    repetition_penalty=st.none() | st.floats(0.01, 10),
    greedy=st.booleans(),
    seed=st.none() | st.integers(-(2**40), 2**62),
    max_new_tokens=st.integers(0, 10**6),
    min_new_tokens=st.integers(0, 100),
    stop=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6) | st.integers(0, 60000), max_size=4),
    overflow=st.sampled_from(["crop", "recrop", "stop", "labcore"]),
    penalty_scope=st.sampled_from(["all", "generated", "prompt"]),
    deterministic=st.booleans(),
)


@hypothesis_settings(max_examples=25)
@given(settings=ANY_SETTINGS)
def test_what_is_written_is_read_back(settings, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "round_trip.toml"
    settings.write(path)
    assert labkit.Settings.read(path) == settings
    table = tomllib.loads(path.read_text(encoding="utf-8"))["generation"]
    assert set(table) == set(NAMES)


def test_off_is_written_as_its_off_value_because_toml_has_no_null(tmp_path):
    path = tmp_path / "off.toml"
    labkit.Settings(top_k=None, top_p=None).write(path)
    table = tomllib.loads(path.read_text())["generation"]
    assert (table["top_k"], table["top_p"], table["min_p"], table["repetition_penalty"]) == (0, 1.0, 0.0, 1.0)


def test_what_a_file_leaves_out_has_labkits_default(tmp_path):
    assert labkit.Settings.read(write_toml(tmp_path, "")) == labkit.Settings()
    assert labkit.Settings.read(write_toml(tmp_path, "[generation]\ntop_k = 3\n")) == labkit.Settings(top_k=3)
    assert labkit.Settings.read(write_toml(tmp_path, "[model]\nn_layer = 3\n")) == labkit.Settings()


def test_labcores_keys_are_understood(tmp_path):
    text = """
        [general]
        seed = null        # LabCore allows this
        [generation]
        use_kv_cache = false
        seed = null
        top_k = "__LABCORE_NULL__"
        stream = true
        system_prompt = "Be brief."
        max_history_turns = 6
        device = "cpu"
        dtype = "float32"
        """
    settings, rest = read_config(write_toml(tmp_path, text))
    assert settings.use_cache is False and settings.top_k is None
    assert type(settings.seed) is int
    assert rest == {
        "stream": True, "system_prompt": "Be brief.", "max_history_turns": 6, "device": "cpu", "dtype": "float32",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("[generation]\ntemprature = 1\n", "unknown setting 'temprature'; did you mean temperature"),
        ("[generation]\ntop_k = null\n", "cannot be read as TOML"),
        ("[generation\n", "cannot be read as TOML"),
        ("generation = 3\n", "must be a table"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_the_cause(tmp_path, text, cause):
    path = write_toml(tmp_path, text)
    with pytest.raises(ConfigError, match=cause) as refused:
        labkit.Settings.read(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_bad_value_in_a_file_is_refused_and_the_file_is_named(tmp_path):
    path = write_toml(tmp_path, "[generation]\ntop_p = 7.0\n")
    with pytest.raises(LabkitError, match=r"top_p is 7\.0") as refused:
        labkit.Settings.read(path)
    assert str(path) in str(refused.value)


def test_a_file_that_is_absent_or_no_text_is_refused(tmp_path):
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("absent.toml", "bytes.toml"):
        with pytest.raises(ConfigError, match=f"{name}: cannot be read as TOML"):
            labkit.Settings.read(tmp_path / name)


# --- LabCore's own files, and the presets

LOADED = read_json("labcore", "config_loader", "expected.json")["cases"]
RECORDS = {record["file"]: record["result"] for record in LOADED}
SHARED = ("temperature", "top_k", "top_p", "repetition_penalty", "max_new_tokens", "deterministic")


@pytest.mark.parametrize("name", sorted(name for name, result in RECORDS.items() if result["ok"]))
def test_a_file_that_labcore_reads_means_the_same_here(name):
    path = fixtures_root() / "labcore" / "config_loader" / name
    if name.startswith("11_"):  # LabCore looks at no value; labkit does
        with pytest.raises(SamplingError, match="temperature is -4"):
            labkit.Settings.read(path)
        return
    settings, recorded = labkit.Settings.read(path), RECORDS[name]["value"]["generation"]
    written = tomllib.loads(path.read_text().replace("seed = null", "")).get("generation", {})
    for key in SHARED:
        if key in written:
            assert getattr(settings, key) == recorded[key]
    if "seed" in written:
        assert settings.seed == recorded["seed"]
    assert settings.use_cache == recorded["use_kv_cache"]


@pytest.mark.parametrize("name", ["04_seed_bool.toml", "05_kv_int.toml"])
def test_a_generation_value_that_labcore_refuses_is_refused_here(name):
    assert not RECORDS[name]["ok"]
    with pytest.raises(LabkitError, match="seed is True|use_cache is 1"):
        labkit.Settings.read(fixtures_root() / "labcore" / "config_loader" / name)


def test_every_preset_loads_and_says_what_it_is_for():
    found = presets()
    assert {"debug", "creative", "precise", "quality", "speed", "small-gpu"} <= set(found)
    for name, path in found.items():
        settings, rest = read_config(path)
        assert isinstance(settings, labkit.Settings), name
        assert set(rest) <= {"stream", "system_prompt", "max_history_turns", "device", "dtype"}
        assert path.read_text(encoding="utf-8").startswith("#"), f"{name} does not say where its numbers come from"
        assert set(tomllib.loads(path.read_text(encoding="utf-8"))) == {"generation"}


def test_greedy_presets_are_greedy_and_debug_is_short():
    settings = {name: labkit.Settings.read(path) for name, path in presets().items()}
    assert settings["arithmetic-greedy"].temperature == 0
    assert len({repr(s) for s in settings.values()}) > len(settings) // 2


# --- dialects: what a system has for a field that is left out, and what it accepts

DEFAULTS = {
    "labkit": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": 1337, "max_new_tokens": 100, "overflow": "crop"},
    "hf": {"temperature": 1.0, "top_k": 50, "top_p": None, "max_new_tokens": 20, "penalty_scope": "all"},
    "llama.cpp": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repetition_penalty": None},
    "labcore": {"temperature": 0.9, "top_k": 40, "top_p": None, "max_new_tokens": 200, "overflow": "labcore",
                "penalty_scope": "generated"},
    "swamla": {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1, "max_new_tokens": 256,
               "max_length": 2048, "use_cache": False, "overflow": "recrop", "penalty_scope": "generated"},
    "nanochat": {"temperature": 0.8, "top_k": None, "top_p": None, "max_new_tokens": 100, "max_length": 2048},
    "gpt2seed": {"temperature": 0.8, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.2, "max_new_tokens": 100,
                 "penalty_scope": "all", "overflow": "recrop"},
}  # fmt: skip


@pytest.mark.parametrize("dialect", DEFAULTS)
def test_what_is_left_out_is_what_the_systems_own_command_has(dialect):
    s = labkit.Settings(dialect=dialect)
    assert {name: getattr(s, name) for name in DEFAULTS[dialect]} == DEFAULTS[dialect]
    assert labkit.Settings(dialect=dialect, temperature=0.3).temperature == 0.3


def test_another_dialect_fills_in_only_what_nobody_chose():
    s = labkit.Settings(temperature=0.5, seed=3).replace(dialect="swamla")
    assert (s.temperature, s.top_k, s.top_p, s.repetition_penalty, s.seed) == (0.5, 50, 0.9, 1.1, 3)
    assert s.replace(top_k=None).replace(dialect="labcore").top_k is None
    assert labkit.Settings().replace(dialect="labcore").replace(dialect="labkit", seed=1337) == labkit.Settings()


def test_labcore_without_its_cache_sees_the_last_ids_as_the_original_does():
    assert labkit.Settings(dialect="labcore", use_cache=False).overflow == "recrop"


@pytest.mark.parametrize(
    ("dialect", "accepted"),
    [
        ("labcore", {"temperature": 0, "top_k": -5}), ("labcore", {"temperature": -1.0, "repetition_penalty": 0.0}),
        ("swamla", {"temperature": -3.0, "top_k": -2, "top_p": -0.1}), ("swamla", {"top_p": 1.5}),
        ("nanochat", {"temperature": -1, "top_k": -1}), ("gpt2seed", {"temperature": 0, "top_k": -3, "top_p": 7.0}),
        ("gpt2seed", {"repetition_penalty": -2.0, "top_p": 1.0}), ("llama.cpp", {"temperature": -1, "min_p": 0}),
        ("hf", {"top_p": 0.0, "min_p": 1.0}),
    ],
)  # fmt: skip
def test_a_dialect_accepts_what_the_original_accepts(dialect, accepted):
    labkit.Settings(dialect=dialect, **accepted)


@pytest.mark.parametrize(
    ("dialect", "refused", "words"),
    [
        ("labcore", {"top_p": 0.0}, "top_p is 0.0; it must be above 0"), ("hf", {"temperature": 0}, "above 0"),
        ("hf", {"top_k": -1}, "from 0"), ("labcore", {"min_p": 0.1}, "labcore has no such stage; it has temperature"),
        ("nanochat", {"top_p": 0.9}, "nanochat has no such stage"), ("gpt2seed", {"temperature": math.nan}, "a number"),
        ("swamla", {"top_k": "5"}, "whole number"),
    ],
)  # fmt: skip
def test_a_dialect_refuses_what_the_original_refuses_or_does_not_have(dialect, refused, words):
    with pytest.raises(SamplingError, match=words):
        labkit.Settings(dialect=dialect, **refused)
    with pytest.raises(SamplingError, match=words):
        labkit.Sampler.from_settings(dialect=dialect, **refused)


def test_a_stage_that_a_system_lacks_may_be_named_as_off():
    assert labkit.Settings(dialect="nanochat", top_p=1.0, min_p=0.0, logit_bias={}).top_p is None


@pytest.mark.parametrize("dialect", DEFAULTS)
def test_settings_of_every_dialect_are_written_and_read_back(dialect, tmp_path):
    every = labkit.Settings(dialect=dialect, top_k=None, seed=5)
    every.write(tmp_path / "s.toml")
    assert labkit.Settings.read(tmp_path / "s.toml") == every and hash(every) == hash(every.replace())


def test_biases_and_lists_are_written_and_read_back(tmp_path):
    s = labkit.Settings(logit_bias={3: -1.5, 50256: float("-inf")}, allowed_ids=[1, 2, 3], forbidden_ids=(2,))
    s.write(tmp_path / "s.toml")
    assert labkit.Settings.read(tmp_path / "s.toml") == s and s.allowed_ids == (1, 2, 3)
    assert hash(s) == hash(labkit.Settings.read(tmp_path / "s.toml"))


@pytest.mark.parametrize(
    "bad", [{"logit_bias": {-1: 1.0}}, {"logit_bias": {1: math.nan}}, {"logit_bias": {1: math.inf}},
            {"logit_bias": [1]}, {"allowed_ids": [1.5]}, {"forbidden_ids": "abc"}, {"allowed_ids": [-2]}]
)  # fmt: skip
def test_a_broken_bias_or_list_is_refused(bad):
    with pytest.raises(SamplingError, match=f"^{next(iter(bad))} is .*must be"):
        labkit.Settings(**bad)


@pytest.mark.parametrize(
    ("line", "words"),
    [('system_prompt = 3', "system_prompt is 3; it must be a string"), ("stream = 1", "stream is 1; it must be true"),
     ("max_history_turns = true", "whole number from 0"), ("max_history_turns = -1", "whole number from 0")],
)  # fmt: skip
def test_a_programs_key_of_the_wrong_kind_is_refused(line, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        read_config(write_toml(tmp_path, f"[generation]\n{line}\n"))
