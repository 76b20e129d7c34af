"""What a random sample says of a whole: the share of it that has a property, and what follows for a run's recall."""

from __future__ import annotations

import numpy as np

CONFIDENCE = 0.95
_HALVINGS = 50


def clopper_pearson(hits: int, size: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Returns an interval that holds a proportion with at least this probability, whatever the proportion is.

    Both its ends are those proportions that make what was seen, or anything farther off, as probable as half of what
    is left of 1 (Clopper and Pearson, "The use of confidence or fiducial limits", 1934). Of a finite whole, from which
    nothing is drawn twice, the sample says no less.

    Args:
        hits: how many of the sample have the property.
        size: of the sample; 0 says nothing.
    """
    tail = (1 - confidence) / 2
    low = _proportion_at(hits - 1, size, 1 - tail) if hits else 0.0
    high = _proportion_at(hits, size, tail) if hits < size else 1.0
    return low, high


def recall(found: int, others: int, missed: int, size: int) -> tuple[float | None, float, float]:
    """Estimates what share of the duplicates there are was found; returns it and its interval, each in [0, 1].

    The estimate is None where none was found, and none is known of.

    Args:
        found: duplicates that were found.
        others: all other rows.
        missed: duplicates in a random sample of the others.
        size: of the sample.
    """
    low, high = clopper_pearson(missed, size)
    # The sample itself is known, and all of the others where they are in it.
    fewest, most = max(missed, others * low), min(others - size + missed, others * high)
    rate = missed / size if size else 0.0
    estimate = found / (found + others * rate) if found or missed else None
    return estimate, _share(found, most), _share(found, fewest)


def _share(found: int, missed: float) -> float:
    return found / (found + missed) if missed else 1.0


def _proportion_at(hits: int, size: int, probability: float) -> float:
    """Returns the proportion with which a sample has at most so many hits with a probability; hits < size."""
    k = np.arange(hits + 1)
    # The logarithms of the binomial coefficients: each is the one before times (size - k + 1) / k.
    ways = np.cumsum(np.concatenate([[0.0], np.log((size - k[1:] + 1) / k[1:])]))
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        at_most = np.exp(ways + k * np.log(middle) + (size - k) * np.log1p(-middle)).sum()
        low, high = (middle, high) if at_most > probability else (low, middle)
    return (low + high) / 2
