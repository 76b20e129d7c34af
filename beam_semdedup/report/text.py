"""The report as lines for a terminal: how many rows each eps would remove, and the pairs next to the threshold."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

from beam_semdedup.report.content import Content, Pair
from beam_semdedup.report.labels import precision_at
from beam_semdedup.report.results import FinishedRun
from beam_semdedup.report.scale import BANDS

_STEPS = (0, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1)
_BAR, _LONGEST = 40, 300


def lines(run: FinishedRun, content: Content, number: int) -> Iterator[str]:
    """Yields the lines.

    Args:
        number: of pairs of each kind.
    """
    yield from _table(run, content)
    eps = content.collected.eps
    near = sorted(_pairs_of(content), key=lambda pair: (-pair.score, pair.key))
    last = content.collected.scale.place(eps)
    removed, kept = [p for p in near if p.place <= last], [p for p in near if p.place > last]
    kinds = {
        "Duplicates, the least alike": removed[::-1][:number],
        "Kept, the most alike": kept[:number],
        "Duplicates at random": _drawn(content, removed, number),
    }
    for kind, pairs in kinds.items():
        yield f"\n{kind}, at eps={eps:g}:{'' if pairs else ' none'}"
        for pair in pairs:
            yield f"\n{pair.score:.6f}  {_told(content, pair.row)}"
            yield f"{'is like':>8}  {_told(content, pair.other)}"


def _table(run: FinishedRun, content: Content) -> Iterator[str]:
    """Yields how many rows each eps up to the reach finds, with a bar for those that the one before does not."""
    collected, configuration = content.collected, content.results.configuration
    end = configuration.scores_end
    steps = sorted(step for step in {*_STEPS, collected.eps} if end is None or step <= end)
    counts = [collected.found_at(step) for step in steps]
    bands = [after - before for before, after in zip([0, *counts], counts, strict=False)]
    labelled = [(pair.place, content.labels[pair.key]) for pair in content.pairs if _is_labelled(content, pair)]
    last = f"{'precision':>18}" if labelled else "   more than with the eps before"
    yield f"{'eps':>6}{'duplicates':>14}{'share':>9}{last}"
    for step, count, band in zip(steps, counts, bands, strict=True):
        here = "  <- this" if step == collected.eps else ""
        if labelled:
            places, same = zip(*labelled, strict=True)
            found = precision_at(collected.scale, collected.found, places, same, step)
            said = f"{found.low:.1%} to {found.high:.1%}" if found else ""
            yield f"{step:>6g}{count:>14,}{count / run.rows_read:>9.2%}{said:>18}{here}"
        else:
            bar = "█" * round(_BAR * band / max(1, *bands)) or ("▏" if band else "")
            yield f"{step:>6g}{count:>14,}{count / run.rows_read:>9.2%}   {bar} {band:,}{here}"
    if labelled:
        yield f"Precision: the interval of 95 % from {len(labelled)} labels"
    if end is not None:
        yield f"The scores of this run end at eps={end:g}: reach=… takes them further."
    if configuration.precision == "screened":
        yield "precision=screened: the scores of this run are exact near its own eps only"


def _is_labelled(content: Content, pair: Pair) -> bool:
    return 0 <= pair.band < BANDS and pair.key in content.labels


def _pairs_of(content: Content) -> list[Pair]:
    return [pair for pair in content.pairs if {pair.row, pair.other} <= content.rows.keys()]


def _drawn(content: Content, removed: Sequence[Pair], number: int) -> list[Pair]:
    """Draws removed pairs, each with the weight of the rows of its band that it stands for."""
    collected = content.collected
    edges, last = collected.scale.edges(BANDS), collected.scale.place(collected.eps)
    pairs = [pair for pair in removed if pair.band >= 0]
    times = Counter(pair.band for pair in pairs)
    chance = random.Random(0)

    def priority(pair: Pair) -> float:
        before = int(collected.found[edges[pair.band]]) if pair.band else 0
        rows = int(collected.found[min(edges[pair.band + 1], last)]) - before
        return float(chance.random() ** (times[pair.band] / max(1, rows)))

    return sorted(pairs, key=priority, reverse=True)[:number]


def _told(content: Content, hash_: int) -> str:
    row = content.rows[hash_]
    one = len(content.fields) == 1
    values = [v if one else f"{name}={v}" for name, v in zip(content.fields, row.values, strict=False)]
    return row.id + "".join(f"  {str(value)[:_LONGEST]}" for value in values)
