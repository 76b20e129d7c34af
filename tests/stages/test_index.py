"""The index of keys, against a grouping in Python of what the files say."""

import dataclasses
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_semdedup.config.parameters import Parameters
from beam_semdedup.errors import UnitError
from beam_semdedup.plan import sizes
from beam_semdedup.plan.locate import locate
from beam_semdedup.plan.planning import make_plan
from beam_semdedup.stages import index
from beam_semdedup.stages.index import index_all, index_keys, plan_index, segments_of
from beam_semdedup.storage import segments
from beam_semdedup.storage.records import Record
from beam_semdedup.storage.segments import MATCHES, ROWS, VISITS

KEYS = 12


@dataclasses.dataclass(frozen=True)
class Facts(Record):
    """What the files of these tests say of themselves."""

    name: str


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The job of a third generation of a corpus whose rows are in `KEYS` keys."""
    root = tmp_path_factory.mktemp("index")
    vectors = pa.array(np.eye(KEYS).tolist(), pa.list_(pa.float32()))
    pq.write_table(pa.table({"id": np.arange(KEYS), "embeddings": vectors}), root / "in.parquet")
    given = {"input_path": [str(root / "in.parquet")], "output_path": str(root / "out"), "eps": 0.1}
    made = make_plan(locate(Parameters(**given, n_clusters=KEYS, comparison_rows=1)))
    assert made.job.sizes.num_keys == KEYS
    return made.job


def job_in(planned, place, generation=2, recall_sample=0):
    """The job with its results in another place."""
    places = {"cache_path": f"{place}/cache", "corpus_path": f"{place}/corpus"}
    p = dataclasses.replace(planned.parameters, recall_sample=recall_sample, **places)
    earlier = tuple(range(generation))
    return dataclasses.replace(
        planned, parameters=p, model_fingerprint="fits/0", generation=generation, earlier=earlier
    )


def write(job, kind, generation, number, keys):
    """Writes a file with a segment for each of some keys, of as many rows as its place among them."""
    folder = {ROWS: job.at(generation).segments, VISITS: job.at(generation).visits, MATCHES: job.matches}[kind]
    schema, name = pa.schema([("x", pa.int64())]), f"{number:02d}.arrow"
    batches = [(key, pa.record_batch([np.arange(rows + 1)], schema=schema)) for rows, key in enumerate(sorted(keys))]
    return segments.write_batches(folder, name, schema, batches, Facts(name), kind, generation)


FILES = st.lists(
    st.tuples(st.sampled_from([ROWS, VISITS]), st.integers(0, 2), st.sets(st.integers(0, KEYS - 1), max_size=KEYS)),
    max_size=9,
)


@given(files=FILES, most=st.integers(1, 60), seed=st.randoms(), recall_sample=st.sampled_from([0, 1]))
@settings(max_examples=40, deadline=None)
def test_each_key_has_what_all_files_have_of_it(planned, tmp_path_factory, files, most, seed, recall_sample):
    """Keys without rows of the generation are looked at where the recall is estimated."""
    job = job_in(planned, tmp_path_factory.mktemp("case"), recall_sample=recall_sample)
    written = [write(job, *file[:2], number, file[2]) for number, file in enumerate(files)]
    expected = defaultdict(list)
    for segment in (segment for one in written for segment in one.segments):
        expected[segment.key].append(segment)
    own = {key for key, found in expected.items() if recall_sample or any(part.generation == 2 for part in found)}
    shuffled = [one.file for one in written]
    seed.shuffle(shuffled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sizes, "_INDEX_SEGMENTS", most)
        units = plan_index(job, shuffled)
    number = sum(len(one.segments) for one in written)
    assert len(units) == min(KEYS, max(1, -(-number // most)))
    assert [key for unit in units for key in range(unit.first, unit.stop)] == list(range(KEYS))

    found = [[(key.key, segments_of(job, key)) for key in index_keys(job, unit)] for unit in units]
    assert {key for part in found for key, _ in part} == own
    for unit, part in zip(units, found, strict=True):
        rows = [sum(segment.num_rows for segment in parts) for _, parts in part]
        assert rows == sorted(rows, reverse=True)
        assert all(unit.first <= key < unit.stop for key, _ in part)
        for key, parts in part:
            assert parts == sorted(expected[key], key=lambda s: (s.generation, s.file, s.kind, s.offset))


def test_matches_of_a_key_come_with_its_rows_and_without_rows_not_at_all(planned, tmp_path):
    job = job_in(planned, tmp_path)
    written = [write(job, ROWS, 2, 0, {1, 3}), write(job, ROWS, 0, 1, {3, 4}), write(job, MATCHES, 0, 2, {3, 4, 5})]
    keys = index_all(job, [one.file for one in written])
    assert {key.key: [s.kind for s in segments_of(job, key)] for key in keys} == {1: [ROWS], 3: [ROWS, MATCHES, ROWS]}


def test_an_index_is_made_once_and_again_where_a_file_is_another(planned, tmp_path, monkeypatch):
    job = job_in(planned, tmp_path)
    files = [write(job, ROWS, 2, number, {0, number}).file for number in range(3)]
    first = index_all(job, files)
    with monkeypatch.context() as patch:
        patch.setattr(index, "_batches", lambda *_: pytest.fail("the index is made anew"))
        assert index_all(job, files[::-1]) == first
    other = write(job, ROWS, 2, 1, {0, 1, 2})
    with pytest.raises(UnitError, match="another than was written"):
        index_keys(job, dataclasses.replace(plan_index(job, files)[0], stop=5))  # files[1] is gone
    other = write(job, ROWS, 2, 1, {0, 1, 2})
    again = index_all(job, [files[0], other.file, files[2]])
    assert [key.file for key in again] != [first[0].file] * len(again)
    assert [segments_of(job, key) for key in first]  # what a unit may still read is there


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_damaged_index_is_removed_so_that_it_is_made_again(planned, tmp_path, damage):
    job = job_in(planned, tmp_path)
    files = [write(job, ROWS, 2, 0, {0, 1}).file]
    key = index_all(job, files)[0]
    place = job.index.file(key.file)
    if damage == "gone":
        place.delete()
    else:
        content = bytearray(place.read_bytes())
        content[key.offset + key.length - 1] ^= 1
        place.write_bytes(bytes(content))
    with pytest.raises(UnitError, match="the same command computes it again"):
        segments_of(job, key)
    assert index_all(job, files)[0] == key
    assert segments_of(job, key)


def test_a_list_of_files_that_is_gone_is_told_of(planned, tmp_path):
    job = job_in(planned, tmp_path)
    (unit,) = plan_index(job, [write(job, ROWS, 2, 0, {0, 1}).file])
    job.index.file(f"{unit.files}.json").delete()
    with pytest.raises(UnitError, match=r"is gone or damaged.* run again"):
        index_keys(job, unit)
