"""The thresholds that a report counts at, and the bands of similarity that it draws pairs from."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BANDS, STEPS = 16, 160
"""Bands of similarity, of which pairs to label are drawn; and steps, of which some pairs are shown."""
_SOURCE_STEPS = 40
_ENDS = (0.3, 0.5, 1.0, 1.999)
_ROUND = (0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5)


@dataclass(frozen=True)
class Scale:
    """Every `eps` that is counted at, ascending: all with five decimals up to 0.01, four up to 1, three below 2.

    A slider over it goes to `end` by the square root, so that small ones have room.

    Attributes:
        end: where the slider ends.
        extra: others that are counted at too.
    """

    end: float
    extra: tuple[float, ...] = ()

    @classmethod
    def around(cls, eps: float | None, reach: float | None) -> Scale:
        """Returns the scale for an `eps`: it ends at three times as much at least, or at the reach, if any."""
        asked = 0.0 if eps is None else eps
        end = next((end for end in _ENDS if end >= 3 * asked), _ENDS[-1])
        extra = tuple(value for value in (eps, reach) if value is not None)
        return cls(end if reach is None else max(reach, 1e-4), extra)

    @functools.cached_property
    def values(self) -> npt.NDArray[np.float64]:
        """The thresholds (n,)."""
        steps = [k / 100_000 for k in range(1000)], [k / 10_000 for k in range(100, 10_000)]
        return np.unique([*steps[0], *steps[1], *(k / 1000 for k in range(1000, 2000)), *self.extra])

    @functools.cached_property
    def _lowest(self) -> npt.NDArray[np.float64]:
        return (1 - self.values)[::-1]  # as `eps` is applied

    def places(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Returns for each score (m,) the place of the first value at which its row is a duplicate; n where none is."""
        return len(self.values) - np.searchsorted(self._lowest, scores, side="right")

    def place(self, eps: float) -> int:
        """Returns the place of the largest value that is at most `eps`."""
        return int(np.searchsorted(self.values, eps, side="right")) - 1

    def edges(self, number: int) -> npt.NDArray[np.int64]:
        """Returns the places (number + 1,) where that many parts of the slider of one width end, the first being 0."""
        wanted = self.end * (np.arange(number + 1) / number) ** 2
        return np.searchsorted(self.values, wanted, side="right") - 1

    @functools.cached_property
    def source_places(self) -> npt.NDArray[np.int64]:
        """The places, ascending, at which the rows of each source are counted: fewer, as there are many sources."""
        chosen = [self.place(eps) for eps in (*_ROUND, *self.extra) if eps <= max(self.end, *self.extra, 0)]
        return np.unique([*self.edges(_SOURCE_STEPS), *chosen])

    def parts_of(self, places: npt.NDArray[np.int64], edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns the part between `edges` that each of some places lies in; that many where it lies behind all.

        A part holds its upper edge and not its lower one; the first one holds both.
        """
        return np.maximum(np.searchsorted(edges, places, side="left") - 1, 0)
