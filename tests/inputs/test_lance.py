"""Datasets that pylance writes, read by their fragments, and copied; also damaged ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import Place, inspect, parts_of, positions, read, sampled

from beam_semdedup.errors import InputError, RunError
from beam_semdedup.inputs.ids import Places
from beam_semdedup.inputs.lance import _VERSIONS, Lance, _reached
from beam_semdedup.inputs.listing import check_unchanged, filetype_of, list_files, list_ids
from beam_semdedup.storage.folder import FileInfo, Folder, Found

lance = pytest.importorskip("lance")
ROWS = np.random.default_rng(1).normal(size=(100, 4)).astype(np.float32)


def table(rows: range = range(100), **columns: Any) -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS[list(rows)].reshape(-1)), 4)
    texts = [f"text {row}" for row in rows]
    return pa.table({"id": pa.array(rows, pa.int64()), "embeddings": vectors, "text": texts, **columns})


def written(place: Path, content: pa.Table | None = None, **options: Any) -> Path:
    """A dataset of four fragments, of 30 rows but for the last."""
    lance.write_dataset(table() if content is None else content, str(place), max_rows_per_file=30, **options)
    return place


def files_of(*places: Path, filetype: str | None = None) -> list[FileInfo]:
    return list_files(Place([str(place) for place in places], filetype))  # type: ignore[arg-type]


def data_files(place: Path) -> list[Path]:
    """The first data file of each fragment."""
    return [place / "data" / f.data_files()[0].path for f in lance.dataset(str(place)).get_fragments()]


class TestRows:
    def test_each_fragment_is_a_file_and_all_rows_come_in_order(self, tmp_path):
        files = files_of(written(tmp_path / "a.lance"))
        assert [file.url for file in files] == sorted(map(str, data_files(tmp_path / "a.lance")))
        assert filetype_of(files) == "lance"
        found = inspect(tmp_path / "a.lance", filetype="lance", carried=["text"])
        assert (found.num_rows, found.dimension, found.schema.names) == (100, 4, ["id", "embeddings", "text"])
        assert 6 < found.row_bytes(["text"]) < 20
        assert found.row_bytes(["nothing"]) == 0
        read_back, _ = read(parts_of(found, 1000), Lance())
        assert read_back.sort_by("id").column("id").to_pylist() == list(range(100))
        assert Lance().where(found.files[0].parts[0].piece).endswith("of version 1")

    @given(
        gone=st.sets(st.integers(0, 99), max_size=60),
        rows_per_unit=st.integers(1, 120),
        batch_bytes=st.integers(1, 3000),
    )
    @settings(max_examples=20, deadline=None)
    def test_units_hold_all_rows_that_are_left_once_however_they_are_cut(
        self, tmp_path_factory, gone, rows_per_unit, batch_bytes
    ):
        place = written(tmp_path_factory.mktemp("lance") / "a.lance")
        if gone:
            lance.dataset(str(place)).delete(f"id in ({', '.join(map(str, gone))})")
        found = inspect(place, filetype="lance")
        read_back, batches = read(parts_of(found, rows_per_unit), Lance(batch_bytes))
        left = [row for row in range(100) if row not in gone]
        assert sorted(read_back.column("id").to_pylist()) == left
        called = np.concatenate([batch.places for batch in batches])
        assert called.tolist() == [row % 30 for row in read_back.column("id").to_pylist()]
        sizes = [file.num_rows for file in found.files]
        assert positions(batches) == [row for size in sizes for row in range(size)]
        np.testing.assert_array_equal(np.sort(sampled(found, 1000, normalize=False)), np.sort(_in_files(found, gone)))

    @pytest.mark.parametrize(
        "vectors",
        [
            pa.array(ROWS.astype(np.float16).tolist(), pa.list_(pa.float16(), 4)),
            pa.array(ROWS.astype(np.float64).tolist(), pa.list_(pa.float64(), 4)),
            pa.array(ROWS.tolist(), pa.list_(pa.float32())),
            pa.array(ROWS.tolist(), pa.large_list(pa.float32())),
        ],
        ids=lambda vectors: str(vectors.type),
    )
    def test_vectors_of_any_type_of_list(self, tmp_path, vectors):
        place = tmp_path / "a.lance"
        lance.write_dataset(pa.table({"id": range(100), "embeddings": vectors}), str(place))
        found = inspect(place, filetype="lance")
        assert found.dimension == 4
        field = found.schema.field("embeddings")
        np.testing.assert_allclose(sampled(found, 1000, normalize=False, field=field), ROWS, atol=2e-3)

    def test_columns_that_were_added_belong_to_the_fragments(self, tmp_path):
        place = written(tmp_path / "a.lance")
        lance.dataset(str(place)).add_columns({"more": "id * 2"})
        assert len(list((place / "data").iterdir())) == 8
        found = inspect(place, filetype="lance", carried=["more"])
        assert len(found.files) == 4
        schema = pa.schema([("id", pa.int64()), ("more", pa.int64())])
        back, _ = read(parts_of(found, 1000), Lance(), schema)
        assert back.column("more").to_pylist() == [2 * row for row in back.column("id").to_pylist()]

    @pytest.mark.parametrize("version", ["legacy", "2.0", "2.1", "2.2"])
    def test_datasets_of_every_storage_version(self, tmp_path, version):
        place = written(tmp_path / "a.lance", data_storage_version=version)
        lance.dataset(str(place)).delete("id < 10")
        found = inspect(place, filetype="lance")
        back, batches = read(parts_of(found, 7), Lance())
        assert sorted(back.column("id").to_pylist()) == list(range(10, 100))
        called = np.concatenate([batch.places for batch in batches])
        assert called.tolist() == [row % 30 for row in back.column("id").to_pylist()]


def _in_files(found: Any, gone: set[int]) -> np.ndarray:
    """The rows that are left, in the order of the files."""
    starts = [int(file.info.version.rpartition(" ")[2]) * 30 for file in found.files]
    rows = [row for start in starts for row in range(start, min(start + 30, 100)) if row not in gone]
    return ROWS[rows]


class TestVersions:
    def test_what_was_planned_is_read_whatever_is_committed_since(self, tmp_path):
        place = written(tmp_path / "a.lance")
        found = inspect(place, filetype="lance")
        dataset = lance.dataset(str(place))
        dataset.delete("id % 2 = 0")
        lance.write_dataset(table(range(50)), str(place), mode="append")
        lance.dataset(str(place)).optimize.compact_files()
        back, _ = read(parts_of(found, 1000), Lance())
        assert sorted(back.column("id").to_pylist()) == list(range(100))
        place_of = Place([str(place)], "lance")
        check_unchanged(place_of, [file.info for file in found.files])  # type: ignore[arg-type]

    def test_a_file_is_another_in_each_version_and_in_a_dataset_that_was_written_anew(self, tmp_path):
        place = written(tmp_path / "a.lance")
        first = files_of(place)
        assert first == files_of(place)
        lance.write_dataset(table(range(5)), str(place), mode="append")
        assert set(first).isdisjoint(files_of(place))
        found = inspect(place, filetype="lance")
        for path in sorted(place.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        written(place)
        assert set(first).isdisjoint(files_of(place))
        with pytest.raises(InputError):
            read(parts_of(found, 1000), Lance())

    def test_branches_are_not_read(self, tmp_path):
        place = written(tmp_path / "a.lance")
        branch = lance.dataset(str(place)).create_branch("other")
        branch.insert(table(range(10)))
        assert list((place / "tree").rglob("*.lance"))
        assert inspect(tmp_path, filetype="lance").num_rows == 100

    def test_ids_are_in_a_column_or_places(self, tmp_path):
        place = Place([str(written(tmp_path / "a.lance"))], "lance")
        for given_as, expected in (({"id_field": "id"}, None), ({"id_field": None}, [])):
            p = type("P", (), {**vars(place), "ids_path": None, **given_as})()
            assert list_ids(p, []) == expected
        p.ids_path = "ids"
        with pytest.raises(InputError, match="ids_path: rows of lance have their ids in a column, id_field, or"):
            list_ids(p, [])


class TestMistakes:
    def said(self, place: Path) -> str:
        def read_all() -> None:
            read(parts_of(inspect(place, filetype="lance"), 1000), Lance())

        with pytest.raises(InputError) as raised:
            read_all()
        return str(raised.value)

    def test_a_data_file_that_is_gone_is_named(self, tmp_path):
        place = written(tmp_path / "a.lance")
        gone = data_files(place)[2]
        gone.unlink()
        assert self.said(place) == (
            f"{gone}: not there, though fragment 2 of version 1 names it: the dataset is not whole"
        )

    def test_a_deletion_file_that_is_gone_is_an_error(self, tmp_path):
        place = written(tmp_path / "a.lance")
        lance.dataset(str(place)).delete("id = 3")
        for path in (place / "_deletions").iterdir():
            path.unlink()
        assert str(place) in self.said(place)

    @pytest.mark.parametrize("damage", [b"", b"LANC", bytes(200), None])
    def test_a_manifest_that_is_none_is_named(self, tmp_path, damage):
        place = written(tmp_path / "a.lance")
        (manifest,) = (place / _VERSIONS).glob("*.manifest")
        whole = manifest.read_bytes()
        manifest.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
        assert self.said(place).startswith(f"{place}: Lance cannot read or change it: ")

    @pytest.mark.parametrize("damage", [b"", bytes(3000), None])
    def test_a_data_file_that_is_none_is_named(self, tmp_path, damage):
        place = written(tmp_path / "a.lance")
        broken = data_files(place)[1]
        whole = broken.read_bytes()
        broken.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
        said = self.said(place)
        assert said.startswith(f"{broken}: Lance cannot read or change it: ")
        assert ".rs:" not in said

    def test_a_data_file_alone_is_no_input(self, tmp_path):
        place = written(tmp_path / "a.lance")
        file = data_files(place)[0]
        assert (
            self.said(file) == f"{file}: a data file of a Lance dataset, which is read as a whole: give its directory"
        )

    def test_vectors_of_two_lengths_are_told(self, tmp_path):
        written(tmp_path / "in/a.lance")
        longer = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(500, dtype=np.float32)), 5)
        written(tmp_path / "in/b.lance", table().set_column(1, "embeddings", longer))
        assert "'embeddings' has dimension 4 in " in self.said(tmp_path / "in")

    def test_without_pylance_it_is_named(self, tmp_path, monkeypatch):
        place = written(tmp_path / "a.lance")
        monkeypatch.setitem(__import__("sys").modules, "lance", None)
        assert self.said(place).endswith('pip install "beam-semdedup[lance]"')

    def test_what_is_no_dataset_stays_as_it_is(self):
        found = Found([FileInfo("/d/a.parquet")], ["/d/_tmp", "/d/_versions2/x"])
        assert Lance().chosen(found) == found
        found = Found([FileInfo("/d/a.parquet")], ["/d/_versions"])
        assert Lance().chosen(found) == found


class TestPlaces:
    def test_storage_options_have_the_names_that_lance_has(self):
        options = {
            "key": "k",
            "secret": "s",
            "client_kwargs": {"endpoint_url": "http://x:1"},
            "use_listings_cache": False,
        }
        assert _reached(Folder("s3a://b/a.lance", options)) == (
            "s3://b/a.lance",
            {
                "aws_access_key_id": "k",
                "aws_secret_access_key": "s",
                "aws_endpoint": "http://x:1",
                "aws_region": "us-east-1",
                "allow_http": "true",
            },
        )
        assert _reached(Folder("gs://b/a.lance")) == ("gs://b/a.lance", {})
        assert _reached(Folder("s3://b/a", {"anon": True}))[1] == {"aws_skip_signature": "true"}

    @pytest.mark.parametrize(
        ("url", "options", "said"),
        [
            ("s3://b/a.lance", {"profile": "secret"}, "Lance has no name for profile"),
            ("gs://b/a.lance", {"token": "secret"}, "Lance has no name for token"),
            ("ftp://h/a.lance", {}, "Lance reads local disks, s3, gs and az"),
        ],
    )
    def test_what_lance_does_not_know_is_told_without_its_value(self, url, options, said):
        with pytest.raises(InputError, match=said) as raised:
            _reached(Folder(url, options))
        assert "secret" not in str(raised.value)


class TestCopies:
    def copy(self, place: Path, gone: set[int], by_place: bool = False, batch_bytes: int = 4 << 20) -> tuple[Path, Any]:
        """A dataset of copies of the fragments without some rows; by their ids, or by their numbers in each file."""
        kind, copy, receipts, counts = Lance(batch_bytes), place.parent / "copy", [], np.zeros(2, dtype=int)
        (copy / "data").mkdir(parents=True)
        (copy / _VERSIONS).mkdir()
        for file in files_of(place):
            target = copy / "data" / file.name
            target.touch()
            copied = kind.copy_without(
                file,
                [target],
                None if by_place else pa.field("id", pa.int64()),
                lambda ids: np.isin(ids.to_numpy(), list(gone)),
                1 << 20,
            )
            counts += copied[:2]
            receipts.append(copied.receipt)
        (copy / kind.first_manifest).write_bytes(kind.first_version(Folder(str(place)), receipts, "key"))
        return copy, counts.tolist()

    @pytest.mark.parametrize("batch_bytes", [100, 4 << 20])
    def test_a_copy_has_the_other_rows_in_order_and_nothing_else_changes(self, tmp_path, batch_bytes):
        content = table(
            label=pa.array([f"l{row % 3}" for row in range(100)]).dictionary_encode(),
            deep=pa.array([{"a": row, "b": [row]} for row in range(100)]),
            none=pa.nulls(100, pa.int32()),
        ).replace_schema_metadata({"k": "v"})
        place = written(tmp_path / "a.lance", content)
        lance.dataset(str(place)).delete("id = 50")
        gone = {0, 29, 30, *range(60, 90), 99, 500}
        copy, counts = self.copy(place, gone, batch_bytes=batch_bytes)
        assert counts == [99, 34]
        found = lance.dataset(str(copy))
        found.validate()
        kept = [row for row in range(100) if row not in gone | {50}]
        assert found.schema == lance.dataset(str(place)).schema
        assert found.to_table().to_pylist() == content.take(kept).to_pylist()
        assert [f.count_rows() for f in found.get_fragments()] == [28, 28, 9]
        found.delete("id = 1")
        lance.write_dataset(content, str(copy), mode="append")
        assert lance.dataset(str(copy)).count_rows() == len(kept) - 1 + 100

    def test_rows_go_by_their_places(self, tmp_path):
        place = written(tmp_path / "a.lance")
        lance.dataset(str(place)).delete("id < 5")
        copy, counts = self.copy(place, {0, 7}, by_place=True)
        assert counts == [95, 7]
        assert set(range(100)) - set(lance.dataset(str(copy)).to_table().column("id").to_pylist()) == {
            *range(5), 7, 30, 37, 60, 67, 90, 97,
        }  # fmt: skip

    def test_added_columns_blobs_and_stable_row_ids_are_kept(self, tmp_path):
        blobs = pa.array([b"x" * row for row in range(100)], pa.large_binary())
        field = pa.field("blob", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
        content = table().append_column(field, blobs)
        place = written(tmp_path / "a.lance", content, enable_stable_row_ids=True, data_storage_version="2.1")
        lance.dataset(str(place)).add_columns({"more": "id * 2"})
        copy, _ = self.copy(place, {*range(90)})
        found = lance.dataset(str(copy))
        assert found.has_stable_row_ids
        back = found.to_table(blob_handling="all_binary")
        assert back.column("more").to_pylist() == [2 * row for row in range(90, 100)]
        assert back.column("blob").to_pylist() == [b"x" * row for row in range(90, 100)]

    def test_blobs_that_lie_beside_the_data_files_are_not_copied(self, tmp_path):
        field = pa.field("blob", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
        content = table().append_column(field, pa.array([b"x"] * 100, pa.large_binary()))
        place = written(tmp_path / "a.lance", content)
        with pytest.raises(InputError, match="give output_path=input_path to delete rows in a new version"):
            self.copy(place, {1})

    def test_of_all_rows_no_fragment_is_left(self, tmp_path):
        place = written(tmp_path / "a.lance")
        copy, counts = self.copy(place, {*range(100)})
        assert counts == [100, 100]
        assert lance.dataset(str(copy)).count_rows() == 0


class TestDeletions:
    def deleted(self, place: Path, gone: set[int]) -> list[str]:
        def is_listed(ids: pa.ChunkedArray) -> np.ndarray:
            return np.isin(ids.to_numpy(), list(gone))

        copies = [Lance().delete(file, pa.field("id", pa.int64()), is_listed, 1 << 20) for file in files_of(place)]
        assert sum(copy.rows_read for copy in copies) == lance.dataset(str(place)).count_rows()
        return [copy.receipt for copy in copies]

    def test_rows_are_gone_in_the_next_version_and_only_when_it_is_committed(self, tmp_path):
        place = written(tmp_path / "a.lance")
        lance.dataset(str(place)).delete("id = 31")
        receipts = self.deleted(place, {3, 31, 32, *range(60, 90)})
        assert [bool(json.loads(r)["metadata"]) if r else None for r in sorted(receipts)] == [None, True, True, False]
        dataset = Folder(str(place))
        assert lance.dataset(str(place)).count_rows() == 99
        assert not Lance().is_committed(dataset, "key")
        lance.write_dataset(table(range(5)), str(place), mode="append")
        assert Lance().commit(dataset, receipts, "key") == 4
        assert Lance().is_committed(dataset, "key")
        assert not Lance().is_committed(dataset, "ke")
        left = [row for row in range(100) if row not in {3, 31, 32, *range(60, 90)}] + [*range(5)]
        assert lance.dataset(str(place)).to_table().column("id").to_pylist() == left
        assert lance.dataset(str(place), version=2).count_rows() == 99

    def test_others_that_changed_the_same_rows_are_told(self, tmp_path):
        place = written(tmp_path / "a.lance")
        receipts = self.deleted(place, {3})
        lance.dataset(str(place)).delete("id = 4")
        with pytest.raises(RunError, match="rows of the same fragments were changed since version 1, which was read"):
            Lance().commit(Folder(str(place)), receipts, "key")
        assert lance.dataset(str(place)).count_rows() == 99


def test_ids_by_place_say_where_in_the_data_file_a_row_is(tmp_path):
    place = written(tmp_path / "a.lance")
    lance.dataset(str(place)).delete("id < 95")
    found = inspect(place, filetype="lance")
    _, batches = read(parts_of(found, 10), Lance())
    assert Places(found.files[0].info.url).of(batches[0].places).to_pylist() == [
        f"{data_files(place)[0]}:{row}" for row in range(5, 10)
    ]
