"""How good a model is in numbers: the loss on a text of any length, and the share of questions it answers."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..generation import encode_prompt, stream_batch
from ..language_model import LanguageModel
from ..settings import Settings, check_names
from .progress import Progress, steps

CHUNK = 1 << 22  # logits at a time
Question = tuple[str, str]  # what is asked, and the answer


@dataclass(frozen=True, repr=False)
class TextLoss:
    """What a model makes of a text as a whole. The first token is not predicted, and left out of all numbers.

    Attributes:
        surprisal: nats of all predicted tokens.
        n_tokens: how many these are.
        n_bytes, n_characters: of their text; None without a tokenizer.
        window, stride: it was read in windows of so many tokens, each so many further on than the one before.
        notes: on the text.
    """

    surprisal: float
    n_tokens: int
    n_bytes: int | None
    n_characters: int | None
    window: int
    stride: int
    notes: tuple[str, ...] = ()

    @property
    def mean_surprisal(self) -> float:
        """Nats a token."""
        return self.surprisal / self.n_tokens

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.mean_surprisal, 700.0))

    @property
    def bits_per_byte(self) -> float | None:
        """Comparable between tokenizers, which nats a token are not."""
        return self.surprisal / math.log(2) / self.n_bytes if self.n_bytes else None

    def rows(self) -> list[dict[str, Any]]:
        """One row."""
        names = ("n_tokens", "n_bytes", "n_characters", "window", "stride")
        numbers = ("mean_surprisal", "perplexity", "bits_per_byte")
        return [
            {name: getattr(self, name) for name in names}
            | {name: None if (x := getattr(self, name)) is None else round(x, 4) for name in numbers}
        ]

    def to_dict(self) -> dict[str, Any]:
        return {**self.rows()[0], "surprisal": self.surprisal, "notes": list(self.notes)}

    def __repr__(self) -> str:
        per_byte = "" if self.bits_per_byte is None else f", {self.bits_per_byte:.4f} bits per byte"
        return f"TextLoss({self.n_tokens:,} tokens, {self.mean_surprisal:.4f} nats a token{per_byte})"


@torch.inference_mode()
def evaluate_text(
    lm: LanguageModel, text: str | Sequence[int], *, stride: int | None = None, progress: Progress = None
) -> TextLoss:
    """The loss on a text of any length, by a sliding window as wide as the context.

    A smaller stride leaves each token more to be predicted from, and takes longer: each window predicts ``stride`` new
    tokens, from block_size - stride others or more (the first window: all of its own).

    Args:
        text: text, which the format's BOS is put in front of, or ids.
        stride: 1 … block_size; None: a quarter of the context, which gives the numbers of ``labkit.score``.
        progress: a bar, or a function that is called with the windows read and all of them; see ``Progress``.

    Raises:
        ConfigError: a stride outside its range, or a text of one token.
    """
    ids, notes = encode_prompt(lm, text)
    if len(ids) < 2:
        raise ConfigError("the text has one token, and the first one is not predicted; give a longer one")
    window = min(lm.model.block_size, len(ids) - 1)
    if stride is None:
        stride = max(1, lm.model.block_size // 4)
    if type(stride) is not int or not 1 <= stride <= lm.model.block_size:
        raise ConfigError(f"stride is {stride!r}; it must be a whole number from 1 to {lm.model.block_size}")
    batch = torch.tensor(ids, device=lm.device)
    surprisal = 0.0
    for start, first in steps(windows(len(ids), window, stride), "reading", progress):
        end = min(len(ids), start + window + 1)  # tokens first … end - 1 are predicted from this window
        hidden = lm.model.hidden(batch[None, start : end - 1])[:, first - 1 - start :]  # (1, T, C)
        surprisal += sum(losses(lm, hidden, batch[first:end]))
    n_bytes = n_characters = None
    if lm.tokenizer is not None:
        data = b"".join(map(lm.tokenizer.token_bytes, ids[1:]))
        n_bytes, n_characters = len(data), len(data.decode("utf-8", errors="replace"))
    return TextLoss(surprisal, len(ids) - 1, n_bytes, n_characters, window, min(stride, window), notes)


def windows(n: int, window: int, stride: int) -> list[tuple[int, int]]:
    """(first token that is read, first that is predicted) of each window over n tokens."""
    out = [(0, 1)]
    while (predicted := out[-1][0] + window + 1) < n:
        out.append((out[-1][0] + stride, predicted))
    return out


def losses(lm: LanguageModel, hidden: Tensor, targets: Tensor) -> Iterator[float]:
    """Nats of the targets (T,) after hidden states (1, T, C), a part at a time."""
    most = max(1, CHUNK // lm.vocab_size)
    for at in range(0, len(targets), most):
        log_p = lm.model.unembed(hidden[:, at : at + most])[0].log_softmax(dim=-1)  # (t, V)
        yield -float(log_p.gather(1, targets[at : at + most, None]).cpu().double().sum())


@dataclass(frozen=True, repr=False)
class Answers:
    """What a model answered.

    Attributes:
        questions: what was asked, with the right answers.
        said: what the model said to each.
    """

    questions: list[Question]
    said: list[str]

    @property
    def right(self) -> list[bool]:
        """Whether it said the answer, the whole answer and nothing but the answer; blanks around it do not count."""
        pairs = zip(self.questions, self.said, strict=True)
        return [answer.strip() == said.strip() for (_, answer), said in pairs]

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.said)

    @property
    def interval(self) -> tuple[float, float]:
        """Where the accuracy on such questions in general lies, with 95 % confidence (Wilson 1927)."""
        n, p, z = len(self.said), self.accuracy, 1.96
        middle, spread = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        low, high = ((middle + sign * spread) / (1 + z**2 / n) for sign in (-1, 1))
        return max(0.0, low), min(1.0, high)

    def rows(self) -> list[dict[str, Any]]:
        """One row a question: prompt, answer, said, right."""
        names = ("prompt", "answer", "said", "right")
        columns = zip(self.questions, self.said, self.right, strict=True)
        return [dict(zip(names, (*question, said, right), strict=True)) for question, said, right in columns]

    def to_dict(self) -> dict[str, Any]:
        low, high = self.interval
        counts = {"n": len(self.said), "right": sum(self.right), "accuracy": round(self.accuracy, 4)}
        return {**counts, "interval": [round(low, 4), round(high, 4)], "answers": self.rows()}

    def __repr__(self) -> str:
        low, high = self.interval
        counts = f"{sum(self.right)} of {len(self.said)} right"
        return f"Answers({counts}, {self.accuracy:.1%}; 95 % interval {low:.1%} … {high:.1%})"


def evaluate_answers(
    lm: LanguageModel,
    questions: Iterable[Question],
    *,
    stop: str = "\n",
    max_new_tokens: int | None = None,
    batch_size: int = 32,
    progress: Progress = None,
    **changes: Any,
) -> Answers:
    """Ask every question and compare what is said, up to ``stop``, with the answer. Greedy, unless asked otherwise.

    Args:
        questions: prompts with their answers, e.g. from ``read_questions``.
        max_new_tokens: None: enough for the longest answer and one token more, by which a longer one shows.
        progress: a bar, or a function that is called with the questions answered and all of them; see ``Progress``.
        changes: fields of Settings.
    """
    questions = list(questions)
    if not questions:
        raise ConfigError("there are no questions")
    tokenizer = lm.require_tokenizer()
    if max_new_tokens is None:
        longest = max(len(tokenizer.encode(answer, unknown="drop")) for _, answer in questions)
        max_new_tokens = longest + max(1, len(tokenizer.encode(stop, unknown="drop")))
    check_names(changes)
    asked: dict[str, Any] = {"greedy": True, "stop": stop, "max_new_tokens": max_new_tokens} | changes
    settings = Settings(**asked)
    run = stream_batch(lm, [prompt for prompt, _ in questions], settings, batch_size=batch_size)
    answered = (index for index, _ in run if run.rows[index].finish_reason is not None)
    for _ in steps(answered, "answering", progress, total=len(questions)):
        pass
    return Answers(questions, [row.text for row in run.rows])


def read_questions(path: str | Path) -> list[Question]:
    """Prompts and answers of a file, blank lines left out.

    Args:
        path: ``.jsonl``: a JSON object a line, with "prompt" and "answer". Else ``prompt<tab>answer`` a line.

    Raises:
        ConfigError: no such file, or a line that is not of this form, with its number.
    """
    path = Path(path)
    read = json_question if path.suffix in (".jsonl", ".ndjson") else tab_question
    questions = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                questions.append(read(line.removesuffix("\r")))
            except ValueError as error:
                raise ConfigError(f"{path}, line {number}: {error}") from None
    if not questions:
        raise ConfigError(f"{path}: there are no questions in it")
    return questions


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, line ends as they are."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is no UTF-8 text ({error.reason})") from None


def json_question(line: str) -> Question:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON ({error})") from None
    match value:
        case {"prompt": str(prompt), "answer": str(answer)}:
            return prompt, answer
    raise ValueError('is no JSON object with the texts "prompt" and "answer"')


def tab_question(line: str) -> Question:
    prompt, tab, answer = line.partition("\t")
    if not tab or "\t" in answer:
        raise ValueError(f"has {line.count(chr(9))} tabs; it must be prompt<tab>answer")
    return prompt, answer
