"""What the peers have in common: their arguments, the embeddings read into memory, the ids written."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_BATCH = 8192


def parser(description: str | None) -> argparse.ArgumentParser:
    """What the command lines of all peers have."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("input", type=Path, help="directory of parquet files with the columns id and embeddings")
    result.add_argument("output", type=Path, help="parquet file for the ids of the duplicates")
    result.add_argument("--eps", type=float, required=True)
    return result


def arguments(description: str | None) -> argparse.Namespace:
    """The command line of a peer that clusters."""
    result = parser(description)
    result.add_argument("--centroids", type=Path, help=".npy file (k, d)")
    return result.parse_args()


def load(directory: Path) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The ids, and the embeddings divided by their lengths, (n, d) float32."""
    files = [(path, pq.read_metadata(path)) for path in sorted(directory.glob("*.parquet"))]
    groups = [(path, metadata, group) for path, metadata in files for group in range(metadata.num_row_groups)]
    stops = np.cumsum([metadata.row_group(group).num_rows for _, metadata, group in groups])
    dimension = pq.read_schema(files[0][0]).field("embeddings").type.list_size
    matrix = np.empty((stops[-1], dimension), dtype=np.float32)

    def read(part: tuple[Path, pq.FileMetaData, int], stop: int) -> list[pa.Array]:
        path, metadata, group = part
        file, start, ids = pq.ParquetFile(path, metadata=metadata), stop - metadata.row_group(group).num_rows, []
        for batch in file.iter_batches(_BATCH, [group], ["id", "embeddings"], use_threads=False):
            rows = matrix[start : start + batch.num_rows]
            rows[:] = batch.column("embeddings").flatten().to_numpy(zero_copy_only=False).reshape(rows.shape)
            normalize(rows)
            ids.append(batch.column("id"))
            start += batch.num_rows
        return ids

    with ThreadPoolExecutor(2) as pool:
        ids = [chunk for chunks in pool.map(read, groups, stops) for chunk in chunks]
    return pa.chunked_array(ids), matrix


def normalize(rows: np.ndarray) -> np.ndarray:
    """`rows` (n, d) float32, after dividing each, in place, by its length."""
    rows /= np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return rows


def write_ids(path: Path, ids: pa.ChunkedArray, positions: np.ndarray) -> None:
    """Writes the ids at some positions."""
    pq.write_table(pa.table({"id": ids.take(pa.array(np.sort(positions)))}), path)
