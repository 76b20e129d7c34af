"""A worker in a process of its own: how it is started, followed and ended, and what is said when it dies."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence

from beam_semdedup.runners import worker
from beam_semdedup.storage import options

_LOG = logging.getLogger(__name__)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def start(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts a command whose input, and whose output with its errors, are pipes of this process."""
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is this process's to handle
    )


class WorkerProcess:
    """Starts a module that ends in `worker.main`, in this interpreter; `started` is set once it has.

    The worker ends when the pipe to its standard input closes, which the operating system does however this process
    ends, so that no worker writes anything after that.

    Args:
        module: that `python -P -m` runs with these arguments.
        threads: that BLAS may use in it, unless the environment says another number.
        environment: the variables that it has besides those of this process.

    Raises:
        InputError: storage options that cannot be given to it.
        OSError: there is no room for another process.
    """

    def __init__(self, module: str, *arguments: str, threads: int, environment: Mapping[str, str] | None = None):
        number = os.environ.get("OMP_NUM_THREADS") or str(threads)
        variables = {**dict.fromkeys(_THREADS, number), **os.environ, **options.told(), **(environment or {})}
        # -P: a module of the working directory, which may be anybody's, is not taken for one of ours.
        self._process = start([sys.executable, "-P", "-m", module, *arguments], variables)
        self._last_lines: deque[str] = deque(maxlen=5)
        self.started = threading.Event()

    def follow(self) -> None:
        """Passes its log on, what else it prints as DEBUG, and returns when it has ended; `started` is set then."""
        assert self._process.stdout is not None
        for line in map(str.rstrip, self._process.stdout):
            level, _, message = line.partition("|")
            if line == worker.STARTED:
                self.started.set()
            elif level.isdigit():
                _LOG.log(int(level), message)
            else:
                self._last_lines.append(line)
                _LOG.debug(line)
        self._process.wait()
        self.started.set()

    def has_failed(self) -> bool:
        """Says whether it has ended, and not in peace."""
        return bool(self._process.poll())

    def how_it_ended(self) -> str:
        """Says how it ended, with the last lines that it printed besides its log."""
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        why, said = "", "".join(f"\n  {line}" for line in self._last_lines)
        if code == -signal.SIGKILL:  # which it did not see coming
            why, said = " (the system does that when memory runs out: try a smaller memory_budget)", ""
        # What it died of by itself may be there the next time too.
        then = ", the same command goes on" if code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT) else ""
        return f"worker process {self._process.pid} {how}{why}; finished units are kept{then}{said}"

    def stop(self) -> bool:
        """Asks it to end, and ends it when it does not; returns false where something else had killed it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            return self._process.wait(timeout=5) >= 0
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
            return True

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
