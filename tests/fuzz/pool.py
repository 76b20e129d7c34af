"""Cases that are run in forked children: what kills a child, or holds it up, is what the case is found guilty of."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEMORY = 4 << 30
"""Bytes that a child may take besides what it has when it starts."""

Judge = Callable[[int], str]
"""Runs a case by its number; returns in a word how it ended, or raises `Fault`."""


class Fault(Exception):
    """A case did what it must not do; the message says what."""


@dataclass(frozen=True)
class Verdict:
    """How a case ended: in a word, or with a fault, in words."""

    number: int
    ended: str = ""
    fault: str = ""


@dataclass
class _Child:
    pid: int
    pipe: int
    numbers: list[int]
    since: float = field(default_factory=time.monotonic)
    rest: bytes = b""


def run(judge: Judge, numbers: Sequence[int], processes: int, seconds: float, said: Path) -> Iterator[Verdict]:
    """Yields the verdicts of the cases as they come.

    Call it where no thread runs: a child has only the one that forked it.

    Args:
        seconds: how long a case may take.
        said: a directory for what the children print.
    """
    waiting = [list(numbers[start::processes]) for start in range(min(processes, len(numbers)))]
    children: dict[int, _Child] = {}
    with selectors.DefaultSelector() as selector:
        while waiting or children:
            while waiting:
                child = _start(judge, waiting.pop(), said)
                children[child.pipe] = child
                selector.register(child.pipe, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(0.5)}
            for pipe, child in list(children.items()):
                data = os.read(pipe, 1 << 16) if pipe in ready else None
                *lines, child.rest = (child.rest + (data or b"")).split(b"\n")
                for line in lines:
                    child.since = time.monotonic()
                    child.numbers.pop(0)
                    yield Verdict(**json.loads(line))
                late = time.monotonic() - child.since > seconds
                if data == b"" or late:
                    if late:
                        os.kill(child.pid, signal.SIGKILL)
                    status = os.waitpid(child.pid, 0)[1]
                    selector.unregister(pipe)
                    os.close(pipe)
                    del children[pipe]
                    if child.numbers:
                        how = f"no end within {seconds:g} s" if late else _ended(status)
                        yield Verdict(child.numbers[0], fault=f"{how}\n{_tail(said / str(child.pid))}")
                    if child.numbers[1:]:
                        waiting.append(child.numbers[1:])


def _start(judge: Judge, numbers: list[int], said: Path) -> _Child:
    pipe, ours = os.pipe()
    pid = os.fork()
    if pid:
        os.close(ours)
        return _Child(pid, pipe, numbers)
    try:  # everything that follows is the child
        os.close(pipe)
        output = os.open(said / str(os.getpid()), os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
        if pages:
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in numbers:
            os.ftruncate(output, 0)
            os.lseek(output, 0, os.SEEK_SET)
            os.write(ours, json.dumps(_verdict(judge, number)).encode() + b"\n")
    finally:
        os._exit(0)


def _verdict(judge: Judge, number: int) -> dict[str, Any]:
    try:
        return {"number": number, "ended": judge(number)}
    except Fault as fault:
        return {"number": number, "fault": str(fault)}
    except BaseException:
        return {"number": number, "fault": f"the harness itself: {traceback.format_exc()}"}


def _ended(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"the process ended with {code}"


def _tail(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_bytes()[-2000:].decode(errors="replace")
    return ""
