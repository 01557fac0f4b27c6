"""The panels around the text: the line of status, the error, and the stages of the selected token."""

from collections.abc import Iterable

from ..errors import LabkitError, SamplingError
from ..generation import encode_prompt, stream
from ..language_model import LanguageModel
from ..sampling import Sampler
from ..settings import Settings
from ..views import View, stage_columns
from ..views.base import escape, visible
from ..views.tokens import legend
from . import facts
from .facts import pieces
from .recording import Recording

ENDED = {
    "length": "reached the length",
    "stop": "met a stop",
    "eos": "the model ended it",
    "context": "the context is full",
    "interrupted": "stopped",
}


def run_facts(recording: Recording, writing: bool) -> str:
    """How many tokens, why it ended and how fast it went."""
    n, given = len(recording.tokens), min(recording.given, len(recording.tokens))
    facts = [f"{n} token{'s' * (n != 1)}" + f", of which {given} were given" * bool(given)]
    facts.append("writing …" if writing else ENDED[recording.finish_reason])
    if recording.tokens_per_second:
        facts.append(f"{recording.tokens_per_second:.0f} tokens/s")
    if recording.first_token_seconds:
        facts.append(f"first token after {1000 * recording.first_token_seconds:.0f} ms")
    return " · ".join(facts)


def context_notes(recording: Recording) -> list[str]:
    """What the model does not see of its prompt."""
    n, size = len(recording.prompt_ids), recording.lm.model.block_size
    if n <= size:
        return []
    return [f"The prompt has {n:,} tokens; the model can look at no more than the last {size:,}."]


def status_html(facts: str, hint: str = "", notes: Iterable[str] = ()) -> str:
    """A line of facts, a hint if something is to be done, and the notes of the model and of the run."""
    lines = "".join(f"<div class=lk-note>{escape(note)}</div>" for note in notes)
    return f'<div class="lk lk-status">{escape(facts)} <b>{escape(hint)}</b>{lines}</div>'


def legend_html(colour: str) -> str:
    return f'<div class="lk">{legend(colour)}</div>'


def error_html(message: str) -> str:
    return f'<div class="lk lk-error" role="alert">{escape(message)}</div>'


def error_message(error: Exception) -> str:
    """One line; what labkit did not raise on purpose is named by its kind."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, LabkitError) else f"{type(error).__name__}: {lines[0]}"


def stages_view(recording: Recording, index: int, settings: Settings) -> View:
    """What these settings make of one token of a run: same logits and, with the same seed, the same draw.

    Raises:
        SamplingError: the token's logits are no longer kept.
    """
    trace = recording.stages(index, settings)
    if trace is None:
        raise SamplingError(f"Token {index + 1} is too far back: its logits are no longer kept.")
    lm, written = recording.lm, recording.steps[index].id
    data = facts.stage_columns(trace, lm, always=[written])
    now, was = (visible(piece) for piece in pieces(lm, [trace.chosen, written]))
    before = visible("".join(pieces(lm, [*recording.prompt_ids[-24:], *recording.ids[:index]][-24:])), spaces=False)
    caption = f"Token {index + 1} of {len(recording.tokens)}: “{was}” after “…{before[-24:]}”"
    if recording.origin is not None and recording.origin.at <= index < recording.given:
        caption += ", chosen by hand"
    if trace.chosen != written:
        caption += f". With these settings the same draw picks “{now}”"
    return stage_columns(**data, in_text=written if written != trace.chosen else None, caption=caption)


def first_choice_view(lm: LanguageModel, prompt: str | list[int], settings: Settings) -> View:
    """How the first token after a prompt is chosen; the model is run once."""
    step = next(stream(lm, prompt, settings.replace(max_new_tokens=1)))
    ids, _ = encode_prompt(lm, prompt)
    trace = Sampler.from_settings(**settings.sampling()).trace(step.logits, ids)
    return stage_columns(**facts.stage_columns(trace, lm), caption="The first token after the prompt")
