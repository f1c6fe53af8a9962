"""A way to a node that comes back: connects when needed, and again when the connection was lost.

Owns the one live connection of a lane, its deadline and the attempts to make it.  Refuses to know
what is asked.  Invariants: at most one attempt runs at a time; a call ends within the deadline;
after a failed attempt calls fail at once until the back-off lets the next one begin, except
probes, which begin it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import trio

from rainfs.array.backends.going_over import go_over
from rainfs.array.backends.link import Begun, Link
from rainfs.array.backends.neighbour import Neighbour
from rainfs.array.backends.reach import Reach
from rainfs.errors import NodeUnavailable, ProtocolError, RainError
from rainfs.memory import Buffer, Recycler
from rainfs.model import VolumeId
from rainfs.shared_memory import SharedMemory
from rainfs.transport import connect
from rainfs.wire.messages import Message

log = logging.getLogger(__name__)

CONNECT_DEADLINE_S = 3.0
"""For connecting and greeting; a node in a deep sleep accepts, but greets nobody."""

REPEATED_ATTEMPT_WAIT_S = 0.25
"""How long a call waits for an attempt that another one began, when the last one failed."""


class _Attempt:
    """One attempt to connect, and what came of it."""

    __slots__ = ("done", "error", "link")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.link: Link | None = None
        self.error: RainError = NodeUnavailable("the attempt to connect was given up")


class Lane:
    """One pipelined, reconnecting connection to a node."""

    def __init__(
        self,
        host: str,
        port: int,
        volume: VolumeId | None,
        reach: Reach,
        *,
        deadline_s: float,
        nursery: trio.Nursery,
        recycler: Recycler | None = None,
    ) -> None:
        """Use `reach`; with a `recycler`, have the storage file of a node on this host as well."""
        self._host = host
        self._port = port
        self._peer = f"{host}:{port}"
        self._volume = volume
        self._reach = reach
        self._deadline_s = deadline_s
        self._nursery = nursery
        self._recycler = recycler
        self._attempt: _Attempt | None = None
        self._link: Link | None = None
        self._runs: set[trio.CancelScope] = set()
        self._closed = False
        self._memory: SharedMemory | None = None

    def share(self, memory: SharedMemory) -> None:
        """Show `memory` to a node of this host when connecting."""
        self._memory = memory

    async def call(
        self,
        message: Message,
        payload: Sequence[Buffer] = (),
        payload_bytes: int = 0,
        *,
        probe: bool = False,
    ) -> tuple[Message, memoryview]:
        """Send a request and return its answer with its payload.

        Raises: NodeUnavailable within the deadline, or the error that the node answers.
        """
        if self._link is not None:
            return await self._link.call(message, payload, payload_bytes)
        with trio.move_on_after(self._deadline_s):
            link = await self._connected(probe)
            return await link.call(message, payload, payload_bytes)
        raise NodeUnavailable(f"{self._peer}: no answer within {self._deadline_s:g} s")

    def begin(
        self,
        message: Message,
        payload: Sequence[Buffer],
        payload_bytes: int,
        over: Callable[[Begun], None],
    ) -> Begun | None:
        """Send a request if there is a live connection; `over` hears of its end."""
        if self._link is None:
            return None
        try:
            return self._link.begin(message, payload, payload_bytes, over)
        except NodeUnavailable:
            return None  # The connection is lost: a call will find out, and make another.

    @property
    def neighbour(self) -> Neighbour | None:
        """The storage file of the node while there is a connection that has brought it."""
        return self._link.neighbour if self._link is not None else None

    async def _connected(self, probe: bool) -> Link:
        """Return the live connection, once there is one."""
        attempt = self._attempt
        wait_s = float("inf")
        if attempt is None:
            if self._closed:
                raise NodeUnavailable(f"{self._peer}: closed")
            if not probe and not self._reach.may_try(trio.current_time()):
                raise NodeUnavailable(self._reach.reason)
            attempt = self._attempt = _Attempt()
            self._nursery.start_soon(self._run, attempt)
        elif self._reach.failing and not probe:
            wait_s = REPEATED_ATTEMPT_WAIT_S
        with trio.move_on_after(wait_s):
            await attempt.done.wait()
        if not attempt.done.is_set():
            raise NodeUnavailable(self._reach.reason)
        if attempt.link is None:
            raise type(attempt.error)(str(attempt.error))
        return attempt.link

    async def _run(self, attempt: _Attempt) -> None:
        """Connect, then serve the connection until it is lost."""
        try:
            with trio.CancelScope() as run:
                self._runs.add(run)
                if self._closed:
                    raise NodeUnavailable(f"{self._peer}: closed")
                link = await self._connect()
                self._reach.succeeded()
                self._link = attempt.link = link
                self._attempt = None
                attempt.done.set()
                try:
                    await link.run()
                except* ProtocolError as group:
                    log.warning("%s: %s; connection closed", self._peer, group.exceptions[0])
                    self._reach.failed(trio.current_time(), str(group.exceptions[0]))
                except* NodeUnavailable as group:
                    log.info("%s", group.exceptions[0])
                    if link.stalled:
                        self._reach.failed(trio.current_time(), str(group.exceptions[0]))
                finally:
                    if self._link is link:
                        self._link = None
        except RainError as error:
            self._reach.failed(trio.current_time(), str(error))
            attempt.error = error
        finally:
            self._runs.discard(run)
            if self._attempt is attempt:
                self._attempt = None
            attempt.done.set()

    async def _connect(self) -> Link:
        deadline_s = min(CONNECT_DEADLINE_S, self._deadline_s)
        with trio.move_on_after(deadline_s):
            stream = await connect(self._host, self._port, deadline_s=deadline_s)
            link = Link(stream, self._volume, deadline_s=self._deadline_s)
            try:
                welcome = await link.greet()
                nearer = await go_over(
                    link,
                    welcome,
                    self._peer,
                    self._volume,
                    deadline_s=self._deadline_s,
                    recycler=self._recycler,
                    area=None if self._memory is None else self._memory.area,
                )
            except BaseException:
                link.drop(f"{self._peer}: not greeted")
                raise
            if nearer is None:
                return link
            link.drop(f"{self._peer}: went over to its Unix socket")
            return nearer
        raise NodeUnavailable(f"{self._peer}: no greeting within {deadline_s:g} s")

    def close(self) -> None:
        """Drop the connection, for good; outstanding calls raise NodeUnavailable.  Idempotent."""
        self._closed = True
        for run in self._runs:
            run.cancel()
        if self._link is not None:
            self._link.drop(f"{self._peer}: closed")
            self._link = None
