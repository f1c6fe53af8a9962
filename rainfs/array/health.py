"""Asks every node how it is, about once a second.

Owns the poll tasks and their schedule.  Refuses to judge: `members` turns answers and silence into
states.  Invariants: one task a node; an answer is waited for at most HEALTH_LATE_S; a node that
turns suspect is asked again at once, but never more often than KICK_PAUSE_S.
"""

from __future__ import annotations

from random import Random

import trio

from rainfs.array.background import Background
from rainfs.array.members import Member, Members
from rainfs.errors import RainError

POLL_S = 1.0
POLL_JITTER = 0.25
"""Pauses between two polls are POLL_S, longer or shorter by up to this fraction."""

HEALTH_LATE_S = 1.5
"""A health answer later than this counts as none."""

KICK_PAUSE_S = 0.1


class HealthPoll:
    """The poll tasks of all members."""

    def __init__(self, members: Members, background: Background, random: Random) -> None:
        self._members = members
        self._background = background
        self._random = random
        self._tasks: dict[Member, trio.CancelScope] = {}

    async def probe(self, member: Member) -> None:
        """Ask one node, and report the answer or its absence."""
        put_bytes = member.put_bytes
        try:
            with trio.fail_after(HEALTH_LATE_S):
                health = await member.backend.health()
        except trio.TooSlowError:
            self._members.missed(member, f"no answer in {HEALTH_LATE_S:g} s", late=True)
        except RainError as error:
            self._members.missed(member, str(error), late=False)
        else:
            self._members.reported(member, health, put_bytes)

    async def probe_all(self) -> None:
        """Ask all nodes at once; over after HEALTH_LATE_S at the latest."""
        async with trio.open_nursery() as nursery:
            for member in self._members:
                nursery.start_soon(self.probe, member)

    async def probe_inexact(self) -> None:
        """Ask those nodes that are up whose room is a guess; over after HEALTH_LATE_S."""
        async with trio.open_nursery() as nursery:
            for member in self._members:
                if member.up and not member.exact:
                    nursery.start_soon(self.probe, member)

    def watch(self, member: Member) -> None:
        """Poll the member from now on."""
        self._tasks[member] = self._background.spawn(self._poll, member)

    def unwatch(self, member: Member) -> None:
        """Stop polling it."""
        scope = self._tasks.pop(member, None)
        if scope is not None:
            scope.cancel()

    async def _poll(self, member: Member) -> None:
        while True:
            pause_s = POLL_S * (1 + POLL_JITTER * (2 * self._random.random() - 1))
            await trio.sleep(KICK_PAUSE_S)
            with trio.move_on_after(pause_s - KICK_PAUSE_S):
                await member.kicked.wait()
            member.kicked = trio.Event()
            await self.probe(member)
