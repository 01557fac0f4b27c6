"""Reading torch.save files: data comes through, code never runs, and no damage gets past CheckpointError."""

import argparse
import collections
import io
import os
import pickle
import random
import time
import zipfile
from pathlib import Path

import pytest
import torch

from labkit.checkpoints.safe_pickle import Record, load_torch
from labkit.errors import CheckpointError


def saved(path: Path, payload: object, **changes) -> Path:
    torch.save(payload, path, **changes)
    return path


def payload() -> dict:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=generator)
    return {
        "step": 7,
        "losses": {"train": 1.5, "val": None},
        "names": ["a", ("b", 2)],
        "state": collections.OrderedDict(weight=weight, tied=weight, half=torch.ones(3, dtype=torch.bfloat16)),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_containers_numbers_and_strings_come_through(tmp_path, zipped):
    found = load_torch(saved(tmp_path / "a.pt", payload(), _use_new_zipfile_serialization=zipped))
    expected = payload()
    assert {name: found[name] for name in ("step", "losses", "names")} == {
        name: expected[name] for name in ("step", "losses", "names")
    }
    assert all(torch.equal(found["state"][name], expected["state"][name]) for name in expected["state"])
    assert found["state"]["weight"].data_ptr() == found["state"]["tied"].data_ptr()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_protocol_that_torch_does_not_write_is_read_or_refused_without_a_warning(tmp_path, protocol):
    path = saved(tmp_path / "a.pt", payload(), pickle_protocol=protocol)
    if protocol < 4:
        assert load_torch(path)["step"] == 7
    else:
        with pytest.raises(CheckpointError, match="nothing was run"):
            load_torch(path)


# --- nothing runs


class Evil:
    """Calls any function with any arguments as it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


FUNCTIONS = {
    "os.mkdir": lambda marker: Evil(os.mkdir, marker),
    "eval": lambda marker: Evil(eval, f"__import__('os').mkdir({marker!r})"),
    "exec": lambda marker: Evil(exec, f"import os; os.mkdir({marker!r})"),
    "os.system": lambda marker: Evil(os.system, f"mkdir {marker}"),
    "getattr": lambda marker: Evil(getattr, Evil(__import__, "os"), "mkdir"),
    "torch.load": lambda marker: Evil(torch.load, marker),
    "Path.mkdir": lambda marker: Evil(Path.mkdir, Path(marker)),
}
PLACES = {
    "alone": lambda evil: evil,
    "beside the weights": lambda evil: {**payload(), "config": evil},
    "among the weights": lambda evil: {"state": {"weight": torch.ones(2), "other": evil}},
    "as a key": lambda evil: {"state": [({"x": evil},)]},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_a_pickle_that_asks_for_code_is_refused_by_name_and_nothing_runs(tmp_path, function, place, form):
    path, marker = tmp_path / "evil.pt", tmp_path / "marker"
    hostile = PLACES[place](FUNCTIONS[function](str(marker)))
    if form == "pickle":
        path.write_bytes(pickle.dumps(hostile, protocol=2))
    else:
        torch.save(hostile, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError) as refused:
        load_torch(path)
    said = str(refused.value)
    assert not marker.exists() and "\n" not in said and "weights_only" not in said.replace("weights-only", "")
    assert "Nothing was run" in said or "nothing was run" in said or "no readable torch.save file" in said


def test_the_hostile_files_of_these_tests_are_live(tmp_path):
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(FUNCTIONS["os.mkdir"](str(marker))))
    assert marker.is_dir()


def test_the_refusal_names_what_was_asked_for(tmp_path):
    wanted = rf"refused, because its pickle asks for {os.mkdir.__module__}\.mkdir, which is code"
    with pytest.raises(CheckpointError, match=wanted):
        load_torch(saved(tmp_path / "evil.pt", {"config": Evil(os.mkdir, "x")}))


def test_a_class_of_an_unknown_program_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match=r"asks for decimal\.Decimal"):
        import decimal

        load_torch(saved(tmp_path / "odd.pt", {"config": decimal.Decimal(1)}))


def test_a_known_programs_config_object_becomes_an_inert_record(tmp_path):
    found = load_torch(saved(tmp_path / "args.pt", {"config": argparse.Namespace(n_head=3, lr=0.1)}))
    assert type(found["config"]) is Record and vars(found["config"]) == {"n_head": 3, "lr": 0.1}


def test_what_one_file_may_hold_is_not_allowed_to_the_rest_of_the_program(tmp_path):
    """torch keeps allowed names in a global: after the read it is as it was."""
    before = set(map(repr, torch.serialization.get_safe_globals()))
    path = saved(tmp_path / "args.pt", {"config": argparse.Namespace(n_head=3)})
    load_torch(path)
    assert set(map(repr, torch.serialization.get_safe_globals())) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


# --- damage


@pytest.mark.parametrize("data", [b"", b"\x00", b"PK", b"PK\x03\x04", b"hello\n" * 90, b"\x80\x02}.", b"\x89PNG\r\n"])
def test_what_is_no_torch_file_is_refused(tmp_path, data):
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="a.pt: ") as refused:
        load_torch(path)
    assert "\n" not in str(refused.value)


def test_a_flipped_bit_in_a_tensor_is_noticed_and_a_file_without_crcs_is_read(tmp_path):
    path = saved(tmp_path / "a.pt", payload())
    good = path.read_bytes()
    at = good.index(payload()["state"]["weight"].numpy().tobytes()) + 5
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    with pytest.raises(CheckpointError, match="CRC"):
        load_torch(path)
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        saved(path, payload())
    finally:
        torch.serialization.set_crc32_options(before)
    assert load_torch(path)["step"] == 7


def test_a_compressed_entry_is_refused(tmp_path):
    """A few kilobytes could unpack to any size."""
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\x80\x02}.")
        archive.writestr("bomb/data/0", bytes(10_000_000))
    with pytest.raises(CheckpointError, match="compressed"):
        load_torch(path)


def repacked(good: bytes, pickled: bytes) -> bytes:
    """The same zip with another data.pkl and with right CRCs, so that the damage reaches the unpickler."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, pickled if entry.filename.endswith("data.pkl") else old.read(entry))
    return out.getvalue()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Cut, flip, insert, delete, repeat or overwrite some bytes."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        at = rng.randrange(max(1, len(out)))
        kind = rng.randrange(7)
        if kind == 0:
            del out[at:]
        elif kind == 1:
            del out[at : at + rng.randint(1, 8)]
        elif kind == 2:
            out[at:at] = rng.randbytes(rng.randint(1, 8))
        elif kind == 3:
            out[at:at] = out[at : at + rng.randint(1, 64)]
        elif kind == 4 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif out:
            out[at % len(out)] = rng.choice([0, 0x7F, 0x80, 0xFF, *b"(.)cRibBhjKMJ\x8a\x8b]}qrQNtosdlaeu"])
    return bytes(out)


@pytest.mark.parametrize("form", ["zip", "pickle in a sound zip", "legacy"])
def test_twelve_hundred_damaged_files_are_read_or_refused_in_one_line_and_never_slowly(tmp_path, form):
    path = saved(tmp_path / "a.pt", payload(), _use_new_zipfile_serialization=form != "legacy")
    good = path.read_bytes()
    with zipfile.ZipFile(path) if form != "legacy" else open(os.devnull, "rb") as archive:
        pickled = archive.read("a/data.pkl") if form != "legacy" else b""
    rng, refused, slowest = random.Random(f"{form} 1"), 0, 0.0
    for _ in range(400):
        damaged = repacked(good, mutated(pickled, rng)) if form.startswith("pickle") else mutated(good, rng)
        path.write_bytes(damaged)
        start = time.process_time()
        try:
            load_torch(path)
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).startswith(str(path))
        slowest = max(slowest, time.process_time() - start)
    assert refused > 100 and slowest < 2
