"""A worker process: a Beam SDK harness that ends with whoever started it.

It prints `level|message` for each record of the log, with the level's number, and `STARTED` once it has all that it
needs; `runners.process` reads that. Beam is imported only after the watch for the driver's end has begun.
"""

from __future__ import annotations

import logging
import os
import sys
import threading

STARTED = "started|"


def main() -> None:
    """Serves the driver that started this process, until the driver ends it or is gone."""
    threading.Thread(target=_end_with_driver, name="end-with-driver", daemon=True).start()
    log_to_stdout("%(levelno)s|%(message)s", logging.ERROR, "%(message)s")
    from apache_beam.runners.worker import sdk_worker_main

    print(STARTED, flush=True)
    sdk_worker_main.main(sys.argv)


def log_to_stdout(form: str, others: int, form_of_others: str) -> None:
    """Sends this project's log from INFO on, and others' from the level `others` on, to standard output only."""
    for name, level, layout in (("beam_semdedup", logging.INFO, form), (None, others, form_of_others)):
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter(layout))
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


def _end_with_driver() -> None:
    # The driver holds the other end of this pipe and writes nothing: a read returns when it is closed.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
