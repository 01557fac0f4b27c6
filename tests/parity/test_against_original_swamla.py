"""SWA-MLA checkpoints say what the original says: as it runs, with its windows applied, and what is inside."""

import functools
import random
from itertools import pairwise

import pytest
import torch
from forcing import greedy_steps, largest, wrong
from recorded import fixtures_root, model_cases, read_arrays, read_json

import labkit
from labkit.layers.latent_attention import LatentAttention

FAMILY, LOGITS = "swa_mla", 2e-4
CASES = model_cases("swamla")
# How the window is read -> what the arrays recorded that way begin with.
WINDOWS = {"executed": "", "configured": "windowed_"}

expected = functools.cache(lambda case: read_json("swamla", case, "expected.json"))
arrays = functools.cache(lambda case: read_arrays("swamla", case, "expected.npz"))
PROMPTS = [(case, int(name[5:])) for case in CASES for name in arrays(case) if name.startswith("ids_p")]
WINDOWED = [(c, p) for c, p in PROMPTS if f"windowed_logits_p{p}" in arrays(c)]
READINGS = [(c, p, "executed") for c, p in PROMPTS] + [(c, p, "configured") for c, p in WINDOWED]

every_case = pytest.mark.parametrize("case", CASES)
every_reading = pytest.mark.parametrize(("case", "prompt", "window"), READINGS)


@functools.cache
def model(case: str, window: str = "executed") -> labkit.LanguageModel:
    return labkit.load(fixtures_root() / "swamla" / case, device="cpu", options={"window": window})


def recorded_logits(case: str, prompt: int, window: str, logits: torch.Tensor) -> tuple[torch.Tensor, object]:
    """The logits and what they should be: of every position, or where only that was recorded, of the last one."""
    name = f"{WINDOWS[window]}logits_p{prompt}"
    if name in arrays(case):
        return logits, arrays(case)[name]
    return logits[-1], arrays(case)[f"{WINDOWS[window]}last_logits_p{prompt}"]


def prompt_ids(case: str, prompt: int) -> torch.Tensor:
    return torch.from_numpy(arrays(case)[f"ids_p{prompt}"]).long()


def test_the_cases_are_here():
    assert {"gqa_qlora_bias_ddp", "hf_flat", "mixed_dtype_fp8opt"} <= set(CASES) and len(WINDOWED) >= 15


@every_case
def test_what_the_original_loader_found_out_is_in_the_config(case):
    lm = model(case)
    loaded = expected(case).get("loaded_config")
    if loaded is not None:
        ours = {name: value for name, value in loaded.items() if name in type(lm.config).__dataclass_fields__}
        assert len(ours) >= 20
        assert {name: getattr(lm.config, name) for name in ours} == ours
        windows = [None if lm.config.is_latent(i) else lm.config.window_at(i).size for i in range(lm.config.n_layer)]
        ranks = [lm.config.kv_rank_at(i) if lm.config.is_latent(i) else None for i in range(lm.config.n_layer)]
        assert (windows, ranks) == (expected(case)["layer_windows"], expected(case)["layer_kv_rank"])
    assert lm.checkpoint.family == "swa_mla"
    assert (lm.checkpoint.step is None) == (lm.checkpoint.path.suffix == ".bin")


@every_case
def test_the_notes_say_what_a_file_cannot(case):
    executed, configured = (" ".join(model(case, window).checkpoint.notes) for window in WINDOWS)
    assert "causal" in executed and '"configured"' in executed and '"configured"' not in configured
    assert "number of their head" in executed and '"query_positions"' in executed
    assert f"{model(case).config.swa_window} positions" in executed


@every_reading
def test_logits(case, prompt, window, measured):
    lm = model(case, window)
    logits, recorded = recorded_logits(case, prompt, window, lm.logits(prompt_ids(case, prompt)))
    measured(FAMILY, case, f"logits, window {window}", largest(logits, recorded), LOGITS)


@every_reading
@torch.inference_mode()
def test_logits_in_any_chunking_and_from_a_fork(case, prompt, window, measured):
    lm, ids = model(case, window), prompt_ids(case, prompt)[None]
    n = ids.shape[1]
    rng = random.Random(100 * prompt + n)
    at_random = [sorted(rng.sample(range(1, n), rng.randrange(n))) for _ in range(3)]
    for cuts in ([], range(1, n), *at_random):
        cache, parts = lm.model.new_cache(capacity=rng.randrange(1, 99)), []
        for start, end in pairwise([0, *cuts, n]):
            parts.append(lm.model(ids[:, start:end], cache)[0])
            other, cache = cache, cache.fork()
            if end < lm.model.block_size:
                lm.model(ids[:, :1], other)  # the original goes another way, the fork goes on
        logits, recorded = recorded_logits(case, prompt, window, torch.cat(parts))
        measured(FAMILY, case, f"logits in chunks, window {window}", largest(logits, recorded), LOGITS)


@every_case
@pytest.mark.parametrize("window", WINDOWS)
@torch.inference_mode()
def test_logits_in_a_batch_padded_on_the_left(case, window, measured):
    lm, prompts = model(case, window), [p for c, p, w in READINGS if (c, w) == (case, window)]
    rows = [prompt_ids(case, prompt) for prompt in prompts]
    if not rows:
        pytest.skip("not recorded with windows")
    width = max(map(len, rows))
    ids, positions = torch.zeros(len(rows), width, dtype=torch.long), torch.full((len(rows), width), -1)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :], positions[i, width - len(row) :] = row, torch.arange(len(row))
    cache = lm.model.new_cache(batch=len(rows))
    cuts = [0, width // 3, width // 2, width]
    logits = torch.cat([lm.model(ids[:, a:b], cache, positions[:, a:b]) for a, b in pairwise(cuts)], dim=1)
    for prompt, row, said in zip(prompts, rows, logits, strict=True):
        found, recorded = recorded_logits(case, prompt, window, said[width - len(row) :])
        measured(FAMILY, case, f"logits in a batch, window {window}", largest(found, recorded), LOGITS)


@every_reading
@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
def test_greedy_ids(case, prompt, window, use_cache, measured):
    """Past the context as well: the original always shows its last block_size ids."""
    recorded = arrays(case)[f"{WINDOWS[window]}greedy_p{prompt}"]
    steps = greedy_steps(
        model(case, window), prompt_ids(case, prompt), len(recorded), use_cache=use_cache, overflow="recrop"
    )
    label = "with cache" if use_cache else "without"
    measured(FAMILY, case, f"greedy ids wrong, {label}, window {window}", wrong(steps, recorded), 0)


@pytest.mark.parametrize("case", [case for case in CASES if "inspect_prompt" in expected(case)])
@torch.inference_mode()
def test_what_is_inside(case, measured):
    """Residual stream, attention weights recomputed from what the core is given, latents and rotated keys."""
    lm, recorded = model(case), arrays(case)
    ids = prompt_ids(case, expected(case)["inspect_prompt"])
    kept: dict[str, torch.Tensor] = {}
    cores: dict[int, tuple[torch.Tensor, ...]] = {}
    hooks = [
        module.register_forward_hook(lambda m, i, o, name=name: kept.__setitem__(name, o[0]))
        for name, module in [*lm.model.named_modules()]
        if name in ("embed", "norm_f") or name.startswith("blocks.") and name.count(".") == 1
    ]
    for i, block in enumerate(lm.model.blocks):
        hooks.append(block.attn.core.register_forward_hook(lambda m, i, o, at=i: cores.__setitem__(at, i)))
    lm.model(ids[None])
    for hook in hooks:
        hook.remove()
    hidden = torch.stack([kept[f"blocks.{i}"] for i in range(lm.config.n_layer)])
    measured(FAMILY, case, "hidden states", largest(hidden, recorded["inspect_hidden"]), LOGITS)
    measured(FAMILY, case, "embedding", largest(kept["embed"], recorded["inspect_hidden_embed"]), LOGITS)
    measured(FAMILY, case, "final norm", largest(kept["norm_f"], recorded["inspect_hidden_final"]), LOGITS)
    cache = lm.model.new_cache()
    lm.model(ids[None], cache)
    for i, block in enumerate(lm.model.blocks):
        q, k, _, mask = cores[i]
        scale = block.attn.core.scale or q.shape[-1] ** -0.5
        scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).transpose(-1, -2) * scale  # (1, H, T, T)
        pattern = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)[0]
        measured(FAMILY, case, "attention weights", largest(pattern, recorded[f"inspect_attn_L{i}"]), 1e-5)
        if isinstance(block.attn, LatentAttention):
            held = cache.stores[i].full.k[0, 0, : len(ids)]  # (T, R + D)
            latent, key = held.split([recorded[f"inspect_mla_{x}_L{i}"].shape[1] for x in ("latent", "krope")], dim=1)
            measured(FAMILY, case, "cached latents", largest(latent, recorded[f"inspect_mla_latent_L{i}"]), LOGITS)
            measured(FAMILY, case, "cached keys", largest(key, recorded[f"inspect_mla_krope_L{i}"]), LOGITS)
            assert cache.stores[i].nbytes == held.numel() * held.element_size()  # and nothing besides


@pytest.mark.skipif("gpt2_vocab_bf16" not in CASES, reason="in the whole set only")
def test_text_of_the_gpt2_vocabulary():
    lm = model("gpt2_vocab_bf16")
    for record in expected("gpt2_vocab_bf16")["tokenizer"]:
        assert lm.tokenizer.encode(record["text"]) == record["tiktoken_ids"]
        visible = [i for i in record["tiktoken_ids"] if i != lm.tokenizer.eos_id]
        assert lm.tokenizer.decode(visible) == record["decoded_skip_special"]
