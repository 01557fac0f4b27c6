"""Two models side by side, or one under two settings or in two precisions; and several checkpoints of one run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from ..generation.run import settings_for
from ..language_model import LanguageModel
from ..settings import Settings
from .distributions import Side
from .evaluate import Question, evaluate_answers, evaluate_text
from .free_running import FreeRunning, Setup, free_running
from .progress import Progress
from .teacher_forced import TeacherForced, teacher_forced


@dataclass(frozen=True, repr=False)
class Comparison:
    """A and B: what each makes of the same text, and what each writes with the same luck.

    Attributes:
        text: teacher-forced on a text.
        run: free-running after a prompt; None without one.
    """

    text: TeacherForced
    run: FreeRunning | None

    def rows(self) -> list[dict[str, Any]]:
        """One row a token of the text."""
        return self.text.rows()

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text.to_dict(), "run": None if self.run is None else self.run.to_dict()}

    def __repr__(self) -> str:
        return f"Comparison({self.text!r}{'' if self.run is None else f', {self.run!r}'})"


def compare(
    a: LanguageModel,
    b: LanguageModel,
    text: str | Sequence[int] | None = None,
    *,
    prompt: str | Sequence[int] | None = None,
    settings: Settings | None = None,
    changes_b: Mapping[str, Any] | None = None,
    progress: Progress = None,
    **changes: Any,
) -> Comparison:
    """Two checkpoints; one in two precisions (load it twice); or one under two settings (``compare(lm, lm, …,
    changes_b={"temperature": 1.2})``).

    Models are compared by their own distributions. With ``changes_b`` it is the distributions after the stages, which
    the draws see, that are compared.

    Args:
        text: what both read; None: the prompt and what A writes after it. Ids where they mean the same to both.
        prompt: what both continue, with equal seeds on the same noise; None: neither writes.
        settings, changes: of both, as in ``generate``.
        changes_b: fields of Settings in which B differs.
        progress: a bar, or a function that is called with the tokens done and all of them, first of what is written
            and then of what is read; see ``Progress``.

    Raises:
        ConfigError: neither a text nor a prompt.
        TokenizerError: the tokenizers differ and cannot be aligned.
    """
    if text is None and prompt is None:
        raise ConfigError("nothing to compare on; give a text, a prompt, or both")
    changed = dict(changes_b or {})
    settings_a = settings_for(a, settings, changes)
    setups = Setup.of(a, settings_a), Setup.of(b, settings_for(b, settings_a, changed))
    run = None if prompt is None else free_running(*setups, prompt, progress)
    if text is None and run is not None:
        text = f"{prompt}{run.a.text}" if run.notes else run.a.prompt_ids + run.a.ids
    assert text is not None
    side_a, side_b = (Side(setup.lm, setup.sampler if changed else None) for setup in setups)
    return Comparison(teacher_forced(side_a, side_b, text, progress), run)


@dataclass(frozen=True, repr=False)
class Trajectory:
    """Several checkpoints of a run, in the order of their steps.

    Attributes:
        points: a row for each: checkpoint, step, the losses it recorded, and what was measured.
    """

    points: list[dict[str, Any]]

    def rows(self) -> list[dict[str, Any]]:
        return [dict(point) for point in self.points]

    def to_dict(self) -> dict[str, Any]:
        return {"checkpoints": self.rows()}

    def __repr__(self) -> str:
        return f"Trajectory({len(self.points)} checkpoints, steps {', '.join(str(p['step']) for p in self.points)})"


def trajectory(
    models: Iterable[LanguageModel],
    *,
    text: str | None = None,
    questions: Sequence[Question] | None = None,
    progress: Progress = None,
) -> Trajectory:
    """Loss on a text and share of questions answered, checkpoint by checkpoint.

    Args:
        models: e.g. ``map(labkit.load, names)``, which has one of them in memory at a time.
        progress: of each checkpoint's ``evaluate_text`` and ``evaluate_answers``.
    """
    if text is None and questions is None:
        raise ConfigError("nothing to measure; give a text, questions, or both")
    points = []
    for lm in models:
        facts = lm.checkpoint
        point: dict[str, Any] = {"checkpoint": facts.path.stem, "step": facts.step}
        point |= {f"recorded_{name}": round(loss, 4) for name, loss in facts.losses.items()}
        if text is not None:
            loss = evaluate_text(lm, text, progress=progress).rows()[0]
            point |= {name: loss[name] for name in ("mean_surprisal", "perplexity", "bits_per_byte")}
        if questions is not None:
            point["accuracy"] = round(evaluate_answers(lm, questions, progress=progress).accuracy, 4)
        points.append(point)
    return Trajectory(sorted(points, key=lambda point: (point["step"] is None, point["step"])))
