import datetime
import decimal
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_semdedup.storage import segments, tables
from beam_semdedup.storage.damage import DamagedFile
from beam_semdedup.storage.folder import File, Folder
from beam_semdedup.storage.records import Record

METADATA = [
    pa.field("text", pa.string()),
    pa.field("long_text", pa.large_string()),
    pa.field("score", pa.float64()),
    pa.field("flag", pa.bool_()),
    pa.field("when", pa.timestamp("us", tz="UTC")),
    pa.field("price", pa.decimal128(9, 2)),
    pa.field("tags", pa.list_(pa.string())),
    pa.field("place", pa.struct([("x", pa.int8()), ("y", pa.string())])),
    pa.field("nothing", pa.null()),
]
ID_TYPES = [pa.int64(), pa.uint64(), pa.string(), pa.large_string(), pa.binary(), pa.binary(8)]


def typed_id(number, type_):
    if pa.types.is_integer(type_):
        return number
    text = f"id-{number:05d}"
    return text.encode() if "binary" in str(type_) else text


def make_table(centroids, id_type=None, dimension=3, seed=0):
    rng = np.random.default_rng(seed)
    n, id_type = len(centroids), id_type or pa.int64()
    carried = [
        [None if i % 3 == 0 else f"text {i} ü" * (i % 5) for i in range(n)],
        [None if i % 4 == 0 else "long" * i for i in range(n)],
        [[None, float("nan"), 0.5][i % 3] for i in range(n)],
        [[None, True, False][i % 3] for i in range(n)],
        [None if i % 2 else datetime.datetime(2024, 1, 1 + i % 28, tzinfo=datetime.UTC) for i in range(n)],
        [None if i % 5 else decimal.Decimal(f"{i}.25") for i in range(n)],
        [None if i % 7 == 0 else [None if j % 2 else str(j) for j in range(i % 4)] for i in range(n)],
        [None if i % 4 == 1 else {"x": i % 100, "y": None} for i in range(n)],
        [None] * n,
    ]
    columns = [
        pa.array([typed_id(i, id_type) for i in range(n)], id_type),
        pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=n * dimension).astype(np.float32)), dimension),
        pa.array(centroids, pa.int32()),
        pa.array(rng.random(n).astype(np.float32)),
        pa.array(rng.random(n).astype(np.float32)),
        pa.array(np.full(n, 7), pa.int32()),
        pa.array(np.arange(n), pa.int64()),
        *(pa.array(values, field.type) for values, field in zip(carried, METADATA, strict=True)),
    ]
    return pa.table(columns, schema=segments.segment_schema(id_type, dimension, METADATA))


def as_strings(table):
    """The rows, comparable though they hold NaN."""
    return [str(row) for row in table.to_pylist()]


@dataclass(frozen=True)
class Facts(Record):
    unit: str = "u"
    num_rows: int = 0


def assert_round_trip(folder, table, width):
    """The segments hold the rows of their keys, in the order of the table, and the index says the same."""
    facts = Facts(num_rows=table.num_rows)
    index = segments.write(folder, "s.arrow", table, width, facts)
    references = index.segments
    found = segments.read_index(folder.file("s.arrow"), Facts)
    assert (found[0], found[1].file, found[1].segments) == (facts, index.file, references)
    assert (index.file.num_segments, index.file.num_rows) == (len(references), len(table))
    keys = table.column("centroid").to_numpy() // width
    assert [s.key for s in references] == sorted(set(keys.tolist()))
    batches = segments.read(folder, references, table.schema)
    for segment, batch in zip(references, batches, strict=True):
        expected = table.take(pa.array(np.flatnonzero(keys == segment.key)))
        assert (segment.file, segment.num_rows) == ("s.arrow", expected.num_rows)
        assert as_strings(batch) == as_strings(expected)
        batch.validate(full=True)
    return references, batches


@pytest.mark.parametrize("id_type", ID_TYPES, ids=str)
def test_rows_come_back_with_every_type_and_null(tmp_path, id_type):
    assert_round_trip(Folder(str(tmp_path)), make_table([2, 0, 2, 5, 0, 2, 2, 0, 5, 2, 1, 1] * 3, id_type), 1)


@given(
    centroids=st.lists(st.integers(0, 30), max_size=40),
    width=st.sampled_from([1, 2, 7, 100]),
    cut=st.integers(0, 40),
    dimension=st.sampled_from([1, 3, 16]),
)
@settings(max_examples=40)
def test_rows_come_back_by_key_whatever_the_width(tmp_path_factory, centroids, width, cut, dimension):
    table = make_table(centroids, dimension=dimension)
    chunked = pa.concat_tables([table[:cut], table[:0], table[cut:]])
    references, _ = assert_round_trip(Folder(str(tmp_path_factory.getbasetemp())), chunked, width)
    assert sum(s.num_rows for s in references) == len(centroids)


def test_a_thousand_keys_have_a_segment_each(tmp_path):
    centroids = np.random.default_rng(0).permutation(np.arange(3000) % 1000).tolist()
    references, _ = assert_round_trip(Folder(str(tmp_path)), make_table(centroids), 1)
    assert len(references) == 1000


def test_a_table_that_is_a_slice_is_written_as_it_is_seen(tmp_path):
    assert_round_trip(Folder(str(tmp_path)), make_table([3, 1, 3, 2, 1, 3, 0])[2:6], 1)


def test_no_rows_give_a_file_without_segments(tmp_path):
    folder = Folder(str(tmp_path))
    assert segments.write(folder, "s.arrow", make_table([]), 1, Facts("empty")).segments == ()
    facts, index = segments.read_index(folder.file("s.arrow"), Facts)
    assert (facts, index.segments, index.file.num_segments, index.file.num_rows) == (Facts("empty"), (), 0, 0)
    assert segments.read(folder, [], make_table([]).schema) == []


def test_the_index_of_an_absent_file_is_none(tmp_path):
    assert segments.read_index(File(str(tmp_path / "absent.arrow")), Facts) is None


def test_facts_come_back_as_they_were(tmp_path):
    facts = Facts("0-ü", 2)
    segments.write(Folder(str(tmp_path)), "s.arrow", make_table([0, 1]), 1, facts)
    assert segments.read_index(File(str(tmp_path / "s.arrow")), Facts)[0] == facts


def test_segments_are_read_in_the_order_asked_for_from_several_files(tmp_path):
    tables = [make_table([0, 1, 1, 2], seed=seed) for seed in (1, 2)]
    references = []
    for number, table in enumerate(tables):
        references += segments.write(Folder(str(tmp_path)), f"{number}.arrow", table, 1, Facts()).segments
    wanted = [references[i] for i in (4, 2, 0, 5, 2)]
    batches = segments.read(Folder(str(tmp_path)), wanted, tables[0].schema)
    for segment, batch in zip(wanted, batches, strict=True):
        table = tables[int(segment.file == "1.arrow")]
        expected = table.filter(pa.array(table.column("centroid").to_numpy() == segment.key))
        assert as_strings(batch) == as_strings(expected)


def test_segments_are_read_from_a_store_that_is_not_local():
    table = make_table([4, 0, 4, 1])
    folder = Folder("memory://bucket")
    references = segments.write(folder, "s.arrow", table, 1, Facts()).segments
    facts, index = segments.read_index(folder.file("s.arrow"), Facts)
    assert (facts, index.segments) == (Facts(), references)
    batches = segments.read(folder, references, table.schema)
    assert [batch.column("source_row").to_pylist() for batch in batches] == [[1], [3], [0, 2]]
    assert as_strings(batches[2]) == as_strings(table.take(pa.array([0, 2])))


def test_vectors_are_read_without_a_copy(tmp_path):
    references = segments.write(Folder(str(tmp_path)), "s.arrow", make_table([0] * 100), 1, Facts()).segments
    before = pa.total_allocated_bytes()
    batches = segments.read(Folder(str(tmp_path)), references, make_table([]).schema)
    assert pa.total_allocated_bytes() == before
    assert not segments.RankedRows(batches, np.arange(100))._vectors[0].flags.owndata


@pytest.mark.parametrize("place", ["local", "memory://segments"])
@pytest.mark.parametrize("damage", ["zeros", "short", "gone"])
def test_a_segment_that_is_not_what_was_written_is_damage_of_its_file(tmp_path, place, damage):
    folder = Folder(str(tmp_path) if place == "local" else place)
    table, files = make_table([0, 1, 0, 1]), ("a.arrow", "b.arrow")
    references = [s for name in files for s in segments.write(folder, name, table, 1, Facts()).segments]
    file = folder.file("b.arrow")
    content, last = file.read_bytes(), references[-1]
    vectors = content.rindex(np.float32(table.column("embedding")[3][-1].as_py()).tobytes())
    assert last.offset < vectors < last.offset + last.length
    if damage == "zeros":
        file.write_bytes(content[:vectors] + bytes(4) + content[vectors + 4 :])
    elif damage == "short":
        file.write_bytes(content[: last.offset + 8])
    else:
        file.delete()
    assert len(segments.read(folder, references[:2], table.schema)) == 2
    with pytest.raises(DamagedFile, match=r"b\.arrow is damaged or gone") as raised:
        segments.read(folder, references, table.schema)
    assert raised.value.file == file


@pytest.mark.parametrize("id_type", [pa.string(), pa.binary(), pa.large_string(), pa.int64()], ids=str)
def test_texts_too_large_for_one_batch_are_in_several_of_the_same_key(tmp_path, monkeypatch, id_type):
    table = make_table([2, 0, 2, 0, 2, 2, 2, 1] * 5, id_type)
    (tmp_path / "whole").mkdir()
    whole = segments.write(Folder(str(tmp_path / "whole")), "s.arrow", table, 1, Facts()).segments
    monkeypatch.setattr(tables, "_LARGEST_TEXT", 300)
    folder = Folder(str(tmp_path))
    references = segments.write(folder, "s.arrow", table, 1, Facts()).segments
    assert len(references) > len(whole) == 3
    assert segments.read_index(folder.file("s.arrow"), Facts)[1].segments == references
    batches = segments.read(folder, references, table.schema)
    for key in range(3):
        found = pa.Table.from_batches([b for s, b in zip(references, batches, strict=True) if s.key == key])
        assert as_strings(found) == as_strings(table.filter(pa.array(table.column("centroid").to_numpy() == key)))


def test_an_index_that_is_not_what_was_written_is_not_used(tmp_path):
    segments.write(Folder(str(tmp_path)), "s.arrow", make_table([0, 0]), 1, Facts(num_rows=1234))
    place = tmp_path / "s.arrow"
    place.write_bytes(place.read_bytes().replace(b" 1234", b" 1235"))
    assert segments.read_index(File(str(place)), Facts) is None


def test_any_arrow_reader_opens_the_file(tmp_path):
    table = make_table([1, 0, 1])
    segments.write(Folder(str(tmp_path)), "s.arrow", table, 1, Facts())
    found = pa.ipc.open_file(tmp_path / "s.arrow").read_all()
    assert as_strings(found) == as_strings(table.take(pa.array([1, 0, 2])))


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        segments.write(Folder(str(tmp_path)), name, make_table([1, 0, 1]), 1, Facts())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=60)
def test_ranked_rows_are_indexed_like_the_matrix_in_that_order(sizes, seed, data):
    rng = np.random.default_rng(seed)
    batches = [make_table([0] * (size + 2), seed=size).to_batches()[0].slice(1, size) for size in sizes]
    matrix = np.concatenate([np.array(b.column("embedding").to_pylist(), np.float32).reshape(-1, 3) for b in batches])
    order = rng.permutation(len(matrix))
    ranked, rows = segments.RankedRows(batches, order), matrix[order]

    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    window = ranked.window(start, stop)
    assert (len(ranked), len(window)) == (len(rows), stop - start)
    for found, expected in ((ranked, rows), (window, rows[start:stop])):
        wanted = rng.integers(0, len(expected), size=12 if len(expected) else 0)
        low = int(rng.integers(0, len(expected) + 1))
        for index in (slice(None), slice(low, low + 5), slice(0, low), wanted, np.sort(wanted), wanted[:0]):
            np.testing.assert_array_equal(found[index], expected[index])
            assert found[index].dtype == np.float32
