"""Where runs listen: on this machine alone, whatever the runner."""

from __future__ import annotations

import ipaddress
import logging
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs import finish, start

from beam_semdedup.errors import InputError
from beam_semdedup.runners import ports


@pytest.mark.parametrize(
    "runner",
    ["direct", pytest.param("ray", marks=pytest.mark.slow)],
)
def test_a_run_listens_on_this_machine_alone(runner: str, parquet_dataset: Any, tmp_path: Path) -> None:
    if runner == "ray":
        pytest.importorskip("ray")
    given = [f"input_path={parquet_dataset.path}", "output_path=out", "n_clusters=5", "eps=0.05"]
    process = start([*given, f"runner={runner}", "runner.num_workers=2"], tmp_path)
    seen: set[tuple[str, str]] = set()
    while process.poll() is None:
        time.sleep(0.02)
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
        for member in family:
            try:
                connections = member.net_connections("tcp")
                seen |= {(member.name(), c.laddr.ip) for c in connections if c.status == psutil.CONN_LISTEN}
            except psutil.Error:
                continue
    ended = finish(process)
    assert ended.code == 0, ended.err
    assert len(seen) >= 1
    assert [(name, ip) for name, ip in seen if not _is_loopback(ip)] == []
    assert "whoever reaches it" not in ended.err


def _is_loopback(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback


@pytest.mark.parametrize(
    ("host", "written"),
    [("localhost", "localhost"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("127.8.8.8", "127.8.8.8")],
)
def test_loopback_is_not_warned_of(host: str, written: str, caplog: pytest.LogCaptureFixture) -> None:
    assert ports.checked(host, "A server") == written
    assert not caplog.records


@pytest.mark.parametrize(("host", "written"), [("0.0.0.0", "0.0.0.0"), ("::", "[::]"), ("192.0.2.7", "192.0.2.7")])
def test_what_others_reach_is_warned_of(host: str, written: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert ports.checked(host, "A server") == written
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"A server listens on {host}, and serves whoever reaches it: ")


def test_an_unknown_host_is_an_error() -> None:
    with pytest.raises(InputError, match="there is no such host"):
        ports.checked("nowhere.invalid", "A server")
