"""Random models of transformers, written to folders; and GGUF files made of them."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what transformers warns of when it is imported is not ours
    transformers = pytest.importorskip("transformers")


def randomised(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """All weights random, biases and gains too, so that none of them can be forgotten unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if is_gain else 0.3 * noise)
    return model.eval()


def gpt2(seed: int = 0, **fields: Any) -> Any:
    sizes = {"vocab_size": 61, "n_positions": 40, "n_embd": 24, "n_layer": 2, "n_head": 3}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = transformers.GPT2Config(**{**sizes, "bos_token_id": 0, "eos_token_id": 0, **fields})
        return randomised(transformers.GPT2LMHeadModel(config), seed)


def llama(seed: int = 0, **fields: Any) -> Any:
    sizes = {
        "vocab_size": 61, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 160,
    }  # fmt: skip
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return randomised(transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **fields})), seed)


def save(model: Any, folder: Path, **how: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, **how)
    return folder


def open_folder(folder: Path) -> Any:
    """What transformers makes of a folder, in float32."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


@torch.inference_mode()
def logits(model: Any, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids])).logits[0].float()


def apart(lm: Any, model: Any, ids: list[int]) -> float:
    """Largest difference between labkit's logits and transformers'."""
    return float((lm.logits(ids) - logits(model, ids)).abs().max())


def greedy(model: Any, ids: list[int], n: int, at_least: int = 0) -> list[int]:
    """transformers' own greedy generation: the new ids, EOS included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prompt = torch.tensor([ids])
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=n,
            min_new_tokens=at_least or None,
        )
    return out[0, len(ids) :].tolist()
