"""Small stripes that follow one another alone go to the same nodes for a while.

A node that has just taken a shard takes the next one in two thirds of the time: its process is
still in the processor's caches.  Each streak begins with an ordinary draw, so over many of them the
nodes get what their weights say.  Owns how long a streak lasts.  Refuses to know how nodes are
drawn.

Invariant: nodes are named again only while no member has changed, for as many shards with as many
losses to survive, and with room on each.
"""

from __future__ import annotations

from collections.abc import Sequence

from rainfs.array.members import Members
from rainfs.model import NodeNumber

STREAK_STRIPES = 32
"""So many stripes at most go to the same nodes one after another."""


class Streak:
    """The nodes of the last lone small stripe."""

    __slots__ = ("_left", "_m", "_members", "_nodes", "_version")

    def __init__(self, members: Members) -> None:
        self._members = members
        self._nodes: Sequence[NodeNumber] = ()
        self._m = 0
        self._version = 0
        self._left = 0

    def again(self, count: int, m: int, nbytes: int) -> Sequence[NodeNumber] | None:
        """Return the nodes for `count` more shards of `nbytes`, None if they are to be drawn."""
        if not self._left or self._version != self._members.version:
            return None
        if len(self._nodes) != count or self._m != m:
            return None
        for number in self._nodes:
            member = self._members.get(number)
            if member is None or member.free_bytes < nbytes:
                return None
        self._left -= 1
        return self._nodes

    def begin(self, nodes: Sequence[NodeNumber], m: int) -> None:
        """Name these nodes again for the stripes that follow."""
        self._nodes = nodes
        self._m = m
        self._version = self._members.version
        self._left = STREAK_STRIPES - 1
