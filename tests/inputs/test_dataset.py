from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_semdedup.errors import InputError, UnitError
from beam_semdedup.inputs import dataset as inputs
from beam_semdedup.inputs import jsonl, parquet
from beam_semdedup.inputs.base import FileFacts, InputUnit
from beam_semdedup.inputs.dataset import InputFacts, VectorColumn
from beam_semdedup.storage.folder import File, FileInfo, Folder

VECTORS = pa.list_(pa.float32())
SCHEMA = pa.schema([("id", pa.int64()), ("embeddings", VECTORS)])


def listed(
    *paths: Any, filetype: str = "parquet", extensions: list[str] | None = None, options: Any = None
) -> list[str]:
    return [f.url for f in inputs.list_files([str(p) for p in paths], filetype, extensions, options or {})]


def inspect(
    *paths: Any,
    filetype: str = "parquet",
    carried: tuple[str, ...] = (),
    embedding_dim: int | None = None,
    id_field: str = "id",
) -> InputFacts:
    files = inputs.list_files([str(p) for p in paths], filetype, None, {})
    return inputs.inspect(files, filetype, id_field, "embeddings", carried, embedding_dim)


def message(*paths: Any, **arguments: Any) -> str:
    """What the InputError says that inspecting the files raises."""
    with pytest.raises(InputError) as raised:
        inspect(*paths, **arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def write(path: Path, ids: Any, vectors: Any, rows_per_group: int = 1000, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "id": ids if isinstance(ids, pa.Array) else pa.array(ids),
            "embeddings": vectors if isinstance(vectors, pa.Array) else pa.array(vectors, VECTORS),
            **columns,
        }
    )
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path


def write_lines(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


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
        assert listed(tree, filetype="jsonl") == [f"{tree}/in/d.jsonl"]

    def test_extensions_that_are_given_take_the_place_of_those_of_the_type(self, tree):
        assert listed(tree, extensions=[".pq"]) == [f"{tree}/in/deep/c.pq"]
        assert listed(tree, extensions=["txt", ".jsonl"]) == [f"{tree}/in/d.jsonl", f"{tree}/notes.txt"]

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
        (info,) = inputs.list_files([f"{tree}/a.parquet"], "parquet", None, {})
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
            listed(tree, extensions=[".csv"])
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
        assert listed(s3.join("in"), options=s3.options) == both
        assert listed(s3.join("in/"), s3.join("in/**/*.parquet"), options=s3.options) == both
        assert listed(s3.join("in?/*"), options=s3.options) == [s3.join("in2/f.parquet")]
        assert listed(s3.join("in/g.txt"), options=s3.options) == [s3.join("in/g.txt")]
        for path in ("nowhere", "in/nowhere*", "i"):
            with pytest.raises(InputError, match="input_path: no files at s3://"):
                listed(s3.join(path), options=s3.options)


class TestInspect:
    def test_files_of_one_kind_fit_together(self, parquet_dataset):
        found = inspect(parquet_dataset.path, carried=("quality", "text"))
        assert found.num_rows == parquet_dataset.num_rows
        assert found.dimension == 16
        assert found.schema.names == ["id", "embeddings", "quality", "text"]
        assert found.schema.field("quality").type == pa.float64()
        assert [f.info.url for f in found.files] == list(parquet_dataset.files)

    def test_so_they_do_as_jsonl(self, jsonl_dataset):
        found = inspect(jsonl_dataset.path, filetype="jsonl", carried=("text",))
        assert (found.num_rows, found.dimension) == (300, 16)
        assert [str(f.type) for f in found.schema] == ["int64", "list<item: float>", "string"]

    @pytest.mark.parametrize("missing", ["id", "embeddings", "quality"])
    def test_a_missing_column_is_named_with_the_file_and_what_it_has(self, tmp_path, missing):
        write(tmp_path / "a.parquet", [1], [[1.0]], quality=[1])
        table = pq.read_table(tmp_path / "a.parquet").drop_columns([missing])
        pq.write_table(table, tmp_path / "b.parquet")
        said = message(tmp_path, carried=("quality",))
        assert said == f"{tmp_path}/b.parquet: no column {missing!r}; it has: {', '.join(table.column_names)}"

    @pytest.mark.parametrize(
        "content",
        [
            b"what\nis\nthis\n",
            json.dumps([{"id": i, "embeddings": [1.0]} for i in range(3)]).encode(),
            json.dumps({"id": 1, "embeddings": [1.0]}, indent=2).encode(),
            '{"id": "é", "embeddings": [1.0]}\n'.encode("utf-16"),
            '{"id": "é", "embeddings": [1.0]}\n{"id": "ü", "embeddings": [1.0]}\n'.encode("latin-1"),
        ],
        ids=["garbage", "array", "pretty-printed", "UTF-16", "Latin-1"],
    )
    def test_a_jsonl_file_without_an_object_in_a_line_is_named_and_says_what_jsonl_is(self, tmp_path, content):
        (tmp_path / "a.jsonl").write_bytes(content)
        said = message(tmp_path, filetype="jsonl")
        assert said == f"{tmp_path}/a.jsonl: no line is a JSON object: jsonl has one object a line, in UTF-8"

    @pytest.mark.parametrize("ids", [[2**63, 2**64 - 1], [1, 2**63], [1, 1.5]])
    def test_jsonl_ids_that_are_no_int64_are_to_be_written_as_strings(self, tmp_path, ids):
        write_lines(tmp_path / "a.jsonl", *({"id": i, "embeddings": [1.0]} for i in ids))
        said = message(tmp_path, filetype="jsonl")
        assert said.startswith(f"{tmp_path}/a.jsonl: id column 'id' is double, expected integer, string or binary; ")
        assert said.endswith(
            "write integers beyond int64, which are read as floats, and numbers with fractions as strings"
        )

    @pytest.mark.parametrize("name", ["id", "z"])
    def test_a_jsonl_column_whose_values_fit_no_one_type_is_named_with_the_types_and_lines(self, tmp_path, name):
        lines = [{"id": i, "embeddings": [1.0], "z": i} for i in range(50)]
        for line in lines[40:]:
            line[name] = str(line[name])
        path = write_lines(tmp_path / "a.jsonl", "no object", *lines)
        said = message(path, filetype="jsonl", carried=("z",))
        assert said == (f"{path}: column {name!r} is int64 in line 2 and string in line 42: write it with one type")
        if name == "z":
            assert inspect(path, filetype="jsonl").num_rows == 51

    def test_two_columns_of_one_name_are_an_error_where_it_is_read(self, tmp_path):
        table = pa.table([[1], [2], [[1.0]]], names=["id", "id", "embeddings"])
        pq.write_table(table, tmp_path / "a.parquet")
        assert message(tmp_path) == f"{tmp_path}/a.parquet: column 'id' stands there 2 times; rename all but one"
        pq.write_table(
            table.rename_columns(["x", "x", "embeddings"]).append_column("id", [[1]]), tmp_path / "a.parquet"
        )
        assert inspect(tmp_path).num_rows == 1

    def test_a_damaged_page_of_vectors_is_an_error_that_names_the_file(self, tmp_path):
        path = write(tmp_path / "a.parquet", range(500), list(np.random.default_rng(0).normal(size=(500, 4))))
        content = bytearray(path.read_bytes())
        column = pq.read_metadata(path).row_group(0).column(1)
        start = column.dictionary_page_offset or column.data_page_offset
        content[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
        path.write_bytes(content)
        assert message(path).startswith(f"{path}: 'embeddings' cannot be read: ")

    @pytest.mark.parametrize(
        "ids",
        [pa.array([1.5]), pa.array([True]), pa.array([[1]]), pa.array([0], pa.timestamp("us")), pa.array([{"a": 1}])],
    )
    def test_an_id_column_of_a_wrong_type_is_named_with_its_type(self, tmp_path, ids):
        write(tmp_path / "a.parquet", ids, [[1.0]])
        said = message(tmp_path)
        found = pq.read_schema(tmp_path / "a.parquet").field("id").type
        assert said.startswith(f"{tmp_path}/a.parquet: id column 'id' is {found}, expected integer, string or binary")

    @pytest.mark.parametrize(
        "vectors", [pa.array([1.5]), pa.array([[True]]), pa.array(["[1.0]"]), pa.array([b"1234"]), pa.array([[["a"]]])]
    )
    def test_an_embedding_column_of_a_wrong_type_is_named_with_its_type(self, tmp_path, vectors):
        write(tmp_path / "a.parquet", [1], vectors)
        said = message(tmp_path)
        found = pq.read_schema(tmp_path / "a.parquet").field("embeddings").type
        expected = "expected a list of floats or integers"
        assert said == f"{tmp_path}/a.parquet: embedding column 'embeddings' is {found}, {expected}"

    @pytest.mark.parametrize("value", ["text", 5, ["a"], {"x": 1.0}])
    def test_a_jsonl_embedding_that_is_no_list_of_numbers_is_an_error(self, tmp_path, value):
        write_lines(tmp_path / "a.jsonl", {"id": 1, "embeddings": value})
        assert message(tmp_path, filetype="jsonl").startswith(f"{tmp_path}/a.jsonl: embedding column 'embeddings' is ")

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (pa.array([1], pa.int64()), pa.array([1], pa.uint64())),
            (pa.array([1], pa.int64()), pa.array(["1"])),
            (pa.array(["1"]), pa.array([b"1"])),
        ],
    )
    def test_ids_of_two_types_are_an_error_that_names_both_files(self, tmp_path, one, other):
        write(tmp_path / "a.parquet", one, [[1.0]])
        write(tmp_path / "b.parquet", other, [[1.0]])
        said = message(tmp_path)
        assert said == (
            f"column 'id' is {one.type} in {tmp_path}/a.parquet and {other.type} in {tmp_path}/b.parquet: "
            "write them with one type"
        )

    @pytest.mark.parametrize(
        ("types", "joined"),
        [
            ([pa.int32(), pa.int64(), pa.uint32()], pa.int64()),
            ([pa.uint8(), pa.uint64()], pa.uint64()),
            ([pa.string(), pa.large_string(), pa.string_view()], pa.large_string()),
            ([pa.binary(), pa.large_binary(), pa.binary_view()], pa.large_binary()),
            ([pa.uuid(), pa.binary(16)], pa.binary(16)),
        ],
    )
    def test_ids_of_types_that_differ_in_size_alone_are_read_as_the_larger(self, tmp_path, types, joined):
        value: Any = 1 if pa.types.is_integer(joined) else "x" if pa.types.is_large_string(joined) else b"x" * 16
        for number, type_ in enumerate(types):
            stored = pa.array([value], getattr(type_, "storage_type", type_)).cast(type_)
            write(tmp_path / f"{number}.parquet", stored, [[1.0]])
        found = inspect(tmp_path)
        assert found.schema.field("id").type == joined
        for unit in inputs.units(found.files, 10):
            (rows,) = inputs.FORMATS["parquet"].read(File(unit.path), unit, found.schema)
            assert rows.table.column("id").type == joined
            assert rows.table.column("id").to_pylist() == [value]

    def test_a_carried_column_of_two_types_is_an_error_too(self, tmp_path):
        write(tmp_path / "a.parquet", [1], [[1.0]], text=["x"])
        write(tmp_path / "b.parquet", [1], [[1.0]], text=[1])
        assert message(tmp_path, carried=("text",)).startswith("column 'text' is string in ")
        assert inspect(tmp_path).num_rows == 2

    def test_vectors_of_two_dimensions_are_an_error_that_names_both_files(self, tmp_path):
        write(tmp_path / "a.parquet", [1, 2], [None, [1.0, 2.0]])
        write(tmp_path / "b.parquet", [1], [[]])
        write(tmp_path / "c.parquet", [1], pa.array([[1.0] * 3], pa.list_(pa.float64(), 3)))
        said = message(tmp_path)
        assert said.startswith(f"'embeddings' has dimension 2 in {tmp_path}/a.parquet and 3 in {tmp_path}/c.parquet: ")

    def test_list_types_and_widths_may_differ_between_files(self, tmp_path):
        types = [VECTORS, pa.large_list(pa.float64()), pa.list_(pa.float16(), 2), pa.list_(pa.int8())]
        columns = [pa.array([np.array([1, 2], np.float16)], VECTORS).cast(type_) for type_ in types]
        columns.append(
            pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)).cast(pa.fixed_shape_tensor(pa.float32(), (2,)))
        )
        for number, column in enumerate(columns):
            write(tmp_path / f"{number}.parquet", [number], column)
        found = inspect(tmp_path)
        assert (found.num_rows, found.dimension) == (5, 2)
        rows = sampled(found, 10, field=found.schema.field("embeddings"), normalize=False)
        np.testing.assert_array_equal(rows, [[1, 2]] * 5)

    def test_a_dimension_that_is_given_is_compared_with_what_the_type_says(self, tmp_path):
        path = write(tmp_path / "a.parquet", [1], pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)))
        assert inspect(path, embedding_dim=2).dimension == 2
        assert message(path, embedding_dim=3) == f"{path}: 'embeddings' has dimension 2, embedding_dim=3"

    @pytest.mark.parametrize("filetype", ["parquet", "jsonl"])
    def test_a_dimension_that_is_given_is_compared_with_the_commonest_length(self, tmp_path, filetype):
        path, vectors = tmp_path / f"a.{filetype}", [[1.5], [2.0], [1.0, 2.0], None]
        if filetype == "parquet":
            write(path, range(4), vectors)
        else:
            write_lines(path, *({"id": i, "embeddings": v} for i, v in enumerate(vectors)))
        assert inspect(path, filetype=filetype, embedding_dim=1).dimension == 1
        said = message(path, filetype=filetype, embedding_dim=2)
        assert said == f"{path}: 'embeddings' has dimension 1, embedding_dim=2"

    def test_a_dimension_that_is_given_holds_for_a_file_without_vectors(self, tmp_path):
        path = write(tmp_path / "a.parquet", [1, 2], [None, []])
        assert inspect(path, embedding_dim=2).dimension == 2

    def test_no_vector_anywhere_is_an_error_that_names_a_file(self, tmp_path):
        write(tmp_path / "a.parquet", [1, 2], [None, []])
        assert message(tmp_path) == f"'embeddings' has no vector in any of 1 file, {tmp_path}/a.parquet first"

    def test_files_without_rows_need_not_fit_but_there_must_be_another(self, tmp_path):
        pq.write_table(pa.table({"other": pa.array([], pa.int64())}), tmp_path / "a.parquet")
        assert message(tmp_path) == "input_path: 1 file without a single row"
        pq.write_table(pa.table({"other": pa.array([], pa.int64())}), tmp_path / "c.parquet")
        assert message(tmp_path) == "input_path: 2 files without a single row"
        write(tmp_path / "b.parquet", [1], [[1.0]])
        assert inspect(tmp_path).num_rows == 1

    def test_a_broken_file_among_good_ones_is_named(self, tmp_path, make_dataset):
        dataset = make_dataset(tmp_path / "data", files=4)
        broken = Path(dataset.files[2])
        broken.write_bytes(broken.read_bytes()[:-1])
        assert message(dataset.path).startswith(f"{broken}: not a readable parquet file")

    def test_jsonl_numbers_fit_together_and_nulls_fit_with_anything(self, tmp_path):
        write_lines(tmp_path / "a.jsonl", {"id": None, "embeddings": None, "score": 1, "tags": []})
        write_lines(tmp_path / "b.jsonl", {"id": "x", "embeddings": [1, 2], "score": 0.5, "tags": ["new"]})
        write_lines(tmp_path / "c.jsonl", {"id": "y", "embeddings": [0.5, 2], "score": None, "tags": None})
        found = inspect(tmp_path, filetype="jsonl", carried=("score", "tags"))
        types = [str(f.type) for f in found.schema]
        assert types == ["string", "list<item: float>", "double", "list<item: string>"]
        assert found.dimension == 2

    def test_a_carried_jsonl_column_may_change_its_type_or_begin_far_down_the_file(self, tmp_path):
        lines = [{"id": i, "embeddings": [1.0], "score": i} for i in range(3000)]
        lines += [{"id": 3000, "embeddings": [1.0], "score": 0.5, "late": "x"}]
        write_lines(tmp_path / "a.jsonl", *lines)
        found = inspect(tmp_path, filetype="jsonl", carried=("score", "late"))
        assert [str(f.type) for f in found.schema] == ["int64", "list<item: float>", "double", "string"]

    def test_jsonl_ids_of_two_types_are_an_error_that_names_both_files(self, tmp_path):
        write_lines(tmp_path / "a.jsonl", {"id": 1, "embeddings": [1]})
        write_lines(tmp_path / "b.jsonl", {"id": "1", "embeddings": [1]})
        said = message(tmp_path, filetype="jsonl")
        assert said.startswith(f"column 'id' is int64 in {tmp_path}/a.jsonl and string in {tmp_path}/b.jsonl")


def made_up(part_rows: list[list[int]]) -> list[FileFacts]:
    """Facts of parquet files with these row groups."""
    files = []
    for number, rows in enumerate(part_rows):
        starts = np.concatenate([[0], np.cumsum(rows)]).tolist()
        parts = tuple(InputUnit(f"f{number}", 0, starts[g], n, row_groups=(g,)) for g, n in enumerate(rows) if n)
        files.append(FileFacts(FileInfo(f"f{number}", {}, 1, ""), SCHEMA, sum(rows), parts))
    return files


class TestUnits:
    @given(part_rows=st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=4), rows_per_unit=st.integers(1, 40))
    def test_they_cover_every_row_once_in_order_and_read_no_row_group_in_vain(self, part_rows, rows_per_unit):
        units = inputs.units(made_up(part_rows), rows_per_unit)
        covered = [(u.file, row) for u in units for row in range(u.first_row, u.first_row + u.num_rows)]
        assert covered == [(file, row) for file, rows in enumerate(part_rows) for row in range(sum(rows))]
        for unit in units:
            assert unit.path == f"f{unit.file}"
            assert 0 < unit.num_rows <= rows_per_unit
            bounds = np.concatenate([[0], np.cumsum(part_rows[unit.file])])
            rows = set(range(unit.first_row, unit.first_row + unit.num_rows))
            meets = {g for g in range(len(bounds) - 1) if rows & set(range(bounds[g], bounds[g + 1]))}
            assert set(unit.row_groups) == meets

    @given(part_rows=st.lists(st.lists(st.integers(1, 10), max_size=6), max_size=3), rows_per_unit=st.integers(1, 40))
    def test_two_neighbours_of_a_file_that_are_not_cut_would_not_fit_into_one(self, part_rows, rows_per_unit):
        units = inputs.units(made_up(part_rows), rows_per_unit)
        for before, after in zip(units[:-1], units[1:], strict=True):
            sizes = part_rows[after.file]
            whole = before.num_rows == sum(part_rows[before.file][g] for g in before.row_groups)
            if before.file == after.file and whole:
                assert before.num_rows + sizes[after.row_groups[0]] > rows_per_unit

    @given(
        lines=st.integers(0, 30),
        blanks=st.integers(0, 3),
        block_bytes=st.integers(1, 300),
        rows_per_unit=st.integers(1, 40),
        compressed=st.booleans(),
    )
    def test_those_of_jsonl_are_read_back_whole_for_any_size(
        self, tmp_path_factory, lines, blanks, block_bytes, rows_per_unit, compressed
    ):
        text = "".join(json.dumps({"id": i, "embeddings": [i]}) + "\n" + "\n" * blanks for i in range(lines)).encode()
        path = tmp_path_factory.getbasetemp() / f"{uuid.uuid4().hex}.jsonl{'.gz' if compressed else ''}"
        path.write_bytes(gzip.compress(text) if compressed else text)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(jsonl, "_BLOCK_BYTES", block_bytes)
            kind = inputs.FORMATS["jsonl"]
            units = inputs.units([kind.inspect(Folder(str(path)).find()[0])], rows_per_unit)
            rows = [r for unit in units for r in kind.read(File(unit.path), unit, SCHEMA)]
        path.unlink()
        assert [i for r in rows for i in r.table.column("id").to_pylist()] == list(range(lines))
        assert [n for r in rows for n in r.numbers.tolist()] == [i * (blanks + 1) + 1 for i in range(lines)]
        assert sum(unit.num_rows for unit in units) == lines


class TestChoose:
    @staticmethod
    def chosen(part_rows: list[list[int]], rows_per_unit: int, *arguments: int) -> list[tuple[int, int]]:
        """The files and numbers of the rows."""
        found = inputs.choose(inputs.units(made_up(part_rows), rows_per_unit), *arguments)
        assert all(len(rows) for _, rows in found)
        return [(unit.file, row) for unit, rows in found for row in rows.tolist()]

    @given(
        part_rows=st.lists(st.lists(st.integers(0, 30), max_size=6), max_size=4),
        rows_per_unit=st.integers(1, 40),
        size=st.integers(0, 100),
        parts=st.integers(1, 8),
    )
    def test_its_shares_are_one_sample_however_the_input_is_cut(self, part_rows, rows_per_unit, size, parts):
        whole = self.chosen(part_rows, 10**6, size, 5)
        assert len(set(whole)) == len(whole) == min(size, sum(map(sum, part_rows)))
        assert whole == sorted(whole)
        assert set(whole) <= {(file, row) for file, rows in enumerate(part_rows) for row in range(sum(rows))}
        shares = [self.chosen(part_rows, rows_per_unit, size, 5, part, parts) for part in range(parts)]
        assert [row for share in shares for row in share] == whole
        assert size < sum(map(sum, part_rows)) or max(map(len, shares)) - min(map(len, shares)) <= 1

    def test_every_row_has_the_same_chance(self):
        counts = np.zeros(100)
        for seed in range(200):
            for file, row in self.chosen([[40], [40], [20]], 33, 20, seed):
                counts[40 * file + row] += 1
        # 40 of 200 expected, with a standard deviation of 5.7.
        assert counts.min() > 40 - 5 * 5.7
        assert counts.max() < 40 + 5 * 5.7


def sampled(
    found: InputFacts,
    size: int,
    *,
    seed: int = 0,
    rows_per_unit: int = 10**6,
    filetype: str = "parquet",
    normalize: bool = True,
    field: pa.Field | None = None,
) -> np.ndarray:
    units = inputs.units(found.files, rows_per_unit)
    column = VectorColumn(filetype, field or pa.field("embeddings", VECTORS), found.dimension, normalize, {})
    return inputs.sample(units, column, size, seed)


class TestSample:
    @pytest.fixture(params=["parquet", "jsonl", "jsonl.gz"])
    def numbered(self, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[InputFacts, str]:
        """100 rows in 3 files of a format; the first value of each vector is its number."""
        return self.write_numbered(tmp_path, *request.param.partition(".")[::2])

    @staticmethod
    def write_numbered(tmp_path: Path, filetype: str, suffix: str = "") -> tuple[InputFacts, str]:
        for file in range(3):
            numbers = range(file * 40, min(100, file * 40 + 40))
            vectors = [[float(n), 1.0] for n in numbers]
            if filetype == "parquet":
                write(tmp_path / f"{file}.parquet", list(numbers), vectors, rows_per_group=7)
            else:
                lines = "".join(
                    json.dumps({"id": n, "embeddings": v}) + "\n" for n, v in zip(numbers, vectors, strict=True)
                )
                content = lines.encode()
                name = f"{file}.jsonl" + (".gz" if suffix else "")
                (tmp_path / name).write_bytes(gzip.compress(content) if suffix else content)
        return inspect(tmp_path, filetype=filetype), filetype

    def numbers(self, numbered: tuple[InputFacts, str], size: int, **arguments: Any) -> list[float]:
        return sampled(numbered[0], size, filetype=numbered[1], normalize=False, **arguments)[:, 0].tolist()

    @pytest.mark.parametrize("size", [1, 2, 50, 99, 100])
    def test_it_has_the_size_that_was_asked_without_replacement_in_the_order_of_the_files(self, numbered, size):
        found = self.numbers(numbered, size)
        assert len(found) == size
        assert found == sorted(set(found))
        assert set(found) <= set(range(100))

    @pytest.mark.parametrize("size", [100, 101, 10**6])
    def test_asked_for_all_rows_or_more_it_is_all_rows(self, numbered, size):
        assert self.numbers(numbered, size) == list(range(100))

    def test_it_depends_on_the_seed_and_on_nothing_else(self, numbered, monkeypatch):
        reference = self.numbers(numbered, 30, seed=5)
        assert self.numbers(numbered, 30, seed=5) == reference
        assert self.numbers(numbered, 30, seed=6) != reference
        for rows_per_unit in (1, 3, 10, 33, 80):
            assert self.numbers(numbered, 30, seed=5, rows_per_unit=rows_per_unit) == reference
        monkeypatch.setattr(parquet, "_BATCH_BYTES", 100)
        monkeypatch.setattr(jsonl, "_BLOCK_BYTES", 100)
        assert self.numbers(numbered, 30, seed=5) == reference

    def test_it_is_the_same_rows_from_parquet_and_jsonl(self, parquet_dataset, jsonl_dataset):
        parquet = sampled(inspect(parquet_dataset.path), 77)
        jsonl = sampled(inspect(jsonl_dataset.path, filetype="jsonl"), 77, filetype="jsonl")
        np.testing.assert_array_equal(parquet, jsonl)

    @pytest.mark.parametrize("normalize", [True, False])
    def test_rows_are_float32_and_of_length_one_if_asked(self, parquet_dataset, normalize):
        rows = sampled(inspect(parquet_dataset.path), 1000, normalize=normalize)
        assert rows.dtype == np.float32
        expected = parquet_dataset.embeddings
        if normalize:
            expected = expected / np.linalg.norm(expected.astype(np.float64), axis=1, keepdims=True)
        np.testing.assert_allclose(rows, expected, rtol=1e-6)

    @pytest.mark.parametrize("size", [3, 7, 100])
    def test_rows_that_cannot_be_used_are_left_out(self, tmp_path, size):
        good = [[1.0, 2.0], [3.0, 4.0], [-5.0, 6.0]]
        bad = [None, [], [1.0], [1.0, 2.0, 3.0], [float("nan"), 1.0], [float("inf"), 1.0], [0.0, 0.0]]
        path = write(tmp_path / "a.parquet", range(10), [bad[0], good[0], *bad[1:4], good[1], *bad[4:], good[2]])
        found = sampled(inspect(path, embedding_dim=2), size, normalize=False).tolist()
        assert all(row in good for row in found)
        if size >= 10:
            assert found == good

    def test_so_are_malformed_lines(self, tmp_path):
        path = write_lines(
            tmp_path / "a.jsonl", "oh", {"id": 1, "embeddings": [1, 0]}, "{", {"embeddings": [0, 2]}, "null", {"id": 3}
        )
        found = inspect(path, filetype="jsonl")
        assert found.num_rows == 6
        assert sampled(found, 6, filetype="jsonl").tolist() == [[1, 0], [0, 1]]

    def test_a_file_that_changed_since_it_was_planned_is_named(self, tmp_path):
        path = write(tmp_path / "a.parquet", range(50), [[1.0]] * 50)
        found = inspect(path)
        path.write_bytes(b"gone")
        with pytest.raises(UnitError, match=rf"{path} \(row group 0, rows 0 to 49\): "):
            sampled(found, 10)
