"""The similarity kernel against the machine's own matrix products."""

from __future__ import annotations

from benchmarks.bench import Bench, Goal, Result, probe

_CASES = [(rows, dimension, 0.0) for dimension in (384, 768) for rows in (1000, 4096, 16_384)]
_CASES += [(16_384, 384, 0.1), (16_384, 768, 0.1)]


def run(bench: Bench) -> Result:
    """Clusters of three sizes, without copies and with a tenth of them."""
    result = Result()
    for rows, dimension, copies in _CASES:
        rates = probe("kernel", rows, dimension, copies)
        print(f"  {rows:,} × {dimension}, {copies:.0%} copies: {rates}", flush=True)
        result.table.append(
            {
                "rows": rows,
                "dimension": dimension,
                "copies": copies,
                "SGEMM GFLOP/s": rates["sgemm"],
                "kernel GFLOP/s": rates["kernel"],
                "share": rates["share"],
            }
        )
        if rows == 16_384:
            what = f"kernel, {rows:,} × {dimension}, {copies:.0%} copies: share of SGEMM"
            result.goals.append(Goal(what, rates["share"], 0.85, "", at_most=False))
    return result
