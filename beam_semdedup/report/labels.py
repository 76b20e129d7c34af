"""What a person says of pairs, and the share of the removed rows that it makes duplicates, by eps, with an interval.

Pairs are drawn at random in bands of similarity, so that a label stands for as many rows as its band has per label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beam_semdedup.errors import InputError
from beam_semdedup.report.scale import BANDS, Scale
from beam_semdedup.storage.folder import File
from beam_semdedup.storage.records import Record

Z = 1.959963984540054
"""Of an interval of 95 %."""


@dataclass(frozen=True)
class Label:
    """What is said of a pair: whether its rows are the same. `pair` is made of the hashes of both ids."""

    pair: str
    same: bool


@dataclass(frozen=True)
class Labels(Record):
    """A file of labels, as the page saves it."""

    program: str
    labels: tuple[Label, ...]

    @classmethod
    def load(cls, path: str) -> dict[str, bool]:
        """Returns the labels in a file by pair; InputError where it is none."""
        file = File.at(path, {})
        try:
            found = cls.from_json(file.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise InputError(f"labels={path}: there is no such file") from error
        except ValueError as error:
            raise InputError(f"labels={path}: not a file of labels that a report saved: {error}") from error
        return {label.pair: label.same for label in found.labels}


@dataclass(frozen=True)
class Precision:
    """The share of the removed rows whose pair is the same: estimated, and the ends of its interval of 95 %."""

    estimate: float
    low: float
    high: float


def precision_at(
    scale: Scale, found: npt.NDArray[np.int64], places: Sequence[int], same: Sequence[bool], eps: float
) -> Precision | None:
    """Estimates the precision at a threshold.

    The bands' shares are weighted by their removed rows. The interval is Wilson's (1927) for as many labels as would be
    as precise without weights (Kish, 1965); rows of bands without a label count as all different for its lower end, and
    as all the same for its upper one.

    Args:
        found: (n,) the rows that are removed at each threshold of the scale.
        places, same: of the labelled pairs, which were drawn at random in each band.

    Returns:
        None where no removed row is in a band with a label.
    """
    last, edges = scale.place(eps), scale.edges(BANDS)
    removed = int(found[last])
    bands = scale.parts_of(np.asarray(places, dtype=np.int64), edges)
    weighted = squares = covered = 0.0
    for band in range(BANDS):
        inside = [s for s, place, b in zip(same, places, bands.tolist(), strict=True) if b == band and place <= last]
        before = int(found[min(edges[band], last)]) if band else 0
        rows = int(found[min(edges[band + 1], last)]) - before
        if inside and rows:
            covered += rows
            weighted += rows * sum(inside) / len(inside)
            squares += rows * rows / len(inside)
    if not covered:
        return None
    share, number = weighted / covered, covered * covered / squares
    middle = (share + Z * Z / (2 * number)) / (1 + Z * Z / number)
    half = Z / (1 + Z * Z / number) * math.sqrt(share * (1 - share) / number + Z * Z / (4 * number * number))
    known = covered / removed
    return Precision(share, max(0.0, middle - half) * known, min(1.0, middle + half) * known + 1 - known)
