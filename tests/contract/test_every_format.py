"""What holds for every reader in READERS: the same logits back, strictness in both directions, and nothing runs."""

import importlib
import itertools
import json
import math
import os
import pickle
import time
from pathlib import Path

import native_files
import pytest
import tiny
import torch
from native_files import ELSEWHERE, NATIVE, Native, Tensors

import labkit
from labkit.checkpoints import READERS, ModelFile, labcore, labkit_format, nanochat
from labkit.errors import CheckpointError, LabkitError

every_format = pytest.mark.parametrize("reader", NATIVE, ids=lambda reader: reader.__name__.rsplit(".", 1)[-1])
PICKLED = [reader for reader in NATIVE if reader.__name__.rsplit(".", 1)[-1] not in ("labkit_format", "huggingface")]
every_pickled_format = pytest.mark.parametrize("reader", PICKLED, ids=lambda reader: reader.__name__.rsplit(".", 1)[-1])
IDS = tiny.random_ids(15)


def load(path: Path) -> labkit.LanguageModel:
    return labkit.load(path, device="cpu")


def refusal(path: Path) -> str:
    """The message of the refusal, which is one line and names the file or its config."""
    with pytest.raises(CheckpointError) as refused:
        load(path)
    said = str(refused.value)
    assert "\n" not in said and str(path.parent) in said
    return said


def bare(name: str) -> str:
    """Without the root that some readers strip before anything else."""
    return name.removeprefix("model.").removeprefix("transformer.")


def largest(tensors: Tensors) -> str:
    """Name of a matrix inside a block, by which nothing else is told."""
    inside = [name for name, w in tensors.items() if w.ndim == 2 and ".1." in name and "mask" not in name]
    return max(inside, key=lambda name: (tensors[name].numel(), name))


def test_every_reader_has_native_files_here_or_elsewhere():
    assert set(NATIVE) | ELSEWHERE == set(READERS)


@every_format
def test_a_native_file_says_what_the_model_it_was_written_from_says(reader, tmp_path):
    native: Native = NATIVE[reader]()
    lm = load(native.save(tmp_path / "model", native.tensors()))
    assert torch.equal(lm.logits(IDS), native.lm.logits(IDS))
    assert lm.config == native.lm.config and lm.checkpoint.family == native.lm.checkpoint.family
    assert lm.checkpoint.dtype == "float32" and not any("hold" in note for note in lm.checkpoint.notes)


@every_format
def test_the_folder_gives_the_same_as_the_file(reader, tmp_path):
    native = NATIVE[reader]()
    path = native.save(tmp_path / "model", native.tensors())
    assert load(path).checkpoint == load(path.parent).checkpoint
    assert torch.equal(load(path).logits(IDS), load(path.parent).logits(IDS))


@every_format
def test_it_is_recognised_by_its_own_reader_alone(reader, tmp_path):
    native = NATIVE[reader]()
    path = native.save(tmp_path / "model", native.tensors())
    first = next(other for other in READERS if other.recognises(ModelFile(path)))
    assert first is reader
    assert [other for other in READERS if other.recognises(ModelFile(path))] == [reader]


@every_format
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "_orig_mod." * 2]
)
def test_prefixes_of_wrappers_are_stripped_in_any_order(reader, prefix, tmp_path):
    native = NATIVE[reader]()
    path = native.save(tmp_path / "model", {prefix + name: w for name, w in native.tensors().items()})
    assert torch.equal(load(path).logits(IDS), native.lm.logits(IDS))


@every_format
def test_a_missing_tensor_is_named(reader, tmp_path):
    native, tensors = NATIVE[reader](), NATIVE[reader]().tensors()
    gone = largest(tensors)
    del tensors[gone]
    assert bare(gone) in refusal(native.save(tmp_path / "model", tensors))


@every_format
def test_a_tensor_that_is_not_understood_is_named(reader, tmp_path):
    native, tensors = NATIVE[reader](), NATIVE[reader]().tensors()
    extra = largest(tensors).replace("weight", "colour")
    tensors[extra] = torch.ones(3)
    assert bare(extra) in refusal(native.save(tmp_path / "model", tensors))


@every_format
@pytest.mark.parametrize("change", ["one column more", "transposed", "flat"])
def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes(reader, change, tmp_path):
    native, tensors = NATIVE[reader](), NATIVE[reader]().tensors()
    wrong = next(
        name for name in sorted(tensors) if ".1." in name and tensors[name].ndim == 2 and is_oblong(tensors[name])
    )
    w = tensors[wrong]
    tensors[wrong] = {
        "one column more": lambda: torch.cat((w, w[:, :1]), dim=1),
        "transposed": lambda: w.t().contiguous(),
        "flat": lambda: w.flatten(),
    }[change]()
    said = refusal(native.save(tmp_path / "model", tensors))
    assert bare(wrong).split(".weight")[0] in said
    assert change == "flat" or any(str(n) in said for n in tensors[wrong].shape)


def is_oblong(w: torch.Tensor) -> bool:
    return w.shape[0] != w.shape[1]


@every_format
def test_a_tensor_of_whole_numbers_is_refused(reader, tmp_path):
    native, tensors = NATIVE[reader](), NATIVE[reader]().tensors()
    name = largest(tensors)
    tensors[name] = tensors[name].to(torch.int32)
    assert bare(name) in refusal(native.save(tmp_path / "model", tensors))


@every_format
def test_mixed_dtypes_are_unified_and_named(reader, tmp_path):
    native, tensors = NATIVE[reader](), NATIVE[reader]().tensors()
    name = largest(tensors)
    tensors[name] = tensors[name].to(torch.bfloat16)
    lm = load(native.save(tmp_path / "model", tensors))
    assert lm.checkpoint.dtype == "bfloat16 and float32"
    assert {p.dtype for p in lm.model.parameters()} == {torch.float32}
    assert 0 < float((lm.logits(IDS) - native.lm.logits(IDS)).abs().max()) < 0.2


@every_format
def test_float8_weights_load(reader, tmp_path):
    native, tensors = NATIVE[reader](), NATIVE[reader]().tensors()
    name = largest(tensors)
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    lm = load(native.save(tmp_path / "model", tensors))
    assert "float8_e4m3fn" in lm.checkpoint.dtype
    assert 0 < float((lm.logits(IDS) - native.lm.logits(IDS)).abs().max()) < 2


@every_format
def test_nan_in_the_weights_is_noted(reader, tmp_path):
    native, tensors = NATIVE[reader](), NATIVE[reader]().tensors()
    tensors[largest(tensors)][0, 0] = math.nan
    lm = load(native.save(tmp_path / "model", tensors))
    assert any("1 tensor holds NaN" in note for note in lm.checkpoint.notes)


# --- nothing runs, nothing breaks


class Evil:
    """Makes a folder as it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@every_format
@pytest.mark.parametrize("place", ["beside", "among", "alone", "raw"])
def test_a_hostile_pickle_under_the_models_name_is_refused_and_does_not_run(reader, place, tmp_path):
    native, marker = NATIVE[reader](), tmp_path / "marker"
    path = native.save(tmp_path / "model", native.tensors())
    evil = Evil(marker)
    payload = torch.load(path, weights_only=True) if reader in PICKLED else {"tensors": native.tensors()}
    if place == "beside":
        hostile = {**payload, "extra": evil}
    elif place == "among":
        hostile = {key: {**value, "x": evil} if isinstance(value, dict) else value for key, value in payload.items()}
        hostile |= {"y": [evil]}
    else:
        hostile = evil
    if place == "raw":
        path.write_bytes(pickle.dumps(hostile, protocol=2))
    else:
        torch.save(hostile, path)
    for source in (path, path.parent):
        said = refusal(source) if source == path else folder_refusal(source)
        assert "mkdir" in said or "torch.save" in said or "safetensors" in said
    assert not marker.exists()
    pickle.loads(pickle.dumps(evil))
    assert marker.is_dir()  # it would have run


def folder_refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        load(folder)
    return str(refused.value)


ODD = [
    None, True, -1, 0, 3, 2**31, 2**62, 10**400, -0.5, 0.3, 1e300, math.nan, math.inf, "", "x", "16", b"x",
    [], [1], ["a", 3], {}, {"x": 1}, {1: 2}, (1, 2), torch.ones(2), torch.zeros(()), torch.tensor(True),
]  # fmt: skip


def paths_in(value: object, depth: int = 0) -> list[tuple]:
    """Where in a payload or a JSON object a value can be replaced; of the tensors, one."""
    found = []
    if isinstance(value, dict) and depth < 3:
        tensors = 0
        for key, inner in value.items():
            tensors += isinstance(inner, torch.Tensor)
            if not isinstance(inner, torch.Tensor) or tensors == 2:
                found += [(key,), *((key, *rest) for rest in paths_in(inner, depth + 1))]
    return found


def replaced(value: dict, where: tuple, new: object) -> dict:
    """A copy with one value replaced."""
    return {**value, where[0]: new if len(where) == 1 else replaced(value[where[0]], where[1:], new)}


def without(value: dict, where: tuple) -> dict:
    if len(where) == 1:
        return {key: inner for key, inner in value.items() if key != where[0]}
    return {**value, where[0]: without(value[where[0]], where[1:])}


def survives(path: Path, what: str) -> None:
    """It loads, or is refused in one line, quickly."""
    start = time.process_time()
    try:
        load(path)
    except LabkitError as error:
        assert "\n" not in str(error), what
    except Exception as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    assert time.process_time() - start < 5, what


def some(items: list, n: int) -> list:
    """About n of them, evenly."""
    return items[:: max(1, len(items) // n)]


@every_pickled_format
def test_any_odd_value_anywhere_in_the_payload_is_survived(reader, tmp_path):
    native = NATIVE[reader]()
    path = native.save(tmp_path / "model", native.tensors())
    payload = torch.load(path, weights_only=True)
    for where in paths_in(payload):
        torch.save(without(payload, where), path)
        survives(path, f"without {where}")
    for where, odd in some(list(itertools.product(paths_in(payload), ODD)), 350):
        torch.save(replaced(payload, where, odd), path)
        survives(path, f"{where} = {odd!r}")


@every_format
def test_any_odd_value_in_a_json_file_beside_the_model_is_survived(reader, tmp_path):
    native = NATIVE[reader]()
    path = native.save(tmp_path / "model", native.tensors())
    for beside in sorted(path.parent.glob("*.json")):
        text = beside.read_text()
        described = json.loads(text)
        odd_values = [odd for odd in ODD if not isinstance(odd, bytes | torch.Tensor | tuple)]
        for where in some(paths_in(described), 60):
            beside.write_text(json.dumps(without(described, where)))
            survives(path, f"{beside.name} without {where}")
        for where, odd in some(list(itertools.product(paths_in(described), odd_values)), 250):
            beside.write_text(json.dumps(replaced(described, where, odd)))
            survives(path, f"{beside.name}: {where} = {odd!r}")
        for broken in ("", "[]", "3", "null", '"x"', text[: len(text) // 2], "[" * 100_000, "\x00", "{}"):
            beside.write_text(broken)
            survives(path, f"{beside.name}: {broken[:20]!r}")
        beside.write_bytes(b"\xff\xfe\x00")
        survives(path, f"{beside.name} is no text")
        beside.write_text(text)
    assert load(path).config == native.lm.config


@every_format
def test_a_file_that_was_cut_short_anywhere_is_refused(reader, tmp_path):
    native = NATIVE[reader]()
    path = native.save(tmp_path / "model", native.tensors())
    whole = path.read_bytes()
    for n in [0, 1, 3, 4, 8, 9, 30, *range(100, len(whole), len(whole) // 25), len(whole) - 1]:
        path.write_bytes(whole[:n])
        refusal(path)


# --- what labkit writes itself


def write_labcore(folder: Path) -> None:
    lm = tiny.tiny("labcore", "rope_nobias")
    labcore.write(
        folder / "ckpt_last.pt", lm.model, step=3, losses={"val": 1.5}, trainer_config={"seed": 1},
        tokenizer={"type": "char", "vocab": list(tiny.CHARACTERS)},
    )  # fmt: skip


def write_nanochat(folder: Path) -> None:
    model = tiny.language_model("nanochat", native_files.nanochat_config()).model
    nanochat.write(folder, model, step=3, meta={"val_loss": 1.5})


def write_labkit(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    labkit_format.write(folder, native_files.as_checkpoint(tiny.tiny("swa_mla", "configured")))


WRITERS = {
    "labcore": (write_labcore, lambda: tiny.tiny("labcore", "rope_nobias")),
    "nanochat": (write_nanochat, lambda: tiny.language_model("nanochat", native_files.nanochat_config())),
    "labkit": (write_labkit, lambda: tiny.tiny("swa_mla", "configured")),
}
every_writer = pytest.mark.parametrize("name", WRITERS)


def test_every_module_that_writes_is_tested():
    modules = {importlib.import_module(reader.__name__) for reader in READERS}  # type: ignore[attr-defined]
    assert {
        module.__name__.rsplit(".", 1)[-1].removesuffix("_format") for module in modules if hasattr(module, "write")
    } == set(WRITERS)


@every_writer
def test_what_is_written_is_read_back_with_the_same_logits(name, tmp_path):
    write, model = WRITERS[name]
    write(tmp_path)
    lm = load(tmp_path)
    assert torch.equal(lm.logits(IDS), model().logits(IDS)) and lm.config == model().config


@every_writer
def test_two_writes_give_the_same_bytes(name, tmp_path):
    write, _ = WRITERS[name]
    for folder in ("a", "b"):
        write(tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir()) and files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


@every_writer
def test_a_write_leaves_nothing_but_its_files(name, tmp_path):
    write, _ = WRITERS[name]
    write(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") or path.suffix == ".part"]
