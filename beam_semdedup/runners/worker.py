"""A worker process: a Beam SDK harness that ends with whoever started it.

It prints `level|message` for each record of the log, with the level's number, and `STARTED` once it has all that it
needs; `runners.process` reads that. Beam is imported only after the watch for the driver's end has begun.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from typing import Any

from beam_semdedup.runners.imports import needed_alone

STARTED = "started|"


def main() -> None:
    """Serves the driver that started this process, until the driver ends it or is gone."""
    end_with_threads()
    try:
        threading.Thread(target=_end_with_driver, name="end-with-driver", daemon=True).start()
        log_to_stdout("%(levelno)s|%(message)s", logging.ERROR, "%(message)s")
        with needed_alone():
            from apache_beam.runners.worker import sdk_worker_main

            print(STARTED, flush=True)
            sdk_worker_main.main(sys.argv)
    except Exception as error:
        if is_closed_by_runner(error):
            os._exit(0)
        _end()


def log_to_stdout(form: str, others: int, form_of_others: str) -> None:
    """Sends this project's log from INFO on, and others' from the level `others` on, to standard output only."""
    for name, level, layout in (("beam_semdedup", logging.INFO, form), (None, others, form_of_others)):
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter(layout))
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


def end_with_threads() -> None:
    """Ends this process when one of its threads dies: the driver would wait for ever for what that one served.

    Except where a connection broke, which ends the run by itself.
    """
    usual = threading.excepthook

    def hook(failure: Any) -> None:
        if not is_broken_connection(failure.exc_type):
            _end(failure.exc_value)
        usual(failure)

    threading.excepthook = hook


def is_broken_connection(kind: type[BaseException]) -> bool:
    """Says whether an error of that kind is one of gRPC's calls."""
    grpc = sys.modules.get("grpc")
    return grpc is not None and issubclass(kind, grpc.RpcError)


def is_closed_by_runner(error: Exception) -> bool:
    """Says whether an error is how gRPC tells of the runner that it needs the worker no more.

    Beam's Java runners close the connection before they ask for the worker to be stopped.
    """
    details = getattr(error, "details", None)
    return is_broken_connection(type(error)) and callable(details) and details() == "Runner closed connection"


def _end(error: BaseException | None = None) -> None:
    """Ends the process with what is in its way, whatever its other threads wait for."""
    error = error or sys.exc_info()[1]
    print("".join(traceback.format_exception(error)), flush=True)
    os._exit(1)


def _end_with_driver() -> None:
    # The driver holds the other end of this pipe and writes nothing: a read returns when it is closed.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
