"""Every damaged or contradictory SWA-MLA file gets its recorded verdict, in one line that names the cause."""

import re

import pytest
import torch
from recorded import fixtures_root, read_json

import labkit

VERDICTS = read_json("broken_verdicts.json")["swamla"]
# What the message or the notes must say.
CAUSES = {
    "plain_keys_native_config.pt": "",
    "prefix_wrong_order.pt": "",
    "zero_mask_buffer.pt": "",
    "nan_weight.pt": r"NaN.*embed\.weight",
    "config_contradicts_block.pt": r"block_size 24.*16",
    "unknown_config_key.pt": "brand_new_flag",
    "untied_head.pt": r"lm_head\.weight and transformer\.wte\.weight differ",
    "unexpected_key.pt": r"not understood.*transformer\.h\.0\.attn\.extra\.weight",
    "truncated.pt": "cut short",
    "not_a_checkpoint.pt": "no readable torch.save file",
    "empty.pt": "empty",
    "no_config.pt": "No config",
    "no_model.pt": "without weights",
    "wrong_shape.pt": r"wrong shape.*kv_norm\.weight is \(5,\).*\(6,\)",
    "missing_key.pt": r"missing.*transformer\.h\.2\.attn\.wkv_b\.weight",
    "config_contradicts_rank.pt": r"kv_lora_rank 9.*6 in layer 2",
    "config_contradicts_pattern.pt": "layer 1 has window attention.*1 SWA, then 3 MLA",
    "zero_cycle.pt": "swa_layers_per_cycle and mla_layers_per_cycle are both 0",
}
# What is said of every file of this format; it says nothing about damage.
USUAL = ("No tokenizer", "Plain causal attention", "Queries of latent attention")
BROKEN = fixtures_root() / "swamla" / "broken"


def test_every_recorded_verdict_has_its_cause_here():
    assert set(CAUSES) == set(VERDICTS) == {path.name for path in BROKEN.glob("*.pt")}


@pytest.mark.parametrize("name", CAUSES)
def test_the_verdict(name):
    try:
        notes = [note for note in labkit.load(BROKEN / name).checkpoint.notes if not note.startswith(USUAL)]
        got, said = "note" if notes else "load", " ".join(notes)
    except labkit.CheckpointError as error:
        got, said = "refuse", str(error)
        assert said.startswith(str(BROKEN / name)) and len(said) < 600
    assert got in VERDICTS[name].split(" or "), said
    assert "\n" not in said and "weights_only" not in said
    assert re.search(CAUSES[name], said), said


def test_what_loads_says_what_the_sound_file_says():
    sound = labkit.load(BROKEN / "plain_keys_native_config.pt")
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    for name in ("prefix_wrong_order", "zero_mask_buffer", "unknown_config_key", "config_contradicts_block"):
        lm = labkit.load(BROKEN / f"{name}.pt")
        assert torch.equal(lm.logits(ids), sound.logits(ids)) and lm.config == sound.config, name
    without = labkit.load(BROKEN / "no_config.pt")  # its window is not known, but not executed either
    assert torch.equal(without.logits(ids), sound.logits(ids)) and without.config != sound.config


def test_of_two_heads_that_should_be_one_the_one_that_is_loaded_last_is_used():
    native = torch.load(BROKEN / "untied_head.pt", weights_only=True)["model"]
    head = next(w for name, w in native.items() if name.endswith("lm_head.weight"))
    model = labkit.load(BROKEN / "untied_head.pt").model
    assert torch.equal(model.lm_head.weight, head.float()) and model.embed.weight is model.lm_head.weight
