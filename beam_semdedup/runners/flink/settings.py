"""What can be given for workers on Flink."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic.dataclasses import dataclass

from beam_semdedup.fields import CHECKED, CODE, NotNegative, PositiveOrAuto
from beam_semdedup.runners.base import RunnerConfig


@dataclass(kw_only=True, config=CHECKED)
class FlinkConfig(RunnerConfig):
    """A Flink cluster (flink_master), or a Flink in Beam's job server on this machine: one worker process per slot."""

    name: Literal["flink"] = "flink"
    flink_master: str = "[local]"
    """[local]: on this machine; or host:port of the cluster's REST API"""
    flink_version: Literal["1.19", "1.20", "2.0", "2.1", "2.2"] = "1.20"
    """Flink's version"""
    flink_job_server_jar: Annotated[str | None, CODE] = None
    """path or URL of Beam's job server; null: found or fetched"""
    num_workers: PositiveOrAuto = "auto"
    """parallelism; auto: the cores of this machine, or the free slots of the cluster"""
    max_retries: NotNegative = 3
    environment: Literal["auto", "loopback", "external", "process"] = "auto"
    """workers are started by this command (loopback), the worker_pool of each host (external), or Flink (process);
    auto: loopback where Flink is on this machine, else external"""
    worker_pool: str = "localhost:50000"
    """the worker pool, as a task manager reaches it"""
    options: Annotated[dict[str, Any], CODE] = field(default_factory=dict)
    """further options of Beam, such as {job_server_jvm_properties: [-Xmx4g]}"""

    @property
    def embedded(self) -> bool:
        """Whether Flink runs inside the job server on this machine."""
        return self.flink_master == "[local]"
