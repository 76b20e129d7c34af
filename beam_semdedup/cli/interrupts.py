"""Ctrl-C and SIGTERM, which are answered in two seconds whatever is running.

Python raises KeyboardInterrupt in the main thread, once that is done with what it computes or waits for. A thread hears
of the signal at once, and ends the process where the main thread has not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

from beam_semdedup.cli import console

INTERRUPTED, TERMINATED = 130, 143
_ANSWER_SECONDS = 1.5
_CLUSTER_SECONDS = 15.0
_TERMINATED, _TOLD = threading.Event(), threading.Event()
_DRAINS, _DRAINING = threading.Event(), threading.Event()
_PATIENCE = [_ANSWER_SECONDS]


def listen() -> None:
    """Begins to answer the signals; in the main thread."""
    signal.signal(signal.SIGTERM, _terminate)
    sender, receiver = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)
    threading.Thread(target=_answer, args=(receiver,), name="signals", daemon=True).start()


def wait_for_cluster() -> None:
    """Gives what runs elsewhere, and must be told to end, more time to do so."""
    _PATIENCE[0] = _CLUSTER_SECONDS


@contextlib.contextmanager
def draining() -> Iterator[threading.Event]:
    """Yields an event that, while within it, the first SIGTERM sets instead of ending the process; the next ends it."""
    _DRAINS.set()
    try:
        yield _DRAINING
    finally:
        _DRAINS.clear()


def exit_code(told: bool = False) -> int:
    """Returns the exit code of an interrupted process, after saying that it was, unless a person was told before."""
    terminated = _TERMINATED.is_set()
    if not told and not _TOLD.is_set():
        _TOLD.set()
        how = "Terminated" if terminated else "Interrupted"
        console.say(f"{how}. Finished units are kept: the same command goes on from there.")
    return TERMINATED if terminated else INTERRUPTED


def _terminate(*_: object) -> None:
    """Ends the run as Ctrl-C does, and lets it end: whoever sends SIGTERM may send it again."""
    _TERMINATED.set()
    if _DRAINS.is_set() and not _DRAINING.is_set():
        _DRAINING.set()
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _answer(receiver: socket.socket) -> None:
    drains = False
    while True:
        number = receiver.recv(1)[0]
        if number == signal.SIGTERM and _DRAINS.is_set() and not drains:
            drains = True
        elif number in (signal.SIGINT, signal.SIGTERM):
            break
    if number == signal.SIGTERM:
        _TERMINATED.set()
    time.sleep(_ANSWER_SECONDS)
    code = exit_code()
    time.sleep(_PATIENCE[0] - _ANSWER_SECONDS)
    _kill_children()
    os._exit(code)


def _kill_children() -> None:
    """Ends what this process has started, which would otherwise go on."""
    import psutil

    for child in psutil.Process().children(recursive=True):
        child.kill()
