"""A hub of models on this machine: as much of the Hugging Face hub's HTTP as its client needs to fetch a model."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT, OTHER = "a" * 40, "b" * 40


@dataclass
class Hub:
    """One model, `someone/small`, whose files are those of a directory.

    Attributes:
        revisions: the commits by the names of branches and tags.
        asked: the paths that were asked for.
    """

    files: Path
    url: str = ""
    revisions: dict[str, str] = field(default_factory=lambda: {"main": COMMIT, "v2": OTHER})
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        """The status, the content and the headers for a path."""
        self.asked.append(path)
        start, _, rest = path.partition("?")[0].lstrip("/").partition("someone/small/")
        if not rest:
            return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        kind, _, rest = rest.partition("/")
        revision, _, name = rest.partition("/")
        commit = self.revisions.get(revision, revision)
        if commit not in self.revisions.values():
            return 404, b"{}", {"X-Error-Code": "RevisionNotFound"}
        found = {str(file.relative_to(self.files)): file for file in self.files.rglob("*") if file.is_file()}
        if start == "api/models/" and kind == "revision":
            return 200, json.dumps({"id": "someone/small", "sha": commit, "siblings": []}).encode(), {}
        if start == "api/models/" and kind == "tree":
            entries = [
                {"type": "file", "path": path, "size": file.stat().st_size, "oid": _hash(file.read_bytes())}
                for path, file in found.items()
            ]
            return 200, json.dumps(entries).encode(), {}
        if kind == "resolve" and name in found:
            data = found[name].read_bytes()
            return 200, data, {"ETag": f'"{_hash(data)}"', "X-Repo-Commit": commit}
        return 404, b"{}", {"X-Error-Code": "EntryNotFound"}


def _hash(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def serving(files: Path) -> Iterator[Hub]:
    """A hub with a model whose files are those of a directory, while within it."""
    hub = Hub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, content, headers = hub.answer(self.path)
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
