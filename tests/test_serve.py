"""labkit serve: who gets in, what a visitor is given, taking turns, and what is said on the terminal."""

import importlib.util
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest
from demo_server import DemoServer, serving
from recorded import read_json
from widget_driver import all_parts, eventually, move, press, small_alphabet, tiny_model

import labkit
from labkit import cli

if importlib.util.find_spec("solara") is None:
    pytest.skip("the demo app is not installed: pip install 'labkit[serve]'", allow_module_level=True)

import comm
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from websockets.sync.client import connect

create_comm = comm.create_comm
from labkit.app import page  # noqa: E402
from labkit.app.access import FOREIGN, FULL, NO_TOKEN, Gate, is_loopback  # noqa: E402
from labkit.app.server import address, has_room, listen  # noqa: E402
from labkit.app.turns import Turns  # noqa: E402

comm.create_comm = create_comm  # Solara's keeps a stack trace of every widget that other tests make

TOKEN = "open sesame é"
ANYWIDGET = "/jupyter/nbextensions/anywidget/index.js"
SOCKET = "ws://127.0.0.1:7860/socket"
RECORD = read_json("labcore", "chat", "demo_e2e_char_rope_nobias.json")


# the gate


def behind(**changes: Any) -> TestClient:
    """A page and a socket behind the gate."""

    async def socket_(websocket):
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    app = Starlette(
        routes=[
            Route("/{path:path}", lambda request: PlainTextResponse("the page"), methods=["GET", "POST"]),
            WebSocketRoute("/socket", socket_),
        ]
    )
    gate = Gate(app, **{"token": TOKEN, "cookie": "labkit-7860", "loopback": True, **changes})
    return TestClient(gate, base_url="http://127.0.0.1:7860", follow_redirects=False)


def test_without_the_token_there_is_one_sentence_and_nothing_else():
    for path in ("/", "/static/app.js", "/readyz", "/?token=", "/?token=wrong", "/?token=open"):
        response = behind().get(path)
        assert (response.status_code, response.text) == (403, NO_TOKEN), path
        assert "set-cookie" not in response.headers


def test_the_token_becomes_a_cookie_and_leaves_the_address():
    client = behind()
    response = client.get("/", params={"token": TOKEN, "x": "a b"})
    assert (response.status_code, response.headers["location"]) == (303, "/?x=a+b")
    cookie = response.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and cookie.startswith("labkit-7860=")


def test_the_cookie_opens_pages_and_sockets_until_it_is_wrong():
    client = behind(token="abc")
    client.cookies.set("labkit-7860", "abc")
    assert client.get("/").text == client.post("/close").text == "the page"
    with client.websocket_connect(SOCKET) as websocket:
        assert websocket.receive_text() == "hello"
    assert client.get("/?token=wrong").status_code == 403
    client.cookies.set("labkit-7860", "abd")
    assert client.get("/").status_code == 403


@pytest.mark.parametrize("cookie", [None, "wrong"])
def test_a_socket_without_the_cookie_is_refused(cookie):
    client = behind(token="abc")
    if cookie:
        client.cookies.set("labkit-7860", cookie)
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(SOCKET + "?token=abc"):
        pass


def test_a_redirect_never_leads_to_another_site():
    response = behind(token="abc").get("http://127.0.0.1:7860//evil.example/?token=abc")
    assert response.headers["location"] == "/evil.example/"


def test_other_names_for_this_machine_are_refused_where_it_serves_itself_alone():
    for name, status in [
        ("localhost:7860", 200), ("127.0.0.1", 200), ("[::1]:7860", 200), ("evil.example", 403),
        ("127.0.0.1.evil.example:7860", 403), ("", 403),
    ]:  # fmt: skip
        assert behind(token=None).get("/", headers={"host": name}).status_code == status, name
    assert behind(token=None, loopback=False).get("/", headers={"host": "class.example"}).status_code == 200


def test_another_site_can_neither_post_nor_open_a_socket():
    client = behind(token=None)
    for origin in ("http://evil.example", "http://127.0.0.1:8888", "null"):
        response = client.post("/close", headers={"origin": origin})
        assert (response.status_code, response.text) == (403, FOREIGN)
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect(SOCKET, headers={"origin": origin}),
        ):
            pass
    assert client.post("/close", headers={"origin": "http://127.0.0.1:7860"}).status_code == 200


def test_whoever_comes_when_all_places_are_taken_is_told_so():
    response = behind(token=None, has_room=lambda connection: False).get("/")
    assert (response.status_code, response.text) == (503, FULL)


class Kernel(NamedTuple):
    session_id: str


def test_a_page_that_is_open_may_reload_and_come_back_when_all_places_are_taken():
    open_pages = {"k1": Kernel("ann"), "k2": Kernel("bob")}

    def room(path: str, session: str, most: int = 2) -> bool:
        headers = [(b"cookie", f"solara-session-id={session}".encode())]
        return has_room(page_connection({"type": "http", "path": path, "headers": headers}), open_pages, most)

    assert room("/", "ann") and room("/jupyter/api/kernels/k1/channels", "ann")
    assert not room("/", "cid") and not room("/jupyter/api/kernels/k3/channels", "cid")
    assert room("/static/main.js", "cid") and room("/", "cid", most=3)


def page_connection(scope: dict[str, Any]):
    from starlette.requests import HTTPConnection

    return HTTPConnection(scope)


def test_pages_forbid_the_browser_everything_from_elsewhere():
    policy = behind(token=None).get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy


def test_only_this_machine_is_this_machine():
    assert [is_loopback(h) for h in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(h) for h in ("0.0.0.0", "::", "192.168.1.2", "localhost.evil.example", "")] == [False] * 5


def test_the_address_can_be_typed_as_it_is():
    assert address("127.0.0.1", 7860, "a b&c") == "http://127.0.0.1:7860/?token=a%20b%26c"
    assert address("::1", 80, None) == "http://[::1]:80/"
    assert address("0.0.0.0", 80, None) == f"http://{socket.gethostname()}:80/"


# taking turns


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_so_many_run_at_a_time_and_who_came_first_goes_first(at_a_time):
    turns, order, running, most = Turns(at_a_time), [], [], []
    release = threading.Event()

    def step(n: int) -> None:
        order.append(n)
        running.append(n)
        most.append(len(running))
        release.wait(10)
        running.remove(n)

    threads = [threading.Thread(target=turns.wrap(step), args=(n,)) for n in range(8)]
    for n, thread in enumerate(threads):
        thread.start()
        eventually(lambda n=n: len(order) + len(turns._queue) == n + 1)  # they come one after the other
    assert len(running) == at_a_time
    release.set()
    for thread in threads:
        thread.join(10)
    assert max(most) == at_a_time and sorted(order) == list(range(8))
    assert at_a_time > 1 or order == list(range(8))


def test_a_step_that_fails_gives_its_turn_back():
    def fail() -> None:
        raise ValueError("no")

    turns = Turns(1)
    for _ in range(3):
        with pytest.raises(ValueError):
            turns.wrap(fail)()
    with turns:
        pass


def test_generations_that_take_turns_are_those_of_one_alone():
    lm = tiny_model(small_alphabet())
    alone = [labkit.generate(lm, "ab", seed=seed, max_new_tokens=80).ids for seed in range(6)]
    lm.model.hidden = Turns(2).wrap(lm.model.hidden)
    together: dict[int, list[int]] = {}

    def go(seed: int) -> None:
        together[seed] = labkit.generate(lm, "ab", seed=seed, max_new_tokens=80).ids

    threads = [threading.Thread(target=go, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [together[seed] for seed in range(6)] == alone


# what a visitor is given

FIRST = {"dialect": "labkit", "temperature": 0.9, "top_k": 3, "top_p": 0.95, "max_new_tokens": 16}


def served(**changes: Any) -> page.Served:
    from labkit.widgets.templates import PLAIN

    values = {
        "lm": tiny_model(small_alphabet()), "where": "local", "first": FIRST, "system": None, "template": PLAIN,
        "max_history_turns": 6, "stream": True,
    }  # fmt: skip
    return page.Served(**values | changes)


@pytest.mark.parametrize(
    ("changes", "stream", "cache", "line"),
    [
        ({}, True, True, "Source: local | Device: cpu | KV cache available. | Stream: on | KV cache: on"),
        ({}, False, False, "Source: local | Device: cpu | KV cache available. | Stream: off | KV cache: off"),
        ({"where": "hf"}, True, True, "Source: hf | Device: cpu | KV cache available. | Stream: on | KV cache: on"),
        (
            {"where": "hf", "first": FIRST | {"dialect": "labcore"}},
            True,
            True,
            "Source: hf | Device: cpu | KV cache unsupported for current source. | Stream: on"
            " | KV cache: off (unsupported)",
        ),
    ],
)
def test_the_status_line_is_that_of_labcores_demo(changes, stream, cache, line):
    demo = page.Demo(served(**changes))
    move(demo.chat.stream, stream)
    if demo.served.has_cache:
        move(demo.chat.controls.boxes["use_cache"], cache)
    assert re.search(r'role="status">([^<]*)<', demo.status.value).group(1) == line
    demo.close()


def test_the_status_lines_are_those_that_labcores_demo_showed():
    turns = RECORD["turns"]
    assert len(turns) > 3
    for turn in turns:
        assert served().status(turn["stream"], turn["use_kv_cache"]) == turn["last_yield"][3]


def test_the_controls_have_the_ranges_steps_and_defaults_of_labcores_demo():
    from labkit.cli.serve import first_settings

    demo = page.Demo(served(first=first_settings(None, None)[0]))
    ranges = {name: (s.min, s.max, s.step, s.value) for name, s in demo.chat.controls.sliders.items()}
    assert ranges == {
        "temperature": (0.1, 2.0, 0.05, 0.9),
        "top_k": (0, 200, 1, 40),
        "top_p": (0.1, 1.0, 0.01, 0.95),
        "repetition_penalty": (1.0, 2.0, 0.01, 1.0),
        "max_new_tokens": (8, 512, 8, 160),
    }
    history = demo.chat.history
    assert (history.min, history.max, history.step, history.value) == (0, 20, 1, 6)
    assert demo.chat.stream.value and demo.chat.controls.boxes["use_cache"].value
    demo.close()


def test_a_config_sets_the_controls_as_labcores_demo_did(tmp_path):
    from labkit.cli.serve import first_settings

    config = tmp_path / "demo.toml"
    config.write_text(RECORD["config_toml"], encoding="utf-8")
    first, program = first_settings(str(config), None)
    demo = page.Demo(served(first=first, max_history_turns=program["max_history_turns"], stream=program["stream"]))
    sliders = [*demo.chat.controls.sliders.values(), demo.chat.history]
    shown = [{"minimum": s.min, "maximum": s.max, "value": s.value, "step": s.step} for s in sliders]
    parts = RECORD["ui_components"]
    assert shown == [values for kind, values in parts if kind == "Slider"]
    boxes = [demo.chat.controls.boxes["use_cache"].value, demo.chat.stream.value]
    assert boxes == [values["value"] for kind, values in parts if kind == "Checkbox"]
    demo.close()


def test_every_visitor_has_a_seed_of_their_own_unless_one_was_given():
    from labkit.cli.serve import first_settings

    def seeds(first: dict[str, Any]) -> set[int | None]:
        shown = served(first=first)
        demos = [page.Demo(shown) for _ in range(3)]
        for demo in demos:
            demo.close()
        return {demo.chat.settings.seed for demo in demos}

    assert len(seeds(first_settings(None, None)[0])) == 3
    assert seeds(FIRST | {"seed": 7}) == {7}


def test_visitors_share_the_model_and_nothing_else():
    shown = served()
    ann, bob = page.Demo(shown), page.Demo(shown)
    assert ann.chat.lm is bob.chat.lm is shown.lm
    move(ann.chat.controls.sliders["temperature"], 0.3)
    ann.chat.say("ab")
    assert bob.chat.settings.temperature == 0.9 and bob.chat.result is None
    assert ann.chat.result.rows()
    for demo in (ann, bob):
        demo.close()


def test_who_leaves_stops_what_is_being_written():
    shown, before = served(first=FIRST | {"max_new_tokens": 512}), set(threading.enumerate())
    hidden = shown.lm.model.hidden
    shown.lm.model.hidden = lambda *arguments: time.sleep(0.05) or hidden(*arguments)  # so that it takes half a minute
    demo = page.Demo(shown)
    demo.tabs.set_state({"selected_index": 1})
    assert demo.playground is not None and demo.playground.lm is shown.lm
    demo.playground.settings = demo.playground.settings.replace(max_new_tokens=512)
    demo.playground.prompt_box.value = "ab"
    demo.playground.run(wait=False)
    demo.chat.say("ab", wait=False)
    eventually(lambda: len(set(threading.enumerate()) - before) >= 2)
    writing = set(threading.enumerate()) - before
    demo.close()
    deadline = time.monotonic() + 10
    for thread in writing:
        thread.join(max(0, deadline - time.monotonic()))
        assert not thread.is_alive()


def test_a_visitor_can_write_no_file_open_none_and_load_no_other_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo = page.Demo(served())
    demo.tabs.set_state({"selected_index": 1})
    demo.chat.say("ab")
    demo.playground.run()
    parts = [part for panel in (demo.chat, demo.playground) for part in vars(panel).values()]
    reachable = [part for part in [*parts, *all_parts(demo)] if getattr(part, "comm", None) is not None]
    names = {getattr(part, "description", "") for part in reachable}
    assert {"Send", "Generate"} & names and not names & {"Save", "Open", "file", "model", "copy as"}
    for part in reachable:
        if part.__class__.__name__ == "Button":
            press(part)
    demo.close()
    assert list(tmp_path.iterdir()) == []


# the real thing, in a process of its own


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    with serving(
        tmp_path_factory.mktemp("demo"), "shakespeare-char", "--token", "abc", "--max-visitors", "2"
    ) as started:
        yield started


@contextmanager
def visitor(server: DemoServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.origin, follow_redirects=True, trust_env=False) as client:
        client.get("/", params={"token": server.token})
        yield client


def test_it_serves_this_machine_alone_and_only_with_the_token(server):
    assert server.address.startswith("http://127.0.0.1:") and server.token == "abc"
    with httpx.Client(base_url=server.origin, trust_env=False) as stranger:
        for path in (
            "/",
            "/readyz",
            "/resourcez",
            "/static/main-vuetify.js",
            "/jupyter/nbextensions/anywidget/index.js",
        ):
            assert (stranger.get(path).status_code, stranger.get(path).text) == (403, NO_TOKEN)
    with visitor(server) as client:
        assert "<title>labkit</title>" in client.get("/").text
        assert client.get(ANYWIDGET).status_code == 200


def test_what_its_page_asks_for_is_served_by_itself(server):
    with visitor(server) as client:
        asked = re.findall(r'(?:src|href)="([^"]+)"', client.get("/").text)
        assert len(asked) > 5
        assert [address for address in asked if not address.startswith("/")] == []
        assert [address for address in asked if client.get(address).status_code != 200] == []


def test_what_it_does_not_have_it_fetches_from_nowhere(server):
    with visitor(server) as client:
        start = time.monotonic()
        assert client.get("/_solara/cdn/left-pad@1.3.0/index.js").status_code == 404
        assert time.monotonic() - start < 2


def test_it_says_nothing_but_where_it_is_and_solara_keeps_nothing_at_home(server):
    assert server.lines == [f"shakespeare-char on cpu: {server.address} (Ctrl-C ends)"]
    assert not (server.home / ".solara").exists()


def test_a_stranger_cannot_open_the_socket_of_a_page(server):
    path, own = "/jupyter/api/kernels/k/channels?session_id=s", {"Cookie": cookie_of(server)}
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    for headers in ({}, own | {"Origin": "http://evil.example"}):
        assert httpx.get(server.origin + path, headers=upgrade | headers, trust_env=False).status_code == 403
    assert server.count() == (1, 0)
    with connect(server.origin.replace("http", "ws") + path, additional_headers=own, proxy=None):
        eventually(lambda: server.count() == (1, 1))


def cookie_of(server: DemoServer) -> str:
    return f"labkit-{urlsplit(server.origin).port}={server.token}"


# what goes wrong is one line


def failing(capsys, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(["serve", *arguments])
    return int(stop.value.code or 0), capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line(capsys):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        status, said = failing(capsys, "shakespeare-char", "--port", str(port))
    assert status == 1 and said.count("\n") == 1
    assert f"port {port} on 127.0.0.1" in said and "--port" in said


def test_a_model_that_is_missing_or_broken_is_one_line(capsys, tmp_path):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"PK\x03\x04 not really")
    for source, words in (("no-such-model", "there is no such file"), (str(broken), "broken.pt")):
        status, said = failing(capsys, source, "--port", "0")
        assert status == 1 and said.count("\n") == 1 and words in said


def test_a_template_the_model_cannot_write_is_one_line(capsys):
    status, said = failing(capsys, "shakespeare-char", "--template", "labcore", "--port", "0")
    assert status == 1 and said.count("\n") == 1 and "cannot" in said or "outside" in said


def test_a_config_with_a_mistake_is_one_line(capsys, tmp_path):
    config = tmp_path / "demo.toml"
    config.write_text("[generation]\ntemperature = -1\n")
    status, said = failing(capsys, "shakespeare-char", "--config", str(config), "--port", "0")
    assert status == 1 and said.count("\n") == 1 and "temperature is -1" in said and "demo.toml" in said


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2"])
def test_without_a_token_it_serves_this_machine_alone(capsys, host):
    status, said = failing(capsys, "shakespeare-char", "--token", "none", "--host", host)
    assert status == 2 and "--token none" in said


def test_the_flags_of_labcores_demo_are_understood(capsys):
    labcores = (
        "--source hf --repo-id {missing} --repo-revision main --config configs/base.toml --device cpu --port 0",
        "--source local --checkpoint {missing} --meta meta.json --config configs/base.toml --device cpu --port 0",
    )
    for line in labcores:
        missing = "no-such-owner/no-such-model" if "repo-id" in line else "no-such-file.pt"
        status, said = failing(capsys, *line.format(missing=missing).split())
        assert status == 1 and missing.partition("/")[0] in said, said
