"""A pipeline as a job on Flink: its options, its workers, its submission, and what a failure says."""

from __future__ import annotations

import json
import re
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.portability.api import beam_job_api_pb2_grpc
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.portability.portable_runner import JobServiceHandle, PortableRunner
from apache_beam.runners.runner import PipelineResult, PipelineState

from beam_semdedup.compute.threads import cores
from beam_semdedup.errors import WorkerLost, known_cause
from beam_semdedup.runners import harness
from beam_semdedup.runners.base import Build
from beam_semdedup.runners.flink import job_server
from beam_semdedup.runners.flink.cluster import FlinkCluster
from beam_semdedup.runners.flink.job_server import JobServer
from beam_semdedup.runners.flink.settings import FlinkConfig
from beam_semdedup.runners.flink.worker_pool import WorkerPool
from beam_semdedup.storage import scratch as scratches

_GRACE_SECONDS = 5.0
# Flink 2 keeps the groups of a batch job as state, which by default is on the heap and may not fit there. RocksDB is a
# part of Flink's distribution, not of the job server's jar. Without checkpoints the path is not used.
_ROCKSDB = {"state_backend": "rocksdb", "state_backend_storage_path": "file:///tmp/semdedup-flink"}


def run(build: Build, config: FlinkConfig, number: int, cluster: FlinkCluster | None) -> None:
    """Runs a pipeline with `number` workers on the cluster, or in a Flink in the job server where it is None.

    Raises:
        InputError: there is no jar of the job server.
        WorkerLost: a worker, the job server or Flink's part of the job was lost.
        RunError: the job server does not start; what units raise is raised as Flink words it.
    """
    jar = job_server.find(config)
    deaths: list[str] = []

    def lost(message: str) -> None:
        """Ends the job server soon after a worker died, if the job does not end by itself."""
        deaths.append(message)
        timer = threading.Timer(_GRACE_SECONDS, server.end)
        timer.daemon = True
        timer.start()

    with ExitStack() as stack:
        environment = stack.enter_context(_environment(config, number, lost))
        scratch = stack.enter_context(scratches.directory())
        options = _options(config, number, cluster, jar, scratch, environment)
        server = stack.enter_context(JobServer(options))
        try:
            with beam.Pipeline(runner=JobRunner(server.connected()), options=options) as pipeline:
                build(pipeline)
        except BaseException as error:
            if cluster:
                cluster.cancel(options.get_all_options(retain_unknown_options=True)["job_name"])
            if not isinstance(error, Exception) or known_cause(error):
                raise
            if deaths:
                raise WorkerLost(deaths[0]) from error
            server.show_worries()
            if isinstance(error, grpc.RpcError):
                raise WorkerLost(f"the connection to the Flink job server broke ({server.how_it_is()})") from error
            raise


class JobFailed(RuntimeError):
    """Holds what Flink says of a job that failed in Python code."""


class JobRunner(PortableRunner):
    """Submits a pipeline to the service of a job server, and waits for its end.

    Raises:
        InputError, RunError: in Beam's `run`, what a unit of the pipeline raised for people.
        WorkerLost: something beside the units' Python code failed.
        JobFailed: the Python code failed otherwise.
    """

    def __init__(self, service: beam_job_api_pb2_grpc.JobServiceStub) -> None:
        super().__init__()
        self._service = service

    def run_portable_pipeline(self, pipeline: Any, options: PipelineOptions) -> PipelineResult:
        """Returns when the job is done; Beam calls it."""
        service = self._service
        handle = JobServiceHandle(service, options, retain_unknown_options=True)
        prepared = handle.prepare(self._optimize_pipeline(pipeline, options))
        handle.stage(pipeline, prepared.artifact_staging_endpoint.url, prepared.staging_session_token)
        job_id = service.Run(api.RunJobRequest(preparation_id=prepared.preparation_id)).job_id
        said, state = [], api.JobState.UNSPECIFIED
        for response in service.GetMessageStream(api.JobMessagesRequest(job_id=job_id)):  # ends with the job
            if response.HasField("message_response"):
                said.append(response.message_response)
            else:
                state = response.state_response.state
        if state != api.JobState.DONE:
            raise _failure(api.JobState.Enum.Name(state), said)
        return _Done(PipelineState.DONE)


class _Done(PipelineResult):
    def wait_until_finish(self, duration: int | None = None) -> str:
        return self._state


def _failure(state: str, said: list[Any]) -> Exception:
    """Returns why a job failed: an error with a message for people, one of Python code, or a loss to recover from."""
    texts = [message.message_text for message in said]
    errors = [m.message_text for m in said if m.importance == api.JobMessage.JOB_MESSAGE_ERROR]
    cause = known_cause(JobFailed("\n".join(texts)))
    if cause:
        return cause
    text = next((text.strip() for text in reversed([*texts, *errors]) if text.strip()), "it does not say why")
    connection = re.search(r"^grpc\..*", text, re.MULTILINE)
    if "Traceback (most recent call last)" in text and not connection:
        return JobFailed(text)
    return WorkerLost(f"the job on Flink ended as {state}: {connection[0] if connection else text.splitlines()[0]}")


def _options(
    config: FlinkConfig,
    number: int,
    cluster: FlinkCluster | None,
    jar: str,
    scratch: str,
    environment: dict[str, str],
) -> PipelineOptions:
    """Returns Beam's options: those of this runner, and over them `runner.options`."""
    given = dict(config.options)
    jvm = given.pop("job_server_jvm_properties", [])
    return PipelineOptions(
        flags=[],
        **{
            "flink_master": FlinkRunner.add_http_scheme(config.flink_master),
            "flink_version": config.flink_version,
            "flink_job_server_jar": jar,
            "job_server_java_launcher": job_server.java(),
            "job_server_jvm_properties": [f"-Djava.io.tmpdir={scratch}", *jvm],
            "artifacts_dir": scratch,
            "job_name": f"semdedup-{uuid.uuid4().hex[:12]}",
            "parallelism": number,
            "sdk_worker_parallelism": cluster.slots_per_host(number) if cluster else number,
            "number_of_execution_retries": 0,
            **harness.OPTIONS,
            **environment,
            **(_ROCKSDB if cluster and config.flink_version >= "2" else {}),
            **given,
        },
    )


@contextmanager
def _environment(config: FlinkConfig, number: int, lost: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Yields Beam's options that say where workers come from, with a pool open where this process starts them."""
    kind = config.environment
    if kind == "auto":
        kind = "loopback" if config.embedded else "external"
    if kind == "process":
        command = json.dumps({"command": str(Path(sys.executable).with_name("semdedup-worker"))})
        yield {"environment_type": "PROCESS", "environment_config": command}
    elif kind == "external":
        yield {"environment_type": "EXTERNAL", "environment_config": config.worker_pool}
    else:
        with WorkerPool("localhost:0", max(1, cores() // number), lost) as pool:
            yield {"environment_type": "EXTERNAL", "environment_config": f"localhost:{pool.port}"}
