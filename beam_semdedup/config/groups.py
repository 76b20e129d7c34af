"""The settings of the runners and of the engines that fit."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from beam_semdedup.fields import CHECKED, NotNegative, Number, Positive, PositiveOrAuto


@dataclass(kw_only=True, config=CHECKED)
class RunnerConfig:
    """Where the pipeline runs: `name` chooses the runner, the other fields belong to it."""

    name: str
    num_workers: PositiveOrAuto = 1
    """worker processes"""
    max_retries: NotNegative = 0
    """how often a run is started again after a worker was lost"""


@dataclass(kw_only=True, config=CHECKED)
class DirectConfig(RunnerConfig):
    """This machine, through Beam's local runner."""

    name: Literal["direct"] = "direct"
    # On two cores one process with two threads is faster than two processes up to 250,000 rows, and takes 1.1 times as
    # long at 1,000,000, with half their memory (benchmarks/results/cpu.md: given, workers).
    num_workers: PositiveOrAuto = 1
    """1: in this process, on all cores; n: n worker processes that share them; auto: one per core"""


@dataclass(kw_only=True, config=CHECKED)
class ActorConfig:
    """What each actor on a Ray cluster has to itself."""

    num_cpus: Annotated[Number, Field(gt=0)] = 1.0
    """CPUs of an actor"""
    num_gpus: Annotated[Number, Field(ge=0)] = 0.0
    """GPUs of an actor"""
    resources: dict[str, float] = field(default_factory=dict)
    """custom resources of an actor, such as {big_memory: 1}"""


@dataclass(kw_only=True, config=CHECKED)
class RayConfig(ActorConfig, RunnerConfig):
    """A Ray cluster (ray_address), or a Ray of its own on this machine: each worker is an actor."""

    name: Literal["ray"] = "ray"
    num_workers: PositiveOrAuto = "auto"
    """actors; auto: as many as the cluster's CPUs and GPUs allow"""
    max_retries: NotNegative = 3
    runtime_env: dict[str, Any] = field(default_factory=dict)
    """Ray's runtime environment of the actors"""


@dataclass(kw_only=True, config=CHECKED)
class FlinkConfig(RunnerConfig):
    """A Flink cluster (flink_master), or a Flink in Beam's job server on this machine: one worker process per slot."""

    name: Literal["flink"] = "flink"
    flink_master: str = "[local]"
    """[local]: on this machine; or host:port of the cluster's REST API"""
    flink_version: Literal["1.19", "1.20", "2.0", "2.1", "2.2"] = "1.20"
    """Flink's version"""
    flink_job_server_jar: str | None = None
    """path or URL of Beam's job server; null: found or fetched"""
    num_workers: PositiveOrAuto = "auto"
    """parallelism; auto: the cores of this machine, or the free slots of the cluster"""
    max_retries: NotNegative = 3
    environment: Literal["auto", "loopback", "external", "process"] = "auto"
    """workers are started by this command (loopback), the worker_pool of each host (external), or Flink (process);
    auto: loopback where Flink is on this machine, else external"""
    worker_pool: str = "localhost:50000"
    """the worker pool, as a task manager reaches it"""
    options: dict[str, Any] = field(default_factory=dict)
    """further options of Beam, such as {job_server_jvm_properties: [-Xmx4g]}"""

    @property
    def embedded(self) -> bool:
        """Whether Flink runs inside the job server on this machine."""
        return self.flink_master == "[local]"


@dataclass(kw_only=True, config=CHECKED)
class KMeansConfig:
    """Which engine fits the centroids: `name` chooses it."""

    name: str


@dataclass(kw_only=True, config=CHECKED)
class LocalKMeansConfig(KMeansConfig):
    """Lloyd iterations in the process that runs the fit."""

    name: Literal["local"] = "local"


@dataclass(kw_only=True, config=CHECKED)
class RayKMeansConfig(ActorConfig, KMeansConfig):
    """Lloyd iterations in actors of a Ray cluster (ray_address), or of a Ray of its own on this machine."""

    name: Literal["ray"] = "ray"
    num_actors: Positive = 1
    """actors; each holds a share of the rows to fit on"""


@dataclass(kw_only=True, config=CHECKED)
class CumlKMeansConfig(KMeansConfig):
    """cuml.cluster.KMeans on the GPU of the process that runs the fit; parameters of the same names go to it."""

    name: Literal["cuml"] = "cuml"
    device_buffer_samples: NotNegative | None = None
    """rows that are on the GPU at a time; 0: all; null: all where they fit, else what fits"""


GROUPS: dict[str, dict[str, type[Any]]] = {
    "runner": {"direct": DirectConfig, "ray": RayConfig, "flink": FlinkConfig},
    "kmeans": {"local": LocalKMeansConfig, "ray": RayKMeansConfig, "cuml": CumlKMeansConfig},
}
"""The parameters that name a choice with settings of its own; the first is the default."""
