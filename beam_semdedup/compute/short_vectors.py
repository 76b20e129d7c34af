"""Short vectors: a few coordinates of each row, and the length of the rest, which bound the product of two rows.

Let V be any d × m matrix, P = V Vᵀ, and p = Vᵀx. If no eigenvalue of VᵀV differs from 1 by more than η, those of I - P
are 1 or in [-η, η], so that |I - P| <= (I - P) + 2ηI, and by Cauchy and Schwarz

    x·y = p·q + x·(I - P)y <= p·q + √(x·|I - P|x) √(y·|I - P|y) <= p·q + r(x) r(y),   r(x)² = |x|² - |p|² + 2η|x|².

V need not be good for this to hold; where it holds much of the rows' energy, r is small and the bound is sharp.

Rounding. Let p' be p as computed in float32, |p - p'| <= ε|x|. Then |p|² >= |p'|² - 2ε|p'||x|, and
p·q <= p'·q' + (2ε(1 + η) + ε²) |x||y|. The product of the short vectors (p', r') in float32 is at least the exact one
less ρ |(p', r')| |(q', r')|. Cauchy and Schwarz again: with c added to both squares, √(a + c|x|²) √(b + c|y|²) >=
√(ab) + c|x||y|. So what all of these may lose is made good by adding c|x|² to r(x)², for a c that is at least their
sum; and a short vector is one array whose products are upper bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from beam_semdedup.compute.arrays import rounding_error, row_dot
from beam_semdedup.compute.threads import in_threads, slices
from beam_semdedup.compute.tiles import multiply

WIDTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
_PAIR = 80_000  # what a pair that is not settled costs, in multiplications: it is gathered, and multiplied in float64
_PASS = 16  # what each pair costs besides its multiplications
_PAIRS = 1 << 17  # by which the costs are estimated
_STEP_ROWS = 4096


@dataclass(frozen=True)
class Basis:
    """The directions whose coordinates are kept.

    Attributes:
        vectors: V, (d, m) float32; with m = 0 nothing is bounded but by the lengths.
    """

    vectors: npt.NDArray[np.float32]

    @property
    def width(self) -> int:
        """The number m of coordinates."""
        return int(self.vectors.shape[1])

    def shorten(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the short vectors (n, m + 1) of rows (n, d), whose float32 products are at least those of the rows.

        See the module for the proof.
        """
        width, lost = self.width, self._lost
        result = np.empty((len(rows), width + 1), dtype=np.float32)

        def fill(part: slice) -> None:
            own = result[part]
            own[:, :width] = multiply(rows[part], self.vectors.T)
            squares = row_dot(rows[part], rows[part])
            rest = squares - row_dot(own[:, :width], own[:, :width]) if width else squares
            own[:, width] = np.sqrt(np.maximum(rest, 0) + lost * squares) * (1 + 1e-6)

        in_threads(fill, slices(0, len(rows), _STEP_ROWS))
        return result

    @cached_property
    def _lost(self) -> float:
        """The c of the module, which makes good what the defect of V and rounding may lose."""
        exact = self.vectors.astype(np.float64)
        defect = float(np.linalg.norm(exact.T @ exact - np.eye(self.width))) + 1e-12  # of Frobenius, no smaller than η
        projected = self.width**0.5 * (1 + defect) * rounding_error(len(exact))  # ε
        lost = 4 * defect + 4 * projected * (1 + defect) + projected**2
        return float((lost + rounding_error(self.width + 1) * (2 + 2 * lost)) * (1 + 1e-3) + 1e-6)


def fit_basis(
    rows: npt.NDArray[np.float32],
    groups: npt.NDArray[np.integer],
    threshold: float,
    visits: tuple[npt.NDArray[np.int64], npt.NDArray[np.integer]] | None = None,
) -> Basis:
    """Chooses the directions, and how many of them make comparing rows cheapest.

    They are eigenvectors of the rows' second moments, those with the largest eigenvalues: the ones that hold the most
    of the rows' energy. More of them make each product dearer and leave fewer pairs to be multiplied in full: how many,
    is counted in pairs like those that will be compared, since rows of one group resemble each other more than others.

    Args:
        rows: (n, d), a sample.
        groups: (n,) the group of each; those of one are compared with each other.
        threshold: the product from which on a pair is similar.
        visits: which rows (v,) are compared with those of which groups (v,) too.
    """
    dimension = rows.shape[1]
    none = Basis(np.zeros((dimension, 0), dtype=np.float32))
    widths = [width for width in WIDTHS if width < dimension]
    if not widths or threshold <= 0:
        return none
    who, whom = _some_pairs(groups, visits)
    if not len(who):
        return none
    moments = sum(in_threads(lambda part: _moments(rows[part]), slices(0, len(rows), _STEP_ROWS)))
    ((_, vectors),) = in_threads(np.linalg.eigh, [moments])  # threads of BLAS would wait for each other
    widest = vectors[:, ::-1][:, : widths[-1]].astype(np.float32)
    coordinates = np.concatenate(in_threads(lambda part: rows[part] @ widest, slices(0, len(rows), _STEP_ROWS)))
    held = np.cumsum(coordinates.astype(np.float64) ** 2, axis=1)[:, np.array(widths) - 1]
    lengths = np.sqrt(np.maximum(row_dot(rows, rows)[:, None] - held, 0))

    def open_pairs(part: slice) -> list[int]:
        left, right = who[part], whom[part]
        products, before, found = np.zeros(len(left), dtype=np.float32), 0, []
        for width, length in zip(widths, lengths.T, strict=True):
            products += row_dot(coordinates[left, before:width], coordinates[right, before:width])
            found.append(int(np.count_nonzero(products + length[left] * length[right] >= threshold)))
            before = width
        return found

    left = np.sum(in_threads(open_pairs, slices(0, len(who), _STEP_ROWS)), axis=0)
    lowest, width = min(zip(widths + left / len(who) * _PAIR, widths, strict=True))
    return Basis(np.ascontiguousarray(widest[:, :width])) if lowest + _PASS < dimension else none


def _some_pairs(
    groups: npt.NDArray[np.integer], visits: tuple[npt.NDArray[np.int64], npt.NDArray[np.integer]] | None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Draws pairs of rows that are compared, each as likely as any other; (p,) and (p,) positions."""
    each = np.arange(len(groups))
    visitors, visited = visits or (each[:0], groups[:0])
    visitors, visited = np.concatenate([each, visitors]), np.concatenate([groups, visited])
    by_group = np.argsort(groups, kind="stable")
    first, last = (np.searchsorted(groups[by_group], visited, side) for side in ("left", "right"))
    stops = np.cumsum(last - first)
    number = int(stops[-1]) if len(stops) else 0
    drawn = np.arange(number) if number <= _PAIRS else np.random.default_rng(0).integers(0, number, _PAIRS)
    visit = np.searchsorted(stops, drawn, side="right")
    who, whom = visitors[visit], by_group[last[visit] - stops[visit] + drawn]
    once = (visit >= len(each)) | (whom < who)  # rows of one group have each other twice, and themselves
    return who[once], whom[once]


def _moments(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    exact = rows.astype(np.float64)
    return exact.T @ exact
