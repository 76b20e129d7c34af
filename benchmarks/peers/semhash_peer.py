"""SemHash with its default backend, from embeddings that are there already."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
from semhash import SemHash

from benchmarks.peers.vectors import arguments, load, write_ids


def main() -> None:
    """The whole job."""
    options = arguments(__doc__)
    ids, rows = load(options.input)
    names = ids.cast("string")
    # The model would only embed further records; without one no weights are loaded.
    index = SemHash.from_embeddings(rows, names.to_pylist(), model=None)
    result = index.self_deduplicate(threshold=1 - options.eps)
    filtered = pc.is_in(names, value_set=pc.cast([duplicate.record for duplicate in result.filtered], "string"))
    write_ids(options.output, ids, np.flatnonzero(filtered))


if __name__ == "__main__":
    main()
