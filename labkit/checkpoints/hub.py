"""``hf:owner/name``: the files of a checkpoint on the Hugging Face hub, downloaded once, then read like any folder."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ..errors import CheckpointError

PREFIX = "hf:"
SOURCE = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:/(.+))?")
# What lies beside a model and is needed with it: small, so all of it is fetched.
COMPANION = re.compile(r".*\.json|merges\.txt|tokenizer\.model|meta\.pkl|chat_template\.jinja")
# Kinds of model files, the first that a folder has is taken: whole formats before parts, safetensors before pickles.
MODEL_KINDS = tuple(
    map(
        re.compile,
        (
            r"model(-\d+-of-\d+)?\.safetensors",
            r"pytorch_model(-\d+-of-\d+)?\.bin",
            r"model_\d+\.pt",
            r"(?!optim_).*\.(safetensors|gguf|pth|pt|bin)",
        ),
    )
)
SHARD = re.compile(r".*-\d+-of-\d+\.\w+")
SWA_MLA_FOLDER = re.compile(r"checkpoint_tokens_(\d+)(k|M|B)_loss_[\d.]+")
SCALE = {"k": 10**3, "M": 10**6, "B": 10**9}


def fetch(source: str, revision: str | None = None) -> tuple[Path, tuple[str, ...]]:
    """The local folder or file of ``hf:owner/name`` or ``hf:owner/name/path/in/it``, and notes on what was chosen.

    Uses huggingface_hub: its progress bars, its cache (also offline, HF_HUB_OFFLINE=1) and its HF_TOKEN.

    Raises:
        CheckpointError: no such repository, gated, no such revision or file, offline, or several checkpoints.
    """
    match = SOURCE.fullmatch(source)
    if match is None:
        raise CheckpointError(f"{source}: a hub checkpoint is written hf:owner/name, or hf:owner/name/path/in/it")
    repo, inside = match[1], match[2]
    from huggingface_hub import hf_hub_download

    with explained(source, revision):
        names = list_files(repo, revision)
        wanted, model, notes = choose(names, inside, source)
        paths = {name: Path(hf_hub_download(repo, name, revision=revision)) for name in wanted}
    return paths[model].parent if SHARD.fullmatch(model) else paths[model], notes


def list_files(repo: str, revision: str | None) -> list[str]:
    """Names of a repository's files; offline, those of the cached snapshot."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    try:
        info = HfApi().model_info(repo, revision=revision)
        return [sibling.rfilename for sibling in info.siblings or []]
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code < 500:
            raise  # the hub has answered: no such thing, or not for you
    except (OfflineModeIsEnabled, httpx.TransportError, OSError):
        pass  # the hub cannot be asked; perhaps the cache has it
    folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    return [found.relative_to(folder).as_posix() for found in folder.rglob("*") if found.is_file()]


def choose(names: Sequence[str], inside: str | None, source: str) -> tuple[list[str], str, tuple[str, ...]]:
    """Which files to fetch, which of them is the model (the first shard of several), and notes.

    A pure rule over the names, so that it can be read and tested without a network.
    """
    if inside in names:
        folder = PurePosixPath(str(inside)).parent
        return [*companions(names, folder), str(inside)], str(inside), ()
    below = [name for name in names if inside is None or name.startswith(f"{inside}/")]
    folders = sorted({PurePosixPath(name).parent for name in below if is_model(name)})
    if not folders:
        raise CheckpointError(
            f"{source}: no checkpoint among its {len(names)} files ({', '.join(sorted(names)[:5])} …)"
        )
    folder, notes = choose_folder(folders, PurePosixPath(inside or "."), source)
    here = sorted(name for name in below if PurePosixPath(name).parent == folder and is_model(name))
    for kind in MODEL_KINDS:
        models = [name for name in here if kind.fullmatch(PurePosixPath(name).name)]
        if models:
            break
    if len(models) > 1 and not all(SHARD.fullmatch(name) for name in models):
        raise CheckpointError(
            f"{source} holds several checkpoints ({', '.join(models[:8])}{', …' * (len(models) > 8)}): "
            f"name one of them, as {source_of(source)}/{models[0]}"
        )
    return [*companions(names, folder), *models], models[0], notes


def choose_folder(
    folders: Sequence[PurePosixPath], top: PurePosixPath, source: str
) -> tuple[PurePosixPath, tuple[str, ...]]:
    """The folder itself if it holds a model, else the one below it; SWA-MLA uploads: the one with most tokens."""
    if top in folders:
        return top, ()
    if len(folders) == 1:
        return folders[0], ()
    tokens = {folder: tokens_of(folder.name) for folder in folders}
    if all(count is not None for count in tokens.values()):
        best = max(folders, key=lambda folder: tokens[folder] or 0)
        return best, (f"{best} has most tokens of the {len(folders)} checkpoints in the repository.",)
    raise CheckpointError(
        f"{source} holds several checkpoints (in {', '.join(map(str, folders[:8]))}{', …' * (len(folders) > 8)}): "
        f"name one of them, as {source_of(source)}/{folders[0]}"
    )


def tokens_of(folder: str) -> int | None:
    """Tokens seen, from the name of an SWA-MLA upload (checkpoint_tokens_12M_loss_3.21)."""
    match = SWA_MLA_FOLDER.fullmatch(folder)
    return int(match[1]) * SCALE[match[2]] if match else None


def companions(names: Sequence[str], folder: PurePosixPath) -> list[str]:
    """Config, tokenizer and index files beside the model."""
    return sorted(
        name for name in names if PurePosixPath(name).parent == folder and COMPANION.fullmatch(Path(name).name)
    )


def is_model(name: str) -> bool:
    return any(kind.fullmatch(PurePosixPath(name).name) for kind in MODEL_KINDS)


def source_of(source: str) -> str:
    """hf:owner/name without a path in it."""
    match = SOURCE.fullmatch(source)
    return f"hf:{match[1]}" if match else source


@contextmanager
def explained(source: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one sentence that says what to do."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    at = f" at revision {revision}" if revision else ""
    try:
        yield
    except errors.GatedRepoError:  # before RepositoryNotFoundError, which it is a kind of
        raise CheckpointError(
            f"{source}: the repository is gated; ask for access on its page, then set HF_TOKEN to your token"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{source}: no such repository, or a private one; check the name, and set HF_TOKEN if it is private"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{source}: no revision {revision!r}; leave it out for the newest") from None
    except errors.LocalEntryNotFoundError:
        raise CheckpointError(
            f"{source}{at}: the hub cannot be reached, and the files are not in its cache; "
            "connect once, or pass the path of a folder"
        ) from None
    except errors.EntryNotFoundError as error:
        raise CheckpointError(f"{source}{at}: a file has gone from the repository ({first_line(error)})") from None
    except errors.HFValidationError:
        raise CheckpointError(f"{source}: not a name the hub allows; write hf:owner/name") from None
    except (errors.HfHubHTTPError, httpx.TransportError, OSError) as error:
        raise CheckpointError(f"{source}{at}: the download failed ({first_line(error)}); try again") from None


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
