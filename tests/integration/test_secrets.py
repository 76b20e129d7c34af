"""What gives access to the input stands in no file that a run leaves, and in nothing that it says."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import Ended

SIGNATURE = "5ignatureOfTheUrl"


@pytest.fixture
def signed_url() -> Iterator[Callable[[Path], str]]:
    """A server that gives ranges of a file to who has the signature: a function that returns the URL."""
    pytest.importorskip("aiohttp")
    served: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            data = served.get(path)
            if data is None or SIGNATURE not in query:
                self.send_error(403)
                return
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            low, high = (int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)) if asked else (0, len(data) - 1)
            self.send_response(206 if asked else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", "one")
            self.send_header("Content-Range", f"bytes {low}-{high}/{len(data)}")
            self.send_header("Content-Length", str(high - low + 1))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[low : high + 1])

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def serve(file: Path) -> str:
        served[f"/{file.name}"] = file.read_bytes()
        query = f"X-Amz-Credential={SIGNATURE}&X-Amz-Date=2026&X-Amz-Signature={SIGNATURE}"
        return f"http://127.0.0.1:{server.server_address[1]}/{file.name}?{query}"

    yield serve
    server.shutdown()


def test_a_signature_is_used_and_stored_nowhere(
    signed_url: Callable[[Path], str], semdedup: Callable[..., Ended], tmp_path: Path
) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    vectors[7] = np.nan  # a rejected row, which names its file
    file = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"id": range(50), "embeddings": list(vectors)}), file)
    arguments = [f"input_path={signed_url(file)}", "output_path=out", "n_clusters=3", "max_iter=2", "eps=0.05"]
    ended = semdedup(*arguments)
    assert ended.code == 0, ended.err
    assert SIGNATURE not in ended.out + ended.err
    (rejected,) = Path("out/rejected").glob("*.parquet")
    assert pq.read_table(rejected).column("source_file")[0].as_py().endswith("X-Amz-Signature=***")
    files = [file for file in Path("out").rglob("*") if file.is_file()]
    assert {"plan.json", "summary.json", "semdedup.yaml"} <= {file.name for file in files}
    assert [file for file in files if SIGNATURE.encode() in file.read_bytes()] == []
    again = semdedup("--config-path=out", "output_path=other")
    assert (again.code, again.out) == (2, "")
    assert "input_path: the password or signature of a URL is not stored with a run: give it again" in again.err
    gone = semdedup("output_path=gone", *(a.replace("rows.parquet", "none.parquet") for a in arguments[:1]))
    assert gone.code
    assert SIGNATURE not in gone.out + gone.err
