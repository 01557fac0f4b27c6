"""The server: a port, Solara's pages behind the gate, and the line that says where to go."""

import socket
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from ..errors import ConfigError
from .access import Gate, is_loopback
from .turns import Turns

if TYPE_CHECKING:
    from .page import Served

GONE_AFTER = "2m"  # a visitor who lost the connection may come back within this time
SOCKETS = "/jupyter/api/kernels/"  # below it each page has its own


def listen(host: str, port: int) -> socket.socket:
    """The port, taken before anything slow is done.

    Raises:
        ConfigError: somebody else has it, or it cannot be had.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"port {port} on {host}: {reason}; name another with --port (0: any free one)") from None


def address(host: str, port: int, token: str | None) -> str:
    """What to type into a browser; for a server that listens everywhere, this machine's own name."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/" + (f"?token={quote(token, safe='')}" if token else "")


def run(served: "Served", listening: socket.socket, host: str, token: str | None, max_visitors: int) -> None:
    """Serve until Ctrl-C."""
    port = listening.getsockname()[1]
    pages, contexts = _solara()
    from . import page

    page.served = served
    # As many steps of the model at a time as it has threads: more would only push each other aside.
    served.lm.model.hidden = Turns(torch.get_num_threads()).wrap(served.lm.model.hidden)  # type: ignore[method-assign]
    gate = Gate(
        pages, token, cookie=f"labkit-{port}", loopback=is_loopback(host),
        has_room=lambda connection: has_room(connection, contexts, max_visitors),
    )  # fmt: skip
    config = uvicorn.Config(
        gate, loop="asyncio", log_level="warning", access_log=False, proxy_headers=False, server_header=False,
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listening])


def has_room(connection: HTTPConnection, contexts: Mapping[str, Any], most: int) -> bool:
    """Whether one more page may be opened; one that is open may always reload, and come back."""
    path = connection.scope["path"]
    if path.startswith(SOCKETS):
        return path.removeprefix(SOCKETS).split("/")[0] in contexts or len(contexts) < most
    own = connection.cookies.get("solara-session-id")
    return path != "/" or sum(context.session_id != own for context in contexts.values()) < most


def _solara() -> tuple[Starlette, Mapping[str, Any]]:
    """Solara's own application with our page in it, and the pages that are open (its virtual kernels)."""
    warnings.filterwarnings("ignore", module=r"solara\.|websockets\.")  # what they tell their developers
    from solara.server import app, kernel_context, settings, starlette

    settings.theme.title, settings.theme.show_banner, settings.theme.loader = "labkit", False, "plain"
    settings.main.root_path = ""
    settings.kernel.cull_timeout = GONE_AFTER
    script = app.AppScript("labkit.app.page")
    script.directory = Path(__file__).parent / "templates"  # Solara looks for templates beside it
    app.apps["__default__"] = script
    # In front of Solara's own route, which fetches from a CDN what it does not find.
    assets = Mount("/_solara/cdn", StaticFiles(directory=settings.assets.proxy_cache_dir))
    routes = [assets, *starlette.routes]
    return Starlette(
        routes=routes, lifespan=starlette.lifespan, middleware=starlette.middleware
    ), kernel_context.contexts
