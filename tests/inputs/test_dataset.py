from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import VECTORS, inspect, parts_of, read, sampled, write, write_lines

from beam_semdedup.errors import InputError
from beam_semdedup.inputs import rows


def message(*paths: Any, **arguments: Any) -> str:
    """What the InputError says that inspecting the files raises."""
    with pytest.raises(InputError) as raised:
        inspect(*paths, **arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


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
            json.dumps({"id": 1, "embeddings": [1.0]}, indent=2).encode(),
            '{"id": "é", "embeddings": [1.0]}\n'.encode("utf-16"),
            '{"id": "é", "embeddings": [1.0]}\n{"id": "ü", "embeddings": [1.0]}\n'.encode("latin-1"),
        ],
        ids=["garbage", "pretty-printed", "UTF-16", "Latin-1"],
    )
    def test_a_jsonl_file_without_an_object_in_a_line_is_named_and_says_what_jsonl_is(self, tmp_path, content):
        (tmp_path / "a.jsonl").write_bytes(content)
        said = message(tmp_path, filetype="jsonl")
        assert re.fullmatch(
            f"{tmp_path}/a.jsonl: (no line is a JSON object|it is one JSON array).* object a line.*", said
        )

    @pytest.mark.parametrize("ids", [[2**63, 2**64 - 1], [1, 2**63], [1, 1.5]])
    def test_jsonl_ids_that_are_no_int64_are_to_be_written_as_strings(self, tmp_path, ids):
        write_lines(tmp_path / "a.jsonl", *({"id": i, "embeddings": [1.0]} for i in ids))
        said = message(tmp_path, filetype="jsonl")
        assert said.startswith(f"{tmp_path}/a.jsonl: id column 'id' is double, expected integer, string or binary; ")
        assert said.endswith(
            "integers become floats in pandas where one is missing: write them as Int64, or without that row; "
            "write integers beyond int64, which jsonl has as floats, and numbers with fractions as strings"
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
        assert message(path).startswith(f"{path}: column 'embeddings' in row group 0 cannot be read: ")

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
        for unit in parts_of(found, 10):
            table, _ = read([unit], found.format, found.schema)
            assert table.column("id").type == joined
            assert table.column("id").to_pylist() == [value]

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


class TestPartitions:
    """Columns that stand in the names of directories."""

    @pytest.mark.parametrize(
        ("texts", "type_", "expected"),
        [
            (["en", "de"], pa.string(), ["en", "de"]),
            (["9", "10"], pa.int64(), [9, 10]),
            (["-1", "__HIVE_DEFAULT_PARTITION__"], pa.int64(), [-1, None]),
            (["01", "10"], pa.string(), ["01", "10"]),
            (["9223372036854775807", "0"], pa.int64(), [2**63 - 1, 0]),
            (["9223372036854775808", "0"], pa.string(), [str(2**63), "0"]),
            (["a%2Fb%20c", ""], pa.string(), ["a/b c", ""]),
        ],
    )
    @pytest.mark.parametrize("filetype", ["parquet", "jsonl"])
    def test_they_are_columns(self, tmp_path, texts, type_, expected, filetype):
        for number, text in enumerate(texts):
            place = tmp_path / f"part={text}/{number}.{filetype}"
            if filetype == "parquet":
                write(place, [number, number + 10], [[1.0], [2.0]])
            else:
                place.parent.mkdir()
                write_lines(place, *({"id": n, "embeddings": [1.0]} for n in (number, number + 10)))
        found = inspect(tmp_path, filetype=filetype, carried=["part"])
        assert found.schema.field("part").type == type_
        for file in found.files:
            for unit in file.parts:
                (batch,) = rows.read(found.format, file.info, unit, found.schema)
                assert batch.table.column("part").to_pylist() == [expected[int(Path(unit.path).stem)]] * 2
                assert batch.table.column("part").type == type_

    def test_a_column_of_the_files_goes_before(self, tmp_path):
        write(tmp_path / "part=x/a.parquet", [1], [[1.0]], part=[5])
        assert inspect(tmp_path, carried=["part"]).schema.field("part").type == pa.int64()

    def test_what_some_files_have_so_and_some_not_is_no_column(self, tmp_path):
        write(tmp_path / "part=x/a.parquet", [1], [[1.0]])
        write(tmp_path / "b.parquet", [1], [[1.0]])
        with pytest.raises(InputError, match=r"no column 'part'; it has: id, embeddings"):
            inspect(tmp_path, carried=["part"])


def test_a_missing_column_lists_some_of_many_those_most_like_it_first(tmp_path):
    many = {f"column{n}": [n] for n in range(765)}
    write(tmp_path / "a.parquet", [1], [[1.0]], **many, emb=[1], langauge=["en"])
    with pytest.raises(InputError) as raised:
        inspect(tmp_path, carried=["language"])
    said = str(raised.value)
    assert "no column 'language'; it has: langauge, " in said
    assert said.endswith(" and 749 others")
    assert len(said.partition("; it has: ")[2].split(", ")) == 20
