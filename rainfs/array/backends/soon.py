"""One get whose answer may come without a turn of the scheduler.

Owns the answer between its coming and its being asked for.  Refuses to know connections beyond the
one request.  Invariant: the answer is asked for at most once, and a get that is cancelled refers to
nothing afterwards.
"""

from __future__ import annotations

import trio

from rainfs.array.backends.link import Begun
from rainfs.array.linger import Linger


class SoonAnswer:
    """Takes in the answer of a get: hand it to `Link.begin` as `over`."""

    __slots__ = ("_ended", "_task")

    def __init__(self) -> None:
        self._ended: Begun | None = None
        self._task: trio.lowlevel.Task | None = None

    def __call__(self, begun: Begun) -> None:
        """Take in what came."""
        self._ended = begun
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)

    def linger(self, begun: Begun, linger: Linger) -> bool:
        """Wait for it as long as `linger` says; whether it came."""
        while self._ended is None:
            if not (linger.wait(begun.fileno) and begun.stay(0)):
                return self._ended is not None
        return True

    def result(self) -> memoryview:
        """Return the bytes that came.  Raises: what came instead."""
        assert self._ended is not None
        if self._ended.error is not None:
            raise self._ended.error
        return self._ended.payload

    async def rest(self, begun: Begun) -> memoryview:
        """Wait for it with everybody else, and return it."""
        if self._ended is None:
            self._task = trio.lowlevel.current_task()

            def abort(_: object) -> trio.lowlevel.Abort:
                begun.abandon()
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        return self.result()
