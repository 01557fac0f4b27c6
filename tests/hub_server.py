"""A small but real hub on loopback: the part of the Hugging Face HTTP interface that downloading a checkpoint uses.

Repositories are folders of ``root/owner/name``. A name containing "gated", "cut" or "broken" misbehaves accordingly:
403, a connection closed halfway through the first download of a file, 500.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves ``root``; ``requests`` lists every path asked for."""

    daemon_threads = True

    def __init__(self, root: Path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.requests: list[str] = []
        self.already_cut: set[str] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        self.server.requests.append(path)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self.info(match[1], match[2] or "main", body)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.file(match[1], match[2], match[3], body)
        else:
            self.refuse(404, "", body)

    def repo(self, name: str, revision: str, body: bool) -> Path | None:
        folder = self.server.root / name
        if "gated" in name:
            self.refuse(403, "GatedRepo", body)
        elif "broken" in name:
            self.refuse(500, "", body)
        elif not folder.is_dir():
            self.refuse(401, "RepoNotFound", body)
        elif revision not in ("main", COMMIT):
            self.refuse(404, "RevisionNotFound", body)
        else:
            return folder
        return None

    def info(self, name: str, revision: str, body: bool) -> None:
        folder = self.repo(name, revision, body)
        if folder is None:
            return
        files = sorted(found.relative_to(folder).as_posix() for found in folder.rglob("*") if found.is_file())
        described = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
        self.send(200, json.dumps(described).encode(), {"Content-Type": "application/json"}, body)

    def file(self, name: str, revision: str, file: str, body: bool) -> None:
        folder = self.repo(name, revision, body)
        if folder is None:
            return
        path = folder / file
        if not path.is_file():
            self.refuse(404, "EntryNotFound", body)
            return
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start:
            headers["Content-Range"] = f"bytes {start[1]}-{len(data) - 1}/{len(data)}"
            data = data[int(start[1]) :]
        if body and "cut" in name and path.suffix != ".json" and file not in self.server.already_cut:
            self.server.already_cut.add(file)
            self.send(200, data, headers, body=False)
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.send(206 if start else 200, data, headers, body)

    def refuse(self, status: int, code: str, body: bool) -> None:
        self.send(status, b"{}", {"X-Error-Code": code} if code else {}, body)

    def send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@contextmanager
def running_hub(root: Path) -> Iterator[Hub]:
    """A hub over ``root``, on a free port of 127.0.0.1."""
    hub = Hub(root)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
