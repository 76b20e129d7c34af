"""Whole processes measured: wall time, CPU time and peak memory of the process and all its descendants."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

_INTERVAL, _ROLES_INTERVAL = 0.05, 0.2


@dataclass(frozen=True)
class Run:
    """One process: seconds of wall time and of CPU time, the most bytes resident at once, and the load before it.

    `private_bytes` leaves out what is shared with other processes or mapped from files. Both are sums over the process
    tree, sampled 20 times a second; `peak_bytes` is at least what the kernel noted for the process itself.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    private_bytes: int
    load: float


@dataclass(frozen=True)
class Contender:
    """A command that is compared with others, and what it writes, which is removed before each run."""

    name: str
    command: Sequence[str | Path]
    output: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)


def measure(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Run:
    """Runs a command to its end; RuntimeError, with what it said last, where it fails."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
        peaks = _Peaks(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        peaks.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            last = said.read()[-3000:].decode(errors="replace")
            raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{last}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, peaks.resident, peaks.private, load)


@dataclass(frozen=True)
class Roles:
    """One command whose processes have roles: seconds of wall time, and by role of CPU time and the most private bytes.

    Sampled five times a second, so that what a process does in its last fifth of a second may not be counted.
    """

    seconds: float
    cpu_seconds: dict[str, float]
    peak_bytes: dict[str, float]


def measure_roles(command: Sequence[str | Path], role: Callable[[str, str], str]) -> Roles:
    """Runs a command to its end; RuntimeError, with what it said last, where it fails.

    Args:
        role: says what the role of a process that the command started is, by its name and its command line; the command
            itself is the `driver`.
    """
    started = time.perf_counter()
    seconds: dict[int, tuple[str, float]] = {}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryFile() as said:
        process = psutil.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            private: dict[str, float] = {}
            for each in [process, *_children(process)]:
                try:
                    with each.oneshot():
                        memory, times, command_line = each.memory_info(), each.cpu_times(), each.cmdline()
                        its = "driver" if each.pid == process.pid else role(each.name(), " ".join(command_line))
                except (psutil.Error, OSError):
                    continue
                if not command_line:  # it has ended, and nobody has waited for it yet
                    its = seconds.get(each.pid, (its, 0.0))[0]
                seconds[each.pid] = its, times.user + times.system
                private[its] = private.get(its, 0.0) + memory.rss - getattr(memory, "shared", 0)
            peaks = {its: max(peaks.get(its, 0.0), private.get(its, 0.0)) for its in {*peaks, *private}}
            time.sleep(_ROLES_INTERVAL)
        took = time.perf_counter() - started
        if process.returncode:
            said.seek(0)
            last = said.read()[-3000:].decode(errors="replace")
            raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{last}")
    cpu = {its: sum(s for other, s in seconds.values() if other == its) for its in peaks}
    return Roles(took, cpu, peaks)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def interleaved(contenders: Sequence[Contender], rounds: int) -> dict[str, list[Run]]:
    """The runs of each contender by name; they take turns, so that a busy machine slows all of them."""
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for number in range(rounds):
        for contender in contenders:
            clear(contender.output)
            run = measure(contender.command, contender.env)
            runs[contender.name].append(run)
            print(
                f"  {contender.name} ({number + 1} of {rounds}): {run.seconds:.2f} s, CPU {run.cpu_seconds:.2f} s, "
                f"{run.peak_bytes / 1e6:,.0f} MB, load {run.load:.1f}",
                flush=True,
            )
    return runs


def medians(runs: Sequence[Run], reference: Sequence[Run] = ()) -> dict[str, float]:
    """The columns of a table: medians over the runs, and over the rounds of the ratio to a reference."""
    result = {
        "seconds": statistics.median(r.seconds for r in runs),
        "CPU seconds": statistics.median(r.cpu_seconds for r in runs),
        "peak MB": statistics.median(r.peak_bytes for r in runs) / 1e6,
    }
    if reference:
        result["ratio"] = ratio(runs, reference)
        pairs = zip(runs, reference, strict=True)
        result["CPU ratio"] = statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in pairs)
    return result


def ratio(runs: Sequence[Run], reference: Sequence[Run]) -> float:
    """The median over the rounds of one contender's time as a multiple of another's."""
    return statistics.median(a.seconds / b.seconds for a, b in zip(runs, reference, strict=True))


def raw(runs: Mapping[str, Sequence[Run]]) -> dict[str, list[dict[str, Any]]]:
    """All runs as plain values, for the JSON file."""
    return {name: [asdict(run) for run in measured] for name, measured in runs.items()}


def clear(output: Path | None) -> None:
    """Removes a file or directory, if it is there."""
    if output is None:
        return
    if output.is_dir():
        shutil.rmtree(output)
    else:
        output.unlink(missing_ok=True)


class _Peaks:
    """The most bytes, `resident` and `private`, of a process and its descendants, sampled by a thread until `stop`."""

    def __init__(self, pid: int) -> None:
        self.resident = self.private = 0
        self._pid, self._stopped = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> None:
        """Ends the sampling."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            try:
                root = psutil.Process(self._pid)
                memories = [process.memory_info() for process in [root, *root.children(recursive=True)]]
                highest = _high_water(self._pid)
            except (psutil.Error, OSError):
                continue
            self.resident = max(self.resident, highest, sum(m.rss for m in memories))
            self.private = max(self.private, sum(m.rss - getattr(m, "shared", 0) for m in memories))


def _high_water(pid: int) -> int:
    """The most bytes that a process had resident so far; `ru_maxrss` would count what it was forked from."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return max((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), default=0)
