"""The worker process of the local runner: a Beam SDK harness that lives no longer than its driver."""

import logging
import os
import sys
import threading


def main() -> None:
    """Serves the driver that started it, until the driver ends it or is gone."""
    threading.Thread(target=_end_with_driver, name="end-with-driver", daemon=True).start()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(levelno)s|%(message)s"))
    ours = logging.getLogger("beam_semdedup")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    others = logging.StreamHandler(sys.stdout)
    others.setLevel(logging.ERROR)
    logging.getLogger().addHandler(others)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


def _end_with_driver() -> None:
    # The driver holds the other end of this pipe and writes nothing: a read returns when it is closed.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
