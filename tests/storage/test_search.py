from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import servers

from beam_semdedup.errors import StorageError
from beam_semdedup.storage.folder import Folder


def found(url: Any) -> list[str]:
    """The names of the files that a search of a URL finds, below its directory."""
    place = Folder.at(str(url), {})
    return sorted(place.fixed_part().name_of(file) for file in place.search().files)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.parquet", "in/b.parquet", "in/deep/c.parquet"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(name.encode())
    return tmp_path / "data"


@pytest.fixture
def unreadable(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory `in/deep`, which not even the root of a container can list."""
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if os.fspath(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return tree / "in/deep"


class TestWhatCannotBeListedIsAnError:
    """Every one of these gave the other files, and no word."""

    @pytest.mark.parametrize("pattern", ["", "/**", "/**/*.parquet", "/*/*/*.parquet", "/in/d*"])
    def test_a_directory_without_permission(self, tree, unreadable, pattern):
        with pytest.raises(StorageError, match=r"cannot be read: PermissionError: Permission denied"):
            found(f"{tree}{pattern}")

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
    def test_a_directory_of_another_user(self, tmp_path):
        # pytest's own directories are closed to others.
        script = (
            "import os, sys, tempfile; from pathlib import Path; from beam_semdedup.storage.folder import Folder\n"
            "root = Path(tempfile.mkdtemp()); (root / 'in').mkdir(); (root / 'in/x').touch(); (root / 'y').touch()\n"
            "os.chmod(root, 0o755); os.chmod(root / 'in', 0); os.setuid(65534)\n"
            "for path in (root, root / 'in/x', root / '*/x', root / '**'):\n"
            "    try: print('left out', Folder.at(str(path), {}).search())\n"
            "    except OSError as error: print(type(error).__name__, str(error).partition(': ')[2])\n"
        )
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert ended.stdout.splitlines() == ["StorageError cannot be read: PermissionError: Permission denied"] * 4

    @pytest.mark.parametrize("pattern", ["", "/**", "/**/*.parquet", "/*/*.parquet", "/l*"])
    def test_a_link_to_nowhere_which_may_have_been_to_a_directory(self, tree, pattern):
        (tree / "lost").symlink_to("/nowhere")
        with pytest.raises(StorageError, match="cannot be read"):
            found(f"{tree}{pattern}")

    def test_a_link_to_nowhere_that_is_named(self, tree):
        (tree / "lost.parquet").symlink_to("/nowhere")
        for path in (tree / "lost.parquet", tree / "*.parquet"):
            with pytest.raises(StorageError, match="a link to what does not exist"):
                found(path)

    def test_what_is_no_regular_file(self, tree):
        os.mkfifo(tree / "pipe.parquet")  # to open it would wait for ever
        for path in (tree, tree / "pipe.parquet", tree / "*.parquet"):
            with pytest.raises(StorageError, match="not a regular file"):
                found(path)

    @pytest.mark.parametrize("pattern", ["", "/**/*.parquet", "/*/*/*.parquet"])
    def test_a_directory_that_an_ftp_server_does_not_list(self, tree, pattern):
        with servers.ftp(tree, "deep") as url, pytest.raises(StorageError, match=r"the server does not list /in/deep"):
            found(f"{url}{pattern}")

    @pytest.mark.parametrize("code", [403, 404, 500])
    @pytest.mark.parametrize("pattern", ["", "/**/*.parquet"])
    def test_a_directory_that_a_web_server_does_not_give(self, tree, pattern, code):
        with servers.web(tree, deep=code) as url, pytest.raises(StorageError, match="cannot be read: "):
            found(f"{url}{pattern}")


class TestServers:
    def test_a_directory_on_a_server_is_searched(self, tree):
        every = ["a.parquet", "in/b.parquet", "in/deep/c.parquet"]
        for serve in (servers.ftp, servers.web):
            with serve(tree) as url:
                assert found(url) == found(f"{url}/") == every
                assert found(f"{url}/in") == ["b.parquet", "deep/c.parquet"]
                assert found(f"{url}/*/*.parquet") == ["in/b.parquet"]
                assert found(f"{url}/**/[ac].parquet") == ["a.parquet", "in/deep/c.parquet"]
                assert found(f"{url}/nowhere") == found(f"{url}/x/*.parquet") == []

    def test_a_file_on_a_server_is_itself(self, tree):
        for serve in (servers.ftp, servers.web):
            with serve(tree) as url:
                for name in ("a.parquet", "in/deep/c.parquet"):
                    (file,) = Folder.at(f"{url}/{name}", {}).find()
                    assert file.url == f"{url}/{name}"
                    assert file.read_bytes() == name.encode()
                    assert file.size == len(name)

    def test_a_file_is_found_where_the_directory_above_cannot_be_listed(self, tree):
        with servers.ftp(tree, "in") as url:
            assert found(f"{url}/in/deep") == ["c.parquet"]

    @pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://no.such.host.invalid/x", "ftp://127.0.0.1:9/x"])
    def test_a_server_that_is_not_there_is_an_error(self, url):
        for path in (url, f"{url}/*.parquet"):
            with pytest.raises(StorageError, match=r"^\w+://.*: cannot be read: \w+"):
                found(path)

    def test_whether_something_is_there_is_not_said_of_a_server_that_is_not(self):
        with pytest.raises(StorageError, match="cannot be read: "):
            Folder("http://127.0.0.1:9/x").exists()


class TestVersions:
    @pytest.mark.parametrize("place", [0, 150_000, 299_999])
    def test_content_that_changes_is_noticed_where_a_server_says_no_times(self, tmp_path, place):
        content = bytearray(300_000)
        (tmp_path / "x.parquet").write_bytes(content)
        with servers.web(tmp_path) as url:
            before = Folder(url).find()
            assert Folder(url).find() == before
            content[place] = 1
            (tmp_path / "x.parquet").write_bytes(content)
            assert [file.version for file in Folder(url).find()] != [file.version for file in before]

    def test_a_time_on_an_ftp_server_is_a_version(self, tmp_path):
        (tmp_path / "x.parquet").write_bytes(b"1")
        with servers.ftp(tmp_path) as url:
            (before,) = Folder(url).find()
            os.utime(tmp_path / "x.parquet", (1, 1))
            (after,) = Folder(url).find()
        assert before.version
        assert (after.version, after.size) == ("19700101000001", 1)

    @pytest.mark.parametrize("key", ["modify", "modificationTime", "sha", "Last-Modified", "ETag", "mtime"])
    def test_what_file_systems_call_versions_is_one(self, key):
        from beam_semdedup.storage.search import version

        assert version({"name": "x", "size": 1, "type": "file", key: 1234}) == "1234"


def test_links_are_not_searched_twice_by_patterns(tree):
    (tree / "again").symlink_to(tree / "in")
    (tree / "in/up").symlink_to(tree)
    (tree.parent / "other").mkdir()
    (tree.parent / "other/d.parquet").touch()
    (tree / "linked").symlink_to(tree.parent / "other")
    assert found(tree / "**/*.parquet") == ["a.parquet", "in/b.parquet", "in/deep/c.parquet", "linked/d.parquet"]
    assert stat.S_ISLNK(os.lstat(tree / "linked").st_mode)
