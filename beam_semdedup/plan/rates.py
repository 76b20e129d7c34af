"""How fast a worker is at what a run does; the reference machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rates:
    """What the parts of a run take a worker with `cores` cores, in seconds unless said otherwise.

    A *value* is one number of a vector. The rates of products are in floating-point operations per second, of the
    stage as a whole: what is done with a product counts as part of it.
    """

    cores: int
    dimension: int
    """Of the vectors that were measured; products of longer ones are somewhat faster."""
    fit_flops: float
    assign_flops: float
    compare_flops: float
    read_value: float
    """To decode and normalise a value of a parquet file for the fit."""
    fit_value: float
    """To add up a value in one iteration of the fit."""
    assign_value: float
    """To read a value, compute distances of it and write it to a segment file."""
    compare_value: float
    """To read, gather and hash a value of a segment."""
    row: float
    """To apply eps to a compared row."""
    visit_value: float
    """To read a value again, and shorten its vector, for the visits of its row."""
    visit: float
    """To write a record of what a row visits in a key."""
    visitor: float
    """To read it there, and give it its place in the order."""
    match_flops: float
    """Of products of short vectors."""
    merge: float
    """To find a row's best match among those from several clusters."""
    segment: float
    """To write one more segment, and to read it."""
    unit: float
    """Each unit of work, beside its rows."""
    disk: float
    """Bytes per second of the local disk, written to fresh memory and read again."""
    start: float
    """A whole command on next to no rows, in one process."""
    start_workers: float
    """What it takes longer with worker processes."""
    reference: float
    """To find a segment in the index of its file, write that into the index of its key, and read it there twice."""
    gpu_flops: float = 20e12
    """Of one GPU, for products and what is done with them: assumed, not measured; change it in the file."""


REFERENCE = Rates(
    cores=2,
    dimension=384,
    fit_flops=390e9,
    assign_flops=400e9,
    compare_flops=380e9,
    read_value=3.9e-9,
    fit_value=1.0e-9,
    assign_value=7.5e-9,
    compare_value=3.9e-9,
    row=50e-9,
    visit_value=3.0e-9,
    visit=0.42e-6,
    visitor=0.37e-6,
    match_flops=290e9,
    merge=0.2e-6,
    segment=115e-6,
    unit=6e-3,
    disk=0.7e9,
    start=1.2,
    start_workers=0.7,
    reference=6.5e-6,
)
"""Measured on two cores of a shared cloud machine (AMD EPYC, local disk, 384 dimensions).

What visits, matches and merging take was measured there beside other work, in seconds of one core, and scaled as the
other rates differed: by 2.15 for values and rows, by 4.3 for products.
"""


def computed_scores(pairs: float, rows: float, batch: int) -> float:
    """Counts the scores computed for the `pairs` that `rows` rows need: as if tiles on the diagonal were whole.

    They are cut into lower ones, which multiply slower, so that small clusters take about as long.
    """
    return pairs + min(pairs + rows, rows * (batch + 1) / 2)
