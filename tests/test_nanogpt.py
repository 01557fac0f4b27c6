"""nanoGPT's ckpt.pt: the numbers of its formulas, every variant of the file, and a meta.pkl that is data or refused."""

import os
import pickle

import pytest
import torch
from tiny import random_ids
from torch.nn import functional as F

import labkit

ARGS = {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 20, "vocab_size": 31, "dropout": 0.0}
CHARACTERS = [chr(ord("a") + i) for i in range(26)] + list(" \n.,!")


def weights(bias: bool, vocab_size: int = 31, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    c, n = ARGS["n_embd"], ARGS["block_size"]
    shapes = {"transformer.wte.weight": (vocab_size, c), "transformer.wpe.weight": (n, c)}
    for i in range(ARGS["n_layer"]):
        block = f"transformer.h.{i}."
        shapes |= {f"{block}ln_1.weight": (c,), f"{block}ln_2.weight": (c,)}
        shapes |= {f"{block}attn.c_attn.weight": (3 * c, c), f"{block}attn.c_proj.weight": (c, c)}
        shapes |= {f"{block}mlp.c_fc.weight": (4 * c, c), f"{block}mlp.c_proj.weight": (c, 4 * c)}
    shapes["transformer.ln_f.weight"] = (c,)
    if bias:
        shapes |= {
            name.replace("weight", "bias"): shape[:1]
            for name, shape in shapes.items()
            if "wte" not in name and "wpe" not in name
        }
    made = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    made["lm_head.weight"] = made["transformer.wte.weight"]
    return made


def reference(w: dict[str, torch.Tensor], ids: list[int], activation=F.gelu) -> torch.Tensor:
    """nanoGPT's forward, written from its formulas."""
    c, heads = ARGS["n_embd"], ARGS["n_head"]

    def norm(x, name):
        return F.layer_norm(x, (c,), w[f"{name}.weight"], w.get(f"{name}.bias"), 1e-5)

    def linear(x, name):
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: len(ids)]
    causal = torch.ones(len(ids), len(ids)).tril().bool()
    for i in range(ARGS["n_layer"]):
        block = f"transformer.h.{i}"
        q, k, v = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").split(c, dim=1)
        q, k, v = (part.view(-1, heads, c // heads).transpose(0, 1) for part in (q, k, v))
        scores = (q @ k.transpose(1, 2) / (c // heads) ** 0.5).masked_fill(~causal, float("-inf"))
        x = x + linear((scores.softmax(-1) @ v).transpose(0, 1).reshape(-1, c), f"{block}.attn.c_proj")
        x = x + linear(activation(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")), f"{block}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ w["lm_head.weight"].T


def write(folder, w=None, *, bias=True, **changes):
    """A checkpoint as nanoGPT's train.py writes it."""
    folder.mkdir(exist_ok=True, parents=True)
    payload = {
        "model": weights(bias) if w is None else w,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3}]},
        "model_args": {**ARGS, "bias": bias},
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "letters", "batch_size": 12},
    }
    torch.save({**payload, **changes}, folder / "ckpt.pt")
    return folder


def write_meta(path, characters=CHARACTERS, **changes):
    path.parent.mkdir(exist_ok=True, parents=True)
    itos = dict(enumerate(characters))
    meta = {"vocab_size": len(itos), "itos": itos, "stoi": {c: i for i, c in itos.items()}}
    path.write_bytes(pickle.dumps({**meta, **changes}))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod."])
def test_logits_are_those_of_the_formulas(bias, prefix, tmp_path):
    w = weights(bias)
    lm = labkit.load(write(tmp_path, {prefix + name: each for name, each in w.items()}, bias=bias))
    ids = random_ids(20, vocab_size=31)
    assert (lm.logits(ids) - reference(w, ids)).abs().max() <= 5e-5
    facts = lm.checkpoint
    assert (facts.family, facts.step, facts.losses, facts.stop_ids) == ("gpt2", 250, {"val": 1.5}, ())


def test_files_from_before_flash_attention_and_before_bias_was_an_argument(tmp_path):
    w = weights(True)
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 20, 20).tril() for i in range(2)}
    folder, ids = write(tmp_path, w | masks, model_args=ARGS), random_ids(20, vocab_size=31)
    assert (labkit.load(folder).logits(ids) - reference(w, ids)).abs().max() <= 5e-5
    old = labkit.load(folder, options={"activation": "gelu_tanh"})
    by_tanh = reference(w, ids, lambda x: F.gelu(x, approximate="tanh"))
    assert (old.logits(ids) - by_tanh).abs().max() <= 5e-5
    with pytest.raises(labkit.ConfigError, match="before June 2023"):
        labkit.load(folder, options={"activation": "relu"})
    with pytest.raises(labkit.ConfigError, match="no option softcap"):
        labkit.load(folder, options={"softcap": 15})


def test_cached_equals_uncached(tmp_path):
    lm = labkit.load(write(tmp_path))
    runs = [labkit.generate(lm, [1, 2], seed=3, max_new_tokens=50, use_cache=use_cache) for use_cache in (True, False)]
    assert runs[0].ids == runs[1].ids


def test_the_characters_of_a_meta_pkl(tmp_path):
    write_meta(tmp_path / "out" / "meta.pkl")
    lm = labkit.load(write(tmp_path / "out"))
    assert lm.checkpoint.notes == () and lm.tokenizer.encode("ab.") == [0, 1, 28]
    assert lm.tokenizer.decode(lm.tokenizer.encode("hello, all!\n")) == "hello, all!\n"
    with pytest.raises(labkit.TokenizerError, match=r"'X' \(position 1\)"):
        lm.tokenizer.encode("aX")


def test_meta_pkl_is_found_where_nanogpt_keeps_it(tmp_path):
    write_meta(tmp_path / "data" / "letters" / "meta.pkl")
    assert labkit.load(write(tmp_path / "out-letters")).tokenizer.encode("a") == [0]
    outside = write(tmp_path / "out-2", config={"dataset": "../data/letters"})
    assert labkit.load(outside).tokenizer is None


def test_a_meta_pkl_of_another_run_is_passed_over_but_refused_when_given(tmp_path):
    write_meta(tmp_path / "meta.pkl", CHARACTERS[:20])
    lm = labkit.load(write(tmp_path))
    assert lm.tokenizer is None and "20 entries, the embedding 31 rows" in " ".join(lm.checkpoint.notes)
    with pytest.raises(labkit.CheckpointError, match="20 entries"):
        labkit.load(tmp_path, meta=tmp_path / "meta.pkl")


def test_gpt2s_tokenizer_serves_its_vocabulary_padded_or_not(tmp_path):
    for vocab_size in (50257, 50304):
        args = {**ARGS, "vocab_size": vocab_size, "bias": False}
        folder = write(tmp_path / str(vocab_size), weights(False, vocab_size), model_args=args)
        lm = labkit.load(folder)
        assert (lm.vocab_size, lm.tokenizer.vocab_size) == (vocab_size, vocab_size)
        assert lm.tokenizer.encode("hello world<|endoftext|>") == [31373, 995, 50256]


class Payload:
    """Runs when it is unpickled by anything careless."""

    def __init__(self, marker: str):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no readable meta.pkl"),
        (b"garbage", "no readable meta.pkl"),
        (pickle.dumps([1, 2]), "no table itos"),
        (pickle.dumps({"itos": {5: "a"}, "stoi": {"a": 5}}), "numbers characters from 0"),
        (pickle.dumps({"itos": {0: "a"}, "stoi": {"a": 1}}), "contradict"),
        (pickle.dumps({"itos": {0: 7}, "stoi": {}}), "something else than characters"),
        (pickle.dumps({"itos": {0: "ab"}, "stoi": {"ab": 0}}), "something else than characters"),
        (pickle.dumps({"itos": {0: "a"}, "stoi": {"a": 0}, "config": pickle.PickleError}), "asks for _pickle.Pickl"),
        (b"cos\nsystem\n(S'echo'\ntR.", "asks for os.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "asks for builtins.eval"),
        (b"\x80\x02Pxyz\n.", "outside itself"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "no readable meta.pkl"),
    ],
)
def test_a_meta_pkl_that_is_not_plain_data_is_refused(data, message, tmp_path):
    (tmp_path / "meta.pkl").write_bytes(data)
    write(tmp_path)
    with pytest.raises(labkit.CheckpointError, match=message) as refusal:
        labkit.load(tmp_path, meta=tmp_path / "meta.pkl")
    assert "\n" not in str(refusal.value)
    assert any(message in note for note in labkit.load(tmp_path).checkpoint.notes)


def test_nothing_in_a_meta_pkl_or_a_checkpoint_is_run(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"itos": Payload(str(marker))}))
    assert labkit.load(write(tmp_path)).tokenizer is None
    write(tmp_path / "evil", config=Payload(str(marker)))
    with pytest.raises(labkit.CheckpointError, match="posix.system"):
        labkit.load(tmp_path / "evil")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["model_args"].pop("n_head"), "lacks n_head"),
        (lambda p: p["model_args"].update(n_layer=3), "3 layers, the file holds 2"),
        (lambda p: p["model_args"].update(n_head=5), "divisible by n_head 5"),
        (lambda p: p["model_args"].update(n_embd="24"), "n_embd is '24'"),
        (lambda p: p["model_args"].update(n_embd=1 << 40), "n_embd"),
        (lambda p: p["model_args"].update(block_size=-1), "block_size is -1"),
        (lambda p: p["model_args"].update(dropout=7.0), "cannot be laid out"),
        (lambda p: p["model_args"].update(experts=8), "experts"),
        (lambda p: p.update(model_args=[1]), "model_args is a list"),
        (lambda p: p.update(model=3), "int in place of the state dict"),
        (lambda p: p["model"].pop("transformer.ln_f.weight"), "missing .ln_f.weight"),
        (lambda p: p["model"].update(extra=torch.ones(2)), "not understood .extra"),
        (lambda p: p["model"].update({"transformer.wpe.weight": torch.ones(5, 24)}), r"wpe.weight is \(5, 24\)"),
        (lambda p: p["model"].update({"transformer.wpe.weight": torch.ones(20, 24).int()}), "holds int32"),
        (lambda p: p["model"].update({"transformer.wpe.weight": "text"}), "no plain tensors"),
        (lambda p: p["model"].update({"transformer.wpe.weight": torch.ones(20, 24).to_sparse()}), "no plain tensors"),
        (lambda p: p["model"].update({"transformer.wpe.weight": torch.ones(1).expand(20, 24)}), "no plain tensors"),
        (lambda p: p["model"].update({7: torch.ones(1)}), "no plain tensors"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_by_name(change, message, tmp_path):
    payload = {"model": weights(True), "model_args": {**ARGS, "bias": True}}
    change(payload)
    torch.save(payload, tmp_path / "ckpt.pt")
    with pytest.raises(labkit.CheckpointError, match=message) as refusal:
        labkit.load(tmp_path)
    assert "\n" not in str(refusal.value)
