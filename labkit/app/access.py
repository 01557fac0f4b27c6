"""Who gets in: the gate in front of everything that is served."""

import ipaddress
import secrets
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

NO_TOKEN = "This address needs its token: open the whole address that `labkit serve` printed."
FOREIGN = "Another site asked for this page; open it by its own address."
FULL = "All places are taken: wait until somebody has left, then reload this page."
HEADERS = {
    # The browser itself refuses whatever is not from here. Vue compiles templates, anywidget imports blobs.
    "content-security-policy": "default-src 'self' blob: data: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Gate:
    """Asks for the token, once in the address and from then on in a cookie that no script can read.

    Args:
        app: what is behind it.
        token: None: nobody is asked.
        cookie: its name; cookies do not know ports, so two servers on one machine need two.
        loopback: whether the server is for this machine alone: then no other name may lead to it (another site can let
            its own name point here, and read along).
        has_room: whether one more visitor may come, or this one come back.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        cookie: str,
        loopback: bool,
        has_room: Callable[[HTTPConnection], bool] = lambda connection: True,
    ):
        self.app, self.token, self.cookie, self.loopback, self.has_room = app, token, cookie, loopback, has_room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        answer = self._answer(connection)
        if answer is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await WebSocketClose(code=1008, reason="refused")(scope, receive, send)
        else:
            await answer(scope, receive, _with_headers(send))

    def _answer(self, connection: HTTPConnection) -> Response | None:
        """What to say instead of letting this through; None: let it through."""
        host, origin = connection.headers.get("host", ""), connection.headers.get("origin")
        own_name = not self.loopback or is_loopback(urlsplit(f"//{host}").hostname or "")
        if not own_name or (origin is not None and urlsplit(origin).netloc != host):
            return PlainTextResponse(FOREIGN, 403)
        if self.token is not None:
            given = connection.query_params.get("token")
            if given is not None and connection.scope["type"] == "http" and _equal(given, self.token):
                return self._let_in(connection)
            if given is not None or not _equal(connection.cookies.get(self.cookie, ""), self.token):
                return PlainTextResponse(NO_TOKEN, 403)
        if not self.has_room(connection):
            return PlainTextResponse(FULL, 503)
        return None

    def _let_in(self, connection: HTTPConnection) -> Response:
        """On to the same address without the token, which would otherwise stay in the history of the browser."""
        rest = [(name, value) for name, value in connection.query_params.multi_items() if name != "token"]
        address = "/" + connection.url.path.lstrip("/") + (f"?{urlencode(rest)}" if rest else "")
        response = RedirectResponse(address, 303)
        # Lax: of what another site starts, only opening the page as a whole brings the cookie along.
        response.set_cookie(self.cookie, self.token or "", httponly=True, samesite="lax")
        return response


def _equal(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return send_with_headers
