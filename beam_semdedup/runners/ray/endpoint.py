"""A Beam job endpoint on a Ray cluster, for any Beam pipeline in Python.

It is Beam's own job service with actors as workers; `beam_semdedup.cli.ray_endpoint` is its command. What it does not
do: install the pipeline's packages (the nodes must have them, or `runner.runtime_env`), run stages of other languages
than Python, stream, drain, or outlive the process.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import ray
from apache_beam.portability.api import beam_job_api_pb2, beam_runner_api_pb2
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import DockerEnvironment

from beam_semdedup.errors import InputError
from beam_semdedup.runners import harness, ports
from beam_semdedup.runners.ray.runner import RayRunner

_SDK = "beam:version:sdk_base:"
_ALL_INTERFACES = ("0.0.0.0", "[::]")


class Endpoint(local_job_service.LocalJobServicer):
    """Takes pipelines over Beam's job API, and runs them on `runner`.

    Args:
        port: where it listens; 0: any free port, which `start` returns.
        host: the address of this machine that it listens on.

    Raises:
        InputError, RunError: the Ray cluster cannot be joined.
    """

    def __init__(self, runner: RayRunner, port: int, host: str = ports.LOOPBACK) -> None:
        super().__init__(beam_job_type=functools.partial(_Job, runner))
        self._port, self._host = port, ports.checked(host, "The job endpoint")
        runner.joined()

    def get_bind_address(self) -> str:
        """Names the interface, as Beam asks for it."""
        return self._host

    def get_service_address(self) -> str:
        """Names the host that clients send the pipeline's files to, as Beam asks for it."""
        return ray.util.get_node_ip_address() if self._host in _ALL_INTERFACES else self._host

    def start(self) -> int:
        """Starts to listen, and returns the port."""
        return self.start_grpc_server(self._port)


class _Job(local_job_service.BeamJob):
    def __init__(self, runner: RayRunner, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._runner = runner
        self._workers: harness.Workers | None = None

    def _invoke_runner(self) -> Any:
        self.set_state(beam_job_api_pb2.JobState.RUNNING)
        with self._runner.workers(logging.INFO) as self._workers:
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
    environment.urn, environment.payload = harness.URN, workers.token
