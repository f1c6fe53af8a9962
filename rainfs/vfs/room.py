"""How much room the array has: what statfs says and what write() may promise.

Owns the promise that bytes which write() took find room when they are flushed, and the reserve for
what cannot be foreseen (puts given up half-way, a node fuller than others).  Refuses to know how
room is spread, and what was put on nodes since they last spoke: the array takes that off.

Invariants: bytes that are not committed count as the most that they can take, however they are
flushed; bytes that were committed since the array was asked count still.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from rainfs.array.array import Array, Space
from rainfs.model import PAGE_BYTES, Layout, NodeState
from rainfs.vfs.flush import Flusher

REFRESH_S = 0.25
"""The array is asked no more often, unless room looks short."""


SHORT_PARTS = 20
"""Room is short when write() may promise less than one part in so many of the whole, or less than
so many reserves."""
SHORT_RESERVES = 4


def worst_cost(layout: Layout) -> float:
    """Return how many bytes of free space a file byte may take at most, but for its last page.

    Free space counts stripes of the full width; a small or short stripe is a mirror of m + 1
    copies, and a narrow one takes no more.  Blocks that start on pages add an eighth.
    """
    code = layout.code
    return (code.m + 1) * code.k / code.n * 9 / 8


class Room:
    """Free space, known well enough to refuse a write in time."""

    def __init__(
        self,
        array: Array,
        flusher: Flusher,
        layout: Layout,
        reserve_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self._array = array
        self._flusher = flusher
        self._layout = layout
        self._worst_cost = worst_cost(layout)
        self._reserve_bytes = reserve_bytes
        self._clock = clock
        self._space = Space(0, 0, 0, 0, 0)
        self._limit = inf
        """What `exposed` and `spent` of the flusher may grow to; no limit while no node speaks."""
        self._asked = -REFRESH_S
        self._spent = 0
        self._claimed = 0
        code = layout.code
        self._copy_share = code.n / ((code.m + 1) * code.k)
        """What a full stripe's bytes take, as a share of what the worst kind of flush takes."""

    def space(self) -> Space:
        """Return the array's space, at most a moment old."""
        if self._clock() - self._asked >= REFRESH_S:
            self._ask()
        return self._space

    def _ask(self) -> None:
        self._asked = self._clock()
        self._spent = self._flusher.spent
        self._space = self._array.space(self._layout)
        states = [status.state for status in self._array.health()]
        self._limit = inf
        if NodeState.UP in states and self._space.usable_bytes > 0:
            free = self._space.free_bytes - self._reserve(self._space)
            self._limit = free / self._worst_cost + self._spent - PAGE_BYTES

    def has(self, nbytes: int) -> bool:
        """Whether `nbytes` more are sure to fit beside those that are not committed yet.

        While no node speaks nothing is refused: the bytes wait in the buffer.
        """
        if self._clock() - self._asked >= REFRESH_S:
            self._ask()
        if self._fits(nbytes):
            return True
        if self._spent == self._flusher.spent:
            return False
        self._ask()
        return self._fits(nbytes)

    async def make(self, nbytes: int) -> bool:
        """Whether `nbytes` more fit once all others have taken the room that they really need."""
        await self._flusher.drain()
        await self._array.look()
        self._ask()
        return self._fits(nbytes)

    def _fits(self, nbytes: int) -> bool:
        taken = self._flusher.exposed + self._flusher.spent + self._claimed
        return taken + nbytes <= self._limit

    def claim(self, nbytes: int) -> bool:
        """Set room aside for a stripe that compaction writes; False if that would break a promise.

        It may use half of the reserve, for it is what brings room back.
        """
        cost = self._copy_cost(nbytes)
        loan = int(self._reserve(self.space()) / 2 / self._worst_cost)
        if not self.has(cost - loan):
            return False
        self._claimed += cost
        return True

    def release(self, nbytes: int) -> None:
        """End a claim; until the array is asked again the bytes count as taken."""
        cost = self._copy_cost(nbytes)
        self._claimed -= cost
        self._flusher.spent += cost

    def _copy_cost(self, nbytes: int) -> int:
        share = self._copy_share if nbytes > self._layout.small_bytes else 1.0
        return int(nbytes * share) + PAGE_BYTES

    @property
    def short(self) -> bool:
        """Whether so little may still be promised to writers that garbage has to go."""
        space = self.space()
        least = max(SHORT_RESERVES * self._reserve(space), space.usable_bytes // SHORT_PARTS)
        return not self.has(least)

    def _reserve(self, space: Space) -> int:
        return min(self._reserve_bytes, space.usable_bytes // 50)

    def free(self) -> int:
        """Return the file bytes that may still be written."""
        space = self.space()
        return max(0, space.free_bytes - self._reserve(space) - self._flusher.held)
