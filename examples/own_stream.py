"""Rows of a stream of your own: each window of them becomes a parquet file, and these are deduplicated as they come.

python examples/own_stream.py /tmp/own-stream
"""

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.window import FixedWindows

from beam_semdedup import DeduplicateGenerations, ReadNewFiles, watched_input


def row(moment: float) -> tuple[str, list[float]]:
    """Stands where rows come from, such as a queue: an id and an embedding, one in four like one of five others."""
    rng = np.random.default_rng(int(moment * 1000))
    vector = np.eye(5, 8)[rng.integers(5)] if rng.random() < 0.25 else rng.standard_normal(8)
    return f"{moment:.3f}", (vector + 0.01 * rng.standard_normal(8)).tolist()


def write_shard(keyed: tuple[int, Iterable[tuple[str, list[float]]]], directory: str) -> None:
    """Writes the rows of a window to a file that is called so only when it is whole."""
    ids, vectors = zip(*sorted(keyed[1]), strict=True)
    table = pa.table({"id": ids, "embeddings": pa.array(vectors, pa.list_(pa.float32()))})
    pq.write_table(table, f"{directory}/.{ids[0]}")
    os.rename(f"{directory}/.{ids[0]}", f"{directory}/{ids[0]}.parquet")  # noqa: PTH104


def main(directory: str, generations: int = 3) -> None:
    """Runs the stream on Prism until so many generations are finished, and prints what it found."""
    shards, output = Path(directory, "shards"), Path(directory, "out")
    shards.mkdir(parents=True, exist_ok=True)
    watched = watched_input(
        input_path=shards, output_path=output, corpus_path=Path(directory, "corpus"), eps=0.1, n_probes="exact"
    )
    program = Path(sys.executable).with_name("prism")  # that `make install EXTRAS=prism` builds
    place = {"prism_location": str(program)} if program.exists() else {}
    pipeline = beam.Pipeline(runner="PrismRunner", options=PipelineOptions(flags=[], streaming=True, **place))
    _ = (
        pipeline
        | "Rows" >> PeriodicImpulse(fire_interval=0.05)
        | "Embed" >> beam.Map(row)
        | "Windows" >> beam.WindowInto(FixedWindows(5))
        | "Together" >> beam.WithKeys(0)
        | "Shards" >> beam.GroupByKey()
        | "Write shards" >> beam.Map(write_shard, str(shards))
    )
    _ = (
        pipeline
        | ReadNewFiles(watched, poll_interval=1.0)
        | DeduplicateGenerations(watched)
        | "Tell" >> beam.Map(lambda file: print(f"{file.duplicates} duplicates in {file.path}", flush=True))
    )
    result = pipeline.run()
    while len(list(output.glob("generations/*.json"))) < generations:
        time.sleep(0.5)
    result.cancel()
    os._exit(0)  # Prism's worker is in this process, and would go on


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
