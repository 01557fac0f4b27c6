"""Every damaged, contradictory or hostile gpt2seed file gets the verdict of broken_verdicts.json."""

import glob
from pathlib import Path

import pytest
from recorded import fixtures_root, read_json

import labkit

VERDICTS = read_json("broken_verdicts.json")["gpt2seed"]
MARKERS = "/tmp/labkit_unsafe_pickle_marker_*"
# What the message or the note must name.
NAMED = {
    "untied_head": "lm_head.weight",
    "missing_config": "config",
    "bare_state_dict": "model_state_dict",
    "extra_tensor": "decoder_blocks.7.layer_norm1.weight",
    "empty_file": "empty",
    "wrong_shape_query": "(32, 33)",
    "missing_tensor": "decoder_blocks.0.feedforward.linear1.weight",
    "missing_state_dict": "model_state_dict",
    "num_heads_does_not_divide": "n_head 7",
    "num_layers_too_big": "3 layers",
    "vocab_size_mismatch": "(66, 32)",
    "context_length_mismatch": "(14, 32)",
    "evil_os_system": "posix.system",
    "evil_config_object": "eval",
    "evil_raw_pickle": "posix.system",
    "evil_zip_posix_system": "posix.system",
    "nan_weight": "NaN",
}


@pytest.mark.parametrize("name", sorted(VERDICTS))
def test_the_verdict(name):
    folder = fixtures_root() / "gpt2seed" / "broken" / name
    before = set(glob.glob(MARKERS))
    answers = [verdict(source) for source in (folder, next(folder.iterdir()))]
    assert set(glob.glob(MARKERS)) == before
    assert answers[0] == answers[1]  # a folder and the file in it are one
    got, said = answers[0]
    assert got in VERDICTS[name].split(" or ") or (VERDICTS[name], got) == ("load", "note")
    assert NAMED.get(name, "") in said
    assert "\n" not in said and "weights_only=False" not in said


def verdict(source: Path) -> tuple[str, str]:
    """refuse, load or note; and the error, or the notes besides the missing tokenizer."""
    try:
        notes = [note for note in labkit.load(source).checkpoint.notes if "tokenizer" not in note.lower()]
    except labkit.LabkitError as error:
        return "refuse", str(error)
    return "note" if notes else "load", " ".join(notes)
