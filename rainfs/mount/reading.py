"""Which of pyfuse3's tasks reads the next request.

pyfuse3's tasks take turns at reading: whoever has a request gives the reading to the next task
before it answers, and waits in line after.  That wakes two tasks for each request, though nearly
every request is answered without waiting for anything, and costs more than all else that pyfuse3
does.  Here a task keeps the reading, and gives it away when its handler first waits (`Adapter`
says when) or when it ends.  Several requests that are there already are read one after another
without a turn of the scheduler.

Owns the stand-in for the scheduler that pyfuse3 is given, as `pyfuse3.asyncio` gives it another.
Refuses to know requests.  Invariant: while no task reads, a task runs that will read or give the
reading away before it waits.
"""

from __future__ import annotations

import select
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pyfuse3
import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

from rainfs.mount.handshake import Handshake

READ_ON_S = 0.000_5
"""For so long requests are read one after another before other tasks get their turn."""


class _Lock:
    """The right to read.  Released, it stays free until somebody takes it or it is handed over."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: dict[Task, None] = {}

    async def __aenter__(self) -> None:
        if not self._held:
            self._held = True
            return
        task = trio.lowlevel.current_task()
        self._waiting[task] = None

        def abort(_: RaiseCancelT) -> Abort:
            del self._waiting[task]
            return Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def __aexit__(self, *_: object) -> None:
        self._held = False

    def hand_over(self) -> None:
        """Let the next task in line read, unless one does."""
        if self._waiting and not self._held:
            self._held = True
            task = next(iter(self._waiting))
            del self._waiting[task]
            trio.lowlevel.reschedule(task)


class _Tasks:
    """A nursery whose tasks give the reading away when they end."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._manager = trio.open_nursery()
        self._ended = ended

    async def __aenter__(self) -> _Tasks:
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        return await self._manager.__aexit__(*raised)

    def start_soon(
        self, work: Callable[..., Awaitable[object]], *args: object, name: object = None
    ) -> None:
        """Start a task."""
        self._nursery.start_soon(self._run, work, args, name=name)

    async def _run(self, work: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        try:
            await work(*args)
        finally:
            self._ended()


class _LowLevel:
    """What pyfuse3 uses of `trio.lowlevel`."""

    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self) -> None:
        self._poll: select.poll | None = None
        self._turn_s = 0.0
        self.handshake: Handshake | None = None
        """The exchange that comes before all other requests, until it is over."""

    async def wait_readable(self, descriptor: int) -> None:
        """Return once a request is there; at once if one is, but not for long in a row."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(descriptor, select.POLLIN)
        if self.handshake is not None and self.handshake.finish():
            self.handshake = None
        if time.perf_counter() - self._turn_s < READ_ON_S and self._poll.poll(0):
            return
        await trio.lowlevel.wait_readable(descriptor)
        self._turn_s = time.perf_counter()


class Reading:
    """The scheduler of one mount's requests, in the place of the module `trio` in pyfuse3."""

    ClosedResourceError = trio.ClosedResourceError

    def __init__(self) -> None:
        self._lock = _Lock()
        self.lowlevel = _LowLevel()

    def install(self) -> None:
        """Have pyfuse3 use it; called before `pyfuse3.main`."""
        pyfuse3.trio = self  # type: ignore[attr-defined]

    def Lock(self) -> _Lock:  # noqa: N802 (trio's name)
        """Return the lock that pyfuse3's tasks read under."""
        return self._lock

    def open_nursery(self) -> _Tasks:
        """Return what pyfuse3's tasks run in."""
        return _Tasks(self._lock.hand_over)

    def hand_over(self) -> None:
        """Let another task read: the one that did is about to wait for something else."""
        self._lock.hand_over()
