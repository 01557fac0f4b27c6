"""The command lines of docs/coming-from.md run: in the dialect, and in labkit's own rules."""

import io
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from recorded import fixtures_root, is_whole
from sybil import Sybil
from sybil.document import Document
from sybil.parsers.markdown import CodeBlockParser

from labkit import cli, language_model

PAGE = Path(__file__).resolve().parent.parent / "docs" / "coming-from.md"
# What the page's paths are here. A chat needs a vocabulary that can write the marks of its turns.
FILES = {
    "data/processed/meta.json": "labcore/char_learned_bias/meta.json",
    "checkpoints/ckpt_last.pt": "labcore/char_learned_bias/ckpt_last.pt",
    "configs/base.toml": "labcore/char_learned_bias/config.toml",
    "monoswamla/checkpoint_20000.pt": "swamla/gpt2_vocab_bf16/checkpoint_1000.pt",
    "checkpoint.pt": "swamla/gpt2_vocab_bf16/checkpoint_1000.pt",
    "my_prompts.txt": "swamla/gpt2_vocab_bf16/prompts.txt",
    "prompts.txt": "swamla/gpt2_vocab_bf16/prompts.txt",
    "checkpoints/best_model.pth": "gpt2seed/bpe_50257/best_model.pth",
    "experiment/checkpoints/step_002920/model_002920.pt": "nanochat/exp_step_002920/step_002920/model_002920.pt",
    "experiment/checkpoints/step_002920/meta_002920.json": "nanochat/exp_step_002920/step_002920/meta_002920.json",
}
CHAT_FILES = {
    "checkpoints/ckpt_last.pt": "labcore/char_rope_nobias/ckpt_last.pt",
    "data/processed/meta.json": "labcore/char_rope_nobias/meta.json",
}
ON_THE_HUB = {
    "hf:GhostPunishR/labcore-llm-50M": "checkpoints/ckpt_last.pt",
    "hf:your_name/swamla-model": "checkpoint.pt",
}


def commands() -> list[list[str]]:
    """Every labkit command of the page, as words."""
    document = Sybil(parsers=[CodeBlockParser(language="sh", evaluator=print)]).parse(PAGE)
    assert isinstance(document, Document)
    blocks = "".join(str(example.parsed) for example in document.examples())
    lines = [shlex.split(line) for line in blocks.replace("\\\n", " ").splitlines()]
    return [words[words.index("labkit") + 1 :] for words in lines if "labkit" in words]


COMMANDS = commands()


def test_every_guide_has_its_lines_on_the_page():
    assert len(COMMANDS) >= 20
    assert {words[words.index("--dialect") + 1] for words in COMMANDS} == {"labcore", "swamla", "gpt2seed", "nanochat"}
    theirs = PAGE.read_text(encoding="utf-8").split("```text")[1:]
    assert sum(block.partition("```")[0].count("python ") for block in theirs) == len(COMMANDS)


@pytest.mark.parametrize("rules", ["dialect", "labkit"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_line_runs(words, rules, tmp_path, monkeypatch, capsys):
    if rules == "labkit":
        at = words.index("--dialect")
        words = words[:at] + words[at + 2 :]
    for place, recorded in (FILES | (CHAT_FILES if words[0] == "chat" else {})).items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        if is_whole() or (fixtures_root() / recorded).exists():
            shutil.copyfile(fixtures_root() / recorded, tmp_path / place)
        elif place in words or "--hf_model" in words:
            pytest.skip(f"{recorded} is not in the compact set")
    load = language_model.load
    monkeypatch.setattr(language_model, "load", lambda source, **how: load(ON_THE_HUB.get(source, source), **how))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"1 be\n/quit\n")))
    monkeypatch.setenv("LABKIT_CHECKPOINTS", "experiment/checkpoints")
    monkeypatch.chdir(tmp_path)
    cli.main([*words, "--max-new-tokens", "4"])  # another exit status than 0 would raise
    said = capsys.readouterr()
    assert said.out.strip() and "labkit:" not in said.err
