"""A Flink cluster as its REST API shows it: what room it has, and the end of a job."""

from __future__ import annotations

import json
import logging
import time
import urllib.request
from collections import Counter
from typing import Any

from beam_semdedup.config.groups import FlinkConfig
from beam_semdedup.errors import InputError

_LOG = logging.getLogger(__name__)
_SECONDS = 10
_ENDED = ("FINISHED", "CANCELED", "FAILED")


def url(config: FlinkConfig) -> str:
    """The address of the REST API."""
    master = config.flink_master.rstrip("/")
    return master if "://" in master else f"http://{master}"


def free_slots(config: FlinkConfig) -> int:
    """The free slots of the cluster, or all where none is free now.

    Raises:
        InputError: the cluster cannot be reached, or has no task manager.
    """
    end = time.monotonic() + 3  # the slots of a job that ended are not free at once
    while True:
        overview = _ask(config, "/overview")
        free, total = overview["slots-available"], overview["slots-total"]
        if free == total or time.monotonic() > end:
            break
        time.sleep(0.2)
    if not total:
        raise InputError(
            f"runner.flink_master={config.flink_master}: the cluster has no task slots; start task managers, or give "
            "runner.num_workers where they come with the job"
        )
    return free or total


def slots_per_host(config: FlinkConfig, default: int) -> int:
    """The most slots that a task manager has; `default` where there is none yet."""
    return max((manager["slotsNumber"] for manager in _managers(config)), default=default)


def memory_per_slot(config: FlinkConfig) -> int | None:
    """Bytes of a task manager's machine that come to each slot there, at the least; None where there is none yet."""
    slots: Counter[str] = Counter()
    memory = {}
    for manager in _managers(config):
        host = manager["id"].split(":")[0]  # such as 10.0.0.7:33187-e2a1f9
        slots[host] += manager["slotsNumber"]
        memory[host] = manager["hardware"]["physicalMemory"]
    return min((memory[host] // number for host, number in slots.items() if number), default=None)


def cancel(config: FlinkConfig, name: str) -> None:
    """Ends the jobs of that name, and waits a little until they have ended; a cluster that is gone has none."""
    end = time.monotonic() + _SECONDS
    try:
        while time.monotonic() < end:
            jobs = _ask(config, "/jobs/overview")["jobs"]
            running = [job for job in jobs if job["name"] == name and job["state"] not in _ENDED]
            if not running:
                return
            for job in running:
                if job["state"] != "CANCELLING":
                    _ask(config, f"/jobs/{job['jid']}?mode=cancel", "PATCH")
            time.sleep(0.2)
        _LOG.warning("The job %s is still being cancelled on Flink", name)
    except InputError as error:
        _LOG.debug("cannot cancel: %s", error)


def _managers(config: FlinkConfig) -> list[dict[str, Any]]:
    return _ask(config, "/taskmanagers")["taskmanagers"]


def _ask(config: FlinkConfig, path: str, method: str = "GET") -> Any:
    try:
        with urllib.request.urlopen(urllib.request.Request(url(config) + path, method=method), timeout=_SECONDS) as got:
            return json.loads(got.read() or "{}")
    except (OSError, ValueError) as error:
        raise InputError(
            f"runner.flink_master={config.flink_master}: no Flink REST API answers there: {error}"
        ) from error
