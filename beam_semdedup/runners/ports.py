"""Where what this project starts listens: on this machine alone, unless a host is given, which is warned of.

None of it knows its callers: whoever reaches such a port can have code run.
"""

from __future__ import annotations

import ipaddress
import logging
import socket

from beam_semdedup.errors import InputError

_LOG = logging.getLogger(__name__)
LOOPBACK = "localhost"


def checked(host: str, what: str) -> str:
    """Returns a host to listen on as gRPC writes it before a port; warns where other machines reach it.

    Args:
        host: a name or an address of this machine; 0.0.0.0 stands for all of its addresses.
        what: listens there, for people.

    Raises:
        InputError: there is no such host.
    """
    if not is_loopback(host):
        _LOG.warning(
            "%s listens on %s, and serves whoever reaches it: keep all but the cluster's machines away with a firewall",
            what,
            host,
        )
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Says whether a host is reached from this machine alone; InputError where there is none of that name."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError as error:
        raise InputError(f"host={host}: there is no such host: {error}") from error
    return all(ipaddress.ip_address(str(place[4][0]).partition("%")[0]).is_loopback for place in found)
