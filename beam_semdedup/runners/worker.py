"""The workers of the runners: a Beam SDK harness as a process, and as an actor of Ray.

A process prints `level|message` for each record of the log, with the level's number, and `STARTED` once it has all that
it needs; `runners.process` reads that. Beam is imported only after the watch for the driver's end has begun.
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
    ours = _show(logging.getLogger("beam_semdedup"), logging.INFO, "%(levelno)s|%(message)s")
    ours.propagate = False
    _show(logging.getLogger(), logging.ERROR, "%(message)s")
    from apache_beam.runners.worker import sdk_worker_main

    print(STARTED, flush=True)
    sdk_worker_main.main(sys.argv)


class RayWorker:
    """An actor, on the node that Ray chose."""

    def node(self) -> str:
        """The address of the node."""
        import ray

        return ray.util.get_node_ip_address()

    def serve(self, environment: dict[str, str], others: int) -> None:
        """Serves the driver until it ends the connection. What is logged goes to standard output, and so to the driver.

        Args:
            environment: what Beam's harness else reads from its environment variables.
            others: the level from which on the log of other packages than this one is shown.
        """
        ours = _show(logging.getLogger("beam_semdedup"), logging.INFO, "%(message)s")
        ours.propagate = False
        _show(logging.getLogger(), others, "%(levelname)s %(name)s: %(message)s")
        from apache_beam.runners.worker import sdk_worker_main

        _, harness, _ = sdk_worker_main.create_harness(environment)
        harness.run()


def _show(logger: logging.Logger, level: int, form: str) -> logging.Logger:
    """Sends what is logged from `level` on to standard output, and nowhere else."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(form))
    handler.setLevel(level)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    return logger


def _end_with_driver() -> None:
    # The driver holds the other end of this pipe and writes nothing: a read returns when it is closed.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
