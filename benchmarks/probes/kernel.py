"""The rate of float32 matrix products on this machine, and of our similarity kernel, counting needed products only."""

from __future__ import annotations

import functools
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

_SHAPES = ((1024, 1024), (2048, 2048), (4096, 4096), (1024, 4096), (4096, 1024))
_ROUNDS = 5
_SMALL_ROWS = 1024
_SETTLE_SECONDS = 0.3


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def product(rows: int, columns: int, dimension: int) -> Callable[[], object]:
    """A matrix product of random float32 rows, into memory that is there already."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((rows, dimension), dtype=np.float32)
    b = rng.standard_normal((columns, dimension), dtype=np.float32)
    out = np.empty((rows, columns), dtype=np.float32)
    out[:] = 0
    return lambda: np.matmul(a, b.T, out=out)


def sgemm(dimension: int) -> float:
    """GFLOP/s, the median of repetitions of the best of several shapes."""
    best = 0.0
    for rows, columns in _SHAPES:
        multiply = product(rows, columns, dimension)
        times = [seconds(multiply) for _ in range(_ROUNDS)]
        best = max(best, 2e-9 * rows * columns * dimension / statistics.median(times))
    return best


def copy_rate() -> float:
    """Bytes per second that are read and written by one thread's copy of a large array."""
    source = np.ones(64 << 20, dtype=np.float32)
    target = np.zeros_like(source)
    return 2 * source.nbytes / statistics.median(seconds(lambda: np.copyto(target, source)) for _ in range(_ROUNDS))


def kernel(rows: int, dimension: int, copies: float) -> float:
    """GFLOP/s of `max_similarity` on one cluster, of which a share are copies with a little noise."""
    from beam_semdedup.compute.similarity import max_similarity
    from beam_semdedup.compute.threads import in_threads

    rng = np.random.default_rng(0)
    cluster = rng.standard_normal((rows, dimension), dtype=np.float32)
    places = rng.permutation(rows)[: 2 * round(rows * copies)].reshape(2, -1)
    cluster[places[0]] = cluster[places[1]] + 0.1 * rng.standard_normal((places.shape[1], dimension), dtype=np.float32)
    cluster /= np.linalg.norm(cluster, axis=1, keepdims=True)
    # The batch is what our command uses by default.
    from beam_semdedup.config.parameters import Parameters

    batch = Parameters.pairwise_batch_size
    compare = functools.partial(max_similarity, cluster, 0, rows, batch)
    repeats = _SMALL_ROWS // rows * 8
    time.sleep(_SETTLE_SECONDS)  # after a product threads of BLAS keep a core busy for a while
    # Small clusters are computed beside each other, as in a run.
    taken = seconds(lambda: in_threads(lambda _: compare(), range(repeats)) if repeats else compare())
    repeats = max(1, repeats)
    return 1e-9 * repeats * rows * (rows - 1) * dimension / taken


def compare(rows: int, dimension: int, copies: float) -> dict[str, float]:
    """The median rates of both, taking turns, and of their quotient."""
    pairs = [(sgemm(dimension), kernel(rows, dimension, copies)) for _ in range(_ROUNDS)]
    return {
        "sgemm": statistics.median(machine for machine, _ in pairs),
        "kernel": statistics.median(ours for _, ours in pairs),
        "share": statistics.median(ours / machine for machine, ours in pairs),
    }


def main() -> None:
    """`rates`, or the rows, dimension and share of copies of a cluster."""
    if sys.argv[1] == "rates":
        print(json.dumps({"gflops": max(sgemm(384) for _ in range(3)), "copy": copy_rate()}))
    else:
        print(json.dumps(compare(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))


if __name__ == "__main__":
    main()
