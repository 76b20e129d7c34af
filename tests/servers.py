"""Servers of files that the tests of the input start: FTP and HTTP, each over a local directory."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def ftp(directory: Path, *unlisted: str) -> Iterator[str]:
    """The URL of an FTP server, which answers 550 where one of the directories `unlisted` is to be listed."""
    handlers = pytest.importorskip("pyftpdlib.handlers", reason="needs pyftpdlib")
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.servers import ThreadedFTPServer

    class Authorizer(DummyAuthorizer):
        def has_perm(self, username: str, perm: str, path: str | None = None) -> bool:
            refused = perm == "l" and path is not None and Path(path).name in unlisted
            return not refused and super().has_perm(username, perm, path)

    class Handler(handlers.FTPHandler):  # type: ignore[name-defined, misc]
        authorizer = Authorizer()

    Handler.authorizer.add_anonymous(str(directory), perm="elr")
    server = ThreadedFTPServer(("127.0.0.1", 0), Handler)
    server.poll_timeout = 0.01
    over = threading.Event()

    def serve() -> None:  # one thread polls and closes: a poller that another thread closes fails
        while not over.is_set():
            server.serve_forever(timeout=0.01, blocking=False, handle_exit=False)
        server.close_all()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"ftp://127.0.0.1:{server.address[1]}"
    finally:
        over.set()
        thread.join(5)


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a directory without the times of its files, with ranges, and with an error in place of some paths."""

    refused: dict[str, int] = {}  # noqa: RUF012 - set by `web`

    def log_message(self, *_: Any) -> None:
        pass

    def send_head(self) -> Any:
        for name, code in self.refused.items():
            if name in self.path:
                self.send_error(code)
                return None
        wanted = self.headers.get("Range")
        path = Path(self.translate_path(self.path))
        if not wanted or not path.is_file():
            return super().send_head()
        data = path.read_bytes()
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop = (int(first), int(last or len(data) - 1) + 1) if first else (len(data) - int(last), len(data))
        part = data[start:stop]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)
        return None

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified":
            super().send_header(keyword, value)


@contextmanager
def web(directory: Path, **refused: int) -> Iterator[str]:
    """The URL of an HTTP server; requests for what has one of the names `refused` in its path get that status."""
    handler = type("Handler", (_Handler,), {"refused": refused})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
