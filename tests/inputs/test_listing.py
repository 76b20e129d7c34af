from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
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
        with pytest.raises(InputError, match=r"no \.parquet or \.pq files at .*in/d\.\*; it has 1 with \.jsonl: set"):
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
