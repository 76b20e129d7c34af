"""A pipeline as a job on Flink: its options and its workers."""

from __future__ import annotations

import functools
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from apache_beam.runners.portability.flink_runner import FlinkJarJobServer, FlinkRunner

from beam_semdedup.compute.threads import cores
from beam_semdedup.runners import harness
from beam_semdedup.runners.base import Build, Stream
from beam_semdedup.runners.construction import Options
from beam_semdedup.runners.flink import job_server
from beam_semdedup.runners.flink.cluster import FlinkCluster
from beam_semdedup.runners.flink.settings import FlinkConfig
from beam_semdedup.runners.flink.worker_pool import MEMORY_OF_MACHINE, WorkerPool
from beam_semdedup.runners.submission import STREAMING, Deaths, JobServer, submit
from beam_semdedup.storage import scratch as scratches

# What Flink looks into by reflection, in streaming pipelines above all, which Java 17 closes.
_OPENED = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in ("java.lang", "java.nio", "java.util")]
# Flink 2 keeps the groups of a batch job as state, which by default is on the heap and may not fit there. RocksDB is a
# part of Flink's distribution, not of the job server's jar. Without checkpoints the path is not used.
_ROCKSDB = {"state_backend": "rocksdb", "state_backend_storage_path": "file:///tmp/semdedup-flink"}

# Without checkpoints Flink closes the operator behind a source that has ended, which all of ours do, at once: it then
# polls without the pauses that it was asked for, and holds everything back until the end that never comes.
_STREAMING = {**STREAMING, "shutdown_sources_after_idle_ms": 10**15}


def run(
    build: Build,
    config: FlinkConfig,
    number: int,
    cluster: FlinkCluster | None,
    memory_given: bool,
    stream: Stream | None = None,
) -> None:
    """Runs a pipeline with `number` workers on the cluster, or in a Flink in the job server where it is None.

    Args:
        memory_given: false where the memory of a worker was taken from what the cluster says of its machines.
        stream: None where the pipeline ends by itself.

    Raises:
        InputError: there is no jar of the job server, no worker pool, or one that has less memory than its machine.
        WorkerLost: a worker, the job server or Flink's part of the job was lost.
        RunError: the job server does not start; what units raise is raised as Flink words it.
    """
    jar = job_server.find(config)
    deaths = Deaths()
    with ExitStack() as stack:
        environment = stack.enter_context(_environment(config, number, memory_given, deaths.add))
        scratch = stack.enter_context(scratches.directory())
        more = environment | ({**_STREAMING, "job_name": stream.name} if stream else {})
        options = _options(config, number, cluster, jar, scratch, more)
        server = stack.enter_context(JobServer("Flink", *FlinkJarJobServer(options).subprocess_cmd_and_endpoint()))
        name = options.get_all_options(retain_unknown_options=True)["job_name"]
        cancel = functools.partial(cluster.cancel, name) if cluster else lambda: None
        if stream and cluster:
            cluster.cancel(stream.name)
        submit(build, server, options, deaths, cancel, config.worker_pool, stream)


def _options(
    config: FlinkConfig,
    number: int,
    cluster: FlinkCluster | None,
    jar: str,
    scratch: str,
    more: dict[str, Any],
) -> Options:
    """Returns Beam's options: those of this runner, `more`, and over them `runner.options`."""
    given = dict(config.options)
    jvm = given.pop("job_server_jvm_properties", [])
    return Options(
        **{
            "flink_master": FlinkRunner.add_http_scheme(config.flink_master),
            "flink_version": config.flink_version,
            "flink_job_server_jar": jar,
            "job_server_java_launcher": job_server.java(),
            "job_server_jvm_properties": [f"-Djava.io.tmpdir={scratch}", *_OPENED, *jvm],
            "artifacts_dir": scratch,
            "job_name": f"semdedup-{uuid.uuid4().hex[:12]}",
            "parallelism": number,
            "sdk_worker_parallelism": cluster.slots_per_host(number) if cluster else number,
            "number_of_execution_retries": 0,
            **harness.OPTIONS,
            **more,
            **(_ROCKSDB if cluster and config.flink_version >= "2" else {}),
            **given,
        },
    )


@contextmanager
def _environment(
    config: FlinkConfig, number: int, memory_given: bool, lost: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Yields Beam's options that say where workers come from, with a pool open where this process starts them."""
    kind = config.environment
    if kind == "auto":
        kind = "loopback" if config.embedded else "external"
    if kind == "process":
        command = json.dumps({"command": str(Path(sys.executable).with_name("semdedup-worker"))})
        yield {"environment_type": "PROCESS", "environment_config": command}
    elif kind == "external":
        pool = json.dumps({"url": config.worker_pool, "params": {} if memory_given else MEMORY_OF_MACHINE})
        yield {"environment_type": "EXTERNAL", "environment_config": pool}
    else:
        with WorkerPool("localhost:0", max(1, cores() // number), lost) as pool:
            yield {"environment_type": "EXTERNAL", "environment_config": f"localhost:{pool.port}"}
