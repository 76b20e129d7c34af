"""What the program must find, computed naively in float64 and without any of the program's code.

`rank_order` orders rows, `max_similarity` compares the rows of one cluster in rank order, and `compare` does
that for all clusters; `duplicates` applies eps. Nothing here is fast; everything fits on the screen.
"""

import math
from dataclasses import dataclass

import numpy as np

TIE = 1e-6


@dataclass
class Compared:
    """Columns over all rows, by centroid and in rank order within each."""

    ids: list
    max_ids: list
    scores: np.ndarray
    labels: np.ndarray
    is_first: np.ndarray
    positions: np.ndarray
    """Where in the given rows each row stands."""


def normalized(vectors) -> np.ndarray:
    """Unit rows (n, d) float32."""
    vectors = np.asarray(vectors, dtype=np.float64)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def distances(rows, centroids, labels) -> tuple[np.ndarray, np.ndarray]:
    """The Euclidean distance of each row to its centroid, and 1 - cosine; float64."""
    rows, own = np.asarray(rows, np.float64), np.asarray(centroids, np.float64)[labels]
    lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(own, axis=1)
    return np.linalg.norm(rows - own, axis=1), 1 - (rows * own).sum(axis=1) / lengths


def nearest(rows, centroids) -> np.ndarray:
    """The centroid with the smallest squared distance to each row, the lowest index of equally near ones."""
    rows, centroids = np.asarray(rows, np.float64), np.asarray(centroids, np.float64)
    return ((rows[:, None, :] - centroids[None, :, :]) ** 2).sum(axis=2).argmin(axis=1)


def rank_order(labels, keys) -> list[int]:
    """The positions of the rows by label, and within a label by `keys`.

    Args:
        labels: the cluster of each row.
        keys: pairs of a column (a sequence of n values) and whether it ascends, the most important first. NaN
            comes after every number and None after everything, whether ascending or not.
    """
    order = list(range(len(labels)))
    for column, ascending in reversed([(labels, True), *keys]):
        present = [i for i in order if column[i] is not None and not _is_nan(column[i])]
        nan = [i for i in order if _is_nan(column[i])]
        absent = [i for i in order if column[i] is None]
        order = sorted(present, key=column.__getitem__, reverse=not ascending) + nan + absent
    return order


def max_similarity(ranked) -> tuple[np.ndarray, np.ndarray]:
    """The score (n,) float32 and the winner's rank (n,) for each row of one cluster, rows in rank order.

    The winner is the earliest of the bit-identical earlier rows, else the earliest within `TIE` of the maximum.
    """
    ranked = np.asarray(ranked, dtype=np.float32)
    scores, winners = np.zeros(len(ranked), dtype=np.float32), np.arange(len(ranked))
    for i in range(1, len(ranked)):
        scores[i], winners[i] = best_of(ranked[:i], ranked[i])
    return scores, winners


def best_of(earlier, row) -> tuple[np.float32, int]:
    """The score and the rank of the winner of one row over those before it, at least one; see `max_similarity`."""
    identical = np.flatnonzero((earlier == row).all(axis=1))
    if len(identical):
        return np.float32(1), int(identical[0])
    similarities = earlier.astype(np.float64) @ row.astype(np.float64)
    winner = np.flatnonzero(similarities >= similarities.max() - TIE)[0]
    return similarity(earlier[winner], row), int(winner)


def compare(rows, labels, ids, order) -> Compared:
    """Every row with its most similar earlier-ranked row of the same cluster.

    Args:
        rows: (n, d) float32 unit rows.
        labels, ids: the cluster and id of each row.
        order: positions, as `rank_order` returns them.
    """
    rows, labels, order = np.asarray(rows), np.asarray(labels), np.asarray(order, dtype=np.int64)
    ranked_labels = labels[order]
    scores, best = np.zeros(len(order), dtype=np.float32), order.copy()
    is_first = np.zeros(len(order), dtype=bool)
    for label in np.unique(labels):
        places = np.flatnonzero(ranked_labels == label)
        scores[places], winners = max_similarity(rows[order[places]])
        best[places] = order[places[winners]]
        is_first[places[0]] = True
    return Compared([ids[i] for i in order], [ids[i] for i in best], scores, ranked_labels, is_first, order)


def duplicates(compared: Compared, eps: float) -> list[tuple]:
    """The (id, max_id, score) of the rows that are duplicates at `eps`, in rank order."""
    found = (compared.scores.astype(np.float64) >= 1 - eps) & ~compared.is_first
    return [(compared.ids[i], compared.max_ids[i], compared.scores[i]) for i in np.flatnonzero(found)]


def _is_nan(value) -> bool:
    return isinstance(value, float | np.floating) and math.isnan(value)


def similarity(x, y) -> np.float32:
    """The score of a pair of float32 rows: the exact product, rounded once and clipped."""
    return np.float32(min(1.0, max(-1.0, math.fsum(np.asarray(x, np.float64) * np.asarray(y, np.float64)))))


def best_earlier(rows, order, pairs=None, reach=2.0) -> tuple[np.ndarray, np.ndarray]:
    """The score (n,) float32 and the position of the best earlier row of each row of a whole dataset.

    That is the first of the rows that are the same, bit for bit, else the earliest of those with the highest score. A
    row that has none whose score is at least 1 - reach has the score NaN, and itself.

    Args:
        rows: (n, d) float32.
        order: (n,) positions, from the first-ranked row to the last.
        pairs: (n, n) bool, symmetric: which pairs are compared; None: all.
    """
    rows, order = np.asarray(rows, np.float32), np.asarray(order, np.int64)
    scores, winners = np.full(len(rows), np.nan, dtype=np.float32), np.arange(len(rows))
    about = (rows.astype(np.float64) @ rows.astype(np.float64).T).clip(-1, 1)
    for place, i in enumerate(order):
        earlier = order[:place] if pairs is None else order[:place][pairs[i, order[:place]]]
        if not len(earlier):
            continue
        identical = earlier[(rows[earlier] == rows[i]).all(axis=1)]
        if len(identical):
            score, winner = 1.0, identical[0]
        else:
            near = earlier[about[i, earlier] >= about[i, earlier].max() - 1e-6]
            found = [float(similarity(rows[i], rows[j])) for j in near]
            score, winner = max(found), near[np.argmax(found)]
        if score >= 1 - reach or reach >= 2:
            scores[i], winners[i] = score, winner
    return scores, winners


def products(a, b) -> np.ndarray:
    """The scores (n, m) float32 of the rows of `a` (n, d) with those of `b` (m, d), 1 of those that are the same."""
    scores = (a.astype(np.float64) @ b.astype(np.float64).T).astype(np.float32).clip(-1, 1)
    scores[(a[:, None] == b).all(axis=2)] = 1
    return scores
