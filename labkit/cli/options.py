"""The options of everything that opens a checkpoint or generates, written once; and what becomes of them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import click

from ..errors import ConfigError, SamplingError
from ..settings import DIALECTS, Overflow, PenaltyScope, Settings, read_table
from .parameters import (
    INPUT,
    LENGTH,
    MODEL,
    OFF,
    OTHER,
    OUTPUT,
    SAMPLING,
    GroupedCommand,
    Ids,
    Number,
    Pair,
    option,
    plain,
)
from .systems import PROGRAMS

if TYPE_CHECKING:
    from ..language_model import LanguageModel

__all__ = [
    "FIELD_OPTIONS", "INPUT", "LENGTH", "MODEL", "OTHER", "OUTPUT", "SAMPLING", "GroupedCommand", "Ids", "Model",
    "Pair", "Request", "generation_options", "given_settings", "model_options", "option", "plain", "tell_notes",
    "with_options",
]  # fmt: skip

INT, FLOAT = Number(int), Number(float)
MODEL_OPTIONS = (
    click.argument("source", required=False),
    option(MODEL, "--checkpoint", help="The same as SOURCE."),
    option(MODEL, "--hf-model", metavar="OWNER/NAME", help="A checkpoint on the hub: the same as hf:OWNER/NAME."),
    option(MODEL, "--hf-checkpoint", hidden=True, help="A folder in it."),
    option(MODEL, "--source", "where", type=click.Choice(["local", "hf"]), hidden=True, expose_value=False),
    option(MODEL, "--revision", help="Branch, tag or commit of a hub model."),
    option(MODEL, "--meta", help="A meta file to use instead of the one beside the model."),
    option(MODEL, "--tokenizer", help='"char" or "bpe", to use instead of what the checkpoint says.'),
    option(MODEL, "--device", help="auto, cpu, cuda, mps; an absent one becomes the CPU."),
    option(MODEL, "--dtype", help="auto, float32, float16 or bfloat16."),
    option(MODEL, "--fast", is_flag=True, help="Compute large matrices from packed copies (CPU); last digits differ."),
    option(
        MODEL, "--model-option", multiple=True, type=Pair(str, plain, "softcap=15"), metavar="NAME=VALUE",
        help="What a file cannot reveal: window=configured, query_positions=token, softcap=20.",
    ),
    option(OTHER, "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),
)  # fmt: skip

# Every field of Settings; an option that was not given is None.
FIELD_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "temperature": option(SAMPLING, "--temperature", type=FLOAT, help="0 is greedy; below 1 sharper, above 1 flatter."),
    "top_k": option(SAMPLING, "--top-k", type=INT, help="Keep the k most probable tokens; 0: all."),
    "top_p": option(SAMPLING, "--top-p", type=FLOAT, help="Keep the most probable tokens up to this mass; 1: all."),
    "min_p": option(SAMPLING, "--min-p", type=FLOAT, help="Keep tokens with this share of the largest probability."),
    "typical_p": option(SAMPLING, "--typical-p", type=FLOAT, help="Keep the tokens nearest the entropy, to this mass."),
    "top_n_sigma": option(SAMPLING, "--top-n-sigma", type=FLOAT, help="Keep logits this near the largest."),
    "epsilon_cutoff": option(SAMPLING, "--epsilon-cutoff", type=FLOAT, help="Remove tokens below this probability."),
    "eta_cutoff": option(SAMPLING, "--eta-cutoff", type=FLOAT, help="The same, falling with the entropy."),
    "xtc_probability": option(SAMPLING, "--xtc-probability", type=FLOAT, help="How often XTC removes the top choices."),
    "xtc_threshold": option(SAMPLING, "--xtc-threshold", type=FLOAT, help="Which are those above this probability."),
    "mirostat_tau": option(SAMPLING, "--mirostat-tau", type=FLOAT, help="Keep the surprisal near this (bits)."),
    "mirostat_eta": option(SAMPLING, "--mirostat-eta", type=FLOAT, help="How fast mirostat learns."),
    "repetition_penalty": option(
        SAMPLING, "--repetition-penalty", type=FLOAT, help="Make tokens seen before less likely; 1: off."
    ),
    "frequency_penalty": option(SAMPLING, "--frequency-penalty", type=FLOAT, help="Taken off for each occurrence."),
    "presence_penalty": option(SAMPLING, "--presence-penalty", type=FLOAT, help="Taken off for having occurred."),
    "penalty_scope": option(
        SAMPLING, "--penalty-scope", type=click.Choice(get_args(PenaltyScope)), help="What penalties count."
    ),
    "dry_multiplier": option(SAMPLING, "--dry-multiplier", type=FLOAT, help="Against repeating what followed before."),
    "dry_base": option(SAMPLING, "--dry-base", type=FLOAT, help="How fast DRY grows with the length repeated."),
    "dry_allowed_length": option(SAMPLING, "--dry-allowed-length", type=INT, help="What DRY lets pass."),
    "no_repeat_ngram_size": option(
        SAMPLING, "--no-repeat-ngram-size", type=INT, help="No run of so many tokens twice."
    ),
    "logit_bias": option(
        SAMPLING, "--logit-bias", multiple=True, type=Pair(int, float, "ID=NUMBER"), metavar="ID=NUMBER",
        help="Added to the logit of this token; may be given several times.",
    ),
    "allowed_ids": option(SAMPLING, "--allowed-ids", type=Ids(), metavar="1,2,3", help="Only these tokens."),
    "forbidden_ids": option(SAMPLING, "--forbidden-ids", type=Ids(), metavar="1,2,3", help="Never these tokens."),
    "greedy": option(SAMPLING, "--greedy/--sample", default=None, help="Always take the most probable token."),
    "seed": option(SAMPLING, "--seed", type=INT, help="Of the draw; the same seed gives the same text; none: a fresh."),
    "dialect": option(
        SAMPLING, "--dialect", type=click.Choice(list(DIALECTS)), help="Whose rules and defaults apply; else labkit's."
    ),
    "max_new_tokens": option(LENGTH, "--max-new-tokens", type=int, help="Tokens to add at most."),
    "min_new_tokens": option(LENGTH, "--min-new-tokens", type=int, help="Nothing ends generation before this many."),
    "max_length": option(
        LENGTH, "--max-length", type=INT, help="Prompt and new tokens together; a longer prompt loses its beginning."
    ),
    "stop": option(LENGTH, "--stop", multiple=True, help="End at this text; may be given several times."),
    "overflow": option(LENGTH, "--overflow", type=click.Choice(get_args(Overflow)), help="When the context is full."),
    "use_cache": option(LENGTH, "--use-cache/--no-use-cache", default=None, help="Keep keys and values."),
    "deterministic": option(
        LENGTH, "--deterministic/--no-deterministic", default=None, help="Ask torch for deterministic kernels."
    ),
}  # fmt: skip
MORE_OPTIONS = (
    option(LENGTH, "--stop-id", multiple=True, type=int, help="End at this token; may be given several times."),
    option(SAMPLING, "--config", help="A TOML file with a [generation] table; an option beats it."),
    option(OUTPUT, "--stream/--no-stream", "streaming", default=None, help="Show tokens as they come."),
    option(OUTPUT, "--verbose", is_flag=True, help="Say where each setting comes from, and how fast it was."),
)
TEXT_OPTIONS = (
    option(INPUT, "--unknown", type=click.Choice(["raise", "drop"]), help="Characters outside the vocabulary."),
    option(INPUT, "--special", type=click.Choice(["parse", "text", "refuse"]), help="Special tokens typed as text."),
)


@dataclass(frozen=True)
class Model:
    """Which checkpoint to open, and how.

    Attributes:
        device, dtype: None: what the dialect's own program has, which is "auto" for labkit.
    """

    source: str
    device: str | None = None
    dtype: str | None = None
    tokenizer: str | None = None
    meta: str | None = None
    revision: str | None = None
    options: Mapping[str, Any] | None = None
    fast: bool = False

    @classmethod
    def of(cls, params: dict[str, Any]) -> "Model":
        """Takes the parameters of MODEL_OPTIONS out of ``params``."""
        source, checkpoint, hub = (params.pop(name) for name in ("source", "checkpoint", "hf_model"))
        folder = params.pop("hf_checkpoint")
        if hub is not None:
            hub = "hf:" + "/".join(filter(None, (hub.removeprefix("hf:"), folder)))
        if source is not None and (checkpoint or hub) and params.get("file", source) is None:
            params["file"], source = source, None  # labkit batch --checkpoint X FILE
        named = [name for name in (source, checkpoint, hub) if name is not None]
        if len(named) != 1:
            raise click.UsageError("name one checkpoint, as SOURCE or with --checkpoint (shipped: shakespeare-char)")
        rest = {name: params.pop(name) for name in ("device", "dtype", "tokenizer", "meta", "revision", "fast")}
        return cls(named[0], **rest, options=dict(params.pop("model_option")) or None)

    def load(self, dialect: str = "labkit") -> "LanguageModel":
        """Open it, on the device and in the dtype that the dialect's own program has where nothing is said."""
        from ..language_model import load, resolve_device

        system = PROGRAMS[dialect]
        device, dtype = self.device or system.device, self.dtype or system.dtype
        if system.dtype_without_gpu and device.startswith("cuda") and resolve_device(device)[0].type == "cpu":
            dtype = system.dtype_without_gpu.get(dtype, dtype)
        return load(
            self.source, device=device, dtype=dtype, tokenizer=self.tokenizer, meta=self.meta,
            revision=self.revision, options=self.options, fast=self.fast,
        )  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        settings: option before file before the dialect's default.
        program: what the file says about the program: system_prompt, max_history_turns …
        origins: setting -> where it comes from, in words; one that is not there is a default.
        notes: what was not used, and why.
        streaming: show tokens as they come.
    """

    model: Model
    settings: Settings
    program: Mapping[str, Any]
    origins: Mapping[str, str]
    notes: tuple[str, ...]
    streaming: bool
    verbose: bool

    def load(self) -> "LanguageModel":
        """Open the checkpoint; notes on stderr, and with --verbose the settings and where each comes from."""
        tell_notes(self.notes)
        lm = self.model.load(self.settings.dialect)
        tell_notes(lm.checkpoint.notes)
        if self.verbose:
            default = f"default{f' of {self.settings.dialect}' * (self.settings.dialect != 'labkit')}"
            for name, value in self.settings.to_dict().items():
                click.echo(f"{name} = {value!r} ({self.origins.get(name, default)})", err=True)
            click.echo(f"runs as {lm.model.lm_head.weight.dtype} on {lm.device}".replace("torch.", ""), err=True)
            if lm.checkpoint.stop_ids:
                click.echo(f"stop ids = {list(lm.checkpoint.stop_ids)} (checkpoint)", err=True)
        return lm


def model_options(function: Callable[..., None]) -> Callable[..., None]:
    """For a command that opens a checkpoint: it is called with ``model``, a Model."""

    @functools.wraps(function)
    def called(**params: Any) -> None:
        function(model=Model.of(params), **params)

    return with_options(called, MODEL_OPTIONS)


def generation_options(program: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """For a command that generates: it is called with ``request``, a Request, and ``unknown`` and ``special``.

    Args:
        program: which of the reference systems' programs it stands for: "generate", "chat" or "batch".
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def called(**params: Any) -> None:
            model = Model.of(params)
            given = given_settings(params)
            config, streaming, verbose = (params.pop(name) for name in ("config", "streaming", "verbose"))
            function(request=resolve(model, program, config, given, streaming, verbose), **params)

        return with_options(called, (*MODEL_OPTIONS, *FIELD_OPTIONS.values(), *MORE_OPTIONS, *TEXT_OPTIONS))

    return decorate


def with_options(function: Callable[..., None], options: Sequence[Callable[[Any], Any]]) -> Callable[..., None]:
    for add in reversed(options):
        function = add(function)
    return function


def given_settings(params: dict[str, Any]) -> dict[str, Any]:
    """Takes the fields of Settings out of ``params``: those that were given, "off" as None."""
    given = {name: params.pop(name) for name in FIELD_OPTIONS}
    given["stop"] = (*given["stop"], *params.pop("stop_id"))
    given["logit_bias"] = dict(given["logit_bias"])
    return {
        name: None if isinstance(value, str) and value == OFF else value
        for name, value in given.items()
        if value is not None and value != () and value != {}
    }


def resolve(
    model: Model, program: str, config: str | None, given: Mapping[str, Any], streaming: bool | None, verbose: bool
) -> Request:
    """What holds, option before file before the dialect's default, and where each comes from."""
    values, more = read_table(config) if config else ({}, {})
    dialect = given.get("dialect", values.get("dialect", "labkit"))
    system, notes = PROGRAMS.get(dialect, PROGRAMS["labkit"]), []
    if program == "generate" and system.reads is not None:
        unread = [*(set(values) - system.reads), *more]
        if unread:
            reads = ", ".join(sorted(system.reads - {"dialect"}))
            notes.append(f"{config}: {dialect} reads only {reads} here; not used: {', '.join(sorted(unread))}.")
        values, more = {name: value for name, value in values.items() if name in system.reads}, {}
    for name in sorted(system.unused.keys() & given.keys()):
        notes.append(f"--{name.replace('_', '-')} is not used: {dialect} accepts it, but {system.unused[name]}.")
    given = {name: value for name, value in given.items() if name not in system.unused}
    try:
        settings = Settings(**values | {"dialect": dialect})
    except (ConfigError, SamplingError) as error:
        raise type(error)(f"{config}: {error}") from None
    model = replace(model, device=model.device or more.get("device"), dtype=model.dtype or more.get("dtype"))
    return Request(
        model=model,
        settings=settings.replace(**given),
        program=more,
        origins=dict.fromkeys(values, f"file {config}") | dict.fromkeys(given, "option"),
        notes=tuple(notes),
        streaming=more.get("stream", True) if streaming is None else streaming,
        verbose=verbose,
    )


def tell_notes(notes: Sequence[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)
