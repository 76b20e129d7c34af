"""Files through fsspec: listing, reading ranges, and writing so that a file is whole or is not there.

`options` are the `storage_options` of the file system that a URL belongs to.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import posixpath
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from beam_semdedup.errors import InputError

Options = dict[str, Any]
_LOG = logging.getLogger(__name__)
_FETCH_BYTES = 64 << 20
_HIDDEN = (".", "_")
_OBJECT_STORES = frozenset(
    ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "ocilake", "tos", "hf")
)
_WILDCARDS = "*?["
_RETRY_SECONDS = (0.1, 0.5, 2.0)


@dataclass(frozen=True)
class FileInfo:
    """A file: its URL, size in bytes, and what changes when its content does (mtime or etag)."""

    url: str
    size: int
    version: str


def filesystem(url: str, options: Options | None = None) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of `url` and the path in it; InputError where there is no such file system.

    Object stores come without a cache of listings, in which a file that another worker just wrote is missing.
    """
    if "::" in url:
        raise InputError(
            f"{url}: fsspec takes :: for a chain of file systems, such as an archive in a bucket, which is not "
            "supported; give the place of the files themselves"
        )
    options = options or {}
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
        if isinstance(fs, AsyncFileSystem):
            fs, path = fsspec.core.url_to_fs(url, **{"use_listings_cache": False, **options})
        return fs, path
    except ImportError as error:
        hint = ': pip install "beam-semdedup[s3]"' if url.startswith(("s3:", "s3a:")) else ""
        raise InputError(f"{url}: {error}{hint}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{url}: no such file system, or its storage_options are wrong: {error}") from error


def absolute(url: str, options: Options | None = None) -> str:
    """`url` in one spelling: with its protocol, absolute, without a trailing slash; local paths stay plain."""
    fs, path = filesystem(url, options)
    if isinstance(fs, LocalFileSystem):
        return os.path.abspath(path)  # noqa: PTH100 - resolve() would follow links
    return _url(fs, path.rstrip("/") or path, url)


def join(url: str, *names: str) -> str:
    """`url` with path components added."""
    return posixpath.join(url, *names)


def basename(url: str) -> str:
    """The last component of `url`."""
    return posixpath.basename(url)


def is_inside(url: str, directory: str) -> bool:
    """Whether `url` is `directory` or lies in it; both as `absolute` spells them."""
    return url == directory or url.startswith(directory.rstrip("/") + "/")


def followed(url: str) -> str:
    """A local path after its symbolic links; any other URL as it is."""
    return url if "://" in url else os.path.realpath(url)


def is_pattern(url: str, options: Options | None = None) -> bool:
    """Whether `url` is a pattern: has wildcards in it, and no file or directory is called so."""
    return not set(_WILDCARDS).isdisjoint(url) and not exists(url, options)


def fixed_part(url: str, options: Options | None = None) -> str:
    """The last directory of a pattern before its first wildcard; any other URL itself."""
    if is_pattern(url, options):
        first = min(url.index(character) for character in _WILDCARDS if character in url)
        return url[:first].rpartition("/")[0]
    return url


def exists(url: str, options: Options | None = None) -> bool:
    """Whether there is a file (or a directory) at `url`, asked of the storage and not of a listing cache."""
    fs, path = filesystem(url, options)
    fs.invalidate_cache(fs._parent(path))
    return fs.exists(path)


def find(url: str, options: Options | None = None) -> list[FileInfo]:
    """All files at or below `url`, sorted by URL; hidden ones (`.` or `_` before any name) are left out.

    Links to local directories are followed.
    """
    fs, path = filesystem(url, options)
    if isinstance(fs, LocalFileSystem):
        return [_local_info(name) for name in sorted(_local_files(path))]
    fs.invalidate_cache()
    files = []
    for name, info in sorted(fs.find(path, detail=True).items()):
        inner = name[len(path) :] if name.startswith(path) else name
        if not any(part.startswith(_HIDDEN) for part in inner.split("/")):
            files.append(_file_info(_url(fs, name, url), info if "size" in info else fs.info(name)))
    return files


def glob(pattern: str, options: Options | None = None) -> list[str]:
    """The URLs that match `pattern`, sorted; hidden ones only where a name in `pattern` begins as they do."""
    fs, path = filesystem(pattern, options)
    local = isinstance(fs, LocalFileSystem)
    left_out = tuple({*_HIDDEN} - {part[0] for part in path.split("/") if part})
    found = [name for name in fs.glob(path) if not any(part.startswith(left_out) for part in name.split("/"))]
    return sorted(name if local else _url(fs, name, pattern) for name in found)


def names(url: str, options: Options | None = None) -> set[str]:
    """The names of the files directly in the directory `url`; empty where it does not exist."""
    fs, path = filesystem(url, options)
    fs.invalidate_cache(path)
    try:
        return {posixpath.basename(info["name"]) for info in fs.ls(path, detail=True) if info["type"] == "file"}
    except FileNotFoundError:
        return set()


def open_input(url: str, options: Options | None = None) -> pa.NativeFile:
    """A random-access Arrow file over `url`."""
    fs, path = filesystem(url, options)
    if isinstance(fs, LocalFileSystem):
        return pa.OSFile(path)
    return pafs.PyFileSystem(pafs.FSSpecHandler(fs)).open_input_file(path)


def read_bytes(url: str, options: Options | None = None) -> bytes:
    """The whole content of a (small) file; FileNotFoundError where there is none."""
    fs, path = filesystem(url, options)
    return fs.cat_file(path)


def read_json(url: str, options: Options | None = None) -> Any:
    """The JSON document at `url`, or None where there is no file, or one that was never finished."""
    try:
        return json.loads(read_bytes(url, options))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        _LOG.warning("%s is taken for unfinished: it is no JSON document (%s)", url, error)
        return None


def delete(urls: Sequence[str], options: Options | None = None) -> None:
    """Removes files; those that are gone already do not matter."""
    for url in urls:
        fs, path = filesystem(url, options)
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(path)
        fs.invalidate_cache(fs._parent(path))


def delete_tree(url: str, options: Options | None = None) -> None:
    """Removes a directory with all that is in it; it does not matter if there is none."""
    fs, path = filesystem(url, options)
    fs.invalidate_cache()
    with contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)
    fs.invalidate_cache()


@contextlib.contextmanager
def whole_file(url: str, options: Options | None = None) -> Iterator[Path]:
    """Yields a local path to write to; it becomes `url`, whole, when the block ends without an exception.

    On a local disk by a rename within the directory, after the content is on the disk; on an object store by
    one upload that is committed at its end; elsewhere by an upload to another name and a rename.
    """
    fs, path = filesystem(url, options)
    parent, name = posixpath.split(path)
    if isinstance(fs, LocalFileSystem):
        Path(parent).mkdir(parents=True, exist_ok=True)
        scratch = _attempt(path)
        try:
            yield scratch
            _flush(scratch)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(prefix="semdedup-") as directory:
        scratch = Path(directory, name)
        yield scratch
        if not _OBJECT_STORES.isdisjoint(_protocols(fs)):
            fs.put_file(str(scratch), path)
        else:
            fs.makedirs(parent, exist_ok=True)
            attempt = str(_attempt(path))
            try:
                fs.put_file(str(scratch), attempt)
                fs.mv(attempt, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    fs.rm_file(attempt)
                raise
        fs.invalidate_cache(parent)


def write_bytes(url: str, data: bytes, options: Options | None = None) -> None:
    """Writes a small file, whole."""
    with whole_file(url, options) as scratch:
        scratch.write_bytes(data)


def write_json(url: str, document: Any, options: Options | None = None) -> None:
    """Writes a JSON document, whole."""
    write_bytes(url, json.dumps(document, indent=2).encode(), options)


def create_if_absent(url: str, data: bytes, options: Options | None = None) -> bytes:
    """What stands at `url` afterwards: `data`, or what an earlier or faster attempt put there.

    Exclusive on a local disk (a hard link) and on S3 where it knows conditional puts (If-None-Match). Elsewhere,
    and on a disk without hard links, two attempts within the same moment may both write: one may then read back
    its own content, and later readers that of the other.
    """
    fs, path = filesystem(url, options)
    if exists(url, options):
        return fs.cat_file(path)
    if isinstance(fs, LocalFileSystem):
        scratch = _attempt(path)
        scratch.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_bytes(data)
            _flush(scratch)
            os.link(scratch, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    elif "s3" in _protocols(fs):
        _create_on_s3(url, data, options)
    else:
        write_bytes(url, data, options)
    return fs.cat_file(path)


def read_ranges(
    urls: Sequence[str], starts: Sequence[int], lengths: Sequence[int], options: Options
) -> list[pa.Buffer]:
    """The byte ranges `[start, start + length)` of the files, as Arrow buffers that hold no heap memory.

    Local files are memory-mapped. Remote ranges are fetched together into an unlinked temporary file, which
    is memory-mapped, so that a worker's memory does not grow with what it addresses.
    """
    if not urls:
        return []
    fs, _ = filesystem(urls[0], options)
    if isinstance(fs, LocalFileSystem):
        maps = {url: pa.memory_map(fs._strip_protocol(url)).read_buffer() for url in dict.fromkeys(urls)}
        return [maps[url].slice(start, length) for url, start, length in zip(urls, starts, lengths, strict=True)]
    paths = [fs._strip_protocol(url) for url in urls]
    with tempfile.NamedTemporaryFile(prefix="semdedup-") as scratch:
        position = 0
        offsets = []
        for batch in _batches(lengths, _FETCH_BYTES):
            ends = [starts[i] + lengths[i] for i in batch]
            found = fs.cat_ranges([paths[i] for i in batch], [starts[i] for i in batch], ends, on_error="raise")
            for i, data in zip(batch, found, strict=True):
                if len(data) != lengths[i]:
                    raise OSError(f"{urls[i]}: {len(data)} bytes at byte {starts[i]}, expected {lengths[i]}")
                scratch.write(data)
                scratch.write(bytes(-len(data) % 64))
                offsets.append(position)
                position += len(data) + (-len(data) % 64)
        scratch.flush()
        whole = pa.memory_map(scratch.name).read_buffer()
    return [whole.slice(offset, length) for offset, length in zip(offsets, lengths, strict=True)]


def fingerprint(facts: Any) -> str:
    """A key of 16 hexadecimal digits for a JSON-able description."""
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _url(fs: fsspec.AbstractFileSystem, path: str, near: str) -> str:
    """The URL of a path, on the host and as the user of `near`: the URL of this path, of one above it, or of a glob.

    Some file systems have no host in their paths (webhdfs, hdfs, sftp, ftp, smb, github), and fsspec no way back to it.
    """
    url = fs.unstrip_protocol(path)
    if fs._get_kwargs_from_urls(url) == fs._get_kwargs_from_urls(near):
        return url
    protocol, _, place = near.partition("://")
    host, _, inner = place.rstrip("/").partition("/")
    inner = inner.lstrip("/")
    whole = fs._strip_protocol(near).rstrip("/")
    if not whole.endswith(inner):
        return url
    # What comes before the URL's path is / or nothing, or a container, which the URL names beside the host (abfs).
    return f"{protocol}://{host}/{path[len(whole) - len(inner) :].lstrip('/')}"


def _batches(lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Runs of consecutive indices whose lengths add up to at most `limit` (or one longer element)."""
    batch: list[int] = []
    total = 0
    for index, length in enumerate(lengths):
        if batch and total + length > limit:
            yield batch
            batch, total = [], 0
        batch.append(index)
        total += length
    if batch:
        yield batch


def _attempt(path: str) -> Path:
    """A hidden name beside `path` that no other attempt at it has."""
    return Path(path).parent / f".{Path(path).name}.{uuid.uuid4().hex}.tmp"


def _flush(file: Path) -> None:
    """Brings the content to the disk: a power loss after a rename could leave an empty file otherwise."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def _create_on_s3(url: str, data: bytes, options: Options | None) -> None:
    """A put that an object which stands there refuses, or a plain one where the server does not know such puts."""
    fs, path = filesystem(url, options)
    for seconds in (*_RETRY_SECONDS, None):
        try:
            fs.pipe_file(path, data, mode="create")
            return
        except OSError as error:
            # Not every server says in its refusal that the object exists.
            if isinstance(error, FileExistsError) or exists(url, options):
                return
            if error.errno in (errno.ENOSYS, errno.EINVAL):
                write_bytes(url, data, options)
                return
            if error.errno != errno.EBUSY or seconds is None:  # busy: another put to the key is under way
                raise
            time.sleep(seconds)


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _local_files(root: str) -> Iterator[str]:
    """The file `root`, or those below it that are not hidden.

    A directory is searched once: by its own name where it has one below `root`, else by the first link to it. A link
    to a directory that it lies in itself leads nowhere new.
    """
    if os.path.isfile(root):  # noqa: PTH113 - as everywhere here, a path is a string
        yield root
    searched = set()
    starts = [root.rstrip("/") or "/"]
    for start in starts:  # which grows by the links that are found
        for place, directories, names in os.walk(start):
            real = os.path.realpath(place)
            directories[:] = [name for name in sorted(directories) if not name.startswith(_HIDDEN)]
            if real in searched:
                directories.clear()
                continue
            searched.add(real)
            links = [link for link in (join(place, name) for name in directories) if Path(link).is_symlink()]
            starts += [link for link in links if not is_inside(real, os.path.realpath(link))]
            yield from (join(place, name) for name in names if not name.startswith(_HIDDEN))


def _local_info(path: str) -> FileInfo:
    """Of the file itself, not of a link to it, whose time says nothing about the content."""
    try:
        status = os.stat(path)  # noqa: PTH116 - as everywhere here, a path is a string
    except FileNotFoundError:  # a link to nowhere, or a file that was just deleted
        return FileInfo(path, 0, "")
    return FileInfo(path, status.st_size, f"{status.st_mtime_ns}")


def _file_info(url: str, info: dict[str, Any]) -> FileInfo:
    version = next(
        (
            info[key]
            for key in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
            if info.get(key)
        ),
        "",
    )
    return FileInfo(url, int(info.get("size") or 0), str(version))
