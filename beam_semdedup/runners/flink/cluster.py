"""A Flink cluster as its REST API shows it: what room it has, and the end of a job."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from typing import Any

from beam_semdedup.errors import InputError

_LOG = logging.getLogger(__name__)
_ENDED = ("FINISHED", "CANCELED", "FAILED")


class FlinkCluster:
    """Asks the REST API of a cluster, whose address is `master` as `runner.flink_master` gives it.

    Args:
        seconds: that an answer, and the end of a job, are waited for.
        free_seconds: that slots are waited for, since those of a job that ended are not free at once.

    Raises:
        InputError: in each method but `cancel`, where no such API answers.
    """

    def __init__(self, master: str, seconds: float = 10.0, free_seconds: float = 3.0) -> None:
        self._master, self._seconds, self._free_seconds = master, seconds, free_seconds

    def free_slots(self) -> int:
        """Returns the number of free slots of the cluster, or of all where none is free now.

        Raises:
            InputError: it has no task manager.
        """
        end = time.monotonic() + self._free_seconds
        while True:
            overview = self._ask("/overview")
            free, total = overview["slots-available"], overview["slots-total"]
            if free == total or time.monotonic() > end:
                break
            time.sleep(0.2)
        if not total:
            raise InputError(
                f"runner.flink_master={self._master}: the cluster has no task slots; start task managers, or give "
                "runner.num_workers where they come with the job"
            )
        return free or total

    def slots_per_host(self, default: int) -> int:
        """Returns the most slots that a task manager has; `default` where there is none yet."""
        return max((manager["slotsNumber"] for manager in self._managers()), default=default)

    def memory_per_slot(self) -> int | None:
        """Returns the fewest bytes that a slot has on its machine; None where there is no task manager yet.

        Flink knows nothing of a container that workers run in: their pool does, and refuses where it has less.
        """
        slots: Counter[str] = Counter()
        memory = {}
        for manager in self._managers():
            host = manager["id"].split(":")[0]  # such as 10.0.0.7:33187-e2a1f9
            slots[host] += manager["slotsNumber"]
            memory[host] = manager["hardware"]["physicalMemory"]
        return min((memory[host] // number for host, number in slots.items() if number), default=None)

    def cancel(self, name: str) -> None:
        """Ends the jobs of that name, and waits a little until they have ended; a cluster that is gone has none."""
        end = time.monotonic() + self._seconds
        try:
            while time.monotonic() < end:
                jobs = self._ask("/jobs/overview")["jobs"]
                running = [job for job in jobs if job["name"] == name and job["state"] not in _ENDED]
                if not running:
                    return
                for job in running:
                    if job["state"] != "CANCELLING":
                        self._ask(f"/jobs/{job['jid']}?mode=cancel", "PATCH")
                time.sleep(0.2)
            _LOG.warning("The job %s is still being cancelled on Flink", name)
        except InputError as error:
            _LOG.debug("cannot cancel: %s", error)

    def _managers(self) -> list[dict[str, Any]]:
        return self._ask("/taskmanagers")["taskmanagers"]

    def _ask(self, path: str, method: str = "GET") -> Any:
        import urllib.request  # slow to import, and needed on clusters only

        place = self._master.rstrip("/")
        url = (place if "://" in place else f"http://{place}") + path
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=self._seconds) as got:
                return json.loads(got.read() or "{}")
        except (OSError, ValueError) as error:
            raise InputError(f"runner.flink_master={self._master}: no Flink REST API answers there: {error}") from error
