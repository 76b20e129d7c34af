"""How near the rows of an input are to the borders of clusters, measured on a sample of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute.assignment import assign
from beam_semdedup.compute.identical import first_identical
from beam_semdedup.compute.short_vectors import fit_basis
from beam_semdedup.compute.visits import Clusters
from beam_semdedup.config.parameters import ForecastParameters
from beam_semdedup.fit.lloyd import in_this_process, lloyd
from beam_semdedup.fit.shard import Shard
from beam_semdedup.inputs.dataset import InputFacts
from beam_semdedup.inputs.sample import VectorColumn
from beam_semdedup.plan.probes import Spread

_ROWS, _PIECES = 32_768, 32
_ROWS_PER_CLUSTER = 32  # of the sample, at least: fitted to fewer, centroids are nearer to its rows than to others
_VISITORS = 4096
_ITERATIONS = 6
_FRACTIONS = (16, 4, 1)


def measure(p: ForecastParameters, facts: InputFacts, n_clusters: int) -> Spread | None:
    """Returns the spread of the input's rows in `n_clusters` clusters and in fewer; None where no row can be used.

    It fits centroids to 32,768 rows, for 1,024 clusters at most, and lets 4,096 of the rows visit. With one probe the
    visits are those of `exact`.
    """
    return _spread(_read(p, facts), n_clusters, p)


def _read(p: ForecastParameters, facts: InputFacts) -> npt.NDArray[np.float32]:
    """Reads rows from all over the input: (n, d) float32 of length 1, each once."""
    field = facts.schema.field(p.embedding_field)
    column = VectorColumn(facts.format, field, facts.dimension, True, p.read_options)
    parts = [part for file in facts.files for part in file.parts if part.num_rows]
    number = min(len(parts), max(_PIECES, _ROWS * len(parts) // facts.num_rows))
    chosen = [parts[len(parts) * i // number] for i in range(number)]
    rows = [vectors for part in chosen for vectors in _first(column.read(part), -(-_ROWS // number))]
    found = np.concatenate(rows)
    own = first_identical(found, len(found), p.pairwise_batch_size) == np.arange(len(found))  # copies visit nothing
    return np.random.default_rng(0).permutation(found[own])[:_ROWS]


def _first(batches: Iterator[npt.NDArray[np.float32]], number: int) -> Iterator[npt.NDArray[np.float32]]:
    for batch in batches:
        yield batch[:number]
        number -= len(batch)
        if number <= 0:
            return


def _spread(rows: npt.NDArray[np.float32], n_clusters: int, p: ForecastParameters) -> Spread | None:
    if not len(rows):
        return None
    most = max(1, min(n_clusters, len(rows) // _ROWS_PER_CLUSTER))
    numbers = sorted({max(1, most // fraction) for fraction in _FRACTIONS})
    visits, larger = [], []
    labels = np.zeros(len(rows), dtype=np.int32)
    for number in numbers:
        run = in_this_process(Shard(rows))
        centroids = lloyd(run, rows[:number].copy(), len(rows), float(len(rows)), 0, 0, _ITERATIONS).centroids
        labels = assign(rows, centroids, p.pairwise_batch_size)
        asked = rows[:_VISITORS]
        clusters = Clusters(centroids, p.pairwise_batch_size)
        if p.n_probes == "exact" or p.n_probes == 1:
            found = clusters.in_reach(asked, labels[:_VISITORS], p.matching_reach)
        else:
            found = clusters.nearest(asked, labels[:_VISITORS], p.n_probes - 1)
        shares = np.bincount(labels, minlength=number) / len(rows)
        visited = found[1]
        visits.append(len(visited) / len(asked))
        larger.append(float(shares[visited].mean() * number) if len(visited) else 1.0)
    width = fit_basis(asked, labels[:_VISITORS], 1 - p.matching_reach, found).width
    return Spread(tuple(numbers), tuple(visits), tuple(larger), width)
