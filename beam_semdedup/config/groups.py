"""How a parameter is declared, and the settings of the runners and of the engines that fit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


def parameter(default: Any, help: str, **check: Any) -> Any:
    """A dataclass field with its documentation and its check.

    `check` holds any of: `choices` (allowed values), `above`/`at_least`/`below`/`at_most` (bounds of a
    number; strings and nulls pass), `words` (the strings allowed beside numbers), `bytes` (a size such as
    4GiB is allowed), `keys` (those that a mapping may have), `group` (the heading in `--help`).
    """
    metadata = {"help": help, **check}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def default(f: dataclasses.Field) -> Any:
    """The default of a parameter."""
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


@dataclass
class RunnerConfig:
    """Where the pipeline runs: `name` chooses the runner, the other fields belong to it."""

    name: str = MISSING
    num_workers: Any = parameter(1, "worker processes", at_least=1, words=["auto"])
    max_retries: int = parameter(0, "how often a run is started again after a worker was lost", at_least=0)


@dataclass
class DirectConfig(RunnerConfig):
    """This machine, through Beam's local runner."""

    name: str = "direct"
    # On two cores one process with two threads is faster than two processes up to 250,000 rows, and takes 1.1 times as
    # long at 1,000,000, with half their memory (benchmarks/results/cpu.md: given, workers).
    num_workers: Any = parameter(
        1,
        "1: in this process, on all cores; n: n worker processes that share them; auto: one per core",
        at_least=1,
        words=["auto"],
    )


@dataclass
class ActorConfig:
    """What each actor on a Ray cluster has to itself."""

    num_cpus: float = parameter(1.0, "CPUs of an actor", above=0)
    num_gpus: float = parameter(0.0, "GPUs of an actor", at_least=0)
    resources: dict[str, Any] = parameter({}, "custom resources of an actor, such as {big_memory: 1}")


@dataclass
class RayConfig(ActorConfig, RunnerConfig):
    """A Ray cluster (ray_address), or a Ray of its own on this machine: each worker is an actor."""

    name: str = "ray"
    num_workers: Any = parameter(
        "auto", "actors; auto: as many as the cluster's CPUs and GPUs allow", at_least=1, words=["auto"]
    )
    max_retries: int = parameter(3, "how often a run is started again after a worker was lost", at_least=0)
    runtime_env: dict[str, Any] = parameter({}, "Ray's runtime environment of the actors")


@dataclass
class FlinkConfig(RunnerConfig):
    """A Flink cluster (flink_master), or a Flink in Beam's job server on this machine: one worker process per slot."""

    name: str = "flink"
    flink_master: str = parameter("[local]", "[local]: on this machine; or host:port of the cluster's REST API")
    flink_version: str = parameter("1.20", "Flink's version", choices=["1.19", "1.20", "2.0", "2.1", "2.2"])
    flink_job_server_jar: str | None = parameter(None, "path or URL of Beam's job server; null: found or fetched")
    num_workers: Any = parameter(
        "auto",
        "parallelism; auto: the cores of this machine, or the free slots of the cluster",
        at_least=1,
        words=["auto"],
    )
    max_retries: int = parameter(3, "how often a run is started again after a worker was lost", at_least=0)
    environment: str = parameter(
        "auto",
        "workers are started by this command (loopback), the worker_pool of each host (external), or Flink (process); "
        "auto: loopback where Flink is on this machine, else external",
        choices=["auto", "loopback", "external", "process"],
    )
    worker_pool: str = parameter("localhost:50000", "the worker pool, as a task manager reaches it")
    options: dict[str, Any] = parameter({}, "further options of Beam, such as {job_server_jvm_properties: [-Xmx4g]}")

    @property
    def embedded(self) -> bool:
        """Whether Flink runs inside the job server on this machine."""
        return self.flink_master == "[local]"


@dataclass
class KMeansConfig:
    """Which engine fits the centroids: `name` chooses it."""

    name: str = MISSING


@dataclass
class LocalKMeansConfig(KMeansConfig):
    """Lloyd iterations in the process that runs the fit."""

    name: str = "local"


@dataclass
class RayKMeansConfig(ActorConfig, KMeansConfig):
    """Lloyd iterations in actors of a Ray cluster (ray_address), or of a Ray of its own on this machine."""

    name: str = "ray"
    num_actors: int = parameter(1, "actors; each holds a share of the rows to fit on", at_least=1)


@dataclass
class CumlKMeansConfig(KMeansConfig):
    """cuml.cluster.KMeans on the GPU of the process that runs the fit; parameters of the same names go to it."""

    name: str = "cuml"
    device_buffer_samples: int | None = parameter(
        None, "rows that are on the GPU at a time; 0: all; null: all where they fit, else what fits", at_least=0
    )


GROUPS: dict[str, dict[str, type[Any]]] = {
    "runner": {"direct": DirectConfig, "ray": RayConfig, "flink": FlinkConfig},
    "kmeans": {"local": LocalKMeansConfig, "ray": RayKMeansConfig, "cuml": CumlKMeansConfig},
}
"""The parameters that name a choice with settings of its own; the first is the default."""
