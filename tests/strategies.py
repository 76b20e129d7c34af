"""Rows, clusters and tiles that several test modules draw; imports no more than a machine for `tests/gpu` has."""

import numpy as np
import oracle
from hypothesis import strategies as st

from beam_semdedup.compute.tiles import Top

BATCHES = [1, 3, 7, 1024]
EPS = [0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1, 1.9]

seeds = st.integers(0, 2**32)


def unit_rows(seed, n, d):
    """Random unit rows (n, d) float32."""
    return oracle.normalized(np.random.default_rng(seed).normal(size=(n, d)))


def blobs(seed, n=600, d=8, centers=10, spread=0.25):
    """Unit rows (n, d) float32 around some centers."""
    rng = np.random.default_rng(seed)
    return oracle.normalized(
        rng.normal(size=(centers, d))[rng.integers(0, centers, n)] + spread * rng.normal(size=(n, d))
    )


def inertia(rows, centroids):
    """The sum of squared distances of rows to their nearest centroids, in float64."""
    return (oracle.distances(rows, centroids, oracle.nearest(rows, centroids))[0] ** 2).sum()


@st.composite
def clusters(draw, max_size=30):
    """Unit rows of one cluster in rank order, with identical rows, ties and rows 1e-8 to 1e-6 apart in cosine."""
    rng = np.random.default_rng(draw(seeds))
    n, d = draw(st.integers(1, max_size)), draw(st.sampled_from([1, 2, 3, 8, 33]))
    base = rng.normal(size=(draw(st.integers(1, n)), d))
    rows = base[rng.integers(0, len(base), n)]
    scales = draw(st.lists(st.sampled_from([0, 1e-4, 3e-4, 1e-3]), min_size=1, max_size=4))
    return oracle.normalized(rows + rng.normal(size=(n, d)) * rng.choice(scales, size=(n, 1)))


@st.composite
def grids(draw):
    """Unit rows with few different values, so that many similarities are exactly equal."""
    rng = np.random.default_rng(draw(seeds))
    rows = rng.integers(-1, 2, size=(draw(st.integers(1, 30)), draw(st.integers(1, 5))))
    rows[:, 0] += 2 * (rows == 0).all(axis=1)
    return oracle.normalized(rows)


@st.composite
def units(draw):
    """The rows of several clusters end to end, and where each cluster begins and ends."""
    parts = draw(st.lists(clusters(12) | grids(), min_size=1, max_size=8))
    dimension = parts[0].shape[1]
    parts = [part for part in parts if part.shape[1] == dimension]
    parts += draw(st.lists(st.sampled_from(parts), max_size=3))  # clusters with rows in common
    ends = np.cumsum([len(part) for part in parts])
    return np.concatenate(parts), np.array([0, *ends[:-1]]), ends


def starting(rows):
    """Best, second best and winner of each row before the first tile is folded."""
    return Top(np.full(rows, -np.inf, np.float32), np.full(rows, -np.inf, np.float32), np.full(rows, -1, np.int64))


@st.composite
def folds(draw):
    """Products of several clusters' rows with many equal ones, the diagonal, and where the tiles of columns begin."""
    rng = np.random.default_rng(draw(seeds))
    batches, rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 20)), draw(st.integers(1, 90))
    products = rng.integers(-3, draw(st.sampled_from([0, 5, 10**6])), size=(batches, rows, columns)) / 4
    cuts = sorted(draw(st.sets(st.integers(1, columns - 1), max_size=3))) if columns > 1 else []
    return products.astype(np.float32), draw(st.integers(-25, 95)), [0, *cuts, columns]


def folded(fold, products, diagonal, cuts):
    """What `fold` makes of a case of `folds`, tile after tile."""
    state = starting(products.shape[0] * products.shape[1])
    for column, end in zip(cuts[:-1], cuts[1:], strict=True):
        fold(products[..., column:end].copy(), diagonal - column, column, state)
    return state


def plainly_folded(products, diagonal):
    """The same by sorting."""
    best, second, winner = starting(products.shape[0] * products.shape[1])
    for i, row in enumerate(products.reshape(-1, products.shape[2])):
        earlier = range(min(products.shape[2], max(0, i % products.shape[1] + diagonal)))
        order = sorted(earlier, key=lambda j: (-row[j], j))
        if order:
            best[i], winner[i] = row[order[0]], order[0]
        if len(order) > 1:
            second[i] = row[order[1]]
    return best, second, winner
