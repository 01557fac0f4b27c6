"""load(): where it looks, what it refuses, on which device and in which dtype."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

import labkit
from labkit.checkpoints import labcore, nanochat
from labkit.errors import CheckpointError, ConfigError, ContextError, TokenizerError
from labkit.tokenizers.char import CharTokenizer

CHARACTERS = {"type": "char", "vocab": list(tiny.CHARACTERS)}


def write_labcore(path: Path, seed: int = 0, tokenizer: dict | None = CHARACTERS, val: float = 2.0) -> Path:
    """A LabCore checkpoint file."""
    model = tiny.language_model("labcore", tiny.TINY["labcore"]["learned"], seed=seed).model
    labcore.write(path, model, step=10, losses={"val": val}, tokenizer=tokenizer or {}, trainer_config={})
    return path


def write_nanochat(folder: Path, step: int, val_loss: float) -> Path:
    model = tiny.language_model("nanochat", tiny.TINY["nanochat"]["grouped"], seed=step).model
    nanochat.write(folder, model, step=step, meta={"val_loss": val_loss})
    return folder


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return write_labcore(tmp_path / "run" / "ckpt_last.pt")


# --- what comes back


def test_a_language_model_has_model_config_tokenizer_and_facts(checkpoint):
    lm = labkit.load(checkpoint)
    assert lm.config == tiny.TINY["labcore"]["learned"] and lm.vocab_size == tiny.V
    assert lm.tokenizer.encode("to be") == tiny.characters().encode("to be")
    facts = lm.checkpoint
    assert (facts.family, facts.dtype, facts.step, dict(facts.losses)) == ("labcore", "float32", 10, {"val": 2.0})
    assert facts.path == checkpoint and len(facts.sha256) == 64 and facts.notes == ()
    assert repr(lm) == f"LanguageModel(labcore, {lm.n_parameters:,} parameters, context 24)"
    assert lm.n_parameters == sum(p.numel() for p in lm.model.parameters())


@pytest.mark.parametrize(
    "ids", [[1, 2, 3], (1, 2, 3), torch.tensor([1, 2, 3]), np.array([1, 2, 3]), range(1, 4)],
    ids=lambda ids: type(ids).__name__,
)  # fmt: skip
def test_logits_takes_any_sequence_of_ids_and_gives_float32_on_the_cpu(ids):
    lm = tiny.tiny("labcore", "learned")
    logits = lm.logits(ids)
    assert logits.shape == (3, tiny.V) and logits.dtype == torch.float32 and logits.device.type == "cpu"
    assert torch.equal(logits, lm.logits([1, 2, 3])) and not logits.requires_grad


def test_logits_beyond_the_context_of_nothing_or_of_unknown_ids_are_refused():
    lm = tiny.tiny("labcore", "learned")
    assert lm.logits(tiny.random_ids(24)).shape == (24, tiny.V)
    with pytest.raises(ContextError, match="25 tokens, but the context holds 24"):
        lm.logits(tiny.random_ids(25))
    with pytest.raises(ContextError, match="at least one"):
        lm.logits([])
    for bad in (-1, tiny.V):
        with pytest.raises(TokenizerError, match=f"id {bad} is outside the vocabulary 0 … {tiny.V - 1}"):
            lm.logits([0, bad])


def test_padding_rows_of_the_vocabulary_are_cropped():
    lm = tiny.tiny("nanochat", "grouped")
    assert lm.config.padded_vocab_size == 64 and lm.logits([1]).shape == (1, tiny.V)


# --- source


def test_a_path_may_be_text_or_a_path_a_file_or_its_folder(checkpoint):
    logits = [labkit.load(source).logits([1, 2]) for source in (checkpoint, str(checkpoint), checkpoint.parent)]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    assert labkit.load(checkpoint).checkpoint == labkit.load(checkpoint.parent).checkpoint


def test_a_file_may_have_any_name(checkpoint):
    other = checkpoint.with_name("my model.bin")
    shutil.copy(checkpoint, other)
    assert labkit.load(other).checkpoint.family == "labcore"


def test_a_missing_path_is_refused_in_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="nothing here.pt: there is no such file or folder") as refused:
        labkit.load(tmp_path / "nothing here.pt")
    assert "\n" not in str(refused.value)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("no model")
    with pytest.raises(CheckpointError, match=r"no checkpoint in this folder .*\.pt"):
        labkit.load(tmp_path)


def test_of_several_checkpoints_in_a_folder_none_is_guessed(tmp_path):
    write_labcore(tmp_path / "ckpt_best.pt")
    write_labcore(tmp_path / "ckpt_last.pt", seed=1)
    with pytest.raises(CheckpointError, match=r"several checkpoints \(ckpt_best.pt, ckpt_last.pt\): name one of them"):
        labkit.load(tmp_path)
    assert labkit.load(tmp_path / "ckpt_best.pt").checkpoint.step == 10


def test_of_several_checkpoints_below_a_folder_none_is_guessed_either(tmp_path):
    for step in (1, 2):
        write_nanochat(tmp_path / f"step_{step:06d}", step, 1.0)
    with pytest.raises(CheckpointError, match=r"several checkpoints \(step_000001, step_000002\): name one of them"):
        labkit.load(tmp_path)


def test_a_folder_that_cannot_be_read_is_refused_in_one_line(tmp_path):
    loop = tmp_path / "loop.pt"
    loop.symlink_to(loop)
    with pytest.raises(CheckpointError) as refused:
        labkit.load(loop)
    assert "\n" not in str(refused.value)


# --- names of shipped checkpoints


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    """A folder of shipped checkpoints in place of the repository's."""
    root = tmp_path / "checkpoints"
    write_labcore(root / "verse-char" / "ckpt_last.pt")
    write_nanochat(root / "sums" / "step_000100", 100, 0.9)
    write_nanochat(root / "sums" / "step_000200", 200, 0.2)
    write_nanochat(root / "sums" / "step_000300", 300, 1.4)
    monkeypatch.setenv("LABKIT_CHECKPOINTS", str(root))
    monkeypatch.chdir(tmp_path)
    return root


def test_shipped_lists_the_names(shipped):
    assert labkit.shipped() == ["sums/step_000100", "sums/step_000200", "sums/step_000300", "verse-char"]


def test_a_name_opens_the_checkpoint_in_that_folder(shipped):
    assert labkit.load("verse-char").checkpoint.path == shipped / "verse-char" / "ckpt_last.pt"
    assert labkit.load("sums/step_000300").checkpoint.step == 300


def test_the_name_of_a_run_opens_its_best_and_a_note_says_so(shipped):
    lm = labkit.load("sums")
    assert lm.checkpoint.step == 200
    note = lm.checkpoint.notes[0]
    assert "step_000200 has the lowest validation loss (0.2000)" in note
    assert "step_000100" in note and "step_000300" in note


@pytest.mark.parametrize(
    ("typed", "meant"), [("verse-chr", "verse-char"), ("Sums", "sums"), ("sums/step_00020", "sums/step_000200")]
)
def test_of_a_name_that_is_nearly_right_the_near_ones_are_suggested(shipped, typed, meant):
    with pytest.raises(CheckpointError, match=f"{typed}: there is no such .*did you mean .*{meant}"):
        labkit.load(typed)


def test_of_a_name_that_is_near_to_none_all_are_listed(shipped):
    with pytest.raises(CheckpointError, match=r"shipped are .*sums.*verse-char"):
        labkit.load("qqqqqq")


def test_a_path_in_the_current_folder_wins_over_a_shipped_name(shipped, tmp_path):
    write_labcore(tmp_path / "verse-char" / "mine.pt", seed=5)
    assert labkit.load("verse-char").checkpoint.path.name == "mine.pt"


# --- device and dtype


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", torch.device("cuda", 3), "meta"], ids=str)
def test_a_device_that_is_absent_becomes_the_cpu_with_a_note(checkpoint, device):
    if str(device) in ("cuda", "cuda:3") and torch.cuda.is_available():
        pytest.skip("this machine has it")
    lm = labkit.load(checkpoint, device=device)
    assert lm.device == torch.device("cpu")
    assert lm.checkpoint.notes == (f"{device} is not available here; the CPU is used instead.",)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), "auto"], ids=str)
def test_a_device_that_is_there_is_used_without_a_note(checkpoint, device):
    lm = labkit.load(checkpoint, device=device)
    assert lm.checkpoint.notes == () and (device == "auto" or lm.device.type == "cpu")


@pytest.mark.parametrize("device", ["gpu", "", "cuda:x", "CPU "])
def test_an_unknown_device_is_refused(checkpoint, device):
    with pytest.raises(ConfigError, match=f"device {device!r} is unknown.*auto.*cpu"):
        labkit.load(checkpoint, device=device)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16),
     (torch.bfloat16, torch.bfloat16), (torch.float64, torch.float64)],
    ids=str,
)  # fmt: skip
def test_weights_are_in_the_dtype_that_was_asked_for(checkpoint, dtype, expected):
    lm = labkit.load(checkpoint, device="cpu", dtype=dtype)
    assert {p.dtype for p in lm.model.parameters()} == {expected}
    logits = lm.logits([1, 2, 3])
    assert logits.dtype == torch.float32
    assert float((logits - labkit.load(checkpoint).logits([1, 2, 3])).abs().max()) < 0.5
    assert len(labkit.generate(lm, "to be", max_new_tokens=30).ids) == 30


@pytest.mark.parametrize("dtype", ["float8", "int8", "", "half", torch.int64, torch.bool, torch.complex64], ids=str)
def test_an_unknown_dtype_or_one_that_is_no_floating_point_is_refused(checkpoint, dtype):
    with pytest.raises(ConfigError, match="dtype .* is unknown.*float32, float16, bfloat16"):
        labkit.load(checkpoint, dtype=dtype)


# --- tokenizer and meta


def test_a_tokenizer_that_is_given_replaces_the_checkpoints(checkpoint):
    mine = CharTokenizer(tiny.CHARACTERS[::-1])
    assert labkit.load(checkpoint, tokenizer=mine).tokenizer is mine


def test_a_given_tokenizer_that_contradicts_the_embedding_is_refused_with_both_numbers(checkpoint):
    for tokenizer in (CharTokenizer("abc"), "bpe", "gpt2"):
        n = 3 if isinstance(tokenizer, CharTokenizer) else 50257
        with pytest.raises(CheckpointError, match=f"tokenizer has {n} entries.*embedding of ckpt_last.pt {tiny.V}"):
            labkit.load(checkpoint, tokenizer=tokenizer)


def test_a_tokenizer_is_asked_for_by_name(checkpoint):
    assert labkit.load(checkpoint, tokenizer="char").tokenizer.vocab_size == tiny.V
    with pytest.raises(ConfigError, match="tokenizer 'words' is unknown"):
        labkit.load(checkpoint, tokenizer="words")


def test_a_character_tokenizer_without_a_vocabulary_anywhere_is_refused(tmp_path):
    bare = write_labcore(tmp_path / "ckpt_last.pt", tokenizer={"type": "char"})
    with pytest.raises(CheckpointError, match="no character vocabulary; pass meta="):
        labkit.load(bare, tokenizer="char")


def test_a_meta_file_that_is_given_is_used_and_must_fit(tmp_path):
    bare = write_labcore(tmp_path / "ckpt_last.pt", tokenizer={"type": "char"})
    assert labkit.load(bare).tokenizer is None and "no" in labkit.load(bare).checkpoint.notes[0].lower()
    meta = tmp_path / "other.json"
    meta.write_text(json.dumps({"tokenizer": CHARACTERS}))
    assert labkit.load(bare, meta=meta).tokenizer.encode("to") == tiny.characters().encode("to")
    meta.write_text(json.dumps({"tokenizer": {"type": "char", "vocab": list("abc")}}))
    with pytest.raises(CheckpointError, match=f"3 entries.* {tiny.V} rows"):
        labkit.load(bare, meta=meta)
    with pytest.raises(CheckpointError, match="absent.json: there is no such meta file"):
        labkit.load(bare, meta=tmp_path / "absent.json")
    meta.write_text("[1, 2")
    with pytest.raises(CheckpointError, match="other.json: cannot be read as JSON"):
        labkit.load(bare, meta=meta)


def test_the_meta_file_beside_the_model_wins_over_the_checkpoints_own_tokenizer(checkpoint):
    backwards = {"tokenizer": {"type": "char", "vocab": list(tiny.CHARACTERS[::-1])}}
    checkpoint.with_name("meta.json").write_text(json.dumps(backwards))
    assert labkit.load(checkpoint).tokenizer.vocab == list(tiny.CHARACTERS[::-1])


# --- the other arguments


def test_options_of_another_family_or_unknown_ones_are_refused(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="no option softcap"):
        labkit.load(checkpoint, options={"softcap": 20})
    folder = write_nanochat(tmp_path / "step_000001", 1, 0.5)
    assert labkit.load(folder, options={"softcap": 20}).config.softcap == 20.0
    with pytest.raises(ConfigError, match="softcap is 17.*15 or 20"):
        labkit.load(folder, options={"softcap": 17})
    with pytest.raises(ConfigError, match="no option colour.*softcap"):
        labkit.load(folder, options={"colour": "red"})


def test_a_revision_of_what_is_no_hub_model_is_refused_and_not_ignored(checkpoint):
    with pytest.raises(ConfigError, match="revision='main': only a hub model"):
        labkit.load(checkpoint, revision="main")


# --- what loading leaves alone


def test_loading_touches_no_global_generator_and_not_the_gradient_switch(checkpoint, global_random_states):
    before = global_random_states()
    labkit.load(checkpoint)
    after = global_random_states()
    assert after["torch"] == before["torch"] and after["numpy"] == before["numpy"]
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


def test_loading_and_generating_import_no_compiler(checkpoint):
    """torch imports sympy and its compiler (1.5 s) for surprising reasons; nobody waits for that."""
    code = (
        "import sys, labkit; lm = labkit.load(sys.argv[1]); labkit.generate(lm, [1, 2], max_new_tokens=2);"
        "print([name for name in ('sympy', 'torch._dynamo', 'torch._inductor') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(checkpoint)], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "[]", done.stderr


def test_models_share_nothing(checkpoint):
    a, b = labkit.load(checkpoint), labkit.load(checkpoint)
    expected = b.logits([1, 2])
    with torch.no_grad():
        a.model.lm_head.weight.zero_()
    assert torch.equal(b.logits([1, 2]), expected) and not torch.equal(a.logits([1, 2]), expected)
