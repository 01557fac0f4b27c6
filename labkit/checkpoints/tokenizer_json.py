"""Tokenizers written as a ``tokenizer.json``, which the ``tokenizers`` library and transformers open."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import TokenizerError
from ..tokenizers.base import Tokenizer
from ..tokenizers.bpe import CHARACTER_OF, PATTERNS, GPT2Tokenizer, TableTokenizer, gpt2_merges
from ..tokenizers.char import CharTokenizer
from ..tokenizers.hf import SPACE, HFTokenizer

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
# How the library says what PATTERNS says.
CUTTERS: Mapping[str, dict[str, Any]] = {
    "gpt-2": BYTE_LEVEL,
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]},
    "llama-bpe": {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": PATTERNS["llama-bpe"]},
                "behavior": "Isolated",
                "invert": False,
            },
            BYTE_LEVEL | {"use_regex": False},
        ],
    },
}
WHOLE_WORDS = frozenset({"llama-bpe"})  # a word that is a token is taken whole, merges or not


def json_of(tokenizer: Tokenizer) -> str:
    """The tokenizer.json that encodes as this tokenizer does."""
    match tokenizer:
        case HFTokenizer():
            return tokenizer.text
        case TableTokenizer():
            return byte_level_json(tokenizer)
        case GPT2Tokenizer():
            return byte_level_json(gpt2_table(tokenizer.vocab_size))
        case CharTokenizer():
            return character_json(tokenizer)
    raise TokenizerError(f"{tokenizer!r} cannot be written as a tokenizer.json")


def gpt2_table(vocab_size: int) -> TableTokenizer:
    """GPT-2's tokenizer as a table."""
    gpt2, merges = GPT2Tokenizer(), gpt2_merges()
    tokens = ["".join(CHARACTER_OF[b] for b in gpt2.token_bytes(i)) for i in range(gpt2.vocab_size - 1)]
    return TableTokenizer(
        [*tokens, *gpt2.special_ids],
        merges,
        "gpt-2",
        special_ids=gpt2.special_ids,
        vocab_size=vocab_size,
        eos_id=gpt2.eos_id,
    )


def byte_level_json(table: TableTokenizer) -> str:
    added = [added_token(i, name, special=True) for name, i in table.special_ids.items()]
    added += [added_token(i, name, special=False) for name, i in table.matched.items()]
    return dump(
        model={
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(table.tokens)},
            "merges": [merge.split(" ") for merge in table.merges],
            "ignore_merges": table.pre in WHOLE_WORDS,
        },
        added=added,
        pre_tokenizer=CUTTERS[table.pre],
        decoder=BYTE_LEVEL,
        bos=named(table.special_ids, table.bos_id),
    )


def character_json(tokenizer: CharTokenizer) -> str:
    """One token a character: merging without merges. Characters outside the vocabulary are left out."""
    if len(set(tokenizer.vocab)) < len(tokenizer.vocab) or any(len(character) != 1 for character in tokenizer.vocab):
        raise TokenizerError("a vocabulary with duplicates or several characters in one entry has no tokenizer.json")
    return dump(
        model={"type": "BPE", "vocab": {c: i for i, c in enumerate(tokenizer.vocab)}, "merges": []},
        added=[added_token(i, name, special=True) for name, i in tokenizer.special_ids.items()],
        pre_tokenizer=None,
        decoder={"type": "Fuse"},
        bos=named(tokenizer.special_ids, tokenizer.bos_id),
    )


def sentencepiece_json(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], *, add_space: bool, bos_id: int | None
) -> str:
    """A SentencePiece vocabulary (BPE with scores) as GGUF files hold it: types 1 normal, 2 unknown, 3 control,
    4 user-defined, 6 byte. The merges follow from the scores: a piece is made of any two that are pieces."""
    vocab = {token: i for i, token in enumerate(tokens)}
    normal = [i for i, kind in enumerate(types) if kind == 1]
    merges = []
    for i in normal:
        token = tokens[i]
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in vocab and right in vocab:
                merges.append((-scores[i], vocab[left], vocab[right], left, right))
    unknown = [tokens[i] for i, kind in enumerate(types) if kind == 2]
    added = [added_token(i, tokens[i], special=kind != 4) for i, kind in enumerate(types) if kind in (2, 3, 4)]
    steps = [{"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    if add_space:
        steps.insert(0, {"type": "Prepend", "prepend": SPACE})
    return dump(
        model={
            "type": "BPE",
            "vocab": vocab,
            "merges": [[left, right] for *_, left, right in sorted(merges)],
            "unk_token": unknown[0] if unknown else None,
            "fuse_unk": True,
            "byte_fallback": 6 in types,
        },
        added=added,
        normalizer={"type": "Sequence", "normalizers": steps},
        pre_tokenizer=None,
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if add_space else []),
            ],
        },
        bos=(tokens[bos_id], bos_id) if bos_id is not None else None,
    )


def table_of(text: str, pre: str, **kept: Any) -> TableTokenizer:
    """The table that ``byte_level_json`` wrote."""
    described = json.loads(text)
    vocab, added = described["model"]["vocab"], described["added_tokens"]
    return TableTokenizer(
        sorted(vocab, key=vocab.__getitem__),
        [" ".join(merge) for merge in described["model"]["merges"]],
        pre,
        special_ids={token["content"]: token["id"] for token in added if token["special"]},
        matched={token["content"]: token["id"] for token in added if not token["special"]},
        **kept,
    )


def added_token(token_id: int, content: str, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, **flags, "special": special}


def named(special_ids: Mapping[str, int], token_id: int | None) -> tuple[str, int] | None:
    """The special token with this id."""
    return next(((name, i) for name, i in special_ids.items() if i == token_id), None)


def dump(
    *,
    model: dict[str, Any],
    added: list[dict[str, Any]],
    pre_tokenizer: dict[str, Any] | None,
    decoder: dict[str, Any],
    bos: tuple[str, int] | None,
    normalizer: dict[str, Any] | None = None,
) -> str:
    """The parts in the library's own order; BOS goes in front where special tokens are asked for."""
    text = {"type_id": 0}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos[0], **text}}, {"Sequence": {"id": "A", **text}}] if bos else [],
        "pair": [{"Sequence": {"id": "A", **text}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos[0]: {"id": bos[0], "ids": [bos[1]], "tokens": [bos[0]]}} if bos else {},
    }
    off = {"dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    described = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": template if bos else None,
        "decoder": decoder,
        "model": {"type": "BPE", **off, **flags, **model},
    }
    return json.dumps(described, ensure_ascii=False)
