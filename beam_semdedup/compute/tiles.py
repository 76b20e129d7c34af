"""Tiles of products of rows, and what is kept of them, on NumPy and on a GPU alike."""

from __future__ import annotations

from typing import Any

import numpy as np

from beam_semdedup.compute import cuda
from beam_semdedup.compute.arrays import namespace

LONGEST = 2.0**15
"""The norm from which on rows are not `rounded`: float16 ends at 65504."""

_UNIT_ROUNDOFF, _SMALLEST = 2.0**-11, 2.0**-25  # of float16: relative, and half of its smallest number


def multiply(a: Any, b: Any, out: Any = None) -> Any:
    """Products of the rows of `a` with those of `b`, added in float32; (…, n, m) float32.

    Args:
        a, b: (…, n, d) and (…, m, d), both float32 or both `rounded`; a leading dimension multiplies many at once.
        out: where they go.
    """
    return np.matmul(a, b.swapaxes(-1, -2), out=out) if namespace(a) is np else cuda.multiply(a, b, out)


def rounded(rows: Any) -> Any:
    """Rows rounded to float16, for `multiply`: on a GPU as such, on NumPy as float32 numbers of these values."""
    half = rows.astype(np.float16)
    return half.astype(np.float32) if isinstance(half, np.ndarray) else half


def screening_error(dimension: int, longest: float) -> float:
    """How far a product of `rounded` rows may be from the exact product of the rows.

    Rounding moves a number v to v(1 + δ) + η with |δ| ≤ u = 2^-11, |η| ≤ 2^-25, and so a row x of norm at most L to
    x + r with |r| ≤ e = uL + √d·2^-25. By Cauchy and Schwarz the exact product of two rounded rows differs from x·y by
    |r·y + x·s + r·s| ≤ 2Le + e². Float16 numbers multiply exactly in float32, and each of d additions, in whatever
    order, loses at most 2^-22 (tensor cores truncate) of the sum of the magnitudes, which is at most (L + e)².

    Args:
        dimension: d.
        longest: L, the largest norm of a row, below `LONGEST`.
    """
    error = _UNIT_ROUNDOFF * longest + dimension**0.5 * _SMALLEST
    return 2 * longest * error + error**2 + dimension * 2.0**-22 * (longest + error) ** 2


def fold(products: Any, diagonal: int, column: int, best: Any, second: Any, winner: Any) -> None:
    """Updates each row's best and second-best product, in place.

    Args:
        products: (…, m, c) float32, overwritten; row i counts up to its column i + `diagonal`, exclusive.
        column: the position of the first column.
        best, second: (… · m,) float32; minus infinity before the first tile.
        winner: (… · m,) int64, the position of the best; of equals the first, if tiles come in their order.
    """
    if namespace(products) is not np:
        cuda.fold(products, diagonal, column, best, second, winner)
        return
    _mask_later(products, diagonal)
    products = products.reshape(-1, products.shape[-1])
    at = products.argmax(axis=1)
    each = np.arange(len(at))
    top = products[each, at]
    products[each, at] = -np.inf
    np.maximum(second, np.maximum(products.max(axis=1), np.minimum(top, best)), out=second)
    np.copyto(winner, at + column, where=top > best)
    np.maximum(best, top, out=best)


def _mask_later(products: np.ndarray, diagonal: int) -> None:
    """Sets the products with rows that do not rank earlier to minus infinity."""
    rows, columns = products.shape[-2:]
    if diagonal < columns:
        later = np.arange(max(0, diagonal), columns) >= np.arange(diagonal, diagonal + rows)[:, None]
        np.copyto(products[..., max(0, diagonal) :], -np.inf, where=later)
