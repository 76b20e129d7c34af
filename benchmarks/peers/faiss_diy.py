"""What a practitioner would write with faiss: its KMeans, or a search among given centroids, then products."""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks.peers.vectors import arguments, load, write_ids

_BLOCK = 8192  # without it a cluster of 35,000 rows would take 5 GB


def main() -> None:
    """The whole job; without centroids it fits the square root of the number of rows."""
    options = arguments(__doc__)
    ids, rows = load(options.input)
    dimension = rows.shape[1]
    if options.centroids:
        index = faiss.IndexFlatL2(dimension)
        index.add(np.load(options.centroids))
    else:
        kmeans = faiss.Kmeans(dimension, round(len(rows) ** 0.5), niter=20)
        kmeans.train(rows)
        index = kmeans.index
    distances, labels = (result[:, 0] for result in index.search(rows, 1))
    duplicates = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(-distances[members])]
        cluster = rows[members]
        for start in range(0, len(cluster), _BLOCK):
            stop = start + _BLOCK
            similarities = np.tril(cluster[start:stop] @ cluster[:stop].T, k=start - 1)
            duplicates.append(members[start:stop][similarities.max(axis=1) >= 1 - options.eps])
    write_ids(options.output, ids, np.concatenate(duplicates))


if __name__ == "__main__":
    main()
