"""The shipped checkpoints are what their READMEs say."""

from pathlib import Path

import pytest

import labkit
from labkit.training.data import is_held_out, random_problem, three_digit_additions
from labkit.training.exam import share_answered

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"


def arithmetic() -> list[labkit.LanguageModel]:
    """The early, the best and the overfitted checkpoint."""
    names = sorted(path.name for path in (CHECKPOINTS / "arithmetic").iterdir() if path.is_dir())
    return [labkit.load(f"arithmetic/{name}") for name in names]


def test_shakespeare_char_has_a_validation_loss_of_at_most_1_55_nats_per_character():
    lm = labkit.load("shakespeare-char")
    assert lm.checkpoint.family == "labcore" and lm.checkpoint.losses["val"] <= 1.55
    assert lm.checkpoint.notes == ()


def test_the_best_arithmetic_checkpoint_answers_99_percent_of_held_out_additions_and_the_early_one_is_wrong():
    early, best, _ = arithmetic()
    problems = three_digit_additions(1000, seed=7)
    assert share_answered(best.model, best.tokenizer, problems) >= 0.99
    assert share_answered(early.model, early.tokenizer, problems) <= 0.5


def test_the_overfitted_arithmetic_checkpoint_has_a_clearly_higher_validation_loss_than_the_best():
    early, best, overfitted = (lm.checkpoint.losses["val"] for lm in arithmetic())
    assert best < early and overfitted > best + 0.5


def test_the_name_of_a_run_opens_its_best_checkpoint_and_says_so():
    lm = labkit.load("arithmetic")
    assert lm.checkpoint.losses["val"] == min(other.checkpoint.losses["val"] for other in arithmetic())
    assert "lowest validation loss" in lm.checkpoint.notes[0]


def test_all_shipped_checkpoints_together_take_at_most_40_mb_and_each_folder_has_a_readme():
    files = [path for path in CHECKPOINTS.rglob("*") if path.is_file() and "local" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 40e6
    for folder in CHECKPOINTS.iterdir():
        if folder.is_dir() and folder.name != "local":
            assert (folder / "README.md").exists(), folder


def test_no_shipped_checkpoint_holds_optimizer_state():
    import torch

    for path in CHECKPOINTS.rglob("*.pt"):
        assert "optimizer_state_dict" not in torch.load(path, weights_only=True)


@pytest.mark.parametrize("held_out", [True, False])
def test_a_generated_problem_is_right_and_on_the_asked_side_of_the_split(held_out):
    import random

    rng = random.Random(3)
    for _ in range(200):
        problem = random_problem(rng, held_out)
        a, operator, b = problem.question[:-1].replace("+", " + ").replace("-", " - ").split()
        assert int(problem.answer) == (int(a) + int(b) if operator == "+" else int(a) - int(b))
        assert is_held_out(int(a), operator, int(b)) is held_out


def test_the_split_holds_out_every_final_digit_alike():
    ends = [sum(is_held_out(a, "+", b) for b in range(100, 200)) for a in range(100, 300)]
    by_digit = [0] * 10
    for a in range(100, 300):
        for b in range(100, 200):
            by_digit[(a + b) % 10] += is_held_out(a, "+", b)
    assert min(by_digit) > 0.8 * sum(ends) / 10
