"""A get under way on a link.

Owns the answer between its coming and its being asked for.  Refuses to know connections beyond the
one request.  Invariant: a get that is cancelled or abandoned refers to nothing afterwards.
"""

from __future__ import annotations

import trio

from rainfs.array.backends.link import Begun
from rainfs.array.linger import Linger


class LinkGet:
    """See `BegunGet`.  Hand it to `Link.begin` as `over`, then say what that `began`."""

    __slots__ = ("_begun", "_over", "_task")

    def __init__(self) -> None:
        self._begun: Begun | None = None
        self._over = False
        self._task: trio.lowlevel.Task | None = None

    def __call__(self, begun: Begun) -> None:
        """Take in what came."""
        self._begun = begun
        self._over = True
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)

    def began(self, begun: Begun) -> None:
        """It awaits its answer from now on."""
        self._begun = begun

    def linger(self, linger: Linger) -> bool:
        """Wait as long as `linger` says; whether it is over."""
        while not self._over:
            assert self._begun is not None
            if not (linger.wait(self._begun.fileno) and self._begun.stay(0)):
                return self._over
        return True

    async def rest(self) -> memoryview:
        """Wait with everybody else."""
        if not self._over:
            self._task = trio.lowlevel.current_task()

            def abort(_: object) -> trio.lowlevel.Abort:
                self._task = None
                self.abandon()
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        return self.result()

    def result(self) -> memoryview:
        """Return the bytes.  Raises: what came instead."""
        assert self._over
        assert self._begun is not None
        if self._begun.error is not None:
            raise self._begun.error
        return self._begun.payload

    def abandon(self) -> None:
        """Await it no longer."""
        if not self._over and self._begun is not None:
            self._over = True
            self._begun.abandon()
