from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import servers
from reading import Place, write

from beam_semdedup.errors import InputError
from beam_semdedup.inputs.listing import list_files
from beam_semdedup.storage.folder import Folder


def listed(*paths: Any, **place: Any) -> list[str]:
    return [f.url for f in list_files(Place([str(p) for p in paths], **place))]


class TestListFiles:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        root = tmp_path / "data"
        for name in (
            "b.parquet",
            "a.parquet",
            "in/deep/c.pq",
            "in/d.jsonl",
            "notes.txt",
            ".x.parquet",
            "_tmp/e.parquet",
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(name.encode())
        (tmp_path / "data2").mkdir()
        (tmp_path / "data2/z.parquet").write_bytes(b"z")
        return root

    def test_a_directory_is_searched_recursively_for_files_of_the_type(self, tree):
        assert listed(tree) == [f"{tree}/a.parquet", f"{tree}/b.parquet", f"{tree}/in/deep/c.pq"]
        assert listed(f"{tree}/") == listed(tree)
        assert listed(tree, input_filetype="jsonl") == [f"{tree}/in/d.jsonl"]

    def test_extensions_that_are_given_take_the_place_of_those_of_the_type(self, tree):
        assert listed(tree, input_file_extensions=[".pq"]) == [f"{tree}/in/deep/c.pq"]
        assert listed(tree, input_file_extensions=["txt", ".jsonl"]) == [f"{tree}/in/d.jsonl", f"{tree}/notes.txt"]

    def test_a_path_that_names_a_file_is_taken_whatever_it_is_called(self, tree):
        assert listed(tree / "notes.txt", tree / ".x.parquet") == [f"{tree}/.x.parquet", f"{tree}/notes.txt"]

    def test_a_glob_matches_files_and_directories(self, tree):
        assert listed(f"{tree}/*.parquet") == [f"{tree}/a.parquet", f"{tree}/b.parquet"]
        assert listed(f"{tree}/**") == listed(tree)
        assert listed(f"{tree}/i?") == [f"{tree}/in/deep/c.pq"]
        assert listed(f"{tree}/[ab].p*") == [f"{tree}/a.parquet", f"{tree}/b.parquet"]
        assert listed(f"{tree}*/z.parquet") == [f"{tree}2/z.parquet"]

    def test_a_glob_matches_hidden_files_only_where_it_says_so(self, tree):
        assert listed(f"{tree}/.*") == [f"{tree}/.x.parquet"]
        assert listed(f"{tree}/_*/*.parquet") == [f"{tree}/_tmp/e.parquet"]

    def test_a_path_with_wildcards_in_its_name_is_itself_where_it_exists(self, tmp_path):
        write(tmp_path / "a[1]/x.parquet", [1], [[1.0]])
        write(tmp_path / "a1/y.parquet", [1], [[1.0]])
        assert listed(tmp_path / "a[1]") == [f"{tmp_path}/a[1]/x.parquet"]

    def test_a_file_that_several_paths_name_is_read_once(self, tree):
        assert listed(tree, f"{tree}/a.parquet", f"{tree}/in/../*.parquet", tree) == listed(tree)

    def test_the_order_does_not_depend_on_that_of_the_paths(self, tree):
        assert listed(f"{tree}2", tree) == listed(tree, f"{tree}2")

    def test_sizes_and_versions_come_with_the_files(self, tree):
        (info,) = list_files(Place([f"{tree}/a.parquet"]))
        assert info.size == 9
        assert info.version

    @pytest.mark.parametrize("path", ["nowhere", "a/nowhere.parquet", "*.nothing", "nowhere/*"])
    def test_a_path_without_files_is_an_error_that_names_it(self, tree, path):
        with pytest.raises(InputError, match="input_path: no files at ") as raised:
            listed(tree, tree / path)
        assert str(tree / path) in str(raised.value)

    def test_files_of_other_types_only_are_an_error_that_says_which_there_are(self, tree):
        with pytest.raises(
            InputError, match=r"no \.csv files at .*; it has 5 with \.jsonl, \.parquet, \.pq, \.txt: set"
        ):
            listed(tree, input_file_extensions=[".csv"])
        with pytest.raises(
            InputError, match=r"no \.parquet or \.parq or \.pq files at .*in/d\.\*; it has 1 with \.jsonl: set"
        ):
            listed(f"{tree}/in/d.*")
        (tree / "README").write_bytes(b"r")
        (tree / "x.tar.gz").write_bytes(b"x")
        with pytest.raises(InputError, match=r"it has 3 with \.tar\.gz, \.txt, no extension: set"):
            listed(f"{tree}/[Rnx]*")

    def test_all_of_it_holds_on_s3(self, s3):
        for name in ("in/a.parquet", "in/b/c.parquet", "in/_x/d.parquet", "in/.e.parquet", "in2/f.parquet", "in/g.txt"):
            Folder(s3.url, s3.options).file(name).write_bytes(name.encode())
        both = [s3.join("in/a.parquet"), s3.join("in/b/c.parquet")]
        assert listed(s3.join("in"), read_options=s3.options) == both
        assert listed(s3.join("in/"), s3.join("in/**/*.parquet"), read_options=s3.options) == both
        assert listed(s3.join("in?/*"), read_options=s3.options) == [s3.join("in2/f.parquet")]
        assert listed(s3.join("in/g.txt"), read_options=s3.options) == [s3.join("in/g.txt")]
        for path in ("nowhere", "in/nowhere*", "i"):
            with pytest.raises(InputError, match="input_path: no files at s3://"):
                listed(s3.join(path), read_options=s3.options)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A directory whose files are called as different programs call them."""
    root = tmp_path / "odd"
    names = ["a.parquet", "B.PARQUET", "c.parq", "part-00000", "part-r-00001", "000000_0", "_late.parquet", "_SUCCESS"]
    for name in [*names, ".part-00000.crc", "notes.txt", "README", "part-00002.crc"]:
        root.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


class TestNoFileIsLeftOutSilently:
    def test_extensions_of_any_case_and_the_names_that_engines_give_are_known(self, odd):
        names = ["000000_0", "B.PARQUET", "a.parquet", "c.parq", "part-00000", "part-r-00001"]
        assert listed(odd) == [f"{odd}/{name}" for name in names]
        assert listed(odd, input_file_extensions=[".PARQ"]) == [f"{odd}/c.parq"]

    @pytest.mark.parametrize("pattern", ["", "/*", "/**"])
    def test_what_is_not_read_is_counted_and_said(self, odd, caplog, pattern):
        listed(f"{odd}{pattern}")
        assert [record.getMessage() for record in caplog.records] == [
            f"input_path={odd}{pattern}: 6 of 10 files are read; not 3 with other endings (.crc, .txt, no extension), "
            "1 hidden by the _ or . before the name"
        ]

    def test_a_hidden_file_that_a_pattern_may_have_meant_is_said(self, odd, caplog):
        listed(f"{odd}/*.parquet")
        assert "1 of 2 files are read; not 1 hidden by the _ or ." in caplog.text

    def test_nothing_is_said_where_all_is_read(self, tmp_path, caplog):
        for name in ("a.parquet", "_SUCCESS", "._SUCCESS.crc", "_metadata"):
            (tmp_path / name).touch()
        listed(tmp_path)
        listed(tmp_path / "_metadata")
        assert not caplog.records

    def test_that_all_of_it_is_hidden_is_said(self, tmp_path):
        (tmp_path / "_a.parquet").touch()
        with pytest.raises(InputError, match=r"input_path: no files at .* but 1 hidden one"):
            listed(tmp_path)

    def test_files_whose_changes_may_not_be_noticed_are_said(self, tmp_path, caplog):
        (tmp_path / "a.parquet").write_bytes(b"x")
        with servers.web(tmp_path) as url:
            listed(url)
        assert f"no version and no time is known of 1 file, {url}/a.parquet first" in caplog.text

    def test_it_holds_on_s3(self, s3, caplog):
        for name in ("a.parquet", "B.PARQUET", "c.txt", "_late.parquet", "_delta/x", "in/part-00000-a-c000"):
            Folder(s3.url, s3.options).file(name).write_bytes(b"x")
        names = ["B.PARQUET", "a.parquet", "in/part-00000-a-c000"]
        assert listed(s3.url, read_options=s3.options) == [s3.join(name) for name in names]
        assert "3 of 5 files are read; not 1 with other endings (.txt), 1 hidden" in caplog.text


class TestTables:
    """Directories whose logs say which of their files count."""

    @pytest.fixture(params=["local", "s3"])
    def place(self, request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
        if request.param == "local":
            return Folder(str(tmp_path / "place"))
        bucket = request.getfixturevalue("s3")
        return Folder(bucket.url, bucket.options)

    @pytest.mark.parametrize(
        ("log", "kind", "data"),
        [
            ("_delta_log/00000000000000000000.json", "Delta", "p=1/part-00000.parquet"),
            ("_delta_log/00000000000000000000.json", "Delta", "a.parquet"),
            (".hoodie/hoodie.properties", "Hudi", "2024/01/a.parquet"),
            ("metadata/00000-1.metadata.json", "Iceberg", "data/p=1/q=x/a.parquet"),
        ],
    )
    def test_a_table_is_refused_whichever_way_it_is_named(self, place, log, kind, data):
        for name in (log, data):
            (place / "tables/one").file(name).write_bytes(b"x")
        directory = data.rpartition("/")[0]
        paths = ["tables", "tables/one", "tables/one/**/*.parquet", "tables/one/*", "tables/*/*"]
        paths += [f"tables/one/{directory}/*.parquet", f"tables/one/{directory}"] if "=" in directory else []
        for path in paths:
            with pytest.raises(InputError, match=rf"{place}/tables/one is a {kind} table .*Export .*as a list"):
                listed(f"{place}/{path}", read_options=place.options)

    def test_files_that_are_named_are_taken(self, place):
        for name in ("_delta_log/0.json", "a.parquet", "b.parquet"):
            place.file(name).write_bytes(b"x")
        assert listed(f"{place}/a.parquet", read_options=place.options) == [f"{place}/a.parquet"]

    def test_directories_that_are_called_alike_are_none(self, place):
        for name in ("metadata/a.parquet", "data/b.parquet", "data/x=1/c.parquet", "metadata/d.json"):
            place.file(name).write_bytes(b"x")
        assert len(listed(f"{place}/data", place.url, read_options=place.options)) == 3
