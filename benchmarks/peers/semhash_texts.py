"""SemHash with its default backend, from texts, which it has embedded by the same model as ours, in the same way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from semhash import SemHash

from beam_semdedup.embed.encoder import Encoder, ModelFiles
from benchmarks.peers.vectors import parser, write_ids


class _Model:
    """What SemHash asks of a model."""

    def __init__(self, directory: Path) -> None:
        self._encoder = Encoder(ModelFiles.find(str(directory)), "cpu", 8192)

    def encode(self, texts: list[str], **_: object) -> np.ndarray:
        return self._encoder.encode(texts)


def main() -> None:
    """The whole job."""
    arguments = parser(__doc__)
    arguments.add_argument("--model", type=Path, required=True)
    options = arguments.parse_args()
    table = pq.read_table(options.input, columns=["id", "text"])
    ids = table.column("id").cast("string")
    records = [{"id": id_, "text": text} for id_, text in zip(ids.to_pylist(), table["text"].to_pylist(), strict=True)]
    index = SemHash.from_records(records, columns=["text"], model=_Model(options.model))
    result = index.self_deduplicate(threshold=1 - options.eps)
    gone = {duplicate.record["id"] for duplicate in result.filtered}
    write_ids(options.output, ids, np.flatnonzero(np.isin(ids.to_numpy(), list(gone))))


if __name__ == "__main__":
    main()
