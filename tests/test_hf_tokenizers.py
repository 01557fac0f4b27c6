"""Tokenizers out of GGUF files and Hugging Face folders: the ids of the reference encoders, special tokens, bytes."""

import functools
import json
import random

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

import labkit
from labkit.checkpoints.gguf import find_tokenizer
from labkit.checkpoints.gguf_file import GGUF, read_gguf
from labkit.checkpoints.huggingface import find_tokenizer as find_in_folder
from labkit.checkpoints.tokenizer_json import json_of, table_of
from labkit.language_model import in_wheel
from labkit.tokenizers.bpe import PATTERNS, GPT2Tokenizer, TableTokenizer, gpt2_merges
from labkit.tokenizers.char import CharTokenizer
from labkit.tokenizers.hf import HFTokenizer

PIECES = [
    *("Hello", " world", "the", " of", "I'LL", "don't", "'s", " '", "_x_", "...", " $", "=="),
    *("<|im_end|>", "<|endoftext|>"),
    *("\n", "\n\n", " \n", "\r\n", "\t", "  ", "   ", "\u00a0", "\u3000", "\u2003", "\u200b", "\ufeff"),
    *("\x00", "\x7f", "\x85"),
    *("1", " 1", "12", "123", " 1234", "½", " ½", "²", "٣", "一", "Ⅷ", "①", " ²³"),
    *("é", "e\u0301", "ß", "İ", "ſ", "K", "漢字", "ا", "ﷺ", "क्षि", "😀", "👨‍👩‍👧", "🇫🇷", "\U00100000", "\U0001d7d8"),
]  # fmt: skip


def adversarial(n: int, seed: int = 0) -> list[str]:
    """Strings of the pieces above, of plain letters, and of any code points but surrogates."""
    rng, out = random.Random(seed), []
    for _ in range(n):
        kind = rng.randrange(4)
        length = rng.randrange(1, 20)
        if kind == 0:
            points = (rng.choice([rng.randrange(32, 127), rng.randrange(0xA0, 0x3000)]) for _ in range(length))
            out.append("".join(map(chr, points)))
        elif kind == 1:
            out.append("".join(rng.choice("abcdefghijklmnopqrstuvwxyz  .,'\n0123") for _ in range(4 * length)))
        else:
            out.append("".join(rng.choice(PIECES) for _ in range(length)))
    return out


@functools.cache
def text_to_learn() -> str:
    rng = random.Random(1)
    words = ["".join(rng.choice("etaoinshrdlu") for _ in range(rng.randrange(1, 9))) for _ in range(400)]
    words += ["don't", "I'll", "12", "3456", "é", "漢字", "\n", "  ", "😀"]
    return " ".join(rng.choice(words) for _ in range(8000))


CUTTERS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                tokenizers.Regex(
                    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
                ),
                "isolated",
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


@functools.cache
def trained(pre: str) -> tokenizers.Tokenizer:
    """A byte-level tokenizer of the library, trained here."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer, library.decoder = CUTTERS[pre], decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    library.train_from_iterator([text_to_learn()], trainer)
    return library


def byte_level_values(library: tokenizers.Tokenizer, pre: str, **more) -> dict:
    """What a GGUF file says of such a tokenizer."""
    model = json.loads(library.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    values = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": [3 if token.startswith("<|") else 1 for token in tokens],
        "merges": [" ".join(merge) for merge in model["merges"]],
        **more,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def from_gguf(values: dict, vocab_size: int | None = None, notes: list[str] | None = None):
    vocab_size = vocab_size or len(values["tokenizer.ggml.tokens"])
    return find_tokenizer(GGUF(None, values, {}), vocab_size, (), notes if notes is not None else [])


@pytest.mark.parametrize("pre", sorted(PATTERNS))
def test_a_table_encodes_as_the_library_does(pre):
    library, tokenizer = trained(pre), from_gguf(byte_level_values(trained(pre), pre))
    assert isinstance(tokenizer, TableTokenizer)
    for text in adversarial(4000):
        ids = tokenizer.encode(text)
        assert ids == library.encode(text, add_special_tokens=False).ids, text
        assert tokenizer.decode(ids) == text


@pytest.fixture(scope="module")
def smollm2() -> TableTokenizer:
    try:
        path = in_wheel("smollm2-135m-instruct")
    except labkit.CheckpointError as error:
        pytest.skip(str(error))
    return find_tokenizer(read_gguf(path), 49152, (2,), [])


def test_smollm2s_table_encodes_ten_thousand_strings_as_the_library_does(smollm2):
    """The reference has Digits(individual) and ByteLevel before the same table. It drops bytes that are no token."""
    vocab = {token: i for i, token in enumerate(smollm2.tokens)}
    library = tokenizers.Tokenizer(models.BPE(vocab, [tuple(merge.split(" ")) for merge in smollm2.merges]))
    library.pre_tokenizer = CUTTERS["smollm"]
    library.add_special_tokens([tokenizers.AddedToken(name, normalized=False) for name in smollm2.special_ids])
    texts = adversarial(10_000, seed=7)
    wrong = [t for t in texts if smollm2.encode(t, unknown="drop") != library.encode(t, add_special_tokens=False).ids]
    assert wrong == []
    whole = [text for text in texts if not smollm2.unknown_in(text)]
    assert len(whole) > 9000
    assert all(smollm2.decode(smollm2.encode(text)) == text for text in whole)


def test_bytes_that_are_no_token_are_unknown_characters(smollm2):
    assert smollm2.unknown_in("a\x04b") == [(1, "\x04")]
    with pytest.raises(labkit.TokenizerError, match=r"'\\x04' \(position 1\)"):
        smollm2.encode("a\x04b")
    assert smollm2.encode("a\x04b", unknown="drop") == smollm2.encode("a") + smollm2.encode("b")


def test_gpt2_as_a_table_and_as_a_tokenizer_json_encodes_as_gpt2():
    gpt2 = GPT2Tokenizer()
    text = json_of(gpt2)
    for other in (HFTokenizer(text), table_of(text, "gpt-2")):
        for string in adversarial(800):
            assert other.encode(string) == gpt2.encode(string), string
        assert other.encode("a<|endoftext|>", special="text") == gpt2.encode("a<|endoftext|>", special="text")
        assert other.token_bytes(50256) == b"<|endoftext|>" and other.token_bytes(220) == b" "
    assert GPT2Tokenizer(vocab_size=50304).decode([15496, 50300, 50256]) == "Hello<|endoftext|>"


@pytest.mark.parametrize("pre", sorted(PATTERNS))
def test_a_table_survives_its_tokenizer_json(pre):
    table = from_gguf(byte_level_values(trained(pre), pre), vocab_size=720)
    back = table_of(json_of(table), pre, vocab_size=720)
    library = HFTokenizer(json_of(table), vocab_size=720)
    for text in adversarial(300):
        assert table.encode(text) == back.encode(text) == library.encode(text)
        assert table.encode(text, special="text") == library.encode(text, special="text")
    assert [table.token_bytes(i) for i in range(720)] == [library.token_bytes(i) for i in range(720)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pre": "qwen35"}, "'qwen35'"),
        ({"pre": 7}, "7"),
        ({"model": "rwkv"}, "'rwkv'"),
        ({"merges": ["Ġ t", "zz yy"]}, "'zz yy'"),
        ({"merges": [1, 2]}, "not all text"),
        ({"tokens": None}, "no table of tokens"),
        ({"token_type": [1]}, "1 token types"),
        ({"tokens": ["a", "語"], "token_type": [1, 1], "merges": []}, "'語'"),
        ({"model": "llama"}, "no score"),
    ],
)
def test_a_table_that_would_have_to_be_guessed_is_passed_over_with_a_note(values, message):
    notes = []
    described = byte_level_values(trained("gpt-2"), "gpt-2") | {f"tokenizer.ggml.{k}": v for k, v in values.items()}
    assert from_gguf(described, vocab_size=5000, notes=notes) is None
    assert message in notes[0] and "ids work, text does not" in notes[0]


@pytest.mark.parametrize(
    ("pre", "more", "expected"),
    [
        ("smollm", {"bos_token_id": 1}, None),
        ("smollm", {"bos_token_id": 1, "add_bos_token": True}, 1),
        ("llama-bpe", {"bos_token_id": 1}, 1),
        ("llama-bpe", {"bos_token_id": 1, "add_bos_token": False}, None),
        ("llama-bpe", {"bos_token_id": 10**9}, None),
        ("llama-bpe", {}, None),
    ],
)
def test_which_files_want_a_bos(pre, more, expected):
    assert from_gguf(byte_level_values(trained(pre), pre, **more)).bos_id == expected


def test_special_tokens_typed_as_text():
    table = from_gguf(byte_level_values(trained("gpt-2"), "gpt-2"))
    for tokenizer in (table, HFTokenizer(json_of(table))):
        end = tokenizer.special_ids["<|im_end|>"]
        assert tokenizer.encode("a<|im_end|>")[-1] == end
        assert end not in tokenizer.encode("a<|im_end|>", special="text")
        assert tokenizer.decode(tokenizer.encode("a<|im_end|>", special="text")) == "a<|im_end|>"
        with pytest.raises(labkit.TokenizerError, match=r"<\|im_end\|> in the text at position 1"):
            tokenizer.encode("a<|im_end|>", special="refuse")


def test_tokens_that_always_win_over_merging():
    values = byte_level_values(trained("gpt-2"), "gpt-2")
    values["tokenizer.ggml.tokens"] = [*values["tokenizer.ggml.tokens"], "the  end"]
    values["tokenizer.ggml.token_type"] = [*values["tokenizer.ggml.token_type"], 4]
    table = from_gguf(values)
    library = HFTokenizer(json_of(table))
    for special in ("parse", "text"):
        ids = table.encode("xthe  endx", special=special)
        assert len(table.tokens) - 1 in ids
        assert library.encode("xthe  endx", special=special) == ids


# SentencePiece


@functools.cache
def sentencepiece_model():
    """A SentencePiece BPE model with byte fallback, and what a GGUF file says of it."""
    spm = pytest.importorskip("sentencepiece")
    import io

    out = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(text_to_learn().split("\n")), model_writer=out, vocab_size=600, model_type="bpe",
        byte_fallback=True, character_coverage=0.99, normalization_rule_name="identity", minloglevel=2,
        remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True,
    )  # fmt: skip
    model = spm.SentencePieceProcessor(model_proto=out.getvalue())
    kinds = ((model.is_unknown, 2), (model.is_control, 3), (model.is_byte, 6))
    n = model.get_piece_size()
    values = {
        "model": "llama",
        "tokens": [model.id_to_piece(i) for i in range(n)],
        "scores": [model.get_score(i) for i in range(n)],
        "token_type": [next((number for is_it, number in kinds if is_it(i)), 1) for i in range(n)],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return model, {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def test_sentencepiece_style_encodes_as_sentencepiece_does():
    model, values = sentencepiece_model()
    tokenizer = from_gguf(values)
    assert isinstance(tokenizer, HFTokenizer) and tokenizer.bos_id == 1
    for text in adversarial(3000):
        text = text.replace("\x00", "")  # SentencePiece ends there
        ids = tokenizer.encode(text, special="text")
        assert ids == model.encode(text), text
        assert tokenizer.decode(ids) == text
    assert tokenizer.unknown_in("\u9f98 anything") == []


def test_sentencepiece_pieces_are_exact_bytes():
    _, values = sentencepiece_model()
    tokenizer = from_gguf(values)
    ids = tokenizer.encode("the 龘")
    assert b"".join(map(tokenizer.token_bytes, ids)) == b" the \xe9\xbe\x98"
    assert tokenizer.pieces(ids)[-3:] == ["\\xe9", "\\xbe", "\\x98"]
    assert tokenizer.encode("</s>") == [2] and 2 not in tokenizer.encode("</s>", special="text")


# tokenizer.json


def test_a_template_that_puts_bos_in_front_is_seen_and_cutting_off_is_not_done():
    library = tokenizers.Tokenizer.from_str(trained("gpt-2").to_str())
    assert HFTokenizer(library.to_str()).bos_id is None
    library.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", library.token_to_id("<|im_start|>"))]
    )
    library.enable_truncation(4)
    library.enable_padding(length=12)
    tokenizer = HFTokenizer(library.to_str())
    assert tokenizer.bos_id == library.token_to_id("<|im_start|>")
    assert tokenizer.decode(tokenizer.encode("twelve characters and more")) == "twelve characters and more"


def test_words_outside_a_vocabulary_without_bytes_are_named():
    library = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("▁a", -1.0), ("b", -2.0)], unk_id=0))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Metaspace()
    tokenizer = HFTokenizer(library.to_str())
    assert tokenizer.decode(tokenizer.encode("ab a")) == "ab a"
    assert tokenizer.unknown_in("abx") == [(2, "x")]
    with pytest.raises(labkit.TokenizerError, match=r"'x' \(position 2\)"):
        tokenizer.encode("abx")
    assert tokenizer.encode("abx", unknown="drop") == tokenizer.encode("ab")


def test_characters_as_a_tokenizer_json():
    characters = CharTokenizer(list("ab \né😀"), specials=["<|bos|>"], bos="<|bos|>")
    tokenizer = HFTokenizer(json_of(characters))
    for text in ("", "ab", "b a\né", "😀😀 a"):
        assert tokenizer.encode(text) == characters.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.bos_id == characters.bos_id
    assert tokenizer.unknown_in("axb") == characters.unknown_in("axb") == [(1, "x")]
    assert tokenizer.unknown_in("ax<|bos|>yb") == [(1, "x"), (9, "y")]
    with pytest.raises(labkit.TokenizerError, match="several characters in one entry"):
        json_of(CharTokenizer(["a", "bc"]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "not json",
        '{"model": {"type": "BPE", "vocab": {"a": 4000000000}, "merges": []}, "decoder": {"type": "Fuse"}}',
        '{"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a"}, "decoder": {"type": "WordPiece"}}',
        '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["x", "y"]]}, "decoder": {"type": "Fuse"}}',
        '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "decoder": {"type": ["Fuse"]}}',
    ],
)
def test_a_tokenizer_json_of_no_use_is_an_error(text):
    with pytest.raises(labkit.TokenizerError):
        HFTokenizer(text)


def test_vocab_json_and_merges_txt_are_read_where_there_is_no_tokenizer_json(tmp_path):
    gpt2 = GPT2Tokenizer()
    described = json.loads(json_of(gpt2))
    (tmp_path / "vocab.json").write_text(json.dumps(described["model"]["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(gpt2_merges()) + "\n", encoding="utf-8")
    (tmp_path / "added_tokens.json").write_text('{"<|extra|>": 50257}')
    tokenizer = find_in_folder(tmp_path, 50304, (50256,), notes := [])
    assert notes == [] and tokenizer.eos_id == 50256
    for text in adversarial(500):
        assert tokenizer.encode(text) == gpt2.encode(text)
    assert tokenizer.encode("a<|extra|>") == [64, 50257]
    (tmp_path / "vocab.json").write_text('{"a": 7}')
    assert find_in_folder(tmp_path, 50304, (), notes) is None
    assert "cannot be used" in notes[0]


def test_a_hundred_thousand_equal_characters_take_no_time():
    table = from_gguf(byte_level_values(trained("smollm"), "smollm"))
    for text in ("a" * 100_000, " " * 100_000, "1" * 100_000, "\n" * 100_000, "é" * 50_000):
        assert table.decode(table.encode(text)) == text
