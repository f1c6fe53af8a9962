"""Memory of clients on the node's own host, where the payload of their puts lies.

Owns the bound on what all of them together have the node map.  Refuses to know puts.  Invariants:
memory is mapped for reading only, and cannot shrink; whoever is refused sends payload as others do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rainfs.errors import InputError
from rainfs.model import MIB
from rainfs.shared_memory import map_shared

log = logging.getLogger("rainfs.node")

MAX_MAPPED_BYTES = 128 * MIB
"""Of all clients at a time; it counts towards the node's memory once it was read."""


class ClientMemory:
    """What the sessions of one node have mapped."""

    def __init__(self) -> None:
        self.mapped_bytes = 0

    def take(self, brought: Sequence[int], nbytes: int) -> memoryview | None:
        """Map what a client has brought with its greeting; None where it is not to be used."""
        if not nbytes or len(brought) != 1:
            return None
        if self.mapped_bytes + nbytes > MAX_MAPPED_BYTES:
            log.info("a client's memory is not mapped: %d bytes are already", self.mapped_bytes)
            return None
        try:
            memory = map_shared(brought[0], nbytes)
        except (InputError, OSError) as error:
            log.warning("a client's memory is not mapped: %s", error)
            return None
        self.mapped_bytes += nbytes
        return memory

    def give_back(self, memory: memoryview) -> None:
        """A session is over; the mapping goes with the last put that reads it."""
        self.mapped_bytes -= len(memory)
