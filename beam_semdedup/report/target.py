"""The eps that leaves at most so many rows, found in the scores of a run."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from beam_semdedup.errors import InputError
from beam_semdedup.report.results import Results
from beam_semdedup.report.scale import Scale
from beam_semdedup.stages.duplicates import read_scored
from beam_semdedup.storage.threads import read_ahead
from beam_semdedup.text import counted

_COLUMNS = ["centroid", "cosine_sim_score"]


def find_target(results: Results, target_rows: int) -> tuple[float, int]:
    """Finds the smallest eps that leaves at most `target_rows` rows, with as few decimals as that allows.

    Returns:
        The eps, and the rows that it leaves: fewer than asked for where rows have the same score.

    Raises:
        InputError: none that the scores serve does.
        DamagedFile: a file cannot be read.
    """
    end = results.configuration.scores_end
    scale = Scale.around(None, end)
    found = np.cumsum(_counts(results, scale))
    last = len(scale.values) - 1 if end is None else scale.place(end)
    needed = results.num_rows - target_rows
    place = int(np.searchsorted(found[: last + 1], needed))
    if place > last:
        left = results.num_rows - int(found[last])
        raise InputError(
            f"target_rows={target_rows}: eps={scale.values[last]:g}, the largest that the scores serve, leaves "
            f"{counted(left, 'row')}" + ("" if end is None else "; a larger reach=… finds more")
        )
    scores = sorted(_scores_at(results, scale, place).items(), reverse=True)
    removed, lowest, below = int(found[place - 1]) if place else 0, 1.0, -math.inf
    for number, (score, rows) in enumerate(scores):
        removed, lowest = removed + rows, score
        if removed >= needed:
            below = scores[number + 1][0] if number + 1 < len(scores) else -math.inf
            break
    return _shortest(lowest, below, float(scale.values[place])), results.num_rows - removed


def _shortest(score: float, below: float, most: float) -> float:
    """Returns the eps of fewest decimals, at most `most`, that a score reaches and no score `below` it does."""
    for digits in range(1, 17):
        eps = math.ceil((1 - score) * 10**digits) / 10**digits
        if eps <= most and below < 1 - eps <= score:
            return eps
    eps = 1 - score
    while 1 - eps > score:
        eps = math.nextafter(eps, 2)
    return eps


def _counts(results: Results, scale: Scale) -> np.ndarray:
    """Counts the rows that become duplicates at each place of the scale."""
    has_visits = results.configuration.has_visits

    def count(name: str) -> np.ndarray:
        bins = np.zeros(len(scale.values) + 1, dtype=np.int64)
        for _, scores in read_scored(results.pairwise, name, has_visits, _COLUMNS):
            bins += np.bincount(scale.places(scores), minlength=len(bins))
        return bins

    total = np.zeros(len(scale.values) + 1, dtype=np.int64)
    for bins in read_ahead(count, results.names):
        total += bins
    return total[:-1]


def _scores_at(results: Results, scale: Scale, place: int) -> Counter[float]:
    """Counts the rows of each score that becomes a duplicate at a place: no more scores than float32 has there."""

    def count(name: str) -> Counter[float]:
        found = Counter[float]()
        for _, scores in read_scored(results.pairwise, name, results.configuration.has_visits, _COLUMNS):
            values, counts = np.unique(scores[scale.places(scores) == place], return_counts=True)
            found.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        return found

    total = Counter[float]()
    for found in read_ahead(count, results.names):
        total.update(found)
    return total
