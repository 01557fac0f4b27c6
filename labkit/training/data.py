"""What the shipped checkpoints are trained on: a text file, and arithmetic problems from a generator."""

import hashlib
import random
from dataclasses import dataclass

import torch
from torch import Tensor

# The arithmetic vocabulary; "<|bos|>" follows as id 14, and the vocabulary is padded to 32 as nanochat's is.
ARITHMETIC_CHARACTERS = "0123456789+-=\n"
BOS = "<|bos|>"


@dataclass(frozen=True)
class Problem:
    """``question`` up to and with "=", and its ``answer``, without the newline that follows it."""

    question: str
    answer: str

    def __str__(self) -> str:
        return f"{self.question}{self.answer}\n"


def make_problem(a: int, operator: str, b: int) -> Problem:
    return Problem(f"{a}{operator}{b}=", str(a + b if operator == "+" else a - b))


def is_held_out(a: int, operator: str, b: int) -> bool:
    """One question in ten is never trained on, by a hash: the same everywhere, and nothing about the digits gives it
    away (a rule like (a + b) % 10 would keep a whole final digit from the training set)."""
    return hashlib.sha256(f"{a}{operator}{b}".encode()).digest()[0] < 26


def random_problem(rng: random.Random, held_out: bool) -> Problem:
    """Numbers of one to three digits, three being the most frequent; plus twice as often as minus."""
    while True:
        a, b = (rng.randrange(10 ** rng.choices((1, 2, 3), (1, 2, 7))[0]) for _ in range(2))
        operator = rng.choice("++-")
        if is_held_out(a, operator, b) == held_out:
            return make_problem(a, operator, b)


def three_digit_additions(n: int, seed: int) -> list[Problem]:
    """Distinct held-out additions of two three-digit numbers: the exam of the arithmetic checkpoints."""
    rng = random.Random(seed)
    found: dict[str, Problem] = {}
    while len(found) < n:
        a, b = rng.randrange(100, 1000), rng.randrange(100, 1000)
        if is_held_out(a, "+", b):
            problem = make_problem(a, "+", b)
            found[problem.question] = problem
    return list(found.values())


@dataclass(frozen=True)
class Rows:
    """Training rows of block_size + 1 ids: inputs are all but the last, targets all but the first."""

    train: Tensor  # 1-D ids (text), or (N, block_size + 1) (arithmetic)
    val: Tensor
    block_size: int

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n random training rows -> inputs (B, T), targets (B, T)"""
        if self.train.dim() == 2:
            rows = self.train[torch.randint(len(self.train), (n,), generator=generator)]
        else:
            starts = torch.randint(len(self.train) - self.block_size, (n,), generator=generator)
            rows = self.train[starts[:, None] + torch.arange(self.block_size + 1)]
        return rows[:, :-1].long(), rows[:, 1:].long()

    def val_rows(self) -> Tensor:
        """All validation rows, not overlapping but for the one id that is target here and input there."""
        if self.val.dim() == 2:
            return self.val.long()
        n = (len(self.val) - 1) // self.block_size
        return self.val[torch.arange(n)[:, None] * self.block_size + torch.arange(self.block_size + 1)].long()


def text_rows(text: str, vocab: list[str], block_size: int, train_share: float = 0.9) -> Rows:
    """The first part of the text to train on, the rest to validate on."""
    index = {character: i for i, character in enumerate(vocab)}
    ids = torch.tensor([index[character] for character in text], dtype=torch.int32)
    cut = int(train_share * len(ids))
    return Rows(ids[:cut], ids[cut:], block_size)


def arithmetic_rows(n_train: int, n_val: int, block_size: int, seed: int) -> Rows:
    """Each row: <|bos|>, then as many problems as fit and the head of one more."""
    index = {character: i for i, character in enumerate(ARITHMETIC_CHARACTERS)}

    def rows(n: int, held_out: bool, rng: random.Random) -> Tensor:
        out = torch.empty(n, block_size + 1, dtype=torch.int8)
        for row in out:
            text = ""
            while len(text) < block_size:
                text += str(random_problem(rng, held_out))
            row[0] = len(index)  # <|bos|>
            row[1:] = torch.tensor([index[character] for character in text[:block_size]], dtype=torch.int8)
        return out

    rng = random.Random(seed)
    return Rows(rows(n_train, False, rng), rows(n_val, True, rng), block_size)
