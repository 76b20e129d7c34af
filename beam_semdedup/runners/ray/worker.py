"""An actor of Ray that is a Beam SDK harness. The nodes import this module; Beam is imported when its log is set up."""

from __future__ import annotations

import ray

from beam_semdedup.runners.imports import needed_alone
from beam_semdedup.runners.worker import end_with_threads, log_to_stdout
from beam_semdedup.storage import options


class RayWorker:
    """Serves a driver as an actor, on the node that Ray chose."""

    def node(self) -> str:
        """Returns the address of the node."""
        return ray.util.get_node_ip_address()

    def serve(self, environment: dict[str, str], others: int) -> None:
        """Serves the driver until it ends the connection; what is logged goes to standard output, and so to the driver.

        Args:
            environment: what Beam's harness, and `storage.options`, else read from environment variables.
            others: the level from which on the log of other packages than this one is shown.
        """
        log_to_stdout("%(message)s", others, "%(levelname)s %(name)s: %(message)s")
        end_with_threads()
        options.learn(environment.get(options.VARIABLE, "[]"))
        with needed_alone():
            from apache_beam.runners.worker import sdk_worker_main

            _, harness, _ = sdk_worker_main.create_harness(environment)
            harness.run()
