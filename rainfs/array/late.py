"""Acts on calls that are late, without a task for each call.

Owns one task that looks over all watched calls when the first of them is due: a call that is
answered in time costs no wake-up.  Refuses to know what the calls are.  Invariants: an action runs
only after two looks found its call overdue (so a stall of this process itself, in which answers may
have piled up, makes nothing late), and never after `remove`.
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
        self._next_s = float("inf")

    def add(self, watched: Watched) -> None:
        """Run `watched.act` soon after the clock passes `due_s`, unless removed before."""
        self._watched.add(watched)
        if watched.due_s < self._next_s:
            self._next_s = watched.due_s
            self._wake.set()

    def remove(self, watched: Watched) -> None:
        """Watch it no longer; harmless twice."""
        self._watched.discard(watched)

    async def run(self) -> None:
        """Look over the calls until cancelled."""
        while True:
            self._wake = trio.Event()
            with trio.move_on_at(self._next_s + TICK_S) as due:
                await self._wake.wait()
            if due.cancelled_caught:
                self._look()
                self._next_s = min((each.due_s for each in self._watched), default=float("inf"))

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
