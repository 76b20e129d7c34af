"""Files and folders of any file system: listing, reading ranges, and writing so that a file is whole or absent."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import time
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
from fsspec.implementations.local import LocalFileSystem

from beam_semdedup.errors import InputError, StorageError
from beam_semdedup.neighbours import neighbours
from beam_semdedup.storage import scratch as scratches
from beam_semdedup.storage import search
from beam_semdedup.storage.filesystems import (
    Options,
    absolute,
    filesystem,
    has_conditional_puts,
    is_object_store,
    url_of,
)
from beam_semdedup.storage.search import Info
from beam_semdedup.storage.threads import in_io_threads

_FETCH_BYTES = 64 << 20
_RETRY_SECONDS = (0.1, 0.5, 2.0)


@dataclass(frozen=True)
class Place:
    """Where a file or a folder is: its URL, and the storage options that it is reached with.

    Two places are equal if their URLs are. Whatever cannot be done at a place is a StorageError, but FileNotFoundError
    (or NotADirectoryError) is what it is where something is read that is not there.
    """

    url: str
    options: Options = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def at(cls, url: str, options: Options) -> typing.Self:
        """Returns the place of a URL in whatever spelling; its own is absolute, without a trailing slash.

        Raises:
            InputError: there is no such file system.
            StorageError: it cannot be reached.
        """
        with cls(url, options)._read():
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
        with self._read() as (fs, path):
            fs.invalidate_cache(fs._parent(path))
            try:
                search.info(fs, path)
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def is_inside(self, folder: Place) -> bool:
        """Says whether this is `folder` or lies in it; both as `at` spells them."""
        return self.url == folder.url or self.url.startswith(folder.url.rstrip("/") + "/")

    @property
    def is_local(self) -> bool:
        """Whether it is on a disk of this machine."""
        return "://" not in self.url

    def realpath(self) -> typing.Self:
        """Returns the place after its symbolic links, where it is local; any other as it is."""
        return type(self)(os.path.realpath(self.url), self.options) if self.is_local else self

    def _found(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """Returns the file system, which may connect to somewhere now, and the path in it."""
        with self._read() as found:
            return found

    @contextlib.contextmanager
    def _read(self) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
        """Yields the file system and the path in it."""
        try:
            yield filesystem(self.url, self.options)
        except (FileNotFoundError, NotADirectoryError, InputError, StorageError):
            raise
        except Exception as error:  # those of some twenty libraries, which have nothing in common
            raise StorageError.of(self.url, "cannot be read", error) from error

    @contextlib.contextmanager
    def _written(self) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
        """Yields what `_read` does; for what is written nothing may be missing."""
        try:
            yield filesystem(self.url, self.options)
        except (InputError, StorageError):
            raise
        except Exception as error:
            raise StorageError.of(self.url, "cannot be written", error) from error


@dataclass(frozen=True)
class File(Place):
    """A file, there or to be written."""

    def open(self) -> pa.NativeFile:
        """Opens it for reading, at any place, as Arrow does; FileNotFoundError where there is none."""
        with self._read() as (fs, path):
            if isinstance(fs, LocalFileSystem):
                return pa.OSFile(path)
            return pafs.PyFileSystem(pafs.FSSpecHandler(fs)).open_input_file(path)

    def map(self) -> pa.NativeFile:
        """Opens it as `open` does; what is read of a local file is a map of it, and no copy."""
        if not self.is_local:
            return self.open()
        with self._read() as (_, path):
            return pa.memory_map(path)

    def open_stream(self, compression: str | None) -> IO[bytes]:
        """Opens it for reading from the start, decompressed; `compression` in fsspec's words."""
        if compression == "zstd":  # fsspec's reader takes a truncated file for a whole one
            stream: IO[bytes] = pa.CompressedInputStream(self.open(), compression)
        else:
            with self._read() as (fs, path):
                stream = fs.open(path, "rb", compression=compression)
        return stream

    def read_bytes(self) -> bytes:
        """Returns the whole content of a (small) file; FileNotFoundError where there is none."""
        with self._read() as (fs, path):
            content: bytes = fs.cat_file(path)
        return content

    @contextlib.contextmanager
    def atomic_write(self) -> Iterator[Path]:
        """Yields the path of an empty local file; it becomes the file, whole, when the block ends without an error.

        On a local disk by a rename within the directory, after the content is on the disk; on an object store by
        one upload that is committed at its end; elsewhere by an upload to another name and a rename.
        """
        fs, path = self._found()
        parent, name = posixpath.split(path)
        if isinstance(fs, LocalFileSystem):
            with contextlib.ExitStack() as stack:
                with self._written():
                    Path(parent).mkdir(parents=True, exist_ok=True)
                    scratch = stack.enter_context(scratches.file_beside(path))
                yield scratch
                with self._written():
                    _flush(scratch)
                    scratch.replace(path)
            return
        with scratches.directory() as directory:
            scratch = Path(directory, name)
            scratch.touch()
            yield scratch
            with self._written():
                if is_object_store(fs):
                    fs.put_file(str(scratch), path)
                else:
                    fs.makedirs(parent, exist_ok=True)
                    attempt = str(scratches.name_beside(path))
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
        with self.atomic_write() as scratch, self._written():
            scratch.write_bytes(data)

    def create_if_absent(self, data: bytes) -> bytes:
        """Returns what the file holds afterwards: `data`, or what an earlier or faster attempt put there.

        Exclusive on a local disk (a hard link) and on S3 where it knows conditional puts (If-None-Match). Elsewhere,
        and on a disk without hard links, two attempts within the same moment may both write: one may then read back
        its own content, and later readers that of the other.
        """
        if self.exists():
            return self.read_bytes()
        with self._written() as (fs, path):
            if isinstance(fs, LocalFileSystem):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                with scratches.file_beside(path) as scratch:
                    scratch.write_bytes(data)
                    _flush(scratch)
                    _link(scratch, path)
            elif has_conditional_puts(fs):
                self._put_if_absent(fs, path, data)
            else:
                self.write_bytes(data)
        return self.read_bytes()

    def delete(self) -> None:
        """Removes the file; it does not matter if it is gone already."""
        with self._written() as (fs, path):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                fs.rm_file(path)
            fs.invalidate_cache(fs._parent(path))

    def _put_if_absent(self, fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
        """Makes a put that an object which stands there refuses; a plain one where the server knows no such puts."""
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
    """A file that is there: its size in bytes, and what changes when its content does: its ETag or time, else a sample.

    The version is empty where not even a sample could be read.
    """

    size: int = 0
    version: str = ""

    def _look(self) -> FileInfo:
        """Returns it with its size and version, which its listing did not say: as it says itself, or by a sample."""
        with self._read() as (fs, path):
            found = search.info(fs, path)
            version = search.version(found)
            if not version:
                with contextlib.suppress(OSError, ValueError), self.open() as source:  # a server may give no ranges
                    version = search.sampled(source)
            return FileInfo(self.url, self.options, found.get("size") or 0, version)


@dataclass(frozen=True)
class Found:
    """The files that a search found, and the URLs of the hidden files and directories that it left out."""

    files: list[FileInfo]
    hidden: list[str]


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
        with self._read() as (fs, path):
            fs.invalidate_cache(path)
            try:
                return {posixpath.basename(info["name"]) for info in fs.ls(path, detail=True) if info["type"] == "file"}
            except FileNotFoundError:
                return set()

    def find(self) -> list[FileInfo]:
        """Returns all files in it and below, or the file itself that has its URL, sorted by URL.

        Hidden ones (`.` or `_` before any name) are left out; links to local directories are followed.

        Raises:
            StorageError: a directory cannot be listed, or a link leads nowhere.
        """
        return self._find()[0]

    def search(self) -> Found:
        """Returns what `find` does, here or, if the URL is a pattern, at all that matches it, and what is hidden there.

        A pattern matches hidden names only where one in it begins alike.
        """
        if not self.is_pattern():
            return Found(*self._find())
        with self._read() as (fs, path):
            fs.invalidate_cache()
            infos, directories, hidden = search.matching(fs, path)
            found = Found(self._known(fs, infos), [url_of(fs, name, self.url) for name in hidden])
            for name in directories:
                files, urls = Folder(url_of(fs, name, self.url), self.options)._find()
                found.files.extend(files)
                found.hidden.extend(urls)
        return found

    def is_pattern(self) -> bool:
        """Says whether the URL is a pattern: has wildcards in it, and no file or folder is called so."""
        return not set(search.WILDCARDS).isdisjoint(self.url) and not self.exists()

    def fixed_part(self) -> Folder:
        """Returns the last folder of a pattern before its first wildcard; any other folder itself."""
        if not self.is_pattern():
            return self
        first = min(self.url.index(character) for character in search.WILDCARDS if character in self.url)
        return Folder(self.url[:first].rpartition("/")[0], self.options)

    def delete(self, names: Iterable[str]) -> None:
        """Removes files in it; those that are gone already do not matter.

        Raises:
            InputError: a name leads out of the folder, also by a link to another one.
        """
        for name in names:
            file = self.file(name)
            if not file.parent.realpath().is_inside(self.realpath()):
                raise InputError(f"{file} lies elsewhere, through a link, and is not deleted; delete it yourself")
            file.delete()

    def delete_tree(self) -> None:
        """Removes it with all that is in it; it does not matter if it is not there."""
        with self._written() as (fs, path):
            fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
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
        with scratches.directory() as directory, Path(directory, "ranges").open("wb") as scratch:
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

    def _find(self) -> tuple[list[FileInfo], list[str]]:
        """Returns what `find` does, and the URLs of what is hidden."""
        with self._read() as (fs, path):
            fs.invalidate_cache()
            infos, hidden = search.files(fs, path)
            return self._known(fs, infos), [url_of(fs, name, self.url) for name in hidden]

    def _known(self, fs: fsspec.AbstractFileSystem, infos: Sequence[Info]) -> list[FileInfo]:
        """Returns files with what a listing says of them, and asks each for what it does not say."""
        files = [
            FileInfo(url_of(fs, info["name"], self.url), self.options, info.get("size") or 0, search.version(info))
            for info in infos
        ]
        lacking = {n for n, info in enumerate(infos) if info.get("size") is None or not files[n].version}
        if not lacking:
            return files
        return in_io_threads(lambda n: files[n]._look() if n in lacking else files[n], range(len(files)))

    def _inner(self, name: str) -> str:
        if not name.strip("/") or name[0] == "/" or name[-1] == "/" or ".." in name.split("/") or "://" in name:
            raise InputError(f"{self}: {name!r} is not the name of something in it")
        return posixpath.join(self.url, name)


def _link(file: Path, path: str) -> None:
    """Gives a file a second name, unless there is one called so; it loses its first where there are no hard links."""
    try:
        os.link(file, path)
    except FileExistsError:
        pass
    except OSError:
        file.replace(path)


def _flush(file: Path) -> None:
    """Brings the content to the disk: a power loss after a rename could leave an empty file otherwise."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
