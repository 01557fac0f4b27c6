"""labkit chat: talk with a model."""

import json
import textwrap
from pathlib import Path
from typing import Any

import click

from .. import chat
from ..chat import Conversation, Reply
from ..errors import ConfigError, LabkitError
from ..language_model import LanguageModel
from ..settings import Settings
from ..tokenizers.base import OnUnknown
from .display import Display, Timing
from .options import OUTPUT, GroupedCommand, Request, generation_options, option
from .repl import Command, Loop

CHAT = "Chat"
CHATML_SYSTEM = "You are a helpful assistant."  # of SWA-MLA's --chatml


class ChatLoop(Loop):
    """Lines are messages; the conversation so far goes with each of them.

    Every answer has a draw of its own: the seed of the settings plus the number of answers before it.

    Attributes:
        talk: the conversation; it changes only when an answer is there, so that nothing that fails is part of it.
        save: a file that is written after every answer.
    """

    def __init__(
        self,
        lm: LanguageModel,
        settings: Settings,
        display: Display,
        talk: Conversation,
        *,
        unknown: OnUnknown | None,
        as_json: bool,
        save: str | None,
    ):
        super().__init__(lm, settings, display, unknown=unknown)
        self.talk, self.as_json, self.save = talk, as_json, save
        self.hint = f"Template {talk.template.name}, context {lm.model.block_size} tokens. {self.hint}"
        self.commands |= {
            "clear": Command("", "forget what was said; the system text stays", self._clear),
            "system": Command("TEXT", "the text in front of everything; none: no system text", self._system),
            "undo": Command("", "take back the last message and its answer", self._undo),
            "retry": Command("", "another answer to the last message, with the next seed", self._retry),
            "edit": Command("TEXT", "take back the last message and change it, or send TEXT instead", self._edit),
            "history": Command("", "who said what, with token counts, and what the next prompt holds", self._history),
            "save": Command("FILE", "write the conversation", self._save),
            "load": Command("FILE", "go on with a conversation that was saved", self._load),
        }

    def answer(self, text: str) -> None:
        if text := text.strip():
            self._reply(self.talk.say(text))

    def _reply(self, talk: Conversation) -> None:
        """Answer the newest message, and make that the conversation."""
        answers = sum(turn.role == "assistant" for turn in talk.turns)
        settings = chat.with_later_seed(self.settings, answers)
        reply = chat.reply(self.lm, talk, settings, unknown=self.unknown)
        for note in reply.prompt.notes:
            self.tell(f"note: {note}")
        display = Display(self.display.streaming and reply.streams, self.display.color, self.display.silent)
        timing = display.show(reply)
        ids = reply.run.ids
        if display.streaming and ids:
            display.text("\n")
        if timing.interrupted and not ids:
            self.offer(talk.last_message or "")
        else:
            self.talk = reply.conversation
            if not display.streaming:
                display.text(f"{reply.text}\n")
            self._report(reply, timing)
            self._keep()
        if timing.interrupted:
            self.interrupted()

    def _keep(self) -> None:
        """Write the conversation where that was asked for; that it fails must not take the answer back."""
        try:
            if self.save:
                self.talk.save(self.save)
        except LabkitError as error:
            self.display.tell(str(error))

    def _report(self, reply: Reply, timing: Timing) -> None:
        """How the answer went: as JSON, or as one line of counts."""
        prompt, result = reply.prompt, reply.result()
        if self.as_json:
            said = {
                "message": self.talk.last_message,
                "text": reply.text,
                "finish_reason": result.finish_reason,
                "prompt": prompt.text,
                "prompt_tokens": len(prompt.ids),
                "new_tokens": len(result.ids),
                "context": prompt.context,
                "left_out": len(prompt.dropped),
                "ids": result.ids,
                "notes": [*prompt.notes, *result.notes],
                "settings": reply.settings.to_dict(),
            }
            print(json.dumps(said, ensure_ascii=False), flush=True)
            return
        left_out = f" ({len(prompt.dropped)} oldest turns left out)" if prompt.dropped else ""
        counts = f"prompt {len(prompt.ids)} of {prompt.context} tokens{left_out} · answer {len(result.ids)}"
        self.tell(" · ".join(filter(None, (counts, timing.words, str(result.finish_reason)))))

    def _clear(self, _: str) -> None:
        self.talk = self.talk.clear()
        self.tell("Nothing said yet.")

    def _system(self, text: str) -> None:
        if text:
            changed = self.talk.replace(system="" if text.lower() in ("none", "off") else text)
            chat.prompt(self.lm, changed, self.settings, unknown=self.unknown)  # refuses what cannot be written
            self.talk = changed
        said = chat.system_text(self.talk.template, self.talk.system)
        self.tell(f"system: {said}" if said else "no system text")

    def _undo(self, _: str) -> None:
        message = self.talk.last_message
        if message is None:
            raise ConfigError("there is nothing to take back")
        self.talk = self.talk.undo()
        self.tell(f"Taken back: {message}")

    def _retry(self, _: str) -> None:
        talk = self.talk.unanswered()
        self.settings = chat.with_later_seed(self.settings, 1)
        self.tell(f"seed is {self.settings.seed}")
        self._reply(talk)

    def _edit(self, text: str) -> None:
        message = self.talk.last_message
        if message is None:
            raise ConfigError("there is no message yet to change")
        if text:
            self._reply(self.talk.undo().say(text))
        else:
            self.talk = self.talk.undo()
            self.offer(message)

    def _history(self, _: str) -> None:
        rows = chat.rows(self.lm, self.talk, self.settings)
        for row in rows:
            mark = "" if row["in prompt"] else "  (left out of the prompt)"
            self.tell(f"{row['tokens']:>6}  {row['role']}: {textwrap.shorten(row['text'], 80)}{mark}")
        self.tell(f"{sum(row['tokens'] for row in rows):>6}  tokens in all, of a context of {self.lm.model.block_size}")

    def _save(self, file: str) -> None:
        file = file or self.save or ""
        if not file:
            raise ConfigError("/save needs the name of a file")
        self.talk.save(file)
        self.tell(f"{len(self.talk.turns)} turns written to {file}")

    def _load(self, file: str) -> None:
        if not file:
            raise ConfigError("/load needs the name of a file")
        loaded = Conversation.load(file)
        chat.prompt(self.lm, loaded, self.settings, unknown=self.unknown)  # refuses what cannot be written
        self.talk = loaded
        self.tell(f"{len(loaded.turns)} turns from {file}")


def chat_loop(
    lm: LanguageModel,
    settings: Settings,
    *,
    system: str | None = None,
    template: str | Path | None = None,
    max_history_turns: int | None = None,
    max_prompt_tokens: int | None = None,
    load: str | None = None,
    save: str | None = None,
    streaming: bool = True,
    color: bool = False,
    as_json: bool = False,
    unknown: OnUnknown | None = None,
) -> None:
    """``labkit chat``: until the end of input, /quit, or a second Ctrl-C.

    Args:
        load: a saved conversation to go on with; what is given besides changes it.
        save: a file that is written after every answer.
        as_json: one JSON object a line for each answer, instead of text.
    """
    if load:
        given: dict[str, Any] = {
            "system": system, "max_history_turns": max_history_turns, "max_tokens": max_prompt_tokens,
        }  # fmt: skip
        if template is not None:
            given["template"] = chat.named(template)
        talk = Conversation.load(load).replace(**{name: value for name, value in given.items() if value is not None})
        chat.prompt(lm, talk, settings, unknown=unknown)  # refuses what cannot be written
    else:
        talk = chat.begin(
            lm, system=system, template=template, max_history_turns=max_history_turns,
            max_tokens=max_prompt_tokens, dialect=settings.dialect,
        )  # fmt: skip
    display = Display(streaming and not as_json, color, silent=as_json)
    ChatLoop(lm, settings, display, talk, unknown=unknown, as_json=as_json, save=save).run()


@click.command("chat", cls=GroupedCommand, help="Talk with a model; /help lists what one can do there.")
@generation_options("chat")
@option(CHAT, "--system", help="Text in front of the conversation (LabCore's and SWA-MLA's --system-prompt).")
@option(CHAT, "--template", help="How turns are written: a name such as chatml, or a .toml file; else as trained.")
@option(CHAT, "--max-history-turns", type=int, help="Earlier exchanges a prompt may hold; else all.")
@option(
    CHAT, "--max-prompt-tokens", type=click.IntRange(1), help="Tokens a prompt may have; else what there is room for."
)
@option(CHAT, "--load", help="Go on with a conversation that was saved.")
@option(CHAT, "--save", help="Write the conversation here after every answer.")
@option(CHAT, "--chatml", is_flag=True, hidden=True, help="SWA-MLA's: --template chatml with a system text.")
@option(CHAT, "--mode", type=click.Choice(["chat"]), hidden=True, expose_value=False)
@option(OUTPUT, "--color/--no-color", default=False, help="Colour tokens by their probability, on a terminal.")
@option(OUTPUT, "--json", "as_json", is_flag=True, help="One JSON object a line for each answer.")
def command(
    request: Request,
    unknown: OnUnknown | None,
    special: str | None,
    system: str | None,
    template: str | None,
    chatml: bool,
    max_history_turns: int | None,
    **options: Any,
) -> None:
    if special not in (None, "text"):
        raise click.UsageError(f"--special {special}: in a chat, special tokens that somebody types are always text")
    file = request.program
    if system is None:
        system = file.get("system_prompt", CHATML_SYSTEM if chatml else None)
    chat_loop(
        request.load(),
        request.settings,
        system=system,
        template=template or ("chatml" if chatml else None),
        max_history_turns=file.get("max_history_turns") if max_history_turns is None else max_history_turns,
        streaming=request.streaming,
        unknown=unknown,
        **options,
    )
