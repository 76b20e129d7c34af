"""The road not taken: a Beam pipeline whose GroupByKey moves the rows themselves, as Arrow record batches by centroid.

As `bare` else, a row group at a time. Batches travel as Arrow's own bytes: Beam would pickle them, and a pickled slice
takes the whole batch along. What the values took in the GroupByKey is written beside the output, as `.bytes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from benchmarks.peers.bare import assign, clusters, has_earlier
from benchmarks.peers.vectors import arguments, normalize


class AssignRows(beam.DoFn):
    """Reads a row group, and gives its rows of each centroid as a record batch."""

    def __init__(self, centroids: np.ndarray) -> None:
        self._centroids = centroids
        self._bytes = Metrics.counter("batches", "bytes")

    def process(self, unit: tuple[Path, int]) -> Iterator[tuple[int, bytes]]:
        """Yields (centroid, batch)."""
        path, group = unit
        table = pq.ParquetFile(path).read_row_group(group, columns=["id", "embeddings"]).combine_chunks()
        vectors = table.column("embeddings").chunk(0).flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        rows = normalize(vectors.reshape(table.num_rows, -1))
        labels = assign(rows, self._centroids)
        ids = table.column("id")
        for label in np.unique(labels).tolist():
            mine = np.flatnonzero(labels == label)
            embeddings = pa.FixedSizeListArray.from_arrays(pa.array(rows[mine].reshape(-1)), rows.shape[1])
            batch = pa.record_batch({"id": ids.take(pa.array(mine)).combine_chunks(), "embedding": embeddings})
            encoded = _encode(batch)
            self._bytes.inc(len(encoded))
            yield label, encoded


def _encode(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def compare(grouped: tuple[int, Iterable[bytes]], centroids: np.ndarray, eps: float) -> list[object]:
    """Returns the ids of the duplicates of a cluster."""
    label, parts = grouped
    table = pa.concat_tables(pa.ipc.open_stream(part).read_all() for part in parts).combine_chunks()
    ids = table.column("id")
    rows = table.column("embedding").chunk(0).flatten().to_numpy().reshape(table.num_rows, -1)
    labels = np.full(len(rows), label)
    found = [positions[has_earlier(c, 1 - eps)] for c, positions in clusters(rows, ids, centroids, labels)]
    return ids.take(pa.array(np.concatenate(found))).to_pylist()


def main() -> None:
    """The whole job."""
    options = arguments(__doc__)
    centroids = np.load(options.centroids)
    files = sorted(options.input.glob("*.parquet"))
    units = [(path, group) for path in files for group in range(pq.read_metadata(path).num_row_groups)]

    def write(ids: list[object]) -> None:
        pq.write_table(pa.table({"id": ids}), options.output)

    pipeline = beam.Pipeline(runner=FnApiRunner())
    _ = (
        pipeline
        | beam.Create(units)
        | beam.Reshuffle()
        | beam.ParDo(AssignRows(centroids)).with_output_types(tuple[int, bytes])
        | beam.GroupByKey()
        | beam.FlatMap(compare, centroids, options.eps)
        | beam.combiners.ToList()
        | beam.Map(write)
    )
    result = pipeline.run()
    result.wait_until_finish()
    (counted,) = result.metrics().query(MetricsFilter().with_name("bytes"))["counters"]
    options.output.with_suffix(".bytes").write_text(str(counted.result))


if __name__ == "__main__":
    main()
