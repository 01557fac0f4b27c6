"""What no recorded checkpoint has: DynamicTanh, logit scale, selective blocks, growing ranks."""

from dataclasses import replace

import pytest
import swamla_files
import tiny
import torch

import labkit
from labkit.models.swa_mla import SwaMlaConfig

PLAIN = SwaMlaConfig(
    vocab_size=29, block_size=48, n_layer=6, n_head=4, n_embd=32, swa_window=6, swa_sink_size=2,
    kv_lora_rank=20, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6,
)  # fmt: skip
SCALED = replace(
    PLAIN, logit_scale_base=1.5, logit_scale_window=5, logit_scale_offset=3, logit_scale_min=1.2, logit_scale_max=2.5
)
CONFIGS = {
    "dynamic tanh": replace(PLAIN, norm="dynamic_tanh"),
    "logit scale": SCALED,
    "selective": PLAIN,
    "low rank": replace(PLAIN, bias=True, q_lora_rank=10, ratio_kv=4),
    "latent only": replace(PLAIN, swa_layers_per_cycle=0),
    "depth": replace(PLAIN, depth_scale_first=0.5, depth_scale_last=2.0),
}
# Orolol/swamla at 315bcb9 ("depth": 3d3dcb0) on these weights, torch 2.13: the first logits after IDS, as it runs, and
# by its fallback, where windows apply.
IDS = tiny.random_ids(40, seed=8, vocab_size=29)
RECORDED = {
    "dynamic tanh": ([-2.6599, -3.51772, -6.37882, 1.28264], [-1.40625, -3.98789, -5.47494, 0.44725]),
    "logit scale": ([-0.47617, -0.59976, 4.4012, 3.34543, 5.41565], [-1.43721, -1.13136, 1.7097, 3.19211, 3.10016]),
    "selective": ([-0.20655, 0.72039, 3.96485, 3.24847, 4.9571], [-1.91368, -0.79386, 1.25936, 1.69175, 2.6669]),
    "low rank": ([-6.12279, 2.33371, -4.87896, -6.08857, -4.10172], [-3.44283, 3.65521, -6.08558, -0.47999, 0.14448]),
    "latent only": ([-0.79447, -5.09214, -2.10862, -1.4956], [-0.79447, -5.09214, -2.10862, -1.4956]),
    "depth": ([2.99574, -1.72531, 1.93212, 0.52423, -2.12316], [-5.02307, -0.46279, 1.85921, -0.14529, 3.52797]),
}


@pytest.mark.parametrize("variant", CONFIGS)
def test_it_says_what_the_original_says(variant, tmp_path, measured):
    lm = tiny.language_model("swa_mla", CONFIGS[variant], seed=5)
    path = swamla_files.save(tmp_path / "checkpoint_7.pt", lm, own_names=variant != "selective")
    for window, recorded in zip(("executed", "configured"), RECORDED[variant], strict=True):
        read = labkit.load(path, options={"window": window})
        assert read.config == replace(CONFIGS[variant], window=window)
        apart = float((read.logits(IDS)[-1, : len(recorded)] - torch.tensor(recorded)).abs().max())
        measured("swa_mla", f"variant: {variant}", f"logits, window {window}", apart, 2e-4)
    assert any("grow with depth" in note for note in read.checkpoint.notes) == (variant == "depth")
