"""Has a range of a shard from the one place that holds it, and counts what came.

Owns the order of ways to one shard: its storage file where that lies on this host, then its node;
and what is to be learnt of the node from its answer.  Refuses to know other shards.  Invariant:
what was read without the node says nothing of the node, neither that it lives nor how quick it is.
"""

from __future__ import annotations

import trio

from rainfs.array.counts import ReadCounts
from rainfs.array.latency import get_kind
from rainfs.array.members import Member, Members
from rainfs.model import ShardKey


class Asker:
    """The ways to any node's shards."""

    def __init__(self, members: Members, counts: ReadCounts) -> None:
        self._members = members
        self._counts = counts

    def now(self, member: Member, key: ShardKey, start: int, nbytes: int) -> memoryview | None:
        """Return the bytes if they are here already, or as good as that."""
        if member.near_reader is None:
            return None
        data = member.near_reader.near_now(key, start, nbytes)
        if data is not None:
            self._counts.read_directly(nbytes)
        return data

    async def get(self, member: Member, key: ShardKey, start: int, nbytes: int) -> memoryview:
        """Return the bytes.  Raises: what `Backend.get` raises."""
        if member.near_reader is not None:
            data = await member.near_reader.near(key, start, nbytes)
            if data is not None:
                self._counts.read_directly(nbytes)
                return data
        begun_s = trio.current_time()
        data = await member.backend.get(key, start, nbytes)
        self.answered(member, nbytes, begun_s)
        return data

    def answered(self, member: Member, nbytes: int, begun_s: float) -> None:
        """Take note that the node has just answered a get that began at `begun_s`."""
        self._counts.got(nbytes)
        self._members.answered(member, get_kind(nbytes), trio.current_time() - begun_s)
