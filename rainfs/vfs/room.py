"""How much room the array has: what statfs says and what write() may promise.

Owns the estimate between two reports of the nodes.  Refuses to know how room is spread.

Invariant: bytes that were promised since the nodes last spoke are taken off what they said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from rainfs.array.array import Array, Space
from rainfs.model import Layout, NodeState

REFRESH_S = 0.25
"""The array is asked no more often."""

REPORT_AGE_S = 2.5
"""Nodes' reports of free space may be this old: commits younger than it count as unseen."""


class Room:
    """Free space, known well enough to refuse a write in time."""

    def __init__(
        self, array: Array, layout: Layout, reserve_bytes: int, clock: Callable[[], float]
    ) -> None:
        self._array = array
        self._layout = layout
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._space = Space(0, 0, 0, 0, 0)
        self._judged = False
        self._asked = -REFRESH_S
        self._commits: deque[tuple[float, int]] = deque([(0.0, 0)])

    def space(self) -> Space:
        """Return the array's space, at most a moment old."""
        now = self._clock()
        if now - self._asked >= REFRESH_S:
            self._asked = now
            self._space = self._array.space(self._layout)
            states = [status.state for status in self._array.health()]
            self._judged = NodeState.UP in states and self._space.usable_bytes > 0
        return self._space

    def has(self, nbytes: int, held: int, committed: int) -> bool:
        """Whether `nbytes` more fit, beside `held` dirty ones; `committed` counts all commits.

        While no node speaks nothing is refused: the bytes wait in the buffer.
        """
        space = self.space()
        now = self._asked
        commits = self._commits
        if commits[-1][0] != now:
            commits.append((now, committed))
            while len(commits) > 1 and commits[1][0] <= now - REPORT_AGE_S:
                commits.popleft()
        unseen = committed - commits[0][1]
        return not self._judged or (
            space.free_bytes - self._reserve(space) - held - unseen >= nbytes
        )

    def _reserve(self, space: Space) -> int:
        return min(self._reserve_bytes, space.usable_bytes // 50)

    def free(self, held: int) -> int:
        """Return the file bytes that may still be written."""
        space = self.space()
        return max(0, space.free_bytes - self._reserve(space) - held)
