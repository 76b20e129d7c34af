from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import SCHEMA, VECTORS, copied, facts, inspect, parts_of, positions, read, sampled

from beam_semdedup.errors import InputError
from beam_semdedup.inputs.arrow import Arrow, _codec
from beam_semdedup.storage.folder import File

ROWS = np.random.default_rng(1).normal(size=(100, 4)).astype(np.float32)
TABLE = pa.table(
    {"id": range(100), "embeddings": pa.array(ROWS.tolist(), VECTORS), "text": [f"t{n}" for n in range(100)]}
)


def write(path: Path, table: pa.Table, stream: bool = False, rows: int = 7, compression: Any = None) -> Path:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (
        path.open("wb") as sink,
        (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema, options=options) as writer,
    ):
        writer.write_table(table, max_chunksize=rows)
    return path


@pytest.fixture(params=["file", "stream"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "stream")


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_all_rows_come_in_order_with_the_columns_that_are_asked_for(tmp_path, stream, compression):
    path = write(tmp_path / "a.arrow", TABLE, stream, compression=compression)
    found = facts(path, Arrow())
    assert found.num_rows == 100
    assert [part.num_rows for part in found.parts] == [7] * 14 + [2]
    assert found.schema == TABLE.schema
    assert found.column_bytes["embeddings"] > 1600
    table, batches = read(found.parts, Arrow())
    assert table.equals(TABLE.select(["id", "embeddings"]))
    assert positions(batches) == list(range(100))
    assert _codec(File(str(path))) == compression


@given(
    rows_per_batch=st.integers(1, 120),
    rows_per_unit=st.integers(1, 120),
    batch_bytes=st.integers(1, 3000),
    is_stream=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_units_hold_all_rows_once_however_they_are_cut(
    tmp_path_factory, rows_per_batch, rows_per_unit, batch_bytes, is_stream
):
    path = write(tmp_path_factory.mktemp("arrow") / "a.arrow", TABLE, is_stream, rows_per_batch)
    found = inspect(path, filetype="arrow")
    table, batches = read(parts_of(found, rows_per_unit), Arrow(batch_bytes), SCHEMA)
    assert table.equals(TABLE.select(["id", "embeddings"]))
    assert positions(batches) == list(range(100))


def test_files_of_other_programs(tmp_path):
    feather.write_feather(TABLE, tmp_path / "a.feather", compression="zstd", chunksize=30)
    frame = pl.DataFrame(
        {"id": range(100), "embeddings": pl.Series(ROWS, dtype=pl.Array(pl.Float32, 4)), "text": ["x"] * 100}
    )
    frame.write_ipc(tmp_path / "b.arrow", compression="lz4")
    frame.write_ipc_stream(tmp_path / "c.arrows")
    found = inspect(tmp_path, filetype="arrow", carried=["text"])
    assert (found.num_rows, found.dimension) == (300, 4)
    np.testing.assert_array_equal(sampled(found, 1000, normalize=False), np.concatenate([ROWS] * 3))


@pytest.mark.parametrize(
    "vectors",
    [
        pa.array(ROWS.tolist(), pa.large_list(pa.float64())),
        pa.array(ROWS.tolist(), pa.list_(pa.float32(), 4)),
        pa.array(ROWS.astype(np.float16).tolist(), pa.list_(pa.float16())),
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [4]), pa.array(ROWS.tolist(), pa.list_(pa.float32(), 4))
        ),
    ],
    ids=lambda vectors: str(vectors.type),
)
def test_vectors_of_any_type_of_list(tmp_path, stream, vectors):
    write(tmp_path / "a.arrow", pa.table({"id": range(100), "embeddings": vectors}), stream)
    found = inspect(tmp_path / "a.arrow", filetype="arrow")
    assert found.dimension == 4
    np.testing.assert_allclose(
        sampled(found, 1000, normalize=False, field=found.schema.field("embeddings")), ROWS, atol=2e-3
    )


def test_dictionaries_are_read_as_their_values_also_where_they_grow(tmp_path, stream):
    path = tmp_path / "a.arrow"
    ids = pa.chunked_array(
        [pa.array([f"k{n}" for n in range(start, start + 25)]).dictionary_encode() for start in range(0, 100, 25)]
    )
    table = TABLE.set_column(0, "id", ids if stream else ids.unify_dictionaries())
    write(path, table, stream, rows=10)
    found = inspect(path, filetype="arrow")
    table, batches = read(parts_of(found, 9), Arrow(), found.schema)
    assert table.column("id").to_pylist() == [f"k{n}" for n in range(100)]
    assert positions(batches) == list(range(100))


def test_files_without_rows_or_batches_are_there(tmp_path, stream):
    write(tmp_path / "a.arrow", TABLE[:0], stream)
    write(tmp_path / "b.arrow", TABLE, stream)
    assert inspect(tmp_path, filetype="arrow").num_rows == 100
    assert facts(tmp_path / "a.arrow", Arrow()).parts == ()


class TestBrokenOnes:
    def said(self, path: Path) -> str:
        def all_of_it() -> None:
            found = facts(path, Arrow())
            read(found.parts, Arrow(), found.schema)

        with pytest.raises(InputError) as raised:
            all_of_it()
        assert str(raised.value).startswith(f"{path}: ")
        assert "\n" not in str(raised.value)
        return str(raised.value)[len(str(path)) + 2 :]

    @pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.999])
    def test_a_truncated_one(self, tmp_path, stream, share):
        path = write(tmp_path / "a.arrow", TABLE, stream)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        self.said(path)

    def test_a_stream_that_was_cut_between_its_batches(self, tmp_path):
        path = write(tmp_path / "a.arrow", TABLE, stream=True)
        with path.open("rb+") as file:
            file.truncate(path.stat().st_size - 8)
        assert self.said(path) == "a stream without an end: it is truncated, or still written to"

    def test_two_streams_in_a_file(self, tmp_path):
        path = write(tmp_path / "a.arrow", TABLE, stream=True)
        path.write_bytes(path.read_bytes() * 2)
        assert self.said(path).endswith("bytes follow the end of the stream: it is damaged, or two")

    @pytest.mark.parametrize("content", [b"", b"x", b"ARROW1", b"\xff" * 100, b"{}", b"FEA1" + bytes(100)])
    def test_what_is_none(self, tmp_path, content):
        (tmp_path / "a.arrow").write_bytes(content)
        assert "not a readable Arrow file or stream" in self.said(tmp_path / "a.arrow")

    @pytest.mark.parametrize(
        "ids",
        [
            pa.Array.from_buffers(
                pa.string(), 3, [None, pa.py_buffer(np.array([0, 5, 900, 6], "i4")), pa.py_buffer(b"abcdef")]
            ),
            pa.Array.from_buffers(
                pa.string(), 3, [None, pa.py_buffer(np.array([0, 4, 2, 6], "i4")), pa.py_buffer(b"abcdef")]
            ),
        ],
        ids=["beyond the end", "backwards"],
    )
    def test_values_that_are_elsewhere(self, tmp_path, stream, ids):
        write(tmp_path / "a.arrow", pa.table({"id": ids, "embeddings": pa.array([[1.0]] * 3, VECTORS)}), stream)
        assert "is damaged" in self.said(tmp_path / "a.arrow")

    def test_a_text_that_is_none_is_no_damage(self, tmp_path, stream):
        ids = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"a"]).buffers())
        write(tmp_path / "a.arrow", pa.table({"id": ids, "embeddings": pa.array([[1.0]] * 2, VECTORS)}), stream)
        assert facts(tmp_path / "a.arrow", Arrow()).num_rows == 2

    def test_a_column_that_is_missing_and_one_of_another_type(self, tmp_path, stream):
        write(tmp_path / "a.arrow", TABLE.rename_columns(["key", "embeddings", "text"]), stream)
        with pytest.raises(InputError, match=r"no column 'id'; it has: key, embeddings, text"):
            inspect(tmp_path, filetype="arrow")
        write(tmp_path / "a.arrow", TABLE.set_column(1, "embeddings", TABLE.column("text")), stream)
        with pytest.raises(InputError, match="embedding column 'embeddings' is string, expected a list"):
            inspect(tmp_path, filetype="arrow")


class TestCopies:
    @pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
    def test_the_rows_that_are_not_listed_stay_as_they_are(self, tmp_path, stream, compression):
        schema = TABLE.schema.with_metadata({"huggingface": "{}"})
        path = write(tmp_path / "a.arrow", TABLE.cast(schema), stream, compression=compression)
        target, counts = copied(Arrow(), path, [0, 7, 99, 500], batch_bytes=100)
        assert counts == (100, 3)
        opened = (pa.ipc.open_stream if stream else pa.ipc.open_file)(pa.memory_map(str(target)))
        kept = opened.read_all()
        assert kept.equals(TABLE.filter(~np.isin(np.arange(100), [0, 7, 99])))
        assert kept.schema.equals(schema, check_metadata=True)
        assert _codec(File(str(target))) == compression

    def test_where_none_is_listed_the_file_stays_byte_for_byte(self, tmp_path, stream):
        path = write(tmp_path / "a.arrow", TABLE, stream)
        target, counts = copied(Arrow(), path, [500])
        assert counts == (100, 0)
        assert target.read_bytes() == path.read_bytes()

    def test_dictionaries_stay_and_so_do_the_metadata_of_file_and_batches(self, tmp_path, stream):
        path, tags = tmp_path / "a.arrow", pa.array(["a", "b"] * 50).dictionary_encode()
        table = TABLE.append_column("tag", tags)
        with path.open("wb") as sink:
            writer = (
                pa.ipc.new_stream(sink, table.schema)
                if stream
                else pa.ipc.new_file(sink, table.schema, metadata={"k": "v"})
            )
            with writer:
                for number, batch in enumerate(table.to_batches(max_chunksize=50)):
                    writer.write_batch(batch, custom_metadata={"number": str(number)})
        target, counts = copied(Arrow(), path, [1])
        assert counts == (100, 1)
        source = pa.memory_map(str(target))
        if stream:
            reader = pa.ipc.open_stream(source)
            batch, metadata = reader.read_next_batch_with_custom_metadata()
        else:
            reader = pa.ipc.open_file(source)
            batch, metadata = reader.get_batch_with_custom_metadata(0)
            assert reader.metadata == {b"k": b"v"}
        assert metadata[b"number"] == b"0"
        assert batch.column("tag").to_pylist() == ["a", *["a", "b"] * 24]
        assert pa.types.is_dictionary(batch.schema.field("tag").type)
