"""What finds every similar pair with faiss: a flat index of all rows, and a range search for each of them."""

from __future__ import annotations

import faiss
import numpy as np

from benchmarks.peers.vectors import load, parser, write_ids

_BLOCK = 8192


def main() -> None:
    """The whole job: a row is a duplicate if an earlier one of the input is within eps."""
    arguments = parser(__doc__)
    arguments.add_argument("--queries", type=int, help="search for so many rows only, to see what a part takes")
    options = arguments.parse_args()
    ids, rows = load(options.input)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    asked = np.linspace(0, len(rows), options.queries or len(rows), endpoint=False, dtype=np.int64)
    duplicates = []
    for start in range(0, len(asked), _BLOCK):
        queries = asked[start : start + _BLOCK]
        bounds, _, found = index.range_search(rows[queries], float(1 - options.eps))
        later = np.repeat(queries, np.diff(bounds.astype(np.int64)))
        duplicates.append(np.unique(later[found < later]))
    write_ids(options.output, ids, np.concatenate(duplicates))


if __name__ == "__main__":
    main()
