"""The command `python -m beam_semdedup.cli.ray_endpoint port=8099 runner.num_workers=4`: a Beam job endpoint on Ray.

It is run on the head node; pipelines are submitted there with `--runner=PortableRunner --job_endpoint=localhost:8099`,
and from other machines where `host=` names the address that they reach.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from typing import Any

from omegaconf import OmegaConf

from beam_semdedup.config.parameters import EndpointParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError
from beam_semdedup.runners.ray.runner import RayRunner

_LOG = logging.getLogger(__name__)


def main() -> None:
    """Serves until it is interrupted or terminated."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    try:
        values: Any = OmegaConf.to_container(OmegaConf.from_dotlist(sys.argv[1:]))
        settings = {"name": "ray", **values.get("runner", {})}
        parameters = resolve({**values, "runner": settings}, EndpointParameters)
        runner = RayRunner(parameters)
        runner.check("auto")
        from beam_semdedup.runners.ray.endpoint import Endpoint

        endpoint = Endpoint(runner, parameters.port, parameters.host)
    except InputError as error:
        sys.exit(f"Error: {error}")
    _LOG.info(
        "Beam pipelines: --runner=PortableRunner --job_endpoint=%s:%s", endpoint.get_service_address(), endpoint.start()
    )
    ended = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: ended.set())
    ended.wait()
    endpoint.stop()


if __name__ == "__main__":
    main()
