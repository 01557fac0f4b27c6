"""Export: every family in labkit's own format, native copies without training state, folders for transformers."""

import json
import os
import random
from dataclasses import replace

import hf_models
import pytest
import torch
from recorded import fixtures_root
from safetensors.torch import load_file, save_file
from tiny import CASES, TINY, language_model, random_ids, single_bytes, tiny

import labkit
from labkit.checkpoints import convert as convert_module
from labkit.checkpoints import read
from labkit.checkpoints.convert import convert
from labkit.checkpoints.tokenizer_json import json_of
from labkit.layers.rotary import LinearScaling, Llama3Scaling, PairScaling
from labkit.tokenizers.bpe import GPT2Tokenizer
from labkit.tokenizers.char import CharTokenizer
from labkit.tokenizers.hf import HFTokenizer

every_case = pytest.mark.parametrize(("family", "variant"), CASES)


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@every_case
def test_every_family_comes_back_with_the_same_logits(family, variant, tmp_path):
    lm, ids = tiny(family, variant), random_ids(20)
    assert convert(lm, tmp_path / "a").notes == ()
    back = labkit.load(tmp_path / "a")
    assert torch.equal(back.logits(ids), lm.logits(ids))
    assert (back.config, back.checkpoint.family) == (lm.config, family)
    assert back.tokenizer.encode("hello = 1\n") == lm.tokenizer.encode("hello = 1\n")
    assert labkit.load(tmp_path / "a" / "model.safetensors").checkpoint == back.checkpoint
    convert(tmp_path / "a", tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


@every_case
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_family_keeps_the_dtype_it_is_given(family, variant, dtype, tmp_path):
    lm = tiny(family, variant)
    convert(lm, tmp_path / "narrow", dtype=dtype)
    convert(tmp_path / "narrow", tmp_path / "copy")
    for folder in ("narrow", "copy"):
        checkpoint = read(tmp_path / folder)
        assert checkpoint.facts.dtype == dtype
        assert {w.dtype for w in checkpoint.weights.values()} == {getattr(torch, dtype)}
    rounded = {name: w.to(getattr(torch, dtype)) for name, w in lm.model.state_dict().items()}
    assert all(torch.equal(w, rounded[name]) for name, w in checkpoint.weights.items())


def test_mixed_dtypes_and_float8_are_kept_as_they_are(tmp_path):
    checkpoint = convert_module.as_checkpoint(tiny("nanochat", "grouped"))
    kinds = [torch.float32, torch.bfloat16, torch.float8_e4m3fn]
    weights = {name: w.to(kinds[i % 3]) for i, (name, w) in enumerate(checkpoint.weights.items())}
    convert(replace(checkpoint, weights=weights), tmp_path / "mixed")
    assert read(tmp_path / "mixed").facts.dtype == "bfloat16 and float32 and float8_e4m3fn"
    back = read(tmp_path / "mixed").weights
    assert {name: w.dtype for name, w in back.items()} == {name: w.dtype for name, w in weights.items()}


TOKENIZERS = {
    "none": None,
    "char": CharTokenizer(list("ab é"), specials=["<|bos|>", "<|x|>"], vocab_size=37, bos="<|x|>", on_unknown="drop"),
    "table": single_bytes(),
    "hf": HFTokenizer(json_of(single_bytes()), vocab_size=300, bos_id=7, eos_id=9),
    "gpt2": GPT2Tokenizer(on_special="refuse", vocab_size=50300),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_tokenizer_comes_back(kind, tmp_path):
    tokenizer = TOKENIZERS[kind]
    config = TINY["gpt2"]["tied"]
    config = replace(config, vocab_size=tokenizer.vocab_size) if tokenizer else config
    lm = language_model(
        "gpt2", config, tokenizer, stop_ids=(3, 5), chat_template="{{ é }}", step=7, losses={"val": 1.5}
    )
    convert(lm, tmp_path / "out")
    back = labkit.load(tmp_path / "out")
    facts = back.checkpoint
    assert (facts.stop_ids, facts.chat_template, facts.step, facts.losses) == ((3, 5), "{{ é }}", 7, {"val": 1.5})
    assert repr(back.tokenizer) == repr(tokenizer) and type(back.tokenizer) is type(tokenizer)
    if tokenizer is not None:
        kept = ("vocab_size", "bos_id", "eos_id", "special_ids", "on_unknown", "on_special")
        assert [getattr(back.tokenizer, n) for n in kept] == [getattr(tokenizer, n) for n in kept]
        assert back.tokenizer.encode("ab é<|x|>", "drop", "text") == tokenizer.encode("ab é<|x|>", "drop", "text")


@pytest.mark.parametrize(
    "scaling", [LinearScaling(4.0), Llama3Scaling(8.0, 1.0, 4.0, 16), PairScaling((1.0, 2.0, 7.5)), None]
)
def test_values_in_a_config_come_back_as_what_they_were(scaling, tmp_path):
    lm = language_model("llama", replace(TINY["llama"]["grouped"], rope_scaling=scaling))
    convert(lm, tmp_path / "out")
    assert labkit.load(tmp_path / "out").config == lm.config
    assert torch.equal(labkit.load(tmp_path / "out").logits(random_ids(24)), lm.logits(random_ids(24)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"family": "rwkv"}, "family 'rwkv'"),
        ({"config": None}, "config"),
        ({"config": {"kind": "Path"}}, "'Path' is no kind"),
        ({"config": {"kind": "GPT2Config", "n_experts": 3}}, "no n_experts; written by a newer labkit"),
        ({"config": {"kind": "GPT2Config"}}, "missing"),
        ({"tokenizer": {"type": "sentencepiece"}}, "'sentencepiece' is unknown"),
        ({"tokenizer": [1]}, "tokenizer cannot be read"),
        ({"tokenizer": {"type": "hf"}}, "tokenizer cannot be read"),
        ({"tokenizer": {"type": "gpt2"}}, "50257 entries, the embedding 37"),
        ({"format": "other"}, "says 'other'"),
    ],
)
def test_a_config_json_that_cannot_be_meant_is_refused(change, message, tmp_path):
    convert(tiny("gpt2", "tied"), tmp_path / "out")
    path = tmp_path / "out" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(labkit.CheckpointError, match=message) as refusal:
        labkit.load(tmp_path / "out")
    assert "\n" not in str(refusal.value)


def test_tensors_that_are_missing_extra_or_misshapen_are_named(tmp_path):
    convert(tiny("gpt2", "tied"), tmp_path / "out")
    path = tmp_path / "out" / "model.safetensors"
    weights = load_file(path)
    changes = {
        "1 tensor missing .norm_f.bias": {k: w for k, w in weights.items() if k != "norm_f.bias"},
        "1 tensor not understood .blocks.9.x.": weights | {"blocks.9.x": torch.ones(1)},
        r"norm_f.bias is \(3,\)": weights | {"norm_f.bias": torch.ones(3)},
        "norm_f.bias holds int64": weights | {"norm_f.bias": torch.ones(16).long()},
    }
    for message, changed in changes.items():
        save_file(changed, path)
        with pytest.raises(labkit.CheckpointError, match=message):
            labkit.load(tmp_path / "out")


# Hugging Face folders


@pytest.mark.parametrize(
    ("family", "variant"), [case for case in CASES if case[0] in ("gpt2", "llama") or case == ("labcore", "learned")]
)
def test_transformers_opens_the_folder_and_says_the_same(family, variant, tmp_path):
    lm = tiny(family, variant)
    assert convert(lm, tmp_path / "hf", format="huggingface").notes == ()
    model = hf_models.open_folder(tmp_path / "hf")
    assert hf_models.apart(lm, model, random_ids(24)) <= 1e-4
    tokenizer = hf_models.transformers.AutoTokenizer.from_pretrained(tmp_path / "hf", local_files_only=True)
    assert tokenizer("hello, 12\n", add_special_tokens=False)["input_ids"] == lm.tokenizer.encode("hello, 12\n")
    assert (labkit.load(tmp_path / "hf").logits(random_ids(24)) - lm.logits(random_ids(24))).abs().max() <= 1e-4


@pytest.mark.parametrize("scaling", [LinearScaling(4.0), Llama3Scaling(8.0, 1.0, 4.0, 16)])
def test_transformers_turns_the_pairs_as_slowly(scaling, tmp_path):
    lm = language_model("llama", replace(TINY["llama"]["grouped"], rope_scaling=scaling, block_size=200))
    convert(lm, tmp_path / "hf", format="huggingface")
    assert hf_models.apart(lm, hf_models.open_folder(tmp_path / "hf"), random_ids(200)) <= 1e-4


@pytest.mark.parametrize("case", ["small_bias", "small_nobias_eps1e-2"])
def test_a_gpt2seed_checkpoint_as_a_folder(case, tmp_path):
    source = fixtures_root() / "gpt2seed" / case
    conversion = convert(source, tmp_path / "hf", format="huggingface")
    assert "no tokenizer to write" in " ".join(conversion.notes)
    lm = labkit.load(source)
    ids = random_ids(lm.model.block_size, vocab_size=lm.vocab_size)
    assert hf_models.apart(lm, hf_models.open_folder(tmp_path / "hf"), ids) <= 1e-4
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["activation_function"] == "gelu"


@pytest.mark.parametrize("family", ["labcore", "nanochat", "swa_mla"])
def test_a_family_without_a_counterpart_is_refused_and_nothing_is_left(family, tmp_path):
    variant = {"labcore": "rope_nobias"}.get(family, next(iter(TINY[family])))
    with pytest.raises(labkit.CheckpointError, match="no counterpart in transformers"):
        convert(tiny(family, variant), tmp_path / "hf", format="huggingface")
    assert list(tmp_path.iterdir()) == []


def test_rotation_out_of_a_gguf_cannot_be_said_in_a_folder(tmp_path):
    lm = language_model("llama", replace(TINY["llama"]["grouped"], rope_scaling=PairScaling((1.0, 2.0, 3.0))))
    with pytest.raises(labkit.CheckpointError, match="pair by pair"):
        convert(lm, tmp_path / "hf", format="huggingface")


# native copies

NATIVE = {
    "labcore": "labcore/char_learned_bias",
    "labcore with prefixes": "labcore/char_learned_nobias_ddp",
    "labcore hub export": "labcore/char_rope_nobias/hf_export",
    "gpt2seed": "gpt2seed/small_bias",
    "nanochat": "nanochat/exp_step_002920/step_002920",
}


@pytest.mark.parametrize("system", NATIVE)
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_a_native_copy_has_the_same_weights_and_no_training_state(system, dtype, tmp_path):
    source = fixtures_root() / NATIVE[system]
    convert(source, tmp_path / "a", format="native", dtype=dtype)
    convert(source, tmp_path / "b", format="native", dtype=dtype)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    whole, copy = read(source), read(tmp_path / "a")
    assert (copy.config, copy.facts.format) == (whole.config, whole.facts.format)
    assert (copy.facts.step, copy.facts.losses, copy.facts.notes) == (
        whole.facts.step,
        whole.facts.losses,
        whole.facts.notes,
    )
    assert repr(copy.tokenizer) == repr(whole.tokenizer)
    assert copy.facts.dtype == (dtype or whole.facts.dtype)
    for name, w in whole.weights.items():
        assert torch.equal(copy.weights[name], w if dtype is None else w.half()), name
    if copy.facts.path.suffix in (".pt", ".pth"):
        payload = torch.load(copy.facts.path, weights_only=True)
        assert not [key for key in payload if "optimizer" in key or "scheduler" in key or "scaler" in key]
        assert copy.facts.path.stat().st_size <= whole.facts.path.stat().st_size


def test_a_pickled_config_becomes_a_dict_with_a_note(tmp_path):
    conversion = convert(fixtures_root() / "gpt2seed" / "small_bias", tmp_path / "out", format="native")
    assert "plain dict" in conversion.notes[0]
    assert torch.load(tmp_path / "out" / "best_model.pth", weights_only=True)["config"]["d_model"] == 32


def test_native_copies_of_a_folder_in_parts_and_of_a_gguf(tmp_path):
    from gguf_files import write

    model = hf_models.llama()
    parts = hf_models.save(model, tmp_path / "parts", max_shard_size="10KB")
    convert(parts, tmp_path / "one", format="native", dtype="bfloat16")
    assert sorted(files(tmp_path / "one")) == ["config.json", "generation_config.json", "model.safetensors"]
    assert read(tmp_path / "one").facts.dtype == "bfloat16"
    assert json.loads((tmp_path / "one" / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(labkit.CheckpointError, match="GGUF file cannot be rewritten"):
        convert(write(tmp_path / "model.gguf", model), tmp_path / "two", format="native")


# whole or not at all


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("taken", "file"):
        with pytest.raises(labkit.CheckpointError, match="exists already"):
            convert(tiny("gpt2", "tied"), tmp_path / name)
    (tmp_path / "empty").mkdir()
    convert(tiny("gpt2", "tied"), tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "taken"]
    assert (tmp_path / "taken" / "mine.txt").read_text() == "mine"


def test_what_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="no space"):
        convert(tiny("gpt2", "tied"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_read_back_the_same_gets_no_name(tmp_path, monkeypatch):
    other = convert_module.as_checkpoint(tiny("gpt2", "untied_nobias"))
    monkeypatch.setattr(convert_module, "read", lambda path: other)
    with pytest.raises(labkit.CheckpointError, match="reading it back gave something else"):
        convert(tiny("gpt2", "tied"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_wrong_words_are_refused_with_the_right_ones(tmp_path):
    with pytest.raises(labkit.ConfigError, match="float32, float16, bfloat16"):
        convert(tiny("gpt2", "tied"), tmp_path / "out", dtype="int8")
    with pytest.raises(labkit.ConfigError, match='"labkit", "native" or "huggingface"'):
        convert(tiny("gpt2", "tied"), tmp_path / "out", format="onnx")


# folders and files that lie


@pytest.fixture
def folder(tmp_path):
    return hf_models.save(hf_models.llama(), tmp_path / "hf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 48}, "wrong shape"),
        ({"num_hidden_layers": 5}, "5 layers, the file holds 2"),
        ({"num_hidden_layers": 1}, "not understood .layers.1"),
        ({"num_attention_heads": 0}, "n_head is 0"),
        ({"num_attention_heads": None}, "num_attention_heads is None"),
        ({"num_key_value_heads": 3}, "multiple of n_kv_head"),
        ({"head_dim": 7}, "even head size"),
        ({"vocab_size": 62}, r"embed_tokens.weight is \(61, 32\)"),
        ({"max_position_embeddings": 10**15}, "block_size"),
        ({"max_position_embeddings": 1 << 23}, "block_size"),
        ({"hidden_act": "xielu"}, "activation 'xielu'"),
        ({"hidden_act": ["silu"]}, "activation"),
        ({"rms_norm_eps": float("nan")}, "norm_eps is nan"),
        ({"rms_norm_eps": "1e-6"}, "norm_eps is '1e-6'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
        ({"rope_parameters": {"rope_type": ["yarn"]}}, "yarn"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "lacks low_freq_factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "2"}}, "factor is '2'"),
        ({"rope_parameters": [1]}, "must be an object"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, "rope_base"),
        ({"attention_bias": "yes"}, "attn_bias is 'yes'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"model_type": "mamba"}, "says 'mamba', which labkit does not know"),
        ({"model_type": None}, "does not say what the model is"),
    ],
)
def test_a_folder_whose_config_contradicts_it_is_refused(change, message, folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(labkit.CheckpointError, match=message) as refusal:
        labkit.load(folder)
    assert "\n" not in str(refusal.value)


def test_a_folder_without_a_readable_config_says_so(folder):
    for text in (None, "[1]", "{", '{"a": ' * 100_000):
        (folder / "config.json").unlink() if text is None else (folder / "config.json").write_text(text)
        with pytest.raises(labkit.CheckpointError, match="config.json"):
            labkit.load(folder)


@pytest.mark.parametrize("name", ["../up.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".hidden", "C:\\x", ""])
def test_an_index_names_files_beside_it_and_no_others(name, tmp_path):
    parts = hf_models.save(hf_models.llama(), tmp_path / "parts", max_shard_size="10KB")
    index = parts / "model.safetensors.index.json"
    described = json.loads(index.read_text())
    described["weight_map"]["model.norm.weight"] = name
    index.write_text(json.dumps(described))
    with pytest.raises(labkit.CheckpointError, match="no plain file name"):
        labkit.load(parts)


def test_parts_that_are_missing_repeated_or_unlisted_are_named(tmp_path):
    parts = hf_models.save(hf_models.llama(), tmp_path / "parts", max_shard_size="10KB")
    index, names = parts / "model.safetensors.index.json", sorted(path.name for path in parts.glob("model-*"))
    good = json.loads(index.read_text())
    for change, message in (
        ({"weight_map": {**good["weight_map"], "model.extra.weight": names[0]}}, "model.extra.weight"),
        ({"weight_map": [1]}, "no weight_map"),
        ({"weight_map": {"a": 1}}, "no weight_map"),
        ({"weight_map": {**good["weight_map"], "x": "model-9.safetensors"}}, "model-9.safetensors is missing"),
    ):
        index.write_text(json.dumps(good | change))
        with pytest.raises(labkit.CheckpointError, match=message):
            labkit.load(parts)
    index.write_text(json.dumps(good))
    (parts / names[1]).write_bytes((parts / names[0]).read_bytes())
    with pytest.raises(labkit.CheckpointError, match="repeats tensors"):
        labkit.load(parts)
    index.unlink()
    with pytest.raises(labkit.CheckpointError, match=r"parts of a model; their .index.json file is missing"):
        labkit.load(parts)


@pytest.mark.parametrize("cut", [0, 4, 8, 20, 2000, -1])
def test_safetensors_that_are_cut_short_or_lie_are_refused(cut, folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for damaged in (data[:cut], (1 << 60).to_bytes(8, "little") + data[8:], data[:8] + b"x" + data[9:]):
        path.write_bytes(damaged)
        with pytest.raises(labkit.CheckpointError, match="empty|no readable safetensors") as refusal:
            labkit.load(folder)
        assert "\n" not in str(refusal.value)


def test_a_folder_with_much_else_in_it_is_still_one_model(folder):
    expected = labkit.load(folder).logits(random_ids(20))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "optim_000001_rank0.pt"):
        torch.save({}, folder / name)
    assert torch.equal(labkit.load(folder).logits(random_ids(20)), expected)
    (folder / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(labkit.CheckpointError, match="several checkpoints .model.safetensors, other.gguf"):
        labkit.load(folder)


ODD = (None, [], {}, "x", "", -1, 0, 3, 1 << 31, 1 << 100, 1.5, float("nan"), float("inf"), True, [1], {"a": 1})


def with_something_odd(described: dict, rng: random.Random) -> dict:
    """One value, at any depth, replaced or taken away."""
    places: list[tuple] = []

    def walk(value):
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(described)
    holder, key = rng.choice(places)
    if rng.random() < 0.1:
        del holder[key]
    else:
        holder[key] = rng.choice(ODD)
    return described


@pytest.mark.parametrize("kind", ["gpt2", "llama", "labkit", "labcore_gpt"])
def test_a_config_with_anything_in_it_is_refused_or_read_but_never_crashes(kind, tmp_path):
    folder = tmp_path / kind
    if kind == "labkit":
        convert(tiny("swa_mla", "configured"), folder)
    elif kind == "labcore_gpt":
        convert(fixtures_root() / "labcore" / "char_learned_bias" / "hf_export", folder, format="native")
    else:
        hf_models.save(getattr(hf_models, kind)(), folder)
    path, rng, refused = folder / "config.json", random.Random(kind), 0
    good = path.read_text()
    for _ in range(120):
        path.write_text(json.dumps(with_something_odd(json.loads(good), rng)))
        try:
            labkit.load(folder)
        except labkit.LabkitError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 30


# LabCore's hub export


@pytest.mark.parametrize("case", ["char_learned_bias", "char_rope_nobias"])
def test_labcores_hub_export_is_the_model_it_was_made_of(case):
    folder = fixtures_root() / "labcore" / case
    lm, export = labkit.load(folder), labkit.load(folder / "hf_export")
    ids = random_ids(lm.model.block_size, vocab_size=lm.vocab_size)
    assert torch.equal(lm.logits(ids), export.logits(ids))
    assert (export.config, export.tokenizer.vocab) == (lm.config, lm.tokenizer.vocab)
    assert (export.checkpoint.family, export.checkpoint.format) == ("labcore", "LabCore hub export")
