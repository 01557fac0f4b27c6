"""Characters and GPT-2's byte pairs: ids, texts, pieces, unknown characters, special tokens."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from recorded import read_json
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import decoders, models, pre_tokenizers

from labkit.checkpoints.labcore import make_tokenizer
from labkit.errors import TokenizerError
from labkit.tokenizers.bpe import CHARACTER_OF, END_OF_TEXT, GPT2Tokenizer, gpt2_merges
from labkit.tokenizers.char import CharTokenizer

LABCORE = read_json("labcore", "tokenizers", "expected.json")
NANOCHAT = read_json("nanochat", "tokenizer", "expected.json")


def experiment() -> CharTokenizer:
    """The nanochat experiment's tokenizer, from its tokenizer_config.json."""
    described = read_json("nanochat", "tokenizer", "tokenizer_config.json")
    return CharTokenizer(
        described["vocab_chars"],
        specials=described["special_tokens"],
        vocab_size=described["vocab_size"],
        bos="<|bos|>",
        on_unknown="drop",
    )


# --- characters, against the originals


@pytest.mark.parametrize("record", LABCORE["char"], ids=lambda record: record["fit_text"])
def test_labcores_characters(record):
    tokenizer = make_tokenizer(record["to_dict"], record["vocab_size"], "meta.json")
    for case in record["encode"]:
        if case["result"]["ok"]:
            assert tokenizer.encode(case["text"]) == case["result"]["value"]
        else:
            with pytest.raises(TokenizerError, match="outside the vocabulary"):
                tokenizer.encode(case["text"])
    for case in record["decode"]:
        if case["result"]["ok"]:
            assert tokenizer.decode(case["ids"]) == case["result"]["value"]
        else:
            with pytest.raises(TokenizerError, match=f"id {case['ids'][0]} is outside"):
                tokenizer.decode(case["ids"])


def test_of_a_duplicate_the_last_id_encodes_and_an_entry_of_several_characters_is_only_decoded():
    twice, pair = LABCORE["char_handmade"]
    assert CharTokenizer(twice["vocab"]).encode("aba") == twice["encode_aba"]
    assert CharTokenizer(twice["vocab"]).decode([0, 1, 2]) == twice["decode_012"]
    assert CharTokenizer(pair["vocab"]).encode("ab") == pair["encode_ab"]
    assert CharTokenizer(pair["vocab"]).decode([0, 1, 2]) == pair["decode_012"]


def test_the_experiments_characters():
    tokenizer = experiment()
    assert (tokenizer.bos_id, tokenizer.vocab_size) == (NANOCHAT["bos"], NANOCHAT["vocab_size"])
    for case in NANOCHAT["encode"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.decode(case["ids_bos"]) == case["roundtrip"]
    for case in NANOCHAT["decode"]:
        if all(0 <= i < tokenizer.vocab_size for i in case["ids"]):
            assert tokenizer.decode(case["ids"]) == case["text"]
        else:  # the original passes over ids that do not exist
            with pytest.raises(TokenizerError):
                tokenizer.decode(case["ids"])
    sizes = [len(tokenizer.token_bytes(i)) for i in range(32)]
    assert sizes == NANOCHAT["token_bytes"]


# --- characters


def test_unknown_characters_are_named_once_each_with_where_they_are_first_seen():
    tokenizer = CharTokenizer("ab ")
    with pytest.raises(TokenizerError) as refused:
        tokenizer.encode("aXbéX")
    said = str(refused.value)
    assert "3 characters outside" in said and "'X' (position 1), 'é' (position 3)." in said and "drop" in said
    assert "\n" not in said
    with pytest.raises(TokenizerError, match=r"^1 character outside.*'\\n' \(position 0\)"):
        tokenizer.encode("\n")


def test_of_many_unknown_characters_five_are_named():
    with pytest.raises(TokenizerError, match=r"26 characters .*'e' \(position 4\), …\."):
        CharTokenizer("1").encode("abcdefghijklmnopqrstuvwxyz")


def test_unknown_characters_can_be_dropped_or_refused_whatever_the_default():
    raising, dropping = CharTokenizer("ab"), CharTokenizer("ab", on_unknown="drop")
    assert raising.encode("aXb", unknown="drop") == dropping.encode("aXb") == [0, 1]
    with pytest.raises(TokenizerError):
        dropping.encode("aXb", unknown="raise")
    assert dropping.unknown_in("aXbé") == [(1, "X"), (3, "é")]


def test_special_tokens_typed_as_text_are_text_unless_one_says_otherwise():
    tokenizer = CharTokenizer("ab<|>os", specials=["<|bos|>", "<|b|>"], bos="<|bos|>")
    assert tokenizer.encode("<|bos|>a") == tokenizer.encode("<|bos|>a", special="text")
    assert tokenizer.encode("a<|bos|>b<|b|>a", special="parse") == [0, 7, 1, 8, 0]
    with pytest.raises(TokenizerError, match=r"<\|bos\|> in the text at position 1"):
        tokenizer.encode("a<|bos|>", special="refuse")
    assert tokenizer.encode("ab", special="refuse") == [0, 1]
    assert tokenizer.decode([7, 0, 8]) == "<|bos|>a<|b|>"


def test_padding_ids_decode_to_nothing_and_have_a_name_of_their_own():
    tokenizer = CharTokenizer("ab", specials=["<s>"], vocab_size=6)
    assert tokenizer.decode([0, 4, 1, 5]) == "ab"
    assert tokenizer.pieces([0, 2, 4]) == ["a", "<s>", "<|4|>"]
    assert tokenizer.token_bytes(4) == b""


@pytest.mark.parametrize("bad", [-1, 6, 10**12])
def test_an_id_outside_the_vocabulary_is_refused(bad):
    tokenizer = CharTokenizer("ab", vocab_size=6)
    for call in (tokenizer.decode, tokenizer.pieces):
        with pytest.raises(TokenizerError, match=f"id {bad} is outside the vocabulary 0 … 5"):
            call([0, bad])


@pytest.mark.parametrize("vocab", [[], ["a", 3], [None]], ids=str)
def test_a_vocabulary_must_be_a_list_of_strings(vocab):
    with pytest.raises(TokenizerError, match="list of at least one string"):
        CharTokenizer(vocab)


def test_a_vocabulary_that_is_padded_to_less_than_it_has_is_refused():
    with pytest.raises(TokenizerError, match="vocab_size 2 is less than the 4"):
        CharTokenizer("abc", specials=["<s>"], vocab_size=2)


@hypothesis_settings(max_examples=100)
@given(text=st.text())
def test_what_is_encoded_decodes_to_itself_by_characters(text):
    if text:
        tokenizer = CharTokenizer(sorted(set(text)))
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text == "".join(tokenizer.pieces(ids)) and len(ids) == len(text)


# --- GPT-2, against the original and the tokenizers library


@pytest.fixture(scope="module")
def gpt2() -> GPT2Tokenizer:
    return GPT2Tokenizer(on_special="refuse")


@pytest.fixture(scope="module")
def independent() -> HFTokenizer:
    """The tokenizers library on the merges that ship with labkit, with the vocabulary they imply."""
    merges = [tuple(merge.split(" ")) for merge in gpt2_merges()]
    tokens = [*sorted(CHARACTER_OF.values(), key=lambda c: (ord(c) >= 256, ord(c))), *map("".join, merges)]
    tokenizer = HFTokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.mark.parametrize("record", LABCORE["bpe_gpt2"]["encode"], ids=lambda record: record["text"])
def test_labcores_gpt2_texts(gpt2, record):
    if record["result"]["ok"]:
        assert gpt2.encode(record["text"]) == record["result"]["value"]
    else:
        with pytest.raises(TokenizerError, match=r"special token <\|endoftext\|> in the text at position 1"):
            gpt2.encode(record["text"])


@pytest.mark.parametrize("record", LABCORE["bpe_gpt2"]["decode"], ids=lambda record: str(record["ids"]))
def test_labcores_gpt2_ids(gpt2, record):
    if record["result"]["ok"]:
        assert gpt2.decode(record["ids"]) == record["result"]["value"]
    else:
        with pytest.raises(TokenizerError, match="outside the vocabulary 0 … 50256"):
            gpt2.decode(record["ids"])


def test_labcores_gpt2_token_by_token(gpt2):
    for record in LABCORE["bpe_gpt2"]["per_token_decode"]:
        assert [gpt2.decode([i]) for i in gpt2.encode(record["text"])] == record["pieces"]
    assert (gpt2.vocab_size, gpt2.eos_id) == (LABCORE["bpe_gpt2"]["vocab_size"], LABCORE["bpe_gpt2"]["eos"])


WORDS = [
    *("the", "The", "THE", "don't", "we'll", "I'd", "they've", "'S", "'LL", "he'd're", "hello-world", "foo_bar"),
    *("3.14159", "1234567890", "½", "Ⅷ", "٣", "café", "naïve", "Ça", "ß", "İi", "日本語", "한국어", "עברית", "العربية"),
    *("हिन्दी", "ไทย", "🙂", "👩\u200d👩\u200d👧\u200d👦", "🇩🇪", "e\u0301", "a\u0300\u0301", "ﬁ", "ǅ", "\U0001d54f"),
    *("\u200b", "\u00a0", "\u3000", "\u2028", "\ufeff", "\u00ad", "\x00", "\x1c", "\x85", "\x7f", "\ufffd"),
    *("\U0010ffff", "\ue000", "<|endoftext", "<|", "|>", "--", "...", "?!", "#!/", "{}[]", "\\n"),
]
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\t", " \n", "\r\n", " \t ", "\u00a0", "\u3000", "", "", "", " "]


def adversarial(n: int, seed: int) -> list[str]:
    """Texts of words, spaces and characters from everywhere, in every order."""
    rng = random.Random(seed)
    texts = []
    for i in range(n):
        if i % 4 == 0:  # any characters at all
            low, high = rng.choice([(0, 0x7F), (0, 0x2FF), (0x300, 0x3FFF), (0x4E00, 0xD7FF), (0xE000, 0x1FFFF)])
            text = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(0, 25)))
        else:
            text = "".join(rng.choice(WORDS) + rng.choice(SPACES) for _ in range(rng.randint(0, 9)))
            text = rng.choice(SPACES) + text
        texts.append(text)
    return texts


def test_twelve_thousand_texts_have_the_ids_that_the_tokenizers_library_gives_them(gpt2, independent):
    texts = adversarial(12_000, seed=5)
    differing = [
        (text, ours, theirs.ids)
        for text, theirs in zip(texts, independent.encode_batch(texts), strict=True)
        if (ours := gpt2.encode(text, special="text")) != theirs.ids
    ]
    assert not differing, f"{len(differing)} texts, for one {differing[0]}"


def test_what_is_encoded_decodes_to_itself(gpt2):
    for text in adversarial(3000, seed=6):
        ids = gpt2.encode(text, special="text")
        assert gpt2.decode(ids) == text
        assert b"".join(map(gpt2.token_bytes, ids)) == text.encode()


def test_pieces_are_byte_exact_where_a_character_spans_tokens(gpt2, independent):
    for text in adversarial(500, seed=7):
        ids = gpt2.encode(text, special="text")
        for i, piece in zip(ids, gpt2.pieces(ids), strict=True):
            data = gpt2.token_bytes(i)
            assert piece == data.decode("utf-8", errors="backslashreplace")
            characters = independent.id_to_token(i)
            assert data == bytes(byte for c in characters for byte, shown in CHARACTER_OF.items() if shown == c)
    assert gpt2.pieces(gpt2.encode("日 é")) == ["\\xe6\\x97", "\\xa5", " é"]


def test_every_id_has_bytes_of_its_own(gpt2):
    tokens = [gpt2.token_bytes(i) for i in range(gpt2.vocab_size)]
    assert len(set(tokens)) == 50257 and tokens[50256] == END_OF_TEXT.encode()
    assert sorted(token for token in tokens if len(token) == 1) == [bytes([b]) for b in range(256)]


def test_a_special_token_in_the_text_is_parsed_refused_or_text(gpt2):
    text = "a<|endoftext|>b"
    assert gpt2.encode(text, special="parse") == [64, 50256, 65]
    assert GPT2Tokenizer().encode(text) == [64, 50256, 65]
    assert gpt2.encode(text, special="text") == [64, 27, 91, 437, 1659, 5239, 91, 29, 65]
    assert gpt2.decode([64, 50256, 65]) == text
    with pytest.raises(TokenizerError, match='special="parse".*special="text"'):
        gpt2.encode(text)


def test_a_vocabulary_padded_further_has_ids_that_decode_to_nothing():
    tokenizer = GPT2Tokenizer(vocab_size=50304)
    assert tokenizer.decode([64, 50300]) == "a" and tokenizer.pieces([50300]) == ["<|50300|>"]
    with pytest.raises(TokenizerError, match="50303"):
        tokenizer.decode([50304])
    with pytest.raises(TokenizerError, match="less than GPT-2's 50257"):
        GPT2Tokenizer(vocab_size=100)


def test_half_of_a_surrogate_pair_becomes_a_replacement_character(gpt2):
    assert gpt2.decode(gpt2.encode("a\ud83db")) == "a\ufffdb"


@pytest.mark.parametrize("repeated", ["a", "1", " ", "é", "ab", "\n"])
def test_a_hundred_thousand_equal_characters_take_seconds_at_most(gpt2, repeated):
    text = repeated * 100_000
    gpt2.encode("warm up")
    start = time.process_time()
    ids = gpt2.encode(text)
    assert time.process_time() - start < 5
    assert gpt2.decode(ids) == text
