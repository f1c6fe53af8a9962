"""Loopback ports for nodes that this host starts itself.

Ports come from below the range that the kernel gives to outgoing connections: a node keeps its port
while it is down, and no client of anything may take it meanwhile.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Collection
from pathlib import Path

HOST = "127.0.0.1"
FIRST_PORT = 10_000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
DEFAULT_EPHEMERAL = 32_768
MAX_TRIES = 10_000


def port_is_free(port: int) -> bool:
    """Whether a node could listen on `port` now."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


def free_ports(count: int, avoid: Collection[int] = ()) -> list[int]:
    """Return `count` different ports, none of them in `avoid`, that nobody listens on now.

    Raises: OSError when so many are not to be found.
    """
    end = _first_ephemeral_port()
    found: list[int] = []
    for _ in range(MAX_TRIES):
        if len(found) == count:
            return found
        port = FIRST_PORT + secrets.randbelow(end - FIRST_PORT)
        if port not in found and port not in avoid and port_is_free(port):
            found.append(port)
    raise OSError(f"fewer than {count} free ports between {FIRST_PORT} and {end}")


def _first_ephemeral_port() -> int:
    try:
        lowest = int(EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return DEFAULT_EPHEMERAL
    return lowest if lowest > FIRST_PORT + MAX_TRIES else 65_536
