"""A Beam job endpoint on a Ray cluster, for any Beam pipeline in Python.

`python -m beam_semdedup.runners.ray.endpoint port=8099 runner.num_workers=4` on the head node; pipelines are submitted
with `--runner=PortableRunner --job_endpoint=HEAD:8099`. It is Beam's own job service with actors as workers. What it
does not do: install the pipeline's packages (the nodes must have them, or `runner.runtime_env`), run stages of other
languages than Python, stream, drain, or outlive the process.
"""

from __future__ import annotations

import functools
import logging
import signal
import sys
import threading
from typing import Any

import ray
from apache_beam.portability.api import beam_job_api_pb2, beam_runner_api_pb2
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import DockerEnvironment
from omegaconf import OmegaConf

from beam_semdedup.config.parameters import EndpointParameters
from beam_semdedup.config.validation import resolve
from beam_semdedup.errors import InputError
from beam_semdedup.runners import harness
from beam_semdedup.runners.ray import cluster as ray_cluster
from beam_semdedup.runners.ray.runner import actors

_LOG = logging.getLogger(__name__)
_SDK = "beam:version:sdk_base:"


class Endpoint(local_job_service.LocalJobServicer):
    """Takes pipelines over Beam's job API; `start` returns the port that it listens on."""

    def __init__(self, parameters: EndpointParameters) -> None:
        super().__init__(beam_job_type=functools.partial(_Job, parameters))
        self._port = parameters.port
        ray_cluster.connect(parameters.ray_address, parameters.verbose)

    def get_bind_address(self) -> str:
        """All interfaces."""
        return "[::]"

    def get_service_address(self) -> str:
        """What clients are told to send the pipeline's files to."""
        return ray.util.get_node_ip_address()

    def start(self) -> int:
        """Starts to listen."""
        return self.start_grpc_server(self._port)


class _Job(local_job_service.BeamJob):
    def __init__(self, parameters: EndpointParameters, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._parameters = parameters
        self._workers: harness.Workers | None = None

    def _invoke_runner(self) -> Any:
        self.set_state(beam_job_api_pb2.JobState.RUNNING)
        with actors(self._parameters, others=logging.INFO) as self._workers:
            for environment in self._pipeline_proto.components.environments.values():
                _place(environment, self._workers)
            runner = FnApiRunner(provision_info=self._provision_info)
            runner._num_workers = self._workers.number  # Beam sets it for pipelines of its own process only
            return runner.run_via_runner_api(self._pipeline_proto, self.pipeline_options())

    def cancel(self) -> None:
        super().cancel()
        if self._workers:
            self._workers.end("the job was cancelled")


def _place(environment: beam_runner_api_pb2.Environment, workers: harness.Workers) -> None:
    """Makes an environment of a pipeline one of these workers."""
    ours = DockerEnvironment.default_docker_image()
    sdk = next((c.removeprefix(_SDK) for c in environment.capabilities if c.startswith(_SDK)), "no SDK that is known")
    if sdk != ours:
        raise InputError(f"the pipeline is made by {sdk}, the workers here run {ours}: they must be the same")
    environment.urn, environment.payload = harness.URN, workers.key


def main() -> None:
    """Serves until it is interrupted or terminated."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    try:
        values: Any = OmegaConf.to_container(OmegaConf.from_dotlist(sys.argv[1:]))
        endpoint = Endpoint(
            resolve({**values, "runner": {"name": "ray", **values.get("runner", {})}}, EndpointParameters)
        )
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
