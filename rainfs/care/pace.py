"""When a background rewriter may go on: within its bandwidth, and after the clients.

Owns the waiting.  Refuses to know what is rewritten, and who the clients are: a mount says how many
requests it has served and whether room is short; a command without a mount has nobody to wait for.

Invariants: no more than the bandwidth over any longer time; a rewriter that is pressed for space
does not wait at all; one that has garbage to collect never waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from rainfs.model import InodeNumber

IDLE_S = 0.05
"""Clients that asked for nothing this long are idle."""

DEFERENCE_S = 20.0
"""Longest wait for idle clients before each stripe."""


class Clients(Protocol):
    """What a rewriter must know of those whose array it shares."""

    def served(self) -> int:
        """Return a number that grows with every request of a client."""
        ...

    def short(self) -> bool:
        """Whether room is short enough that garbage has to go at once."""
        ...

    def claim(self, nbytes: int) -> bool:
        """Set room for `nbytes` aside, beside what clients were promised; False if there is none.

        The room is not promised to anybody else until `release`.
        """
        ...

    def release(self, nbytes: int) -> None:
        """End a claim: the bytes are on the nodes, or were given up."""
        ...

    def moved(self, inode: InodeNumber) -> None:
        """Hear that a file's extents are other ones; those remembered lead to dead stripes."""
        ...


class Nobody:
    """The clients of a volume that is not mounted."""

    def served(self) -> int:
        """See `Clients.served`."""
        return 0

    def short(self) -> bool:
        """See `Clients.short`."""
        return False

    def claim(self, nbytes: int) -> bool:
        """See `Clients.claim`: the array refuses what does not fit."""
        return True

    def release(self, nbytes: int) -> None:
        """See `Clients.release`."""

    def moved(self, inode: InodeNumber) -> None:
        """See `Clients.moved`."""


class Pace:
    """The waiting of one rewriter."""

    def __init__(self, clients: Clients, bytes_per_s: float) -> None:
        self._clients = clients
        self._bytes_per_s = bytes_per_s
        self._free_at_s = float("-inf")

    async def turn(self, nbytes: int, pressing: Callable[[], bool]) -> None:
        """Return when the next `nbytes` may be rewritten.

        `pressing` says whether there is so much garbage that clients have to share.
        """
        if self._clients.short():
            await trio.lowlevel.checkpoint()
            return
        await trio.sleep_until(self._free_at_s)
        if not pressing():
            await self._idle()
        self._free_at_s = trio.current_time() + nbytes / self._bytes_per_s

    async def _idle(self) -> None:
        until_s = trio.current_time() + DEFERENCE_S
        served = self._clients.served()
        while trio.current_time() < until_s and not self._clients.short():
            await trio.sleep(IDLE_S)
            now = self._clients.served()
            if now == served:
                return
            served = now
