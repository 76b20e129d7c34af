"""Files and folders of any file system: listing, reading ranges, and writing so that a file is whole or absent."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import posixpath
import tempfile
import time
import typing
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
from fsspec.implementations.local import LocalFileSystem

from beam_semdedup.errors import InputError
from beam_semdedup.neighbours import neighbours
from beam_semdedup.storage.filesystems import (
    Options,
    absolute,
    filesystem,
    has_conditional_puts,
    is_object_store,
    url_of,
)

_LOG = logging.getLogger(__name__)
_FETCH_BYTES = 64 << 20
_HIDDEN = (".", "_")
_WILDCARDS = "*?["
_RETRY_SECONDS = (0.1, 0.5, 2.0)


@dataclass(frozen=True)
class Place:
    """Where a file or a folder is: its URL, and the storage options that it is reached with.

    Two places are equal if their URLs are.
    """

    url: str
    options: Options = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def at(cls, url: str, options: Options) -> typing.Self:
        """Returns the place of a URL in whatever spelling; its own is absolute, without a trailing slash.

        Raises:
            InputError: there is no such file system.
        """
        return cls(absolute(url, options), options)

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last component of the URL."""
        return posixpath.basename(self.url)

    @property
    def parent(self) -> Folder:
        """The folder that it is in."""
        return Folder(self.url.rpartition("/")[0], self.options)

    def exists(self) -> bool:
        """Says whether there is a file or a folder, asked of the storage and not of a listing cache."""
        fs, path = self._found()
        fs.invalidate_cache(fs._parent(path))
        return bool(fs.exists(path))

    def is_inside(self, folder: Place) -> bool:
        """Says whether this is `folder` or lies in it; both as `at` spells them."""
        return self.url == folder.url or self.url.startswith(folder.url.rstrip("/") + "/")

    def realpath(self) -> typing.Self:
        """Returns the place after its symbolic links, where it is local; any other as it is."""
        return self if "://" in self.url else type(self)(os.path.realpath(self.url), self.options)

    def _found(self) -> tuple[fsspec.AbstractFileSystem, str]:
        return filesystem(self.url, self.options)


@dataclass(frozen=True)
class File(Place):
    """A file, there or to be written."""

    def open(self) -> pa.NativeFile:
        """Opens it for reading, at any place, as Arrow does; FileNotFoundError where there is none."""
        fs, path = self._found()
        if isinstance(fs, LocalFileSystem):
            return pa.OSFile(path)
        return pafs.PyFileSystem(pafs.FSSpecHandler(fs)).open_input_file(path)

    def open_stream(self, compression: str | None) -> IO[bytes]:
        """Opens it for reading from the start, decompressed; `compression` in fsspec's words."""
        if compression == "zstd":  # fsspec's reader takes a truncated file for a whole one
            stream: IO[bytes] = pa.CompressedInputStream(self.open(), compression)
        else:
            fs, path = self._found()
            stream = fs.open(path, "rb", compression=compression)
        return stream

    def read_bytes(self) -> bytes:
        """Returns the whole content of a (small) file; FileNotFoundError where there is none."""
        fs, path = self._found()
        content: bytes = fs.cat_file(path)
        return content

    def read_json(self) -> Any:
        """Returns the JSON document, or None where there is no file, or one that was never finished."""
        try:
            return json.loads(self.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            _LOG.warning("%s is taken for unfinished: it is no JSON document (%s)", self, error)
            return None

    @contextlib.contextmanager
    def atomic_write(self) -> Iterator[Path]:
        """Yields a local path to write to; it becomes the file, whole, when the block ends without an exception.

        On a local disk by a rename within the directory, after the content is on the disk; on an object store by
        one upload that is committed at its end; elsewhere by an upload to another name and a rename.
        """
        fs, path = self._found()
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
            if is_object_store(fs):
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

    def write_bytes(self, data: bytes) -> None:
        """Writes a small file, whole."""
        with self.atomic_write() as scratch:
            scratch.write_bytes(data)

    def create_if_absent(self, data: bytes) -> bytes:
        """Returns what the file holds afterwards: `data`, or what an earlier or faster attempt put there.

        Exclusive on a local disk (a hard link) and on S3 where it knows conditional puts (If-None-Match). Elsewhere,
        and on a disk without hard links, two attempts within the same moment may both write: one may then read back
        its own content, and later readers that of the other.
        """
        fs, path = self._found()
        if self.exists():
            return self.read_bytes()
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
        elif has_conditional_puts(fs):
            self._put_if_absent(data)
        else:
            self.write_bytes(data)
        return self.read_bytes()

    def delete(self) -> None:
        """Removes the file; it does not matter if it is gone already."""
        fs, path = self._found()
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(path)
        fs.invalidate_cache(fs._parent(path))

    def _put_if_absent(self, data: bytes) -> None:
        """Makes a put that an object which stands there refuses; a plain one where the server knows no such puts."""
        fs, path = self._found()
        for seconds in (*_RETRY_SECONDS, None):
            try:
                fs.pipe_file(path, data, mode="create")
                return
            except OSError as error:
                # Not every server says in its refusal that the object exists.
                if isinstance(error, FileExistsError) or self.exists():
                    return
                if error.errno in (errno.ENOSYS, errno.EINVAL):
                    self.write_bytes(data)
                    return
                if error.errno != errno.EBUSY or seconds is None:  # busy: another put to the key is under way
                    raise
                time.sleep(seconds)


@dataclass(frozen=True)
class FileInfo(File):
    """A file that is there: its size in bytes, and what changes when its content does (mtime or etag)."""

    size: int = 0
    version: str = ""


@dataclass(frozen=True)
class Folder(Place):
    """A folder. The names of what is in it are relative to it: `folder / "segments"`, `folder.file("plan.json")`."""

    def __truediv__(self, name: str) -> Folder:
        return Folder(self._inner(name), self.options)

    def file(self, name: str) -> File:
        """Returns the file of that name, which may lie in a folder within: `a/b.parquet`.

        Raises:
            InputError: the name leads out of the folder.
        """
        return File(self._inner(name), self.options)

    def name_of(self, place: Place) -> str:
        """Returns the name of what is in it."""
        return place.url[len(self.url) :].lstrip("/")

    def names(self) -> set[str]:
        """Returns the names of the files directly in it; none where it does not exist."""
        fs, path = self._found()
        fs.invalidate_cache(path)
        try:
            return {posixpath.basename(info["name"]) for info in fs.ls(path, detail=True) if info["type"] == "file"}
        except FileNotFoundError:
            return set()

    def find(self) -> list[FileInfo]:
        """Returns all files in it and below, or the file itself that has its URL, sorted by URL.

        Hidden ones (`.` or `_` before any name) are left out; links to local directories are followed.
        """
        fs, path = self._found()
        if isinstance(fs, LocalFileSystem):
            return [_local_info(name, self.options) for name in sorted(_local_files(path))]
        fs.invalidate_cache()
        files = []
        for name, info in sorted(fs.find(path, detail=True).items()):
            inner = name[len(path) :] if name.startswith(path) else name
            if not any(part.startswith(_HIDDEN) for part in inner.split("/")):
                info = info if "size" in info else fs.info(name)
                size, url = int(info.get("size") or 0), url_of(fs, name, self.url)
                files.append(FileInfo(url, self.options, size, _version(info)))
        return files

    def is_pattern(self) -> bool:
        """Says whether the URL is a pattern: has wildcards in it, and no file or folder is called so."""
        return not set(_WILDCARDS).isdisjoint(self.url) and not self.exists()

    def matching(self) -> list[Folder]:
        """Returns what matches the URL as a pattern, sorted; hidden names only where one in it begins alike."""
        fs, path = self._found()
        left_out = tuple({*_HIDDEN} - {part[0] for part in path.split("/") if part})
        found = [name for name in fs.glob(path) if not any(part.startswith(left_out) for part in name.split("/"))]
        return [Folder(url, self.options) for url in sorted(url_of(fs, name, self.url) for name in found)]

    def fixed_part(self) -> Folder:
        """Returns the last folder of a pattern before its first wildcard; any other folder itself."""
        if not self.is_pattern():
            return self
        first = min(self.url.index(character) for character in _WILDCARDS if character in self.url)
        return Folder(self.url[:first].rpartition("/")[0], self.options)

    def delete(self, names: Iterable[str]) -> None:
        """Removes files in it; those that are gone already do not matter."""
        for name in names:
            self.file(name).delete()

    def delete_tree(self) -> None:
        """Removes it with all that is in it; it does not matter if it is not there."""
        fs, path = self._found()
        fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            fs.rm(path, recursive=True)
        fs.invalidate_cache()

    def read_ranges(
        self, names: Sequence[str], starts: Sequence[int], lengths: Sequence[int], fetch_bytes: int = _FETCH_BYTES
    ) -> list[pa.Buffer]:
        """Returns the byte ranges `[start, start + length)` of files in it, as Arrow buffers that hold no heap memory.

        Local files are memory-mapped. Remote ranges are fetched, about `fetch_bytes` at a time, into an unlinked
        temporary file, which is memory-mapped, so that a worker's memory does not grow with what it addresses.
        """
        if not names:
            return []
        fs, _ = self._found()
        paths = [fs._strip_protocol(self._inner(name)) for name in names]
        if isinstance(fs, LocalFileSystem):
            maps = {path: pa.memory_map(path).read_buffer() for path in dict.fromkeys(paths)}
            return [maps[path].slice(start, length) for path, start, length in zip(paths, starts, lengths, strict=True)]
        with tempfile.NamedTemporaryFile(prefix="semdedup-") as scratch:
            position = 0
            offsets = []
            for batch in neighbours(range(len(lengths)), lengths.__getitem__, fetch_bytes):
                ends = [starts[i] + lengths[i] for i in batch]
                found = fs.cat_ranges([paths[i] for i in batch], [starts[i] for i in batch], ends, on_error="raise")
                for i, data in zip(batch, found, strict=True):
                    if len(data) != lengths[i]:
                        place = self.file(names[i])
                        raise OSError(f"{place}: {len(data)} bytes at byte {starts[i]}, expected {lengths[i]}")
                    scratch.write(data)
                    scratch.write(bytes(-len(data) % 64))
                    offsets.append(position)
                    position += len(data) + (-len(data) % 64)
            scratch.flush()
            whole = pa.memory_map(scratch.name).read_buffer()
        return [whole.slice(offset, length) for offset, length in zip(offsets, lengths, strict=True)]

    def _inner(self, name: str) -> str:
        if not name.strip("/") or name[0] == "/" or name[-1] == "/" or ".." in name.split("/") or "://" in name:
            raise InputError(f"{self}: {name!r} is not the name of something in it")
        return posixpath.join(self.url, name)


def _attempt(path: str) -> Path:
    """Returns a hidden name beside `path` that no other attempt at it has."""
    return Path(path).parent / f".{Path(path).name}.{uuid.uuid4().hex}.tmp"


def _flush(file: Path) -> None:
    """Brings the content to the disk: a power loss after a rename could leave an empty file otherwise."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def _local_files(root: str) -> Iterator[str]:
    """Yields the file `root`, or those below it that are not hidden.

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
            links = [link for link in (posixpath.join(place, name) for name in directories) if Path(link).is_symlink()]
            starts += [link for link in links if not Place(real).is_inside(Place(os.path.realpath(link)))]
            yield from (posixpath.join(place, name) for name in names if not name.startswith(_HIDDEN))


def _local_info(path: str, options: Options) -> FileInfo:
    """Returns what is known of the file itself, not of a link to it, whose time says nothing about the content."""
    try:
        status = os.stat(path)  # noqa: PTH116 - as everywhere here, a path is a string
    except FileNotFoundError:  # a link to nowhere, or a file that was just deleted
        return FileInfo(path, options)
    return FileInfo(path, options, status.st_size, f"{status.st_mtime_ns}")


def _version(info: dict[str, Any]) -> str:
    known = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
    return str(next((info[key] for key in known if info.get(key)), ""))
