"""Ctrl-C and SIGTERM while the main thread does what Python does not interrupt."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

_BUSY = {
    "a long call": "print('begun', flush=True); hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)",
    "threads that are waited for": (
        "with ThreadPoolExecutor() as pool: pool.submit(time.sleep, 600); print('begun', flush=True); time.sleep(600)"
    ),
    "nothing": "print('begun', flush=True); time.sleep(600)",
}
_PROGRAM = """
import hashlib, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from beam_semdedup.cli import commands, interrupts
signals = __import__("signal")
signals.signal(signals.SIGINT, signals.default_int_handler)
interrupts.listen()
nowhere = subprocess.DEVNULL
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=nowhere, stderr=nowhere)
print(child.pid, flush=True)
def busy():
    {busy}
commands._end(commands._guarded(busy))
"""


_INTERRUPTED, _TERMINATED = (2, 130, "Interrupted"), (15, 143, "Terminated")


@pytest.mark.parametrize(
    ("busy", "number", "code", "said"),
    [
        ("a long call", *_INTERRUPTED),
        ("threads that are waited for", *_TERMINATED),
        ("nothing", *_INTERRUPTED),
        pytest.param("a long call", *_TERMINATED, marks=pytest.mark.slow),
        pytest.param("threads that are waited for", *_INTERRUPTED, marks=pytest.mark.slow),
        pytest.param("nothing", *_TERMINATED, marks=pytest.mark.slow),
    ],
)
def test_a_signal_is_answered_whatever_is_running(busy: str, number: int, code: int, said: str) -> None:
    program = _PROGRAM.format(busy=_BUSY[busy])
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", program], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    assert process.stdout.readline() == "begun\n"
    started = time.monotonic()
    process.send_signal(signal.Signals(number))
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 30  # 2 where the machine is not shared
    assert process.returncode == code
    assert err == f"{said}. Finished units are kept: the same command goes on from there.\n"
    if busy == "nothing":
        child.kill()
    else:
        child.wait(10)
