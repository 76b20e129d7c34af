"""The Ray cluster that a run uses: joining it, and reserving what its actors need."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import RayError
from ray.job_config import JobConfig
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from beam_semdedup.errors import InputError, RunError
from beam_semdedup.runners.ray.settings import ActorConfig
from beam_semdedup.text import counted

_LOG = logging.getLogger(__name__)
NAMESPACE = "semdedup"
_CONNECT_SECONDS = 10.0


def connect(address: str | None, verbose: bool = True) -> None:
    """Joins the cluster at `address`, or starts one on this machine where it is null.

    A process can be in one cluster at a time: the one that it is in already is used, unless `address` is another's.

    Args:
        verbose: whether what actors print appears here.

    Raises:
        InputError: no cluster at `address`, one that refuses, or another than the one that this process is in.
        RunError: Ray does not start on this machine.
    """
    if ray.is_initialized():
        _check_same(address)
        return
    _check_address(address)
    # Ray ends this process when its head (GCS) has not answered for that long, which is a minute otherwise.
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    try:
        with _own_termination(), _on_loopback(address in (None, "local")), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "lance is not fork-safe")  # what Ray forks becomes a program at once
            ray.init(
                address=address or "local",
                namespace=NAMESPACE,
                log_to_driver=verbose,
                logging_level=logging.ERROR,
                include_dashboard=None if address else False,
                job_config=_job_config(),
            )
    except Exception as error:  # of whatever kind: Ray raises bare ones too
        said = " ".join(str(error).split())
        if address in (None, "local"):
            raise RunError(f"Ray could not be started on this machine: {said}") from error
        raise InputError(f"ray_address={address}: the Ray cluster there cannot be joined: {said}") from error
    nodes = len(_alive())
    _LOG.info("Ray: %s with %s", counted(nodes, "node"), _in_words(ray.cluster_resources()))


def _job_config() -> JobConfig:
    """Returns a job whose actors import, of the working directory and the script's, what this process does itself."""
    config = JobConfig()
    config._py_driver_sys_path = _Importable()
    return config


class _Importable(list[str]):
    def extend(self, directories: Iterable[str]) -> None:
        own = {os.path.abspath(directory) for directory in sys.path}  # noqa: PTH100 - resolve() would follow links
        super().extend(directory for directory in directories if directory in own)


@contextmanager
def _own_termination() -> Iterator[None]:
    """Keeps what this process does on SIGTERM, which Ray replaces: it would end it with exit code 15, and a trace."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:  # Ray's own handler, while it starts
        ray.shutdown()
        if not callable(handler):
            raise
        handler(signal.SIGTERM, None)
        raise KeyboardInterrupt from error
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _on_loopback(wanted: bool) -> Iterator[None]:
    """Has a Ray that is started within it listen on this machine alone, as it does where it knows no clusters."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not wanted
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def disconnect() -> None:
    """Leaves the cluster, or ends the one that was started here."""
    ray.shutdown()


def needs(config: ActorConfig) -> dict[str, float]:
    """Returns the resources of one actor, as Ray names them."""
    return {"CPU": config.num_cpus, **({"GPU": config.num_gpus} if config.num_gpus else {}), **config.resources}


def room(config: ActorConfig) -> int:
    """Returns how many such actors the cluster's nodes can hold when they are idle.

    Raises:
        InputError: not a single one.
    """
    number = sum(_room_on(node, config) for node in _alive())
    if not number:
        raise InputError(
            f"no node of the Ray cluster has {_in_words(needs(config))} for an actor; the cluster has "
            f"{_in_words(ray.cluster_resources())}. Ask for less, or give the number of actors where nodes come later"
        )
    return number


def memory(config: ActorConfig, number: int) -> int | None:
    """Returns the bytes that each of `number` actors has on the fullest node, of what Ray counts for actors there.

    None where no node has room for one yet.
    """
    shares = [
        node["Resources"].get("memory", 0) / min(number, _room_on(node, config))
        for node in _alive()
        if _room_on(node, config)
    ]
    return int(min(shares)) if shares else None


@contextmanager
def reserved(number: int, config: ActorConfig, seconds: float) -> Iterator[PlacementGroup]:
    """Reserves the resources of `number` actors, while within it: a placement group with a bundle for each.

    When it ends the actors in it are killed, and nothing stays claimed. Where nodes of the cluster have died, as many
    bundles as the others have room for.

    Raises:
        RunError: the cluster does not give them within `seconds`; says what is missing.
    """
    group = _reserve(number, config, seconds)
    try:
        yield group
    finally:
        remove_placement_group(group)


def actor_options(config: ActorConfig, group: PlacementGroup, index: int) -> dict[str, Any]:
    """Returns the options of the actor in bundle `index` of a group; it is not restarted when it dies."""
    return {
        "num_cpus": config.num_cpus,
        "num_gpus": config.num_gpus,
        "resources": config.resources,
        "max_restarts": 0,
        "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
    }


def cause_of(error: RayError) -> str:
    """Returns what Ray says of a death, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line)


def _reserve(number: int, config: ActorConfig, seconds: float) -> PlacementGroup:
    need = needs(config)
    group = placement_group([need] * number, strategy="SPREAD")
    end = time.monotonic() + seconds
    while not group.wait(min(1.0, seconds)):
        if len(_alive()) < len(ray.nodes()) and room(config) < number:
            remove_placement_group(group)
            _LOG.warning("Going on with %s instead of %s actors: nodes have died", room(config), number)
            return _reserve(room(config), config, seconds)
        if time.monotonic() > end:
            remove_placement_group(group)
            raise RunError(
                f"Ray did not schedule {counted(number, 'actor')} with {_in_words(need)} each within "
                f"{seconds:.0f} s: free are {_in_words(ray.available_resources())} of "
                f"{_in_words(ray.cluster_resources())}; ask for less, or add nodes"
            )
    return group


def _check_same(address: str | None) -> None:
    """Refuses another cluster than the one that this process is in; only a host and port ask for a certain one."""
    if address in (None, "auto", "local"):
        return
    joined = ray.get_runtime_context().gcs_address
    (host, _, port), (asked_host, _, asked_port) = joined.rpartition(":"), str(address).rpartition(":")
    if (_ip(host), port) != (_ip(asked_host), asked_port):
        raise InputError(
            f"ray_address={address}: this process is in the Ray cluster at {joined} already, and can be in one only; "
            "leave that one with ray.shutdown(), or use another process"
        )


def _ip(host: str) -> str:
    """Returns the address of a host as Ray knows it, never one that only the host itself can reach."""
    try:
        found = socket.gethostbyname(host)
    except OSError:
        return host
    return ray.util.get_node_ip_address() if found.startswith("127.") else found


def _check_address(address: str | None) -> None:
    """Refuses an address where nothing listens; Ray itself would try for minutes."""
    if address in (None, "auto", "local"):
        return
    host, colon, port = str(address).rpartition(":")
    if "://" in host or not colon or not port.isdigit():
        raise InputError(
            f"ray_address={address}: expected auto or the host:port of the cluster's head node; from a machine outside "
            "the cluster, submit the command with `ray job submit`"
        )
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(f"ray_address={address}: there is no Ray cluster: {error}") from error


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _room_on(node: Mapping[str, Any], config: ActorConfig) -> int:
    return int(min(node["Resources"].get(name, 0) // amount for name, amount in needs(config).items() if amount))


def _in_words(resources: Mapping[str, float]) -> str:
    """Words resources for people, without the ones that Ray keeps for itself."""
    shown: Sequence[str] = [
        f"{amount:g} {name}"
        for name, amount in sorted(resources.items())
        if name not in ("memory", "object_store_memory") and ":" not in name and "_group_" not in name
    ]
    return ", ".join(shown) or "nothing"
