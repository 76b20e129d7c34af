"""Fixtures that the unit tests and `tests/integration/` share: small embedding datasets and an S3 server.

`make_dataset` writes a dataset anywhere (a local directory or any fsspec URL); `parquet_dataset` and
`jsonl_dataset` are ready ones; `s3` is a fresh bucket on a moto server that runs for the session; `local_ray` is a Ray
of two CPUs that runs for a module.
"""

from __future__ import annotations

import gc
import json
import os
import posixpath
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings

# No test depends on how long something takes: machines are shared.
settings.register_profile("semdedup", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("semdedup")
# Else each of the hundreds of processes that tests start would compile the package, and pytest all tests each time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """Keeps what was imported out of each later search for garbage, which takes a third of a second else."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _without_waiting_for_the_disk() -> Iterator[None]:
    """What is written need not outlive the machine; `tests/storage/` checks that it is asked to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@dataclass(frozen=True)
class Dataset:
    """A dataset that was written, and what is in it.

    `ids` and `embeddings` (n, d) float32 stand in the order of the files; `copies` says for each planted
    duplicate of which row it is one: the first half of them bit for bit, the rest with a cosine of at least
    0.9999 to it, while any two other rows have one of at most 0.99 (with the default dimension).
    """

    path: str
    files: tuple[str, ...]
    ids: list[Any]
    embeddings: np.ndarray
    copies: dict[Any, Any]
    options: dict[str, Any]

    @property
    def num_rows(self) -> int:
        """All rows."""
        return len(self.ids)


@dataclass(frozen=True)
class S3Bucket:
    """An empty bucket: its `url`, such as s3://test-1, and the `options` (storage_options) that reach it."""

    url: str
    options: dict[str, Any]

    def join(self, *names: str) -> str:
        """The URL of an object in the bucket."""
        return posixpath.join(self.url, *names)

    def keys(self) -> set[str]:
        """The keys of the objects in the bucket as the server knows them, asked without any cache."""
        return {page["Key"] for page in self.client().list_objects_v2(Bucket=self.url[5:]).get("Contents", [])}

    def client(self) -> Any:
        """A boto3 client of the server."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.options["client_kwargs"]["endpoint_url"],
            aws_access_key_id=self.options["key"],
            aws_secret_access_key=self.options["secret"],
            region_name=self.options["client_kwargs"]["region_name"],
        )


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """A function that writes a `Dataset`; see `write_dataset` for its arguments.

    The first argument, where it goes, may be left out: a new directory below `tmp_path`.
    """

    def make(url: str | Path | None = None, **arguments: Any) -> Dataset:
        return write_dataset(tmp_path / f"dataset-{uuid.uuid4().hex[:6]}" if url is None else url, **arguments)

    return make


@pytest.fixture
def parquet_dataset(make_dataset: Callable[..., Dataset]) -> Dataset:
    """300 rows, 30 of them planted duplicates, in 3 parquet files of 2 row groups; ids are integers."""
    return make_dataset()


@pytest.fixture
def jsonl_dataset(make_dataset: Callable[..., Dataset]) -> Dataset:
    """The rows of `parquet_dataset` in 3 jsonl files."""
    return make_dataset(filetype="jsonl")


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, Any]]:
    """The storage_options of a moto S3 server, which other processes can reach too; it ends with the session."""
    server_module = pytest.importorskip("moto.server", reason="needs moto[server]")
    pytest.importorskip("s3fs", reason="needs s3fs")
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "key": "test",
        "secret": "test",
        "client_kwargs": {"endpoint_url": f"http://{host}:{port}", "region_name": "us-east-1"},
    }
    server.stop()


@pytest.fixture(scope="session")
def new_bucket(s3_options: dict[str, Any]) -> Callable[[], S3Bucket]:
    """A function that makes an empty bucket."""

    def make() -> S3Bucket:
        bucket = S3Bucket(f"s3://test-{uuid.uuid4().hex[:12]}", s3_options)
        bucket.client().create_bucket(Bucket=bucket.url[5:])
        return bucket

    return make


@pytest.fixture
def s3(new_bucket: Callable[[], S3Bucket]) -> S3Bucket:
    """A fresh, empty bucket."""
    return new_bucket()


def write_dataset(
    url: str | Path,
    *,
    rows: int = 300,
    copies: int = 30,
    dimension: int = 16,
    clusters: int = 5,
    files: int = 3,
    row_groups: int = 2,
    filetype: str = "parquet",
    ids: str = "int64",
    embedding_type: pa.DataType | None = None,
    seed: int = 0,
    options: dict[str, Any] | None = None,
    suffix: str = "",
) -> Dataset:
    """Writes a dataset with the columns id, embeddings, text (string) and quality (float64).

    Args:
        rows: all rows, of which `copies` are planted duplicates, at random places.
        ids: int64, or string ("row-17").
        embedding_type: the arrow type of the vectors in parquet; None: list<float32>.
        options: the storage_options of `url`.
        suffix: added to the names of jsonl files; .gz and the like compress them.
    """
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(clusters, dimension))
    vectors = (centers[rng.integers(0, clusters, rows)] + 0.8 * rng.normal(size=(rows, dimension))).astype(np.float32)
    places = rng.permutation(rows)
    targets, sources = places[:copies], places[copies : 2 * copies]
    vectors[targets] = vectors[sources]
    noisy = targets[copies // 2 :]
    vectors[noisy] += (1e-4 * rng.normal(size=(len(noisy), dimension))).astype(np.float32)
    keys: list[Any] = [int(i) if ids == "int64" else f"row-{i}" for i in rng.permutation(rows)]
    table = pa.table(
        {
            "id": pa.array(keys, pa.int64() if ids == "int64" else pa.string()),
            "embeddings": pa.array(list(vectors), pa.list_(pa.float32())).cast(
                embedding_type or pa.list_(pa.float32())
            ),
            "text": [f"text of {key}" for key in keys],
            "quality": rng.random(rows),
        }
    )
    root, written = str(url), []
    bounds = [rows * i // files for i in range(files + 1)]
    for number, (low, high) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        target = posixpath.join(root, f"part-{number}.{filetype}{suffix}")
        part = table.slice(low, high - low)
        fs, path = fsspec.core.url_to_fs(target, **(options or {}))
        fs.makedirs(posixpath.dirname(path), exist_ok=True)
        with fsspec.open(target, "wb", compression="infer", **(options or {})) as sink:
            if filetype == "parquet":
                pq.write_table(part, sink, row_group_size=max(1, -(-part.num_rows // row_groups)))
            else:
                sink.write(b"".join(json.dumps(row).encode() + b"\n" for row in part.to_pylist()))
        written.append(target)
    planted = {keys[t]: keys[s] for t, s in zip(targets, sources, strict=True)}
    return Dataset(root, tuple(written), keys, vectors, planted, options or {})


@pytest.fixture(scope="module")
def local_ray() -> Iterator[Any]:
    """The module `ray`, with a cluster of this machine alone."""
    ray = pytest.importorskip("ray")
    for attempt in range(3):  # where the machine is busy, Ray's own time-outs end its start now and then
        try:
            ray.init("local", num_cpus=2, include_dashboard=False, namespace="semdedup", log_to_driver=False)
            break
        except Exception:
            ray.shutdown()
            if attempt == 2:
                raise
    yield ray
    ray.shutdown()


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither CuPy nor a GPU."""
    from beam_semdedup.compute import arrays

    monkeypatch.setitem(sys.modules, "cupy", None)
    arrays.library.cache_clear()
    yield
    arrays.library.cache_clear()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A module `cupy` that stands in for CuPy and a GPU."""
    import cuda_on_cpu
    import cupy_stand_in

    from beam_semdedup.compute import arrays, cuda

    if cuda_on_cpu.COMPILER is None:
        pytest.skip("no g++ to compile the CUDA source for a CPU with")
    cupy = cupy_stand_in.cupy
    caches = [f for module in (arrays, cuda) for f in vars(module).values() if hasattr(f, "cache_clear")]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cupy", cupy)
        for cache in caches:
            cache.cache_clear()
        yield cupy
    cupy.limit, cupy.devices = 1 << 40, 1
    cupy.allocators.clear()
    for cache in caches:
        cache.cache_clear()
