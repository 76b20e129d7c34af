from __future__ import annotations

import errno
import functools
import multiprocessing
import os
import re
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.ftp import FTPFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.utils import infer_storage_options
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beam_semdedup.errors import InputError
from beam_semdedup.storage import folder
from beam_semdedup.storage.filesystems import absolute, filesystem, url_of
from beam_semdedup.storage.folder import File, Folder, Place


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """A folder that does not exist yet, on each kind of storage."""
    if request.param == "local":
        yield Folder(str(tmp_path / "place"))
    elif request.param == "s3":
        bucket = request.getfixturevalue("s3")
        yield Folder(bucket.join("place"), bucket.options)
    else:
        yield Folder(f"memory://{uuid.uuid4().hex}")
        fsspec.filesystem("memory").store.clear()


def everything(place: Folder) -> dict[str, bytes]:
    """All files in a folder and below, hidden ones too, as a file system without any cache sees them."""
    fs, path = fsspec.core.url_to_fs(place.url, skip_instance_cache=True, **place.options)
    return {name[len(path) + 1 :]: fs.cat_file(name) for name in fs.find(path)} if fs.exists(path) else {}


def bucket(s3: Any) -> Folder:
    """A bucket as a folder."""
    return Folder(s3.url, s3.options)


def urls(places: Iterable[Place]) -> list[str]:
    """Where they are."""
    return [place.url for place in places]


class TestAtomicWrite:
    def test_what_was_written_stands_under_the_final_name_alone(self, place):
        with place.file("a/file").atomic_write() as scratch:
            scratch.write_bytes(b"content")
        assert everything(place) == {"a/file": b"content"}

    def test_no_reader_sees_the_file_before_the_block_ends(self, place):
        with place.file("file").atomic_write() as scratch:
            scratch.write_bytes(b"half")
            assert not place.file("file").exists()
            assert place.find() == []
            scratch.write_bytes(b"whole")
        assert place.file("file").read_bytes() == b"whole"

    @pytest.mark.parametrize("old", [None, b"old"])
    def test_a_block_that_raises_leaves_what_was_there(self, place, old):
        if old:
            place.file("file").write_bytes(old)

        def write_half() -> None:
            with place.file("file").atomic_write() as scratch:
                scratch.write_bytes(b"half")
                raise RuntimeError("in the middle")

        with pytest.raises(RuntimeError, match="in the middle"):
            write_half()
        assert everything(place) == ({"file": old} if old else {})

    def test_a_block_that_writes_nothing_makes_an_empty_file(self, place):
        with place.file("file").atomic_write():
            pass
        assert everything(place) == {"file": b""}

    def test_a_file_is_replaced_by_a_later_one(self, place):
        for content in (b"first, longer", b"second"):
            place.file("file").write_bytes(content)
        assert everything(place) == {"file": b"second"}

    def test_attempts_at_the_same_time_do_not_disturb_each_other(self, place):
        contents = [bytes([i]) * 100_000 for i in range(4)]
        barrier = threading.Barrier(len(contents))

        def write(content: bytes) -> None:
            with place.file("file").atomic_write() as scratch:
                scratch.write_bytes(content)
                barrier.wait()

        with ThreadPoolExecutor(len(contents)) as pool:
            list(pool.map(write, contents))
        (found,) = everything(place).items()
        assert found[0] == "file"
        assert found[1] in contents

    def test_on_a_local_disk_the_content_is_on_the_disk_before_it_has_its_name(self, tmp_path, monkeypatch):
        flushed = []

        def fsync(number: int) -> None:
            flushed.append((os.pread(number, 100, 0), (tmp_path / "file").exists()))

        monkeypatch.setattr(os, "fsync", fsync)
        Folder(str(tmp_path)).file("file").write_bytes(b"content")
        assert flushed == [(b"content", False)]
        (tmp_path / "file").unlink()
        Folder(str(tmp_path)).file("file").create_if_absent(b"first")
        assert flushed[1:] == [(b"first", False)]

    def test_an_asynchronous_file_system_that_is_no_object_store_gets_another_name_first(self, monkeypatch):
        memory = fsspec.filesystem("memory")
        fs = AsyncFileSystemWrapper(memory, asynchronous=False)
        monkeypatch.setattr(folder, "filesystem", lambda url, options: (fs, url))
        put = []
        monkeypatch.setattr(
            fs, "put_file", lambda source, target: put.append(target) or memory.put_file(source, target)
        )
        File("/place/file").write_bytes(b"content")
        assert put
        assert put != ["/place/file"]
        assert everything(Folder("memory://place")) == {"file": b"content"}
        memory.store.clear()

    @pytest.mark.parametrize("method", ["put_file", "mv"])
    def test_an_upload_that_fails_leaves_what_was_there(self, monkeypatch, method):
        file = Folder(f"memory://{uuid.uuid4().hex}").file("file")
        file.write_bytes(b"old")
        fs, _ = filesystem(file.url, {})

        def fail(source: str, target: str, **_: Any) -> None:
            fs.pipe_file(target, b"ha")
            raise OSError("connection lost")

        monkeypatch.setattr(fs, method, fail if method == "put_file" else lambda *_: fail("", "/elsewhere/x"))
        with pytest.raises(OSError, match="connection lost"):
            file.write_bytes(b"new")
        assert everything(file.parent) == {"file": b"old"}


class TestUploadsToS3:
    """A write that fails while it is being sent; `atomic_write` promises that the old object stands."""

    @pytest.fixture
    def small_parts(self, monkeypatch, s3) -> Any:
        """The bucket's file system, whose uploads take several parts for what a test can afford."""
        fs, _ = filesystem(s3.url, s3.options)
        monkeypatch.setattr(fs, "put_file", functools.partial(fs.put_file, chunksize=5 << 20))
        return fs

    @staticmethod
    def fail_at(monkeypatch: pytest.MonkeyPatch, fs: Any, wanted: str, number: int) -> list[str]:
        """Makes the `number`-th call of an S3 operation raise; the operations that were called."""
        calls: list[str] = []
        original = type(fs)._call_s3

        async def call(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
            calls.append(method)
            if calls.count(wanted) == number and method == wanted:
                raise ConnectionError("the network is gone")
            return await original(self, method, *args, **kwargs)

        monkeypatch.setattr(type(fs), "_call_s3", call)
        return calls

    @pytest.mark.parametrize(
        ("operation", "number", "old"),
        [
            ("create_multipart_upload", 1, b"old"),
            ("upload_part", 1, b"old"),
            ("upload_part", 2, b"old"),
            ("upload_part", 2, None),
            ("complete_multipart_upload", 1, b"old"),
            ("complete_multipart_upload", 1, None),
        ],
    )
    def test_a_failure_in_any_part_of_a_large_upload_leaves_what_was_there(
        self, monkeypatch, s3, small_parts, operation, number, old
    ):
        file = bucket(s3).file("file")
        if old:
            file.write_bytes(old)
        with monkeypatch.context() as patched:
            calls = self.fail_at(patched, small_parts, operation, number)
            with pytest.raises(OSError, match="the network is gone"):
                file.write_bytes(bytes(11 << 20))
            assert operation in calls
        assert everything(bucket(s3)) == ({"file": old} if old else {})
        assert file.exists() == bool(old)

    def test_a_failure_of_a_small_upload_leaves_what_was_there(self, monkeypatch, s3):
        file = bucket(s3).file("file")
        file.write_bytes(b"old")
        fs, _ = filesystem(file.url, s3.options)
        with monkeypatch.context() as patched:
            self.fail_at(patched, fs, "put_object", 1)
            with pytest.raises(OSError, match="the network is gone"):
                file.write_bytes(b"new")
        assert everything(bucket(s3)) == {"file": b"old"}

    def test_a_large_upload_that_succeeds_is_whole(self, s3, small_parts):
        content = bytes(range(256)) * (11 << 12)
        bucket(s3).file("file").write_bytes(content)
        assert everything(bucket(s3)) == {"file": content}


def _create(file: File, data: bytes, go: Any, answers: Any) -> None:
    go.wait()
    answers.put(file.create_if_absent(data))


class TestCreateIfAbsent:
    def test_the_first_content_stays(self, place):
        file = place.file("deep/file")
        assert file.create_if_absent(b"first") == b"first"
        assert file.create_if_absent(b"second") == b"first"
        assert everything(place) == {"deep/file": b"first"}

    @pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
    def test_of_many_threads_one_wins_and_all_read_its_content(self, place):
        for name in ("one", "two"):
            file = place.file(name)
            barrier = threading.Barrier(6)

            def attempt(number: int, file: str = file, barrier: threading.Barrier = barrier) -> bytes:
                barrier.wait()
                return file.create_if_absent(b"%d" % number)

            with ThreadPoolExecutor(6) as pool:
                answers = set(pool.map(attempt, range(6)))
            assert answers == {file.read_bytes()}
        assert set(everything(place)) == {"one", "two"}

    @pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
    def test_an_attempt_that_comes_between_the_look_and_the_write_loses_nothing(self, place, monkeypatch):
        file = place.file("file")
        file.write_bytes(b"faster")
        monkeypatch.setattr(File, "exists", lambda _: False)
        assert file.create_if_absent(b"slower") == b"faster"
        assert everything(place) == {"file": b"faster"}

    @pytest.mark.parametrize("place", ["local", pytest.param("s3", marks=pytest.mark.slow)], indirect=True)
    def test_of_several_processes_one_wins_and_all_read_its_content(self, place):
        context = multiprocessing.get_context("spawn")
        go, answers = context.Event(), context.Queue()
        file = place.file("file")
        processes = [
            context.Process(target=_create, args=(file, b"%d" % i, go, answers), daemon=True) for i in range(2)
        ]
        for process in processes:
            process.start()
        go.set()
        found = {answers.get(timeout=120) for _ in processes}
        for process in processes:
            process.join()
        assert found == {file.read_bytes()}

    @staticmethod
    def refuse(monkeypatch: pytest.MonkeyPatch, s3: Any, *codes: tuple[int, str], meanwhile: bytes = b"") -> list[str]:
        """The next conditional puts are answered with these errors, and someone else may write meanwhile."""
        from botocore.exceptions import ClientError
        from s3fs.errors import translate_boto_error

        fs, _ = filesystem(s3.join("file"), s3.options)
        original, answers, slept = type(fs)._call_s3, list(codes), []

        async def call(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
            if method == "put_object" and "IfNoneMatch" in kwargs and answers:
                status, code = answers.pop(0)
                if meanwhile:
                    s3.client().put_object(Bucket=s3.url[5:], Key="file", Body=meanwhile)
                answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
                raise translate_boto_error(ClientError(answer, method))
            return await original(self, method, *args, **kwargs)

        monkeypatch.setattr(type(fs), "_call_s3", call)
        monkeypatch.setattr(folder.time, "sleep", slept.append)
        return slept

    def test_a_put_at_the_same_time_as_another_is_tried_again(self, s3, monkeypatch):
        conflict = (409, "OperationAborted")
        slept = self.refuse(monkeypatch, s3, conflict, conflict)
        assert bucket(s3).file("file").create_if_absent(b"data") == b"data"
        assert len(slept) == 2

    def test_the_other_put_is_read_back(self, s3, monkeypatch):
        for code in ((409, "OperationAborted"), (412, "PreconditionFailed"), (501, "NotImplemented")):
            with monkeypatch.context() as patched:
                assert self.refuse(patched, s3, code, meanwhile=b"faster") == []
                assert bucket(s3).file("file").create_if_absent(b"slower") == b"faster"
            bucket(s3).delete(["file"])

    def test_a_conflict_that_does_not_end_is_an_error(self, s3, monkeypatch):
        slept = self.refuse(monkeypatch, s3, *[(409, "OperationAborted")] * 9)
        with pytest.raises(OSError, match="OperationAborted"):
            bucket(s3).file("file").create_if_absent(b"data")
        assert slept == sorted(slept)
        assert len(slept) == 3

    @pytest.mark.parametrize("code", [(501, "NotImplemented"), (400, "InvalidArgument")])
    def test_a_server_without_conditional_puts_gets_a_plain_one(self, s3, monkeypatch, code):
        self.refuse(monkeypatch, s3, code)
        assert bucket(s3).file("file").create_if_absent(b"data") == b"data"
        assert s3.keys() == {"file"}

    def test_a_disk_without_hard_links_gets_the_whole_content_too(self, tmp_path, monkeypatch):
        def no_links(*_: Any) -> None:
            raise OSError("hard links are not supported")

        monkeypatch.setattr("os.link", no_links)
        assert Folder(str(tmp_path)).file("file").create_if_absent(b"data") == b"data"
        assert everything(Folder(str(tmp_path))) == {"file": b"data"}

    @pytest.mark.parametrize("write", [File.create_if_absent, File.write_bytes])
    def test_a_disk_that_is_full_gets_nothing_under_the_name(self, tmp_path, monkeypatch, write):
        written = Path.write_bytes

        def fills_up(path: Path, data: bytes) -> None:
            written(path, data[:2])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", fills_up)
        with pytest.raises(OSError, match="No space left"):
            write(Folder(str(tmp_path)).file("file"), b"data")
        assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tree(place: Folder) -> Folder:
    """Some files in a directory, hidden ones among them, and one beside it whose name begins alike."""
    for name in ("b.txt", "a.txt", "in/c.txt", "in/deep/d.txt", ".hidden", "_hidden/e.txt", "in/.f/g.txt", "in/_h"):
        (place / "tree").file(name).write_bytes(name.encode())
    place.file("tree2/x.txt").write_bytes(b"x")
    return Folder.at(f"{place}/tree", place.options)


class TestListing:
    def test_find_gives_all_files_below_sorted_and_no_hidden_ones(self, tree):
        found = tree.find()
        assert urls(found) == [f"{tree}/{n}" for n in ("a.txt", "b.txt", "in/c.txt", "in/deep/d.txt")]
        assert [f.size for f in found] == [5, 5, 8, 13]

    def test_find_of_a_file_is_that_file_even_if_it_is_hidden(self, tree):
        for name in ("a.txt", ".hidden", "_hidden/e.txt"):
            assert urls((tree / name).find()) == [f"{tree}/{name}"]

    def test_what_is_not_there_is_found_as_nothing(self, place):
        assert place.find() == []
        assert place.names() == set()
        assert (place / "*").search().files == []
        assert not place.exists()
        for read in (File.read_bytes, File.open):
            with pytest.raises(FileNotFoundError):
                read(place.file("a"))

    def test_names_are_those_of_the_files_directly_inside(self, tree):
        assert tree.names() == {"a.txt", "b.txt", ".hidden"}

    def test_glob_matches_within_directories_and_across_them(self, tree):
        assert urls((tree / "*.txt").search().files) == [f"{tree}/a.txt", f"{tree}/b.txt"]
        assert urls((tree / "in/**/[cd].txt").search().files) == [f"{tree}/in/c.txt", f"{tree}/in/deep/d.txt"]
        assert urls(Folder(f"{tree}2/?.txt", tree.options).search().files) == [f"{tree}2/x.txt"]

    def test_glob_matches_hidden_names_only_where_it_names_them(self, tree):
        assert urls((tree / "in/**/*.txt").search().files) == [f"{tree}/in/c.txt", f"{tree}/in/deep/d.txt"]
        assert urls((tree / "*/.f/*.txt").search().files) == [f"{tree}/in/.f/g.txt"]
        assert urls((tree / "_*/*").search().files) == [f"{tree}/_hidden/e.txt"]

    def test_files_and_directories_exist(self, tree):
        assert (tree / "a.txt").exists()
        assert (tree / "in/deep").exists()
        assert not (tree / "a").exists()

    def test_a_file_that_another_program_writes_is_seen_although_its_directory_was_listed(self, tree):
        new = tree.file("in/new.txt")
        looks: list[Callable[[], bool]] = [
            lambda: new.open().read() == b"new",
            lambda: new.url in urls((tree / "*/*.txt").search().files),
            lambda: new.exists(),
            lambda: "new.txt" in (tree / "in").names(),
            lambda: new.url in urls(tree.find()),
        ]
        for look in looks:
            (tree / "in").names()
            (tree / "*/*.txt").search()
            other, path = fsspec.core.url_to_fs(new.url, skip_instance_cache=True, **tree.options)
            other.pipe_file(path, b"new")
            assert look()
            other.rm_file(path)

    def test_a_versions_changes_with_the_content_and_only_then(self, tree):
        before = tree.find()
        assert tree.find() == before
        tree.file("a.txt").write_bytes(b"other")
        after = tree.find()
        assert after[0] != before[0]
        assert after[1:] == before[1:]

    def test_a_link_has_the_version_of_what_it_points_to(self, tmp_path):
        (tmp_path / "data").mkdir()
        (tmp_path / "target").write_bytes(b"one")
        (tmp_path / "data/link").symlink_to(tmp_path / "target")
        before = Folder(f"{tmp_path}/data").find()
        (tmp_path / "target").write_bytes(b"two")
        os.utime(tmp_path / "target", ns=(0, int(before[0].version) + 1))
        after = Folder(f"{tmp_path}/data").find()
        assert [(f.url, f.size) for f in after] == [(f"{tmp_path}/data/link", 3)]
        assert int(after[0].version) == int(before[0].version) + 1

    def test_links_to_directories_are_followed_and_a_directory_is_searched_once(self, tmp_path):
        for name in ("data/a/x", "data/z/y", "other/b/v", "other/_b/w", "hidden/u"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"1")
        for link, target in {
            "data/c": "other",
            "data/latest": "data/z",  # which has a name of its own
            "data/more": "other/b",
            "data/a/up": "data",  # loops
            "other/b/back": "data",
            "data/.d": "hidden",
        }.items():
            (tmp_path / link).symlink_to(tmp_path / target)
        found = [f.url.removeprefix(f"{tmp_path}/data/") for f in Folder(f"{tmp_path}/data").find()]
        assert found == ["a/x", "c/b/v", "z/y"]
        (tmp_path / "link").symlink_to(tmp_path / "other/b")
        assert [f.url for f in Folder(f"{tmp_path}/link").find()] == [
            f"{tmp_path}/link/back/a/x",
            f"{tmp_path}/link/back/z/y",
            f"{tmp_path}/link/v",
        ]

    def test_a_directory_is_deleted_with_all_that_is_in_it(self, tree):
        for _ in range(2):
            (tree / "in").delete_tree()
        assert tree.names() == {"a.txt", "b.txt", ".hidden"}
        assert not (tree / "in").exists()

    def test_deleting_what_is_gone_already_does_not_matter(self, tree):
        for _ in range(2):
            tree.delete(["a.txt", "in/c.txt"])
        assert urls(tree.find()) == [f"{tree}/b.txt", f"{tree}/in/deep/d.txt"]


@pytest.fixture
def without_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems that connect when they are made, and do not here."""
    for module in ("paramiko", "smbclient", "smbprotocol", "smbprotocol.exceptions"):
        monkeypatch.setitem(sys.modules, module, MagicMock())
    monkeypatch.setattr(FTPFileSystem, "_connect", lambda self: setattr(self, "ftp", MagicMock()))
    monkeypatch.setattr("requests.get", MagicMock())


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> None:
    """URLs of the protocol `hosted` belong to file systems in memory, one for each host."""

    class Hosted(MemoryFileSystem):
        protocol = "hosted"

        def __init__(self, host: str, **_: Any) -> None:
            super().__init__()
            self.store, self.pseudo_dirs = stores.setdefault(host, ({}, [""]))

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return infer_storage_options(path)["path"].rstrip("/")

        @staticmethod
        def _get_kwargs_from_urls(url: str) -> dict[str, Any]:
            return {k: v for k, v in infer_storage_options(url).items() if k not in ("path", "protocol")}

    stores: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "hosted", Hosted)


class TestSpelling:
    def test_a_pattern_has_wildcards(self):
        assert [path for path in ("a/*", "a?/b", "[ab]", "a/b", "s3://a/b.c") if Folder(path).is_pattern()] == [
            "a/*",
            "a?/b",
            "[ab]",
        ]

    def test_a_file_that_is_called_like_a_pattern_is_none(self, tmp_path):
        (tmp_path / "data[1]").mkdir()
        (tmp_path / "a*").mkdir()
        (tmp_path / "a*/x").write_bytes(b"")
        for url, fixed in {
            "data[1]": "data[1]",
            "data[2]": "",
            "x/y*/z?.parquet": "x",
            "x/y/z": "x/y/z",
            "a*": "a*",
            "a*/x": "a*/x",
        }.items():
            assert Folder(f"{tmp_path}/{url}").fixed_part().url == f"{tmp_path}/{fixed}".rstrip("/")
            assert Folder(f"{tmp_path}/{url}").is_pattern() == (fixed != url)

    def test_local_paths_become_absolute_and_plain(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert absolute("data/", {}) == f"{tmp_path}/data"
        assert absolute(f"file://{tmp_path}/data", {}) == f"{tmp_path}/data"
        assert absolute("other/../data/./x//y", {}) == f"{tmp_path}/data/x/y"
        assert absolute("/", {}) == "/"

    def test_urls_keep_their_protocol_and_lose_a_trailing_slash(self):
        assert absolute("memory://a/b/", {}) == "memory:///a/b"
        assert absolute("s3a://bucket/key/", {"anon": True}) == "s3://bucket/key"

    @pytest.mark.parametrize(
        "url",
        [
            "webhdfs://namenode:9870/data/in",
            "webhdfs://user@namenode/data",
            "webhdfs:///data",
            "ftp://host/data/in",
            "ftp://user:pass%40word@host:2121/data",
            "sftp://host/data/in",
            "sftp://user:password@host:2222/data",
            "smb://workgroup;user:password@host/share/data",
            "github://org:repo@main/data/in",
        ],
    )
    def test_urls_keep_the_host_and_the_user(self, without_connections, url):
        options = {"host": "namenode"} if ":///" in url else {}
        for slashes in ("", "/", "//"):
            assert absolute(url + slashes, options) == url
        fs, path = filesystem(url, options)
        assert url_of(fs, f"{path}/x/a.parquet", url) == f"{url}/x/a.parquet"
        glob = f"{url}/*/[ab].parquet"
        assert url_of(fs, f"{path}/x/a.parquet", absolute(glob, options)) == f"{url}/x/a.parquet"

    @pytest.mark.parametrize("url", ["ftp://host", "sftp://host", "github://org:repo@main"])
    def test_the_top_of_a_host_has_a_url_too(self, without_connections, url):
        assert absolute(url, {}) == absolute(f"{url}/", {}) == f"{url}/"
        fs, path = filesystem(f"{url}/", {})
        assert url_of(fs, f"{path}a.parquet", f"{url}/") == f"{url}/a.parquet"

    def test_a_container_that_is_a_part_of_the_path_is_not_doubled(self):
        class Azure(MemoryFileSystem):
            """As adlfs takes URLs apart."""

            protocol = "abfs"

            @classmethod
            def _strip_protocol(cls, path: str) -> str:
                return re.sub(r"^abfs://([^@/]*)(@[^/]*)?", r"\1", path).rstrip("/")

            @staticmethod
            def _get_kwargs_from_urls(url: str) -> dict[str, str]:
                account = re.match(r"abfs://[^@/]*@([^/]*)", url)
                return {"account": account[1]} if account else {}

        for account in ("", "@account.dfs.core.windows.net"):
            url = f"abfs://container{account}/data"
            assert url_of(Azure(), "container/data/a", url) == f"{url}/a"

    def test_what_is_listed_on_a_host_is_read_from_it(self, hosted):
        for host in ("one", "two"):
            for name in ("a.txt", "in/b.txt"):
                File(f"hosted://user:password@{host}:99/tree/{name}").write_bytes(f"{name} on {host}".encode())
        for host in ("one", "two"):
            url = absolute(f"hosted://user:password@{host}:99/tree/", {})
            listed = Folder(url).find()
            assert urls(listed) == [f"{url}/a.txt", f"{url}/in/b.txt"]
            assert urls((Folder(url) / "**/*.txt").search().files) == urls(listed)
            assert [f.read_bytes() for f in listed] == [f"{n} on {host}".encode() for n in ("a.txt", "in/b.txt")]

    def test_a_name_that_is_not_utf_8_is_an_error_that_says_so_as_given_and_as_found(self, tmp_path):
        found = os.fsencode(tmp_path) + b"/in/\xe9.parquet"
        (tmp_path / "in").mkdir()
        Path(os.fsdecode(found)).touch()
        with pytest.raises(InputError, match="the name is not UTF-8"):
            Folder.at(str(tmp_path / "in"), {}).find()[0].open()
        with pytest.raises(InputError, match="the name is not UTF-8"):
            Folder.at("o\udcff", {})

    @pytest.mark.parametrize(
        "url", ["zip://inner::/tmp/x.zip", "zip://*.parquet::s3://bucket/x.zip", "simplecache::s3://bucket/key"]
    )
    def test_a_chain_of_file_systems_is_an_input_error_that_says_what_to_give(self, url):
        with pytest.raises(InputError, match=f"^{re.escape(url)}: fsspec takes :: for a chain"):
            absolute(url, {})

    @pytest.mark.parametrize(
        ("url", "directory", "inside"),
        [
            ("/a/b", "/a", True),
            ("/a", "/a", True),
            ("/a/b", "/", True),
            ("/ab", "/a", False),
            ("/a", "/a/b", False),
            ("s3://x/a/b", "s3://x/a", True),
            ("s3://x/ab", "s3://x/a", False),
        ],
    )
    def test_inside_is_a_matter_of_whole_path_components(self, url, directory, inside):
        assert Place(url).is_inside(Place(directory)) is inside

    def test_a_file_system_that_is_not_known_is_an_input_error_that_names_the_url(self):
        with pytest.raises(InputError, match="nosuch://bucket/key"):
            absolute("nosuch://bucket/key", {})

    def test_s3_without_its_package_is_an_input_error_that_says_how_to_install_it(self, monkeypatch):
        def missing(*_: Any, **__: Any) -> Any:
            raise ImportError("Install s3fs to access S3")

        monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
        for url, hint in (("s3://bucket/key", ': pip install "beam-semdedup[s3]"'), ("gs://bucket/key", "")):
            with pytest.raises(InputError) as raised:
                absolute(url, {})
            assert str(raised.value) == f"{url}: Install s3fs to access S3{hint}"

    def test_wrong_storage_options_are_an_input_error_that_names_the_url(self):
        with pytest.raises(InputError, match=r"s3://bucket/key.*storage_options"):
            absolute("s3://bucket/key", {"key": "a", "username": "b"})


CONTENT = bytes(range(251)) * 400
FILES = {"one": CONTENT, "two": CONTENT[::-1]}


@pytest.fixture(params=["local", "memory", "s3"], scope="module")
def ranges_place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with two files, with `CONTENT` and its reverse."""
    if request.param == "s3":
        place = bucket(request.getfixturevalue("new_bucket")())
    else:
        local = request.param == "local"
        place = Folder(str(tmp_path_factory.mktemp("ranges")) if local else f"memory://{uuid.uuid4().hex}")
    for name, content in FILES.items():
        place.file(name).write_bytes(content)
    return place


class TestReadRanges:
    @settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_ranges_equal_slices(self, ranges_place, data):
        place = st.integers(0, len(CONTENT) - 1)
        wanted = data.draw(st.lists(st.tuples(st.sampled_from(sorted(FILES)), place, place), max_size=20))
        names = [name for name, _, _ in wanted]
        starts = [min(a, b) for _, a, b in wanted]
        lengths = [abs(a - b) + 1 for _, a, b in wanted]
        buffers = ranges_place.read_ranges(names, starts, lengths)
        assert [b.to_pybytes() for b in buffers] == [
            FILES[name][start : start + length] for name, start, length in zip(names, starts, lengths, strict=True)
        ]

    def test_many_small_ranges_equal_slices(self, ranges_place):
        starts = [(i * 7919) % (len(CONTENT) - 9) for i in range(100)]
        buffers = ranges_place.read_ranges(["one"] * 100, starts, [9] * 100)
        assert [b.to_pybytes() for b in buffers] == [CONTENT[s : s + 9] for s in starts]

    def test_ranges_larger_than_one_fetch_equal_slices(self, ranges_place):
        starts, lengths = [5, 0, 3000, 7, 8], [2500, len(CONTENT), 999, 1, 1]
        buffers = ranges_place.read_ranges(["one"] * 5, starts, lengths, fetch_bytes=1000)
        assert [b.to_pybytes() for b in buffers] == [CONTENT[s : s + n] for s, n in zip(starts, lengths, strict=True)]

    def test_a_range_that_goes_beyond_the_file_is_an_error(self, ranges_place):
        for start in (len(CONTENT) - 5, len(CONTENT) + 5):
            with pytest.raises((OSError, ValueError, IndexError)):
                ranges_place.read_ranges(["one"] * 2, [start, 0], [10, 10])

    def test_a_file_that_is_not_there_is_an_error(self, ranges_place):
        with pytest.raises(FileNotFoundError):
            ranges_place.read_ranges(["one-not"], [0], [10])

    def test_what_was_read_holds_no_arrow_memory_and_outlives_the_files(self, place):
        place.file("file").write_bytes(CONTENT)
        before = pa.total_allocated_bytes()
        buffers = place.read_ranges(["file"], [0], [len(CONTENT)])
        assert pa.total_allocated_bytes() - before < len(CONTENT)
        place.delete(["file"])
        assert buffers[0].to_pybytes() == CONTENT


class TestNames:
    @pytest.mark.parametrize("name", ["a", "a/b.parquet", ".a", "a..b", "x=1/y", "a//b"])
    def test_a_name_leads_into_the_folder(self, name):
        place = Folder("s3://bucket/data", {"anon": True})
        assert place.file(name).url == (place / name).url == f"s3://bucket/data/{name}"
        assert place.file(name).options == (place / name).options == place.options
        assert place.name_of(place.file(name)) == name

    @pytest.mark.parametrize("name", ["", "..", "../a", "a/../../b", "/etc/passwd", "/", "a/", "s3://other/a"])
    def test_a_name_that_leads_elsewhere_is_an_error_that_names_both(self, name):
        place = Folder("/data")
        for lead in (place.file, place.__truediv__):
            with pytest.raises(InputError, match=f"^/data: {re.escape(repr(name))} is not the name"):
                lead(name)


def test_open_reads_at_any_place(place):
    place.file("file").write_bytes(CONTENT)
    with place.file("file").open() as source:
        assert source.size() == len(CONTENT)
        source.seek(1000)
        assert source.read(10) == CONTENT[1000:1010]
        assert source.read_at(5, 3) == CONTENT[3:8]
