"""Damaged, contradictory and hostile checkpoints: each gets its recorded verdict, in one line that names the cause."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from recorded import fixtures_root, read_json

import labkit

# System -> case -> what the message (of a refusal) or the notes (of a load) must say. "": nothing is wrong.
CAUSES: dict[str, dict[str, str]] = {
    "labcore": {
        "ok_control": "",
        "no_meta_but_ckpt_tokenizer": "",
        "lm_head_absent_tied": "",
        "wte_absent_tied": "",
        "nan_weight": r"NaN.*norm_f\.weight",
        "bare_state_dict": "model_config.*head count",
        "unknown_config_key": "colour",
        "config_default_block_size": r"block_size.*\b8\b",
        "meta_vocab_too_small": r"22 entries.*26 rows",
        "meta_vocab_too_big": r"28 entries.*26 rows",
        "no_meta_no_tokenizer": "no tokenizer.*--meta",
        "meta_char_without_vocab": "without its vocab",
        "untied_head": r"lm_head\.weight and wte\.weight differ",
        "extra_tensor": r"not understood.*h\.9\.ln_1\.weight",
        "truncated_60pct": "cut short",
        "truncated_tail_100_bytes": "cut short",
        "empty_file": "empty",
        "text_file": "no readable torch.save file",
        "bitrot_tensor_bytes": "damaged.*CRC.*data/10",
        "wrong_shape_c_attn": r"wrong shape.*h\.0\.attn\.c_attn\.weight is \(48, 17\).*\(48, 16\)",
        "transposed_c_attn": r"wrong shape.*h\.0\.attn\.c_attn\.weight is \(16, 48\).*\(48, 16\)",
        "missing_tensor": r"missing.*h\.0\.mlp\.c_fc\.weight",
        "missing_model_config": "without 'model_config'",
        "missing_state_dict": "without 'model_state_dict'",
        "list_payload": "holds a list",
        "n_head_does_not_divide": "n_embd 16.*n_head 7",
        "rope_odd_head_dim": "even head size.*1",
        "n_layer_too_big": "config says 3 layers, the file holds 2",
        "vocab_size_config_mismatch": r"wte\.weight is \(26, 16\).*\(29, 16\)",
        "meta_invalid_json": r"meta\.json.*JSON",
        "meta_unknown_tokenizer": "wordpiece",
        "evil_os_system": r"posix\.system.*Nothing was run",
        "evil_eval_in_config": "eval.*Nothing was run",
        "evil_raw_pickle": r"posix\.system.*Nothing was run",
    },
    "nanochat": {
        "no_val_loss": "",
        "null_val_loss": "",
        "orig_mod_prefix": "",
        "extra_config_key": "window_pattern",
        "wrong_n_head_silent": "",
        "step_mismatch": "step differs: folder 1, file 2920",
        "missing_meta": r"meta_002920\.json is missing",
        "missing_model": "no checkpoint in this folder",
        "empty_folder_other_name": "no checkpoint in this folder",
        "truncated_model": "cut short",
        "bad_json": r"meta_002920\.json.*JSON",
        "no_model_config": "no model_config",
        "config_contradicts_layers": "config says 3 layers, the file holds 2",
        "config_contradicts_heads": r"c_k\.weight is \(32, 32\).*\(16, 32\)",
        "wrong_shape": r"lm_head\.weight is \(31, 32\).*\(32, 32\)",
        "missing_tensor": r"missing.*transformer\.h\.1\.mlp\.c_fc\.weight",
        "absent_folder": "no such file or folder",
    },
}
# What labkit presumes for every nanochat file without a tokenizer; says nothing about damage.
USUAL = ("17 characters of the arithmetic experiment",)

CASES = [(system, case) for system, causes in CAUSES.items() for case in causes]
every_case = pytest.mark.parametrize(("system", "case"), CASES)


def folder_of(system: str, case: str) -> Path:
    """The folder with the broken checkpoint; nanochat's are one level deeper."""
    folder = fixtures_root() / system / "broken" / case
    below = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return below[0] if below else folder


def answer(source: Path) -> tuple[str, str, labkit.LanguageModel | None]:
    """(what happened, the message or the notes, the model)"""
    try:
        lm = labkit.load(source, device="cpu")
    except labkit.LabkitError as error:
        return type(error).__name__, str(error), None
    notes = [note for note in lm.checkpoint.notes if not any(usual in note for usual in USUAL)]
    return "note" if notes else "load", "\n".join(notes), lm


@pytest.fixture(autouse=True)
def no_marker_appears() -> Iterator[None]:
    """The hostile files try to create one of these; then nothing they ask for may be loaded."""

    def markers() -> set[Path]:
        return set(Path("/tmp").glob("labkit_unsafe_pickle_marker*"))

    before = markers()
    yield
    assert markers() == before, "a checkpoint has run code"


def test_every_recorded_verdict_has_its_cause_here():
    verdicts = read_json("broken_verdicts.json")
    for system, causes in CAUSES.items():
        assert set(causes) == set(verdicts[system])
        present = {path.name for path in (fixtures_root() / system / "broken").iterdir() if path.is_dir()}
        assert present == set(causes) - {"absent_folder"}


@every_case
def test_a_broken_file_gets_its_verdict_and_one_line_that_names_the_cause(system, case):
    verdict = read_json("broken_verdicts.json")[system][case]
    outcome, said, _ = answer(folder_of(system, case))
    if outcome == "CheckpointError":
        assert verdict.split()[0] in ("refuse", "any"), said
        assert "\n" not in said and len(said) < 600
        assert "weights_only=False" not in said and "Traceback" not in said
        assert said.startswith(str(folder_of(system, case)))
    else:
        assert outcome in ("note", "load")
        assert verdict == "any" or outcome in verdict or (verdict == "load" and outcome == "note"), said
    assert re.search(CAUSES[system][case], said, re.DOTALL), said


@every_case
def test_a_folder_and_the_file_in_it_give_the_same_answer(system, case):
    folder = folder_of(system, case)
    files = [path for path in folder.glob("*") if path.suffix == ".pt"]
    if len(files) == 1:
        of_folder, of_file = answer(folder), answer(files[0])
        assert of_folder[:2] == of_file[:2]
        if of_folder[2] and of_file[2]:
            assert of_folder[2].checkpoint == of_file[2].checkpoint and of_folder[2].config == of_file[2].config
    else:
        assert case in ("missing_model", "empty_folder_other_name", "absent_folder")


UNHARMED = [
    "no_meta_but_ckpt_tokenizer", "lm_head_absent_tied", "wte_absent_tied", "config_default_block_size",
    "meta_vocab_too_small", "meta_vocab_too_big", "meta_char_without_vocab", "meta_invalid_json",
    "meta_unknown_tokenizer", "no_meta_no_tokenizer",
]  # fmt: skip


def control() -> labkit.LanguageModel:
    return labkit.load(folder_of("labcore", "ok_control"), device="cpu")


@pytest.mark.parametrize("case", UNHARMED)
def test_what_loads_says_what_the_sound_file_says(case):
    lm, sound = labkit.load(folder_of("labcore", case), device="cpu"), control()
    assert torch.equal(lm.logits([3, 1, 4, 1, 5]), sound.logits([3, 1, 4, 1, 5]))
    assert lm.config == sound.config
    if case == "no_meta_no_tokenizer":
        assert lm.tokenizer is None
        assert labkit.generate(lm, [3, 1], max_new_tokens=3).ids
        with pytest.raises(labkit.TokenizerError, match="no tokenizer.*ids"):
            labkit.generate(lm, "text")
    else:
        assert lm.tokenizer.pieces(range(26)) == sound.tokenizer.pieces(range(26))


def test_of_two_heads_that_should_be_one_the_one_that_labcore_uses_is_used():
    """The head in the file holds the embedding's rows in reverse: the sound model says the same of reversed ids."""
    lm, sound = labkit.load(folder_of("labcore", "untied_head"), device="cpu"), control()
    ids = [3, 1, 4, 1, 5]
    mirrored = sound.logits([sound.vocab_size - 1 - i for i in ids]).flip(-1)
    assert float((lm.logits(ids) - mirrored).abs().max()) <= 1e-5


def test_a_model_with_nan_weights_loads_but_generating_from_it_is_refused_in_one_line():
    lm = labkit.load(folder_of("labcore", "nan_weight"), device="cpu")
    assert torch.isnan(lm.logits([1, 2])).any()
    with pytest.raises(labkit.SamplingError, match="NaN.*check the weights") as refused:
        labkit.generate(lm, [1, 2], max_new_tokens=3)
    assert "\n" not in str(refused.value)


def test_a_meta_file_that_is_given_by_hand_must_fit():
    """One that merely lies beside the model is passed over; one that somebody asks for is not."""
    sound = folder_of("labcore", "ok_control")
    for case, cause in (("meta_vocab_too_small", "22"), ("meta_unknown_tokenizer", "wordpiece")):
        meta = folder_of("labcore", case) / "meta.json"
        with pytest.raises(labkit.CheckpointError, match=cause):
            labkit.load(sound, meta=meta)
    lm = labkit.load(folder_of("labcore", "no_meta_no_tokenizer"), meta=sound / "meta.json")
    assert lm.tokenizer is not None and lm.checkpoint.notes == ()
