"""Tiles of products of rows, and what is kept of them, on NumPy and on a GPU alike."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute import cuda
from beam_semdedup.compute.arrays import namespace
from beam_semdedup.compute.types import Array


class Top(NamedTuple):
    """The two largest products of each of m rows, and the position of the row that the largest is with.

    Attributes:
        best, second: (m,) float32, minus infinity where there is none.
        winner: (m,) int64.
    """

    best: Array
    second: Array
    winner: Array

    @classmethod
    def before_any(cls, winner: Array) -> Top:
        """Returns what is known before the first tile; `winner` stays where there is no product."""
        xp = namespace(winner)
        best = xp.full(len(winner), -xp.inf, dtype=xp.float32)
        return cls(best, best.copy(), winner)

    def part(self, rows: slice) -> Top:
        """Returns a view of some rows."""
        return Top(self.best[rows], self.second[rows], self.winner[rows])


def multiply(a: Array, b: Array, out: Array | None = None) -> Array:
    """Multiplies the rows of `a` with those of `b`, adding in float32; (…, n, m) float32.

    Args:
        a, b: (…, n, d) and (…, m, d), of one dtype, float32 or (on a GPU) float16; a leading dimension multiplies many
            at once.
        out: where they go.

    Raises:
        MemoryError: a GPU has no room for the result, or for what cuBLAS needs.
    """
    return np.matmul(a, b.swapaxes(-1, -2), out=out) if namespace(a) is np else cuda.multiply(a, b, out)


def fold(products: Array, diagonal: int, column: int, top: Top) -> None:
    """Updates in place what is known of each row by a tile of its products.

    Row i counts up to its column i + `diagonal`, exclusive: rows and columns are rows of a cluster in rank order, and
    only those that rank before it count for a row. The products of the rows ranked 4 to 6 with those ranked 3 to 6 have
    a diagonal of 1, since for the first of them only its first column counts, and their `column` is 3:

    >>> top = Top.before_any(np.array([4, 5, 6]))
    >>> fold(np.float32([[0.1, 1.0, 0.9, 0.9], [0.2, 0.6, 1.0, 0.9], [0.3, 0.3, 0.1, 1.0]]), 1, 3, top)
    >>> top.best.tolist() == np.float32([0.1, 0.6, 0.3]).tolist(), top.winner.tolist()
    (True, [3, 4, 3])

    Args:
        products: (…, m, c) float32, overwritten; leading dimensions are clusters, each with the same diagonal.
        diagonal: the columns that count for the first row; c or more where all count for all.
        column: the position of the first column.
        top: of the … · m rows. Of equal products the first wins, if tiles come in their order.
    """
    if namespace(products) is not np:
        cuda.fold(products, diagonal, column, *top)
        return
    _mask_later(products, diagonal)
    products = products.reshape(-1, products.shape[-1])
    at = products.argmax(axis=1)
    each = np.arange(len(at))
    largest = products[each, at]
    products[each, at] = -np.inf
    np.maximum(top.second, np.maximum(products.max(axis=1), np.minimum(largest, top.best)), out=top.second)
    np.copyto(top.winner, at + column, where=largest > top.best)
    np.maximum(top.best, largest, out=top.best)


def _mask_later(products: npt.NDArray[np.float32], diagonal: int) -> None:
    """Sets the products with rows that do not rank earlier to minus infinity."""
    rows, columns = products.shape[-2:]
    if diagonal < columns:
        later = np.arange(max(0, diagonal), columns) >= np.arange(diagonal, diagonal + rows)[:, None]
        np.copyto(products[..., max(0, diagonal) :], -np.inf, where=later)
