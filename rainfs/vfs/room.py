"""How much room the array has: what statfs says and what write() may promise.

Owns the reserve that keeps deferred flushes from meeting a full array.  Refuses to know how room is
spread, and what was put on nodes since they last spoke: the array takes that off.
"""

from __future__ import annotations

from collections.abc import Callable

from rainfs.array.array import Array, Space
from rainfs.model import Layout, NodeState

REFRESH_S = 0.25
"""The array is asked no more often."""


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

    def space(self) -> Space:
        """Return the array's space, at most a moment old."""
        now = self._clock()
        if now - self._asked >= REFRESH_S:
            self._asked = now
            self._space = self._array.space(self._layout)
            states = [status.state for status in self._array.health()]
            self._judged = NodeState.UP in states and self._space.usable_bytes > 0
        return self._space

    def has(self, nbytes: int, held: int) -> bool:
        """Whether `nbytes` more fit beside `held` ones that are not committed yet.

        While no node speaks nothing is refused: the bytes wait in the buffer.
        """
        space = self.space()
        free = space.free_bytes - self._reserve(space) - held
        return free >= nbytes or not self._judged

    def _reserve(self, space: Space) -> int:
        return min(self._reserve_bytes, space.usable_bytes // 50)

    def free(self, held: int) -> int:
        """Return the file bytes that may still be written."""
        space = self.space()
        return max(0, space.free_bytes - self._reserve(space) - held)
