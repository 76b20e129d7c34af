"""`python -m fuzz.torture`: kills runs, removals and sweeps at any moment, and looks at what the next ones make of it.

A life begins in an empty place. Its command is started and killed a few times, then left to end; what it finds must be
what a command finds that nobody killed, and nothing of the killed ones may be left behind.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from runs import COMMAND, DEMO, read_parquet

CODES = {"SIGINT": {130}, "SIGTERM": {143}, "SIGKILL": {-signal.SIGKILL}}
"""How a driver ends that was sent a signal."""
_LIMIT = 120
_EPS = (0.03, 0.05)


@dataclass
class Job:
    """A command that is killed: its arguments, where it works, and when its work has begun."""

    name: str
    command: Path
    arguments: list[str]
    out: Path
    begun: str
    """a pattern of what appears in `out` once work has begun"""
    results: list[str]
    """the directories in `out` whose rows are compared"""
    workers: int


@dataclass
class Figures:
    """What the campaign counted, and the faults that it found."""

    kills: Counter[str] = field(default_factory=Counter)
    late: int = 0
    """signals that came when the command had ended"""
    lives: int = 0
    slowest: float = 0.0
    """seconds from a signal to the end of driver and workers"""
    faults: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser("python -m fuzz.torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", default=os.environ.get("SEMDEDUP_FUZZ_SEED", "0"))
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it runs in the background
    figures = Figures()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="semdedup-torture-") as scratch:
        campaign(Path(scratch), given.seed, given.kills, figures)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(figures.kills.items()))
    print(
        f"{figures.kills.total()} kills in {figures.lives} lives and {time.monotonic() - started:.0f} s ({kinds}); "
        f"{figures.late} more came too late; the slowest end {figures.slowest:.1f} s after its signal; "
        f"{len(figures.faults)} faults"
    )
    sys.exit(1 if figures.faults else 0)


def campaign(scratch: Path, seed: str, kills: int, figures: Figures) -> None:
    """Kills that many times, at least."""
    init = scratch / "init.npy"
    rows = np.random.default_rng(0).normal(size=(100, 384))
    np.save(init, rows / np.linalg.norm(rows, axis=1, keepdims=True))
    finished = scratch / "finished"
    right: dict[str, dict[str, list[str]]] = {}
    for name in ("run", "fit", "sweep", "removal"):
        job = make_job(name, finished if name == "run" else scratch / f"right-{name}", init, finished, 1)
        code, said = _finished(job, scratch / "tmp")
        if code:
            raise RuntimeError(said)
        right[name] = results(job)
    while figures.kills.total() < kills:
        rng = random.Random(f"{seed} {figures.lives}")
        place = Path(tempfile.mkdtemp(dir=scratch))
        name = rng.choice(["run", "run", "fit", "sweep", "removal"])
        job = make_job(name, place / "out", init, finished, rng.choice([1, 2]))
        about = f"life {figures.lives} of seed {seed}: {name} with {job.workers} workers"
        for fault in life(job, place, rng, right[name], figures):
            figures.faults.append(fault)
            print(f"{about}: {fault}", flush=True)
        figures.lives += 1
        shutil.rmtree(place)


def make_job(name: str, out: Path, init: Path, finished: Path, workers: int) -> Job:
    """Returns the command of a kind, which writes to `out`; `finished` is the output of a run, for a removal."""
    where = [f"input_path={DEMO}", f"output_path={out}", f"runner.num_workers={workers}", "verbose=false"]
    given = ["n_clusters=100", f"init={init}", "max_iter=0"]
    sizes = ["comparison_rows=100", f"assign_unit_bytes={200 * 4 * 384}"]
    if name == "removal":
        command = COMMAND.with_name("semdedup-remove")
        return Job(name, command, [*where, f"duplicates_path={finished}"], out, "_removal/plan.json", ["."], workers)
    if name == "sweep":
        eps, results = [f"eps={','.join(map(str, _EPS))}", "-m"], [f"eps={eps}/duplicates" for eps in _EPS]
        return Job(name, COMMAND, [*where, *given, *sizes, *eps], out, "**/plan.json", results, workers)
    fit = ["n_clusters=40", "n_init=5", "min_moved=0", "tol=0"] if name == "fit" else given
    removal = ["remove=true"] if name == "run" else []
    results = ["duplicates", "deduplicated"] if name == "run" else ["duplicates"]
    return Job(name, COMMAND, [*where, *fit, *sizes, *removal, "eps=0.05"], out, "**/plan.json", results, workers)


def life(job: Job, place: Path, rng: random.Random, right: dict[str, list[str]], figures: Figures) -> Iterator[str]:
    """Starts the job, kills it a few times and lets it end; yields what is wrong."""
    temporary = place / "tmp"
    temporary.mkdir(exist_ok=True)
    for _ in range(rng.choice([2, 3, 4])):
        yield from _kill(job, temporary, rng, figures)
    code, said = _finished(job, temporary)
    if code:
        yield f"the run that was let go on ended with {code}: {said[-1500:]}"
        return
    found = results(job)
    if found != right:
        kind = next(kind for kind in right if found.get(kind) != right[kind])
        yield f"{kind} has {len(found.get(kind, []))} rows, not the {len(right[kind])} of an undisturbed run"
    if left := sorted(str(file) for file in job.out.rglob(".*.tmp")):
        yield f"left behind: {left[:3]}"
    if left := sorted(file.name for file in temporary.glob("semdedup-*")):
        yield f"left behind in the temporary directory: {left[:3]}"


def _kill(job: Job, temporary: Path, rng: random.Random, figures: Figures) -> Iterator[str]:
    name = rng.choice(["SIGKILL", "SIGKILL", "SIGTERM", "SIGINT"])
    target = rng.choice(["driver", "driver", "group", "worker"] if job.workers > 1 else ["driver", "driver", "group"])
    number = getattr(signal, name)
    with _started(job, temporary) as process:
        if rng.random() < 0.9:  # else at any moment of its start
            _wait_for(lambda: any(job.out.glob(job.begun)) or process.poll() is not None)
        time.sleep(rng.random() ** 2 * 1.5)
        workers = _workers(process)
        if target == "worker" and not workers:
            target = "driver"
        if process.poll() is not None:
            figures.late += 1
            process.communicate()
            return
        sent = time.monotonic()
        if target == "group":
            os.killpg(process.pid, number)
        else:
            victim = rng.choice(workers) if target == "worker" else psutil.Process(process.pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.send_signal(number)
        try:
            err = process.communicate(timeout=_LIMIT)[1]
        except subprocess.TimeoutExpired:
            yield f"{name} to {target}: no end within {_LIMIT} s"
            return
        if not _wait_for(lambda: not any(map(_runs, workers)), 30):
            yield f"{name} to {target}: workers live on"
        figures.slowest = max(figures.slowest, time.monotonic() - sent)
    if process.returncode == 0:
        figures.late += 1
        return
    figures.kills[f"{name} of the {target}"] += 1
    codes = {1} if target == "worker" else CODES[name]
    if target == "group":
        codes = codes | {1}  # the driver may notice first that a worker is gone
    if process.returncode not in codes and not _is_early(process, number, err):
        yield f"{name} to {target}: ended with {process.returncode}: {err[-1500:]}"
    if "Traceback" in err and not _is_early(process, number, err):
        yield f"{name} to {target}: a traceback: {err[-1500:]}"


def _is_early(process: subprocess.Popen[str], number: int, err: str) -> bool:
    """Says whether a signal came while Python or the package was being imported, which nobody answers for."""
    return (
        process.returncode in (-number, 1, 130)
        and bool(re.search(r"KeyboardInterrupt|^$", err))
        and "goes on" not in err
    )


def _finished(job: Job, temporary: Path) -> tuple[int, str]:
    temporary.mkdir(exist_ok=True)
    with _started(job, temporary) as process:
        out, err = process.communicate(timeout=_LIMIT)
    return process.returncode, out + err


@contextlib.contextmanager
def _started(job: Job, temporary: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [str(job.command), *job.arguments],
        cwd=temporary,
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def results(job: Job) -> dict[str, list[str]]:
    """Returns the rows of a job's results, sorted."""
    return {
        name: sorted(map(str, zip(*read_parquet(job.out / name).select(["id"]).to_pydict().values(), strict=True)))
        for name in job.results
    }


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [p for p in psutil.Process(process.pid).children() if "beam_semdedup.runners.worker" in p.cmdline()]
    return []


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _wait_for(condition: object, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.002)
    return False


if __name__ == "__main__":
    main()
