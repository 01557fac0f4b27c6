"""SWA-MLA files in all their layouts: what the config does not say is told from the tensors, nothing in them is run."""

import json
import sys
from dataclasses import replace
from fractions import Fraction

import pytest
import swamla_files
import tiny
import torch
from recorded import fixtures_root

import labkit
from labkit.checkpoints.convert import convert
from labkit.checkpoints.safe_pickle import Float8Record, Record, load_torch, unwrapped
from labkit.models.swa_mla import SwaMlaConfig

CONFIG = SwaMlaConfig(
    vocab_size=31, block_size=24, n_layer=5, n_head=4, n_embd=32, ratio_kv=2, swa_window=6, swa_sink_size=2,
    kv_lora_rank=10, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=5,
)  # fmt: skip
LOW_RANK = replace(CONFIG, bias=True, q_lora_rank=7, swa_layers_per_cycle=1, mla_layers_per_cycle=2)
IDS = tiny.random_ids(20, vocab_size=31)


def model(config: SwaMlaConfig = CONFIG, seed: int = 0) -> labkit.LanguageModel:
    return tiny.language_model("swa_mla", config, seed=seed)


def assert_same(read: labkit.LanguageModel, lm: labkit.LanguageModel) -> None:
    assert read.config == lm.config
    assert torch.equal(read.logits(IDS), lm.logits(IDS))


@pytest.mark.parametrize("config", [CONFIG, LOW_RANK], ids=["plain", "low rank"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_the_trainers_file_says_how_large_the_model_is_by_its_tensors(config, prefix, tmp_path):
    lm = model(config)
    read = labkit.load(swamla_files.save(tmp_path / "checkpoint_7.pt", lm, prefix=prefix))
    assert_same(read, lm)
    assert read.checkpoint.step == 7 and read.tokenizer is None


@pytest.mark.parametrize("config", [CONFIG, LOW_RANK], ids=["plain", "low rank"])
def test_a_config_may_be_a_namespace_or_lie_beside_or_be_missing(config, tmp_path):
    lm = model(config)
    path = swamla_files.save(tmp_path / "checkpoint_7.pt", lm, swamla_files.namespace(lm))
    assert_same(labkit.load(path), lm)
    flat = tmp_path / "flat" / "pytorch_model.bin"
    flat.parent.mkdir()
    torch.save(swamla_files.state_dict(lm), flat)
    bare = labkit.load(flat)
    assert torch.equal(bare.logits(IDS), lm.logits(IDS))
    assert bare.checkpoint.notes[0].startswith("No config") and bare.config.swa_window == 256
    flat.with_name("config.json").write_text(json.dumps(swamla_files.model_config(lm)))
    assert_same(labkit.load(flat.parent), lm)


def test_of_several_uploads_the_one_with_most_tokens_is_read_and_a_note_says_so(tmp_path):
    for tokens, loss, seed in (("900k", 3.5, 1), ("2M", 3.9, 2), ("1500k", 3.2, 3)):
        swamla_files.upload(tmp_path, model(seed=seed), tokens, loss, config_inside=seed == 3)
    read = labkit.load(tmp_path)
    assert_same(read, model(seed=2))
    assert "checkpoint_tokens_2M_loss_3.9000 has most tokens" in read.checkpoint.notes[0]
    assert read.checkpoint.losses == {"val": 3.9} and "2,000,000 tokens" in read.checkpoint.format
    one = tmp_path / "checkpoint_tokens_1500k_loss_3.2000"
    assert_same(labkit.load(one), model(seed=3))
    assert labkit.load(one).checkpoint == labkit.load(one / "pytorch_model.bin").checkpoint


def test_what_is_never_used_is_dropped_and_what_is_not_understood_refused(tmp_path):
    lm = model(LOW_RANK)
    native = swamla_files.state_dict(lm)
    assert "transformer.h.1.attn.wkv_b.bias" in native  # the original never applies it
    path = tmp_path / "checkpoint_7.pt"
    for change, cause in (
        ({"transformer.h.0.attn.mask": torch.zeros(24, 23)}, "must be one square"),
        ({"transformer.h.3.attn.mask": torch.zeros(9, 9)}, r"\(9, 9\) and \(24, 24\)"),
        ({"transformer.h.0.attn.wkv_b.bias": torch.zeros(3)}, "layer 0 has latent attention"),
        ({"transformer.h.9.mlp.down_proj.weight": torch.zeros(3)}, r"not understood \(transformer\.h\.9\."),
        ({"extra": torch.zeros(3)}, r"not understood \(extra\)"),
    ):
        torch.save({"model": {**native, **change}, "config": swamla_files.trainer_config(lm)}, path)
        with pytest.raises(labkit.CheckpointError, match=cause):
            labkit.load(path)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"n_head": 8}, "wrong shape"),
        ({"ratio_kv": 3}, "n_head 4 must be a multiple of ratio_kv 3"),
        ({"n_embd": 64}, "n_embd 64, the embedding has 32"),
        ({"vocab_size": 30}, "vocab_size 30, the embedding has 31"),
        ({"n_layer": 6}, "config says 6 layers, the file holds 5"),
        ({"n_layer": "five"}, "n_layer is 'five'"),
        ({"bias": True}, "missing"),
        ({"use_dyt": True}, "missing"),
        ({"mla_q_lora_rank": 3}, "missing"),
        ({"mla_v_head_dim": 7}, "wrong shape"),
        ({"mla_kv_lora_rank": 11}, "kv_lora_rank 11 does not fit the tensors: 10 in layer 2"),
        ({"mla_layers_per_cycle": -1}, "mla_layers_per_cycle is -1"),
        ({"swa_layers_per_cycle": 3}, "layer 2 has latent attention"),
        ({"rope_theta": "10k"}, "rope_theta is '10k'"),
    ],
    ids=str,
)
def test_a_config_that_contradicts_the_tensors_is_refused_by_name(change, cause, tmp_path):
    lm = model()
    path = swamla_files.save(tmp_path / "checkpoint_7.pt", lm, swamla_files.trainer_config(lm, **change))
    with pytest.raises(labkit.CheckpointError, match=cause) as refused:
        labkit.load(path)
    assert "\n" not in str(refused.value)


def test_window_attention_alone_does_not_show_its_heads(tmp_path):
    config = replace(CONFIG, mla_layers_per_cycle=0, n_head=16, ratio_kv=4)
    lm = model(config)
    path = swamla_files.save(tmp_path / "checkpoint_7.pt", lm)
    assert any("16 heads are presumed" in note for note in labkit.load(path).checkpoint.notes)
    assert_same(labkit.load(path), lm)
    swamla_files.save(path, lm, swamla_files.trainer_config(lm, size="of its own"))
    with pytest.raises(labkit.CheckpointError, match="no n_head"):
        labkit.load(path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_any_dtype_becomes_float32_on_the_cpu_also_where_they_are_mixed(dtype, tmp_path):
    lm = model()
    native = swamla_files.state_dict(lm)
    mixed = {name: w.to(dtype) if i % 3 else w for i, (name, w) in enumerate(native.items()) if "lm_head" not in name}
    path = tmp_path / "checkpoint_7.pt"
    torch.save({"model": mixed, "config": swamla_files.trainer_config(lm)}, path)
    read = labkit.load(path, device="cpu")
    assert {w.dtype for w in read.model.parameters()} == {torch.float32}
    rounded = {name: mixed[name].float() for name in mixed}
    torch.save({"model": rounded, "config": swamla_files.trainer_config(lm)}, path)
    assert torch.equal(read.logits(IDS), labkit.load(path).logits(IDS))


def test_gpt2s_tokenizer_is_presumed_also_where_its_vocabulary_is_padded(tmp_path):
    for rows in (50257, 50304):
        small = replace(CONFIG, vocab_size=rows, n_embd=8, n_layer=3, n_head=2, ratio_kv=1)
        lm = labkit.load(swamla_files.save(tmp_path / f"{rows}.pt", model(small)))
        assert lm.vocab_size == lm.tokenizer.vocab_size == rows
        assert lm.tokenizer.encode("Once<|endoftext|>") == [7454, 50256]
        assert any("GPT-2's is presumed" in note for note in lm.checkpoint.notes)
        assert lm.tokenizer.decode([7454, rows - 1]).startswith("Once")


def test_options_say_how_windows_and_query_positions_are_read(tmp_path):
    path = swamla_files.save(tmp_path / "checkpoint_7.pt", model())
    for window in ("executed", "configured"):
        for query_positions in ("head", "token"):
            options = {"window": window, "query_positions": query_positions}
            lm, same = labkit.load(path, options=options), model(replace(CONFIG, **options))
            assert_same(lm, same)
    with pytest.raises(labkit.ConfigError, match="'executed' or 'configured'"):
        labkit.load(path, options={"window": "sliding"})
    with pytest.raises(labkit.ConfigError, match="no option softcap"):
        labkit.load(path, options={"softcap": 15})


def test_a_model_can_be_converted_to_labkits_format_and_to_a_lean_file_of_its_own(tmp_path):
    lm = model(LOW_RANK)
    path = swamla_files.save(tmp_path / "checkpoint_7.pt", lm, swamla_files.namespace(lm))
    for format in ("labkit", "native"):
        convert(path, tmp_path / format, format)
        assert_same(labkit.load(tmp_path / format), lm)
    assert "optimizer" not in torch.load(tmp_path / "native" / "checkpoint_7.pt", weights_only=True)


class Intruder:
    def __reduce__(self):
        return (sys.exit, ("this must not run",))


@pytest.mark.parametrize("config", [Fraction(1, 2), Intruder()], ids=["a class", "a call"])
def test_no_other_object_than_the_known_ones_is_made(config, tmp_path):
    path = tmp_path / "checkpoint_7.pt"
    torch.save({"model": swamla_files.state_dict(model()), "config": config}, path)
    with pytest.raises(labkit.CheckpointError, match=r"asks for (fractions\.Fraction|sys\.exit)"):
        labkit.load(path)
    assert not {Record, Float8Record} & set(torch.serialization.get_safe_globals())


def test_float8_optimizer_state_is_read_without_torchao_and_does_not_compute():
    path = fixtures_root() / "swamla" / "mixed_dtype_fp8opt" / "checkpoint_15000.pt"
    before = set(sys.modules)
    state = load_torch(path)["optimizer"]["state"]
    assert not {name for name in set(sys.modules) - before if name.startswith("torchao")}
    records = [value for entry in state.values() for value in entry.values() if isinstance(value, Float8Record)]
    assert records and not {Record, Float8Record} & set(torch.serialization.get_safe_globals())
    with pytest.raises(TypeError, match="inert"):
        torch.neg(records[0])
    record = records[0]
    plain = unwrapped({"w": record}, "here")["w"]
    blocks = record.codes.float().flatten().split(record.block_size)
    assert torch.equal(plain.flatten(), torch.cat([b * s for b, s in zip(blocks, record.scale, strict=True)]))
    del record.scale
    with pytest.raises(labkit.CheckpointError, match="scale"):
        unwrapped({"w": record}, "here")


def test_the_shipped_model_can_be_read_with_its_windows_ignored():
    import labkit

    ids = [(7 * i) % 65 for i in range(120)]
    seen = labkit.load("shakespeare-swa-mla")
    ignored = labkit.load("shakespeare-swa-mla", options={"window": "executed"})
    assert (seen.config.window, ignored.config.window) == ("configured", "executed")
    apart = (seen.logits(ids) - ignored.logits(ids)).abs().amax(dim=-1)
    assert apart[:33].max() < 1e-4 < apart[60:].max()  # the first 33 positions see everything either way
    with pytest.raises(labkit.ConfigError, match="window is 'wide'"):
        labkit.load("shakespeare-swa-mla", options={"window": "wide"})
    with pytest.raises(labkit.ConfigError, match="no option colour"):
        labkit.load("shakespeare-swa-mla", options={"colour": 1})
