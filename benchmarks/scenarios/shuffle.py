"""What moves through Beam: references, as ours, or the rows themselves, as Arrow record batches."""

from __future__ import annotations

from pathlib import Path

from beam_semdedup.coders import ReferenceCoder
from beam_semdedup.storage.segments import SegmentFile
from benchmarks.bench import Bench, Result, found, references
from benchmarks.measure import interleaved, medians, ratio, raw

SIZES = (250_000,)
REAL_CLUSTERS = 250


def run(bench: Bench) -> Result:
    """Both on the real set and on a generated one, with given centroids, in process."""
    result = Result()
    real = bench.real()
    sets = [(real, REAL_CLUSTERS)] if real and real.rows in bench.sizes([real.rows]) else []
    sets += [(dataset, dataset.clusters) for dataset in map(bench.generated, bench.sizes(SIZES))]
    for dataset, clusters in sets:
        centroids = bench.centroids(dataset, clusters)
        batches = bench.peer("batches", dataset, "--centroids", centroids)
        ours = bench.ours("references", dataset, f"init={centroids}", "max_iter=0")
        runs = interleaved([batches, ours], bench.rounds)
        outputs = {c.name: c.output for c in (batches, ours) if c.output}
        moved = {
            "batches": int(outputs["batches"].with_suffix(".bytes").read_text()),
            "references": _bytes_of_references(outputs["references"]),
        }
        for name, measured in runs.items():
            result.table.append(
                {
                    "rows": dataset.rows,
                    "through Beam": name,
                    "bytes of values": moved[name],
                    **medians(measured, runs["references"]),
                    "duplicates": len(found(outputs[name])),
                }
            )
        result.runs[f"{dataset.rows}"] = raw(runs)
        result.notes.append(
            f"{dataset.rows:,} rows: the vectors are {4 * 384 * dataset.rows / 1e6:,.0f} MB as float32; batches move "
            f"{moved['batches'] / moved['references']:,.0f} times the bytes of references, in "
            f"{ratio(runs['batches'], runs['references']):.2f} times the time"
        )
    return result


def _bytes_of_references(output: Path) -> int:
    """Bytes of what goes from assigning to comparing, as Beam encodes it: the files, and where the index has a key."""
    files = {segment.file: SegmentFile(segment.file, 1, 1, segment.checksum) for segment in references(output)}
    moved = [*files.values(), *references(output, "index")]
    return sum(len(ReferenceCoder(type(one)).encode(one)) for one in moved)
