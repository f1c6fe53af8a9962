"""Acts on calls that are late, without a task for each call.

Owns one task that looks over all watched calls every TICK_S while there are any.  Refuses to know
what the calls are.  Invariants: an action runs only after two looks found its call overdue (so a
stall of this process itself, in which answers may have piled up, makes nothing late), and never
after `remove`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import trio

TICK_S = 0.010


class Watched(ABC):
    """One call that may become late."""

    __slots__ = ("due_s", "seen")

    def __init__(self, due_s: float) -> None:
        self.due_s = due_s
        self.seen = False

    @abstractmethod
    def act(self) -> float | None:
        """Do what is to be done about it; return when to look again, or None when done."""


class LateWatch:
    """All calls under watch."""

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._wake = trio.Event()

    def add(self, watched: Watched) -> None:
        """Run `watched.act` soon after the clock passes `due_s`, unless removed before."""
        if not self._watched:
            self._wake.set()
        self._watched.add(watched)

    def remove(self, watched: Watched) -> None:
        """Watch it no longer; harmless twice."""
        self._watched.discard(watched)

    async def run(self) -> None:
        """Look over the calls until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._watched:
                await trio.sleep(TICK_S)
                self._look()

    def _look(self) -> None:
        now_s = trio.current_time()
        for watched in [w for w in self._watched if w.due_s <= now_s]:
            if not watched.seen:
                watched.seen = True
                continue
            again_s = watched.act()
            if again_s is None:
                self._watched.discard(watched)
            else:
                watched.due_s = again_s
