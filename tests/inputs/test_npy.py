from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import copied, facts, inspect, parts_of, positions, read, sampled

from beam_semdedup.errors import InputError
from beam_semdedup.inputs.npy import Npy
from beam_semdedup.storage.folder import FileInfo

DTYPES = ["<f2", "<f4", ">f4", "<f8", ">f8", "g", "i1", "u1", "<i2", ">u2", "<i4", "<u4", "<i8", ">i8", "<u8"]


def saved(path: Path, array: np.ndarray, **options: Any) -> Path:
    np.save(path, array, **options)
    return path


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    values = column.combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_of_any_width_and_order_are_read_as_they_are(tmp_path, dtype, order):
    rows = np.random.default_rng(1).integers(0, 100, (1000, 7)).astype(dtype)
    path = saved(tmp_path / "a.npy", np.asarray(rows, order=order))
    found = facts(path, Npy())
    assert (found.num_rows, found.schema.names) == (1000, ["embeddings"])
    kind = Npy(batch_bytes=200)
    assert kind.dimension(found, "embeddings") == 7
    table, batches = read(found.parts, kind, found.schema)
    np.testing.assert_array_equal(matrix(table.column(0)), rows.astype(np.float64))
    assert len(batches) > 2
    assert positions(batches) == list(range(1000))


@given(
    rows=st.integers(0, 300),
    rows_per_unit=st.integers(1, 400),
    batch_bytes=st.integers(1, 5000),
    order=st.sampled_from("CF"),
)
@settings(max_examples=40, deadline=None)
def test_units_hold_all_rows_once_however_they_are_cut(tmp_path_factory, rows, rows_per_unit, batch_bytes, order):
    array = np.asarray(np.arange(rows * 3, dtype=np.float32).reshape(rows, 3), order=order)
    path = saved(tmp_path_factory.mktemp("npy") / "a.npy", array)
    if not rows:
        assert facts(path, Npy()).parts == ()
        return
    found = inspect(path, filetype="npy", ids=[])
    units = parts_of(found, rows_per_unit)
    table, batches = read(units, Npy(batch_bytes), found.schema.remove(0))
    np.testing.assert_array_equal(matrix(table.column(0)), array)
    assert positions(batches) == list(range(rows))


def test_many_parts_are_planned_and_joined(tmp_path, monkeypatch):
    monkeypatch.setattr("beam_semdedup.inputs.npy._PART_ROWS", 10)
    array = np.random.default_rng(2).normal(size=(95, 4)).astype(np.float32)
    found = inspect(saved(tmp_path / "a.npy", array), filetype="npy", ids=[])
    assert len(found.files[0].parts) == 10
    assert [unit.num_rows for unit in parts_of(found, 30)] == [30, 30, 30, 5]
    np.testing.assert_array_equal(sampled(found, 1000, normalize=False, field=found.schema.field(1)), array)


@pytest.mark.parametrize(
    ("ids", "type_"),
    [
        (np.arange(5, dtype="<i4"), pa.int32()),
        (np.arange(5, dtype=">u8"), pa.uint64()),
        (np.array(["a", "日本", "", "x" * 50, "d"]), pa.string()),
        (np.array(["a", "日本", "", "x" * 50, "d"]).astype(">U50"), pa.string()),
        (np.array([b"a", b"bc", b"", b"d", b"e"]), pa.binary()),
    ],
)
def test_an_array_of_one_dimension_is_ids(tmp_path, ids, type_):
    found = facts(saved(tmp_path / "ids.npy", ids), Npy())
    assert found.schema == pa.schema([("id", type_)])
    table, _ = read(found.parts, Npy(), found.schema)
    assert table.column("id").to_pylist() == ids.tolist()


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/unpickled-by-semdedup"),))


class TestBrokenOnes:
    def said(self, path: Path) -> str:
        with pytest.raises(InputError) as raised:
            facts(path, Npy())
        assert str(raised.value).startswith(f"{path}: ")
        assert "\n" not in str(raised.value)
        return str(raised.value)[len(str(path)) + 2 :]

    def test_objects_are_refused_and_never_unpickled(self, tmp_path):
        objects = np.empty(3, dtype=object)
        objects[:] = [Evil(), 1, 2]
        path = saved(tmp_path / "a.npy", objects, allow_pickle=True)
        assert self.said(path) == "an array of Python objects, which is a pickle and could run code: not read"
        np.save(path, np.zeros(2, dtype=[("a", object)]), allow_pickle=True)
        assert "Python objects" in self.said(path)
        path.write_bytes(pickle.dumps(Evil()))
        assert "not a readable npy file" in self.said(path)
        assert not Path("/tmp/unpickled-by-semdedup").exists()

    @pytest.mark.parametrize("cut", [0, 3, 8, 60, 128, 1000, 1727])
    def test_a_truncated_file(self, tmp_path, cut):
        path = saved(tmp_path / "a.npy", np.ones((100, 4), np.float32))
        assert path.stat().st_size == 1728
        path.write_bytes(path.read_bytes()[:cut])
        said = self.said(path)
        assert "not a readable npy file" in said if cut < 128 else said.endswith("it is truncated, or damaged")

    def test_a_text_that_is_none_of_unicode(self, tmp_path):
        path = saved(tmp_path / "ids.npy", np.array(["ab", "cd"]))
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
        found = facts(path, Npy())
        with pytest.raises(InputError, match=r"ids\.npy: rows 0 to 1 are damaged: UnicodeDecodeError"):
            read(found.parts, Npy(), found.schema)

    def test_what_follows_the_array(self, tmp_path):
        path = saved(tmp_path / "a.npy", np.ones((100, 4), np.float32))
        path.write_bytes(path.read_bytes() * 2)
        assert self.said(path).endswith("it is damaged, or no npy file alone")

    @pytest.mark.parametrize(
        "array",
        [
            np.float32(1),
            np.ones(4, np.float32),
            np.ones((2, 3, 4), np.float32),
            np.ones((3, 0), np.float32),
            np.ones((3, 2), bool),
            np.ones((3, 2), complex),
            np.array([["a", "b"]]),
            np.zeros(3, dtype=[("x", "f4"), ("y", "f4")]),
            np.array(["2020-01-01"], dtype="datetime64[D]"),
            np.zeros((3, 2), dtype="V2"),  # as NumPy stores bfloat16
        ],
    )
    def test_an_array_of_another_shape_or_type(self, tmp_path, array):
        path = saved(tmp_path / "a.npy", array)
        assert self.said(path) == (
            f"an array of shape {array.shape} and type {array.dtype}, expected (n, d) floats or integers, or as ids "
            "(n,) integers or texts"
        )

    @pytest.mark.parametrize(
        "header",
        [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (10**30, 4), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000000000000000000, 4), }",
            "{'descr': '<U0', 'fortran_order': False, 'shape': (100000000000000000000000000,), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 0), }",
            "{'descr': '|O', 'fortran_order': False, 'shape': (4,), }",
            "{'descr': 'no', 'fortran_order': False, 'shape': (4,), }",
            "{'descr': '<f4', 'shape': (4,), }",
            "__import__('os').system('touch /tmp/unpickled-by-semdedup')",
            "",
        ],
    )
    def test_a_header_that_lies(self, tmp_path, header):
        text = header.encode().ljust(117) + b"\n"
        (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(64))
        self.said(tmp_path / "a.npy")
        assert not Path("/tmp/unpickled-by-semdedup").exists()

    def test_files_of_two_dimensions_are_an_error_that_names_both(self, tmp_path):
        saved(tmp_path / "a.npy", np.ones((3, 4), np.float32))
        saved(tmp_path / "b.npy", np.ones((3, 5), np.float16))
        with pytest.raises(InputError, match=r"has dimension 4 in .*a\.npy and 5 in .*b\.npy: deduplicate them"):
            inspect(tmp_path, filetype="npy", ids=[])

    def test_a_shard_without_rows_is_no_error_and_all_such_are(self, tmp_path):
        saved(tmp_path / "a.npy", np.ones((0, 4), np.float32))
        with pytest.raises(InputError, match="1 file without a single row"):
            inspect(tmp_path, filetype="npy", ids=[])
        saved(tmp_path / "b.npy", np.ones((2, 4), np.float16))
        assert inspect(tmp_path, filetype="npy", ids=[]).num_rows == 2

    def test_vectors_without_ids_are_an_error_that_says_what_to_give(self, tmp_path):
        saved(tmp_path / "a.npy", np.ones((2, 4), np.float16))
        with pytest.raises(InputError, match=r"no column 'id'; it has: embeddings; where the rows have no ids, give"):
            inspect(tmp_path, filetype="npy")


class TestCopies:
    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("dtype", ["<f2", ">f4", "<i8"])
    def test_arrays_are_written_as_they_are_stored_without_the_listed_rows(self, tmp_path, dtype, order):
        rows = np.asarray(np.random.default_rng(3).integers(0, 9, (50, 3)).astype(dtype), order=order)
        path, gone = saved(tmp_path / "a.npy", rows), {0, 7, 49}
        targets = [tmp_path / "kept", tmp_path / "array"]

        def is_listed(numbers: pa.ChunkedArray) -> np.ndarray:
            return np.isin(numbers.to_numpy(), list(gone))

        kind = Npy(batch_bytes=40)
        assert kind.copies("x/a.npy", arrays=True) == ("x/a.kept.npy", "x/a.npy")
        assert kind.copies("x/a.npy", arrays=False) == ("x/a.kept.npy",)
        assert kind.copy_without(FileInfo(str(path)), targets, None, is_listed, 1 << 20)[:2] == (50, 3)
        kept = np.load(targets[0])
        assert kept.tolist() == [row for row in range(50) if row not in gone]
        copy = np.load(targets[1], mmap_mode="r")
        assert (copy.dtype, copy.flags.f_contiguous) == (np.dtype(dtype), order == "F")
        np.testing.assert_array_equal(copy, rows[kept])

    def test_ids_lose_the_listed_ones(self, tmp_path):
        path = saved(tmp_path / "ids.npy", np.array(["a", "b", "c"]))
        target, counts = copied(Npy(), path, ["b", "x"])
        assert counts == (3, 1)
        assert np.load(target).tolist() == [0, 2]


def test_an_array_in_memory_is_as_one_on_a_disk(tmp_path):
    sink = io.BytesIO()
    np.lib.format.write_array(sink, np.ones((3, 2), np.float32), version=(2, 0))
    (tmp_path / "a.npy").write_bytes(sink.getvalue())
    assert facts(tmp_path / "a.npy", Npy()).num_rows == 3
