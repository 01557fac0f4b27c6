"""Every nanochat version that a file can reveal: told by its tensors, computed as the original of that time does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

import labkit
from labkit.checkpoints import nanochat
from labkit.models.nanochat import NanochatConfig

PLAIN = NanochatConfig(
    sequence_len=40, vocab_size=50, n_layer=5, n_head=4, n_kv_head=2, n_embd=32, padded_vocab_size=64
)  # fmt: skip
LAMBDAS = replace(PLAIN, lambdas=True)
WINDOWS = replace(LAMBDAS, window_pattern="SSL", short_window=20)
VALUES = replace(WINDOWS, value_gate_channels=32)
MARCH = replace(
    WINDOWS, short_window=128, value_gate_channels=12, value_gate_scale=3.0, rope_base=1e5, rope_dtype="float32"
)
CONFIGS = {
    "plain": PLAIN,
    "lambdas": LAMBDAS,
    "windows": WINDOWS,
    "values": VALUES,
    "softcap 20": replace(VALUES, softcap=20.0, rope_dtype="float32"),
    "march": replace(MARCH, qk_scale=1.15),
    "newest": replace(MARCH, qk_scale=1.2, smear_channels=24, backout_layer=2),
}
# The first logits after IDS of karpathy/nanochat as it was then, with the weights of ``written``; run on torch 2.13.
IDS = tiny.random_ids(120, seed=8, vocab_size=50)
RECORDED = {
    "lambdas": [0.52546, -3.64266, -0.57779, 2.64705, -2.22712, 2.54738],  # aa530cd
    "values": [-1.80127, -5.88413, -4.00273, 1.16029, 0.36107, -0.14281],  # e7ed208
    "softcap 20": [-1.80301, -6.03355, -4.04455, 1.1649, 0.3685, -0.14713],  # 1076f97
    "march": [2.83601, -2.74927, 1.48285, 0.14289, 0.35964, 0.92996],  # 6ed7d1d
    "newest": [-4.78807, 2.02356, 1.27211, 4.03067, -3.45432, 2.34415],  # 92d63d4
}


def written(version: str, folder: Path, meta: dict | None = None) -> Path:
    """A file of a version, with random weights; ``meta`` changes its model_config."""
    lm = tiny.language_model("nanochat", CONFIGS[version], seed=5)
    nanochat.write(folder, lm.model, step=7, meta={"val_bpb": 0.9})
    if meta is not None:
        path = folder / "meta_000007.json"
        described = json.loads(path.read_text())
        fields = {**described["model_config"], **meta}
        described["model_config"] = {name: value for name, value in fields.items() if value is not None}
        path.write_text(json.dumps(described))
    return folder


def options_of(version: str) -> dict[str, int]:
    return {"softcap": 20} if version == "softcap 20" else {}


@pytest.mark.parametrize("version", CONFIGS)
def test_a_version_is_told_by_its_tensors(version, tmp_path):
    lm = labkit.load(written(version, tmp_path), options=options_of(version))
    assert lm.config == CONFIGS[version]
    same = tiny.language_model("nanochat", CONFIGS[version], seed=5)
    assert torch.equal(lm.logits(IDS[:30]), same.logits(IDS[:30]))


@pytest.mark.parametrize("version", RECORDED)
def test_it_says_what_the_original_of_that_time_says(version, tmp_path, measured):
    lm = labkit.load(written(version, tmp_path), options=options_of(version))
    recorded = torch.tensor(RECORDED[version])
    apart = float((lm.logits(IDS)[-1, : len(recorded)] - recorded).abs().max())
    measured("nanochat", f"version: {version}", "logits", apart, 2e-4)


def test_every_version_says_something_else(tmp_path):
    """So that a mark that is overlooked would show."""
    said = [tiny.language_model("nanochat", CONFIGS[version], seed=5).logits(IDS)[-1] for version in CONFIGS]
    assert all(float((a - b).abs().max()) > 1e-2 for i, a in enumerate(said) for b in said[:i])


@pytest.mark.parametrize(
    ("version", "sequence_len", "short"),
    [("values", 48, 24), ("values", 2048, 1024), ("march", 2048, 768), ("newest", 2048, 512), ("newest", 160, 128)],
)
def test_the_short_window_is_the_one_of_the_version(version, sequence_len, short, tmp_path):
    lm = labkit.load(written(version, tmp_path, {"sequence_len": sequence_len}))
    assert lm.config.short_window == short
    windows = [lm.config.window_at(i).size for i in range(5)]
    assert windows == [short, short, sequence_len, short, sequence_len]  # SSL, tiled; the last one is always L


def test_a_pattern_may_be_in_small_letters_but_of_s_and_l_only(tmp_path):
    assert labkit.load(written("values", tmp_path, {"window_pattern": "ssl"})).config == CONFIGS["values"]
    for wrong in ("SSX", "", 3):
        with pytest.raises(labkit.CheckpointError, match="window_pattern"):
            labkit.load(written("values", tmp_path, {"window_pattern": wrong}))


def test_without_a_pattern_files_with_value_embeddings_have_long_windows_and_older_ones_none(tmp_path):
    lm = labkit.load(written("values", tmp_path / "a", {"window_pattern": None}))
    assert [lm.config.window_at(i).size for i in range(5)] == [40] * 5
    assert any("no window_pattern" in note for note in lm.checkpoint.notes)
    assert labkit.load(written("lambdas", tmp_path / "b")).config.window_at(0) is None


def test_a_pattern_beside_tensors_without_windows_is_passed_over_with_a_note(tmp_path):
    lm = labkit.load(written("plain", tmp_path, {"window_pattern": "SSSL"}))
    assert lm.config == CONFIGS["plain"] and "'SSSL'" in lm.checkpoint.notes[0]


def test_softcap_is_an_option_with_a_note_where_it_cannot_be_told(tmp_path):
    folder = written("values", tmp_path)
    assert any('"softcap": 20' in note for note in labkit.load(folder).checkpoint.notes)
    asked = labkit.load(folder, options={"softcap": 20})
    assert asked.config == replace(CONFIGS["values"], softcap=20.0, rope_dtype="float32")
    assert not any("presumed. nanochat" in note for note in asked.checkpoint.notes)
    with pytest.raises(labkit.ConfigError, match="15 or 20"):
        labkit.load(folder, options={"softcap": 30})


def test_what_is_of_no_known_version_is_refused_by_name(tmp_path):
    with pytest.raises(labkit.CheckpointError, match="colour.*July 2026"):
        labkit.load(written("newest", tmp_path, {"colour": "red"}))
    folder = written("values", tmp_path / "bigrams")
    path = folder / "model_000007.pt"
    native = torch.load(path, weights_only=True)
    torch.save(native | {"bigram_lambdas": torch.ones(5)}, path)
    with pytest.raises(labkit.CheckpointError, match="bigram_lambdas.*27 and 28 January"):
        labkit.load(folder)
    del native["transformer.h.2.attn.ve_gate.weight"]
    torch.save(native, path)
    with pytest.raises(labkit.CheckpointError, match=r"missing.*h\.2\.attn\.ve_gate"):
        labkit.load(folder)


@torch.inference_mode()
def test_the_cache_carries_the_embedding_before_the_smear_and_forks_and_rows_keep_their_own(tmp_path):
    lm = labkit.load(written("newest", tmp_path))
    model, ids = lm.model, torch.tensor([IDS[:12], IDS[20:32]])
    before = model.embed_norm(model.embed(ids))
    cache = model.new_cache(batch=2)
    model(ids[:, :7], cache)
    assert torch.equal(cache.carried["embedding"], before[:, 6:7])
    fork = cache.fork()
    model(ids[:, 7:9], cache)
    assert torch.equal(fork.carried["embedding"], before[:, 6:7])
    cache.select(torch.tensor([1, 1, 0]))
    assert torch.equal(cache.carried["embedding"], before[[1, 1, 0], 8:9])
    with pytest.raises(ValueError, match="fork"):
        fork.truncate(3)
