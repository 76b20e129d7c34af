"""`python -m fuzz [KIND …]`: runs cases and prints the figures; ends with 1 where one did what it must not do.

SEMDEDUP_FUZZ_CASES says how many cases of each kind, SEMDEDUP_FUZZ_SEED which; `--case N` repeats one alone.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from fuzz import array_cases, cases, jsonl_cases, parquet_cases, pool, stored_cases

Run = Callable[[random.Random, Path], str]


def _of(make: Callable[[random.Random], cases.Case]) -> Run:
    return lambda rng, scratch: cases.run(make(rng), rng, scratch)


KINDS: dict[str, Run] = {
    "parquet-bytes": _of(parquet_cases.bytewise),
    "parquet-structure": _of(parquet_cases.structured),
    "jsonl-bytes": _of(jsonl_cases.bytewise),
    "jsonl-lines": _of(jsonl_cases.structured),
    "npy": _of(array_cases.npy),
    "arrow": _of(array_cases.arrow),
    "stored": stored_cases.run,
}


def main() -> None:
    parser = argparse.ArgumentParser("python -m fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--cases", type=int, default=int(os.environ.get("SEMDEDUP_FUZZ_CASES", "1000")))
    parser.add_argument("--seed", default=os.environ.get("SEMDEDUP_FUZZ_SEED", "0"))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60, help="how long a case may take")
    parser.add_argument("--case", type=int, help="run this one alone")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    numbers = range(given.cases) if given.case is None else [given.case]
    faults = sum(_campaign(kind, given, numbers) for kind in given.kinds)
    sys.exit(1 if faults else 0)


def _campaign(kind: str, given: argparse.Namespace, numbers: range | list[int]) -> int:
    started, ended, faults = time.monotonic(), Counter[str](), 0
    root = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk would be waited for at each small file
    scratch = Path(tempfile.mkdtemp(prefix="semdedup-fuzz-", dir=root))
    (scratch / "said").mkdir()

    def judge(number: int) -> str:
        return KINDS[kind](random.Random(f"{given.seed} {kind} {number}"), scratch)

    try:
        for verdict in pool.run(judge, list(numbers), given.processes, given.seconds, scratch / "said"):
            ended[verdict.ended or "fault"] += 1
            if verdict.fault:
                faults += 1
                print(f"{kind} --seed {given.seed} --case {verdict.number}: {verdict.fault}", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    seconds = time.monotonic() - started
    figures = ", ".join(f"{count:,} {word}" for word, count in sorted(ended.items()))
    print(f"{kind}: {ended.total():,} cases in {seconds:.0f} s: {figures}", flush=True)
    return faults


if __name__ == "__main__":
    main()
