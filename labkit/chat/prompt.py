"""What of a conversation fits into a prompt, and the ids of it. What people type never becomes a special token."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..language_model import LanguageModel
from ..settings import Settings
from ..tokenizers.base import OnUnknown, Tokenizer, describe_unknown
from .conversation import Conversation, Turn, exchanges
from .dialects import original
from .templates import Template, check_markers

Piece = tuple[str, bool]  # a text, and whether a person typed it


def parts(turns: Sequence[Turn], template: Template, system: str | None = None) -> list[Piece]:
    """The prompt in pieces. Blank system text is no system part."""
    said = system_text(template, system)
    spoken = [(template.system[0], False), (said, True), (template.system[1], False)] if said else []
    out = [(template.begin, False), *([] if template.system_in_user else spoken)]
    for n, turn in enumerate(turns):
        before, after = getattr(template, turn.role)
        inside = spoken if template.system_in_user and n == 0 else []
        out = [*out, (before, False), *inside, (turn.text, True), (after, False)]
    return [*out, (template.reply, False)]


def system_text(template: Template, system: str | None) -> str:
    """What stands in the system part; empty: there is none."""
    return (template.default_system or "") if system is None else system.strip()


def encode(tokenizer: Tokenizer, pieces: Sequence[Piece], unknown: OnUnknown | None = None) -> list[int]:
    """Ids of a prompt in pieces, with the format's BOS in front.

    The markers of the template become its special tokens; one that somebody typed stays the characters it is made of.

    Raises:
        TokenizerError: a text that the tokenizer cannot encode, with positions in that text.
    """
    typed = [text for text, is_typed in pieces if is_typed]
    for text in typed:
        if (unknown or tokenizer.on_unknown) == "raise" and tokenizer.unknown_in(text):
            tokenizer.encode(text, unknown, "text")  # raises, and counts positions from the beginning of this text
    if any(name in text for text in typed for name in tokenizer.special_ids):
        encoded = [tokenizer.encode(text, unknown, "text" if is_typed else "parse") for text, is_typed in pieces]
        ids = [token_id for piece in encoded for token_id in piece]
    else:
        ids = tokenizer.encode("".join(text for text, _ in pieces), unknown, "parse")
    bos = tokenizer.bos_id
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


@dataclass(frozen=True)
class Prompt:
    """What the model is given of a conversation.

    Attributes:
        ids: of the whole prompt.
        text: the same as text, without what the format puts in front.
        turns: the turns it holds.
        dropped: older turns that it does not hold.
        context: tokens that prompt and answer may have together.
        notes: what a person should know, in sentences.
    """

    ids: list[int]
    text: str
    turns: tuple[Turn, ...]
    dropped: tuple[Turn, ...]
    context: int
    notes: tuple[str, ...] = ()


def prompt(
    lm: LanguageModel, conversation: Conversation, settings: Settings | None = None, *, unknown: OnUnknown | None = None
) -> Prompt:
    """The newest message with as much of what was said before as there is room for.

    The oldest exchanges are left out, whole, until the prompt and the answer (``max_new_tokens``, but at most half of
    the context) fit together; the system text and the newest message always stay. In the dialect of a system with a
    chat of its own, its rule holds instead: nothing is left out for want of room, and generation crops the ids.

    Raises:
        TokenizerError: a marker of the template, or a text, that the tokenizer cannot encode.
    """
    settings = settings or Settings()
    tokenizer = lm.require_tokenizer()
    *before, newest = exchanges(conversation.turns) or [()]
    if (most := conversation.max_history_turns) is not None:
        before = before[-most:] if most > 0 else []
    context = min(lm.model.block_size, settings.max_length or lm.model.block_size)
    room = min(settings.max_new_tokens, context // 2)
    limit = min(context - room, conversation.max_tokens or context)

    def pieces_without(n: int) -> list[Piece]:
        """The prompt without the n oldest exchanges."""
        kept = [turn for exchange in before[n:] for turn in exchange]
        return parts([*kept, *newest], conversation.template, conversation.system)

    def fits(n: int) -> bool:
        return len(encode(tokenizer, pieces_without(n), unknown)) <= limit

    check_markers(conversation.template, tokenizer, bool(system_text(conversation.template, conversation.system)))
    whole = original(settings.dialect, conversation.template.name) is not None
    n = 0 if whole else bisect.bisect_left(range(len(before)), True, key=fits)
    pieces = pieces_without(n)
    ids = encode(tokenizer, pieces, unknown)
    text = "".join(piece for piece, _ in pieces)
    turns = (*(turn for exchange in before[n:] for turn in exchange), *newest)
    return Prompt(
        ids=ids,
        text=text,
        turns=turns,
        dropped=conversation.turns[: len(conversation.turns) - len(turns)],
        context=context,
        notes=tuple(_notes(tokenizer, pieces, ids, context, unknown)),
    )


def _notes(
    tokenizer: Tokenizer, pieces: Sequence[Piece], ids: Sequence[int], context: int, unknown: OnUnknown | None
) -> list[str]:
    notes = []
    if (unknown or tokenizer.on_unknown) == "drop":
        newest = [text for text, typed in pieces if typed][-1:]
        if absent := [found for text in newest for found in tokenizer.unknown_in(text)]:
            notes.append(f"Dropped from the message, not in the vocabulary: {describe_unknown(absent)}.")
    if len(ids) > context:
        notes.append(
            f"The prompt has {len(ids)} tokens and the context holds {context}: the model does not see its beginning."
        )
    return notes


def rows(lm: LanguageModel, conversation: Conversation, settings: Settings | None = None) -> list[dict[str, Any]]:
    """A row for the system text and for each turn: role, text, tokens with markers, whether the next prompt holds it.

    A turn's tokens are counted by themselves; where a token would span two turns, a whole prompt may have fewer.
    """
    tokenizer, template = lm.require_tokenizer(), conversation.template
    answered = not conversation.turns or conversation.turns[-1].role != "user"
    next_one = conversation.say("") if answered else conversation
    n_held = len(prompt(lm, next_one, settings, unknown="drop").turns) - answered

    def row(turn: Turn, is_held: bool) -> dict[str, Any]:
        before, after = getattr(template, turn.role)
        ids = encode(tokenizer, [(before, False), (turn.text, True), (after, False)], "drop")
        tokens = len(ids) - (ids[:1] == [tokenizer.bos_id])
        return {"role": turn.role, "text": turn.text, "tokens": tokens, "in prompt": is_held}

    said = system_text(template, conversation.system)
    first_held = len(conversation.turns) - n_held
    return [
        *([row(Turn("system", said), True)] if said else []),
        *(row(turn, n >= first_held) for n, turn in enumerate(conversation.turns)),
    ]
