"""The node's side of clients on its own host: a Unix socket, and descriptors of the storage file.

Owns the socket's name, who may come in by it, and the read-only descriptors that go out.  Refuses
to know what travels on a connection.

Invariants: only processes of the node's own user, or of root, are served here, and these could open
the storage file by themselves; the descriptors are opened anew for reading, so that they share
neither the lock nor the right to write; they leave with a greeting and at no other time.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Sequence

from rainfs.errors import NodeUnavailable
from rainfs.model import NodeUuid
from rainfs.transport import Listener, Stream, is_loopback, listen_unix

log = logging.getLogger("rainfs.node")

TOKEN_BYTES = 16
"""The name is in /proc/net/unix for all to see; nobody can take it before the node does."""

ROOT = 0


class Neighbours:
    """The door for clients of the same host."""

    def __init__(self, uuid: NodeUuid, descriptors: Sequence[int]) -> None:
        """Hand out `descriptors`, which stay the caller's."""
        self.name = f"rainfs-{uuid.hex()}-{secrets.token_hex(TOKEN_BYTES)}".encode()
        self.descriptors = tuple(descriptors)
        self.listener: Listener | None = None
        """Nothing where the system has no such sockets."""
        try:
            self.listener = listen_unix(self.name)
        except OSError as error:
            log.warning("no socket for clients of this host: %s", error.strerror)

    def offer(self, stream: Stream) -> tuple[bytes, str, str]:
        """Return the door's name and both ends of `stream`; nothing where it is no loopback."""
        if self.listener is None or stream.is_unix:
            return b"", "", ""
        try:
            ours, theirs = stream.addresses
        except NodeUnavailable:
            return b"", "", ""
        if not (is_loopback(ours) and is_loopback(theirs)):
            return b"", "", ""
        return self.name, ours, theirs

    def may_enter(self, stream: Stream) -> bool:
        """Whether a connection that came by the door may stay."""
        try:
            return stream.peer_user in (os.geteuid(), ROOT)
        except NodeUnavailable:
            return False

    def close(self) -> None:
        """Let nobody in any more.  Idempotent."""
        if self.listener is not None:
            self.listener.close()
