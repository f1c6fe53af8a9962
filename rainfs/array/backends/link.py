"""One live connection to a node: requests out, answers in, in any order.

Owns the calls that wait for an answer, and their deadline.  Refuses to know how connections come
about.  Invariants: every call ends with its answer or, when the connection is lost or the deadline
has passed, with NodeUnavailable; after a call has ended or was cancelled nothing refers to its
payload, unless that lies in shared memory, which is held until the node has answered; an answer
that comes later is received into memory that nobody else has; a connection on which a call has
waited for the whole deadline without a single byte from the node is given up.

What has been received is worked off without suspending, so that whoever has begun calls may do it
as well as the task in `run`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence

import trio

from rainfs import __version__
from rainfs.array.backends.neighbour import Neighbour
from rainfs.errors import NodeUnavailable, RainError, RemoteProtocolError, StorageError
from rainfs.memory import Buffer
from rainfs.model import VolumeId
from rainfs.shared_memory import SharedArea
from rainfs.transport import Outbox, Parcel, Stream
from rainfs.wire.connection import Arrived, Connection, PayloadAhead
from rainfs.wire.faults import fault
from rainfs.wire.framing import MAX_REQUEST
from rainfs.wire.messages import Failed, Hello, Message, Put, PutShared, Role, Welcome

MAX_RECEIVES_WITHOUT_REST = 16
"""Receives in a row before other tasks get their turn."""

_NOTHING = memoryview(b"")


class Begun:
    """A request that awaits its answer; `over` is called with it, once, unless it is abandoned."""

    __slots__ = (
        "_link",
        "_request",
        "answer",
        "begun_s",
        "error",
        "heard_bytes",
        "over",
        "parcel",
        "payload",
    )

    def __init__(self, link: Link, request: int, over: Callable[[Begun], None]) -> None:
        self._link = link
        self._request = request
        self.over = over
        self.begun_s = trio.current_time()
        self.heard_bytes = link.heard_bytes
        """What had come from the node by then."""
        self.parcel: Parcel | None = None
        """What has not been sent yet, if anything."""
        self.answer: Message | None = None
        self.payload = _NOTHING
        self.error: RainError | None = None

    def abandon(self) -> None:
        """Await it no longer; `over` is not called, and nothing refers to its payload then, or the
        area that it lies in keeps it as it is."""
        self._link.abandon(self._request, self)

    @property
    def fileno(self) -> int:
        """What becomes readable with the answer, or with another one."""
        return self._link.fileno

    def stay(self, most_ms: int) -> bool:
        """Let the event loop stand still until bytes come, for `most_ms` at most; deliver them."""
        return self._link.stay(most_ms)


class Link:
    """Greet, then `run` in a task of its own; `call` from any number of others."""

    def __init__(self, stream: Stream, volume: VolumeId | None, *, deadline_s: float) -> None:
        self._stream = stream
        self._volume = volume
        self._deadline_s = deadline_s
        self._connection = Connection(Role.CLIENT)
        self._outbox = Outbox(stream, stall_s=deadline_s)
        self._calls: dict[int, Begun] = {}
        self._last_request = 0
        self.heard_bytes = 0
        self._lost: NodeUnavailable | None = None
        self._broken: StorageError | None = None
        """Why it was given up by another task than the one in `run`."""
        self.stalled = False
        """Whether it was given up because the node had gone silent."""
        self._descriptors: list[int] = []
        """What came with the greeting and nobody has taken."""
        self.neighbour: Neighbour | None = None
        """The node's storage file, if it has come along; it is closed with the connection."""
        self._area: SharedArea | None = None
        """Memory that the node has mapped."""
        self._held: dict[int, int] = {}
        """Slots of it that the node may be reading, by request."""

    async def greet(self, *, descriptors: bool = False, area: SharedArea | None = None) -> Welcome:
        """Exchange greetings.

        Over a Unix socket, perhaps ask for `descriptors`, and show an `area` of shared memory,
        whose slots are then not sent.  Raises: NodeUnavailable, RemoteProtocolError, what the
        node says.
        """
        memory_bytes = 0 if area is None else len(area)
        message = Hello(self._volume, __version__, descriptors, memory_bytes)
        hello = self._connection.send(0, message)
        if area is not None:
            if self._stream.send_descriptors(hello, [area.fd]) < len(hello[0]):
                raise NodeUnavailable(f"{self._stream.peer}: takes no greeting")
        else:
            self._outbox.post(hello, len(hello[0]))
        while (event := self._connection.next_event()) is None:
            await self._stream.wait_readable()
            received = self._receive_greeting(self._connection.buffer())
            if received == 0:
                raise NodeUnavailable(f"{self._stream.peer}: the node closed the connection")
            if received is not None:
                self._connection.received(received)
        assert isinstance(event, Arrived)
        if isinstance(event.message, Failed):
            raise fault(event.message.code, f"{self._stream.peer}: {event.message.text}")
        assert isinstance(event.message, Welcome)
        if len(self._descriptors) != event.message.descriptors:
            raise RemoteProtocolError(f"{self._stream.peer}: other descriptors than announced")
        if event.message.memory:
            self._area = area
        return event.message

    def _receive_greeting(self, into: memoryview) -> int | None:
        if self._stream.is_unix:
            return self._stream.receive_descriptors(into, self._descriptors)
        return self._stream.receive_nowait(into)

    def take_descriptors(self) -> list[int]:
        """Return the descriptors that came with the greeting: the caller closes them."""
        taken, self._descriptors = self._descriptors, []
        return taken

    @property
    def addresses(self) -> tuple[str, str]:
        """Our own address and the node's, as this end sees them.  Raises: NodeUnavailable."""
        return self._stream.addresses

    async def run(self) -> None:
        """Deliver answers until the connection is lost.

        Raises: NodeUnavailable, RemoteProtocolError (in a group); all calls have ended by then.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ending, self._outbox.run)
                nursery.start_soon(self._ending, self._watch)
                await self._ending(self._receive)
        finally:
            self.drop(f"{self._stream.peer}: closed")

    async def _ending(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part of the connection; its failure ends the calls at once."""
        try:
            await part()
        except StorageError as error:
            self.drop(str(error))
            raise

    async def _receive(self) -> None:
        try:
            while True:
                await self._stream.wait_readable()
                while not self._deliver(MAX_RECEIVES_WITHOUT_REST):
                    await trio.lowlevel.checkpoint()
        except NodeUnavailable as error:
            raise self._broken or error from None

    def _deliver(self, receives: int) -> bool:
        """Receive so many times at most, and work it off; whether that was all there was.

        Raises: NodeUnavailable, RemoteProtocolError.
        """
        connection, stream = self._connection, self._stream
        for _ in range(receives):
            space = connection.buffer()
            received = stream.receive_nowait(space)
            if received is None:
                return True
            if received == 0:
                raise NodeUnavailable(f"{stream.peer}: the node closed the connection")
            connection.received(received)
            self.heard_bytes += received
            while (event := connection.next_event()) is not None:
                self._take(event)
            if received < len(space):
                return True
        return False

    @property
    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._stream.fileno

    def stay(self, most_ms: int) -> bool:
        """Wait for bytes in line, for `most_ms` at most, and deliver them; False if none came."""
        if self._lost is not None:
            return False
        if most_ms and not self._stream.wait_readable_inline(most_ms):
            return False
        heard_bytes = self.heard_bytes
        try:
            self._deliver(1)
        except StorageError as error:
            self._broken = error
            self.drop(str(error))
        return self.heard_bytes != heard_bytes or self._lost is not None

    def drop(self, reason: str) -> None:
        """Give the connection up: every call ends with NodeUnavailable(reason).  Idempotent."""
        if self._lost is not None:
            return
        self._lost = NodeUnavailable(reason)
        self._stream.close()
        self._outbox.close()
        for descriptor in self.take_descriptors():
            os.close(descriptor)
        if self.neighbour is not None:
            self.neighbour.close()
        for request in list(self._held):
            self._let_go(request, read=False)
        calls = list(self._calls.values())
        self._calls.clear()
        for call in calls:
            call.error = NodeUnavailable(reason)
            call.over(call)

    async def call(
        self, message: Message, payload: Sequence[Buffer], payload_bytes: int
    ) -> tuple[Message, memoryview]:
        """Send a request; return its answer and the payload that came with it.

        Raises: NodeUnavailable, or the error that the node answers.
        """
        task = trio.lowlevel.current_task()
        call = self.begin(message, payload, payload_bytes, lambda _: trio.lowlevel.reschedule(task))

        def abort(_: object) -> trio.lowlevel.Abort:
            call.abandon()
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        if call.error is not None:
            raise call.error
        assert call.answer is not None
        return call.answer, call.payload

    def begin(
        self,
        message: Message,
        payload: Sequence[Buffer],
        payload_bytes: int,
        over: Callable[[Begun], None],
    ) -> Begun:
        """Send a request; `over` is called when it has an answer or an error.

        Raises: NodeUnavailable.
        """
        if self._lost is not None:
            raise NodeUnavailable(str(self._lost))
        request = self._next_request()
        if self._area is not None and len(payload) == 1 and isinstance(message, Put):
            slot = self._area.hold(payload[0])
            if slot is None:
                if self._area.fd < 0 and not self._held:
                    self._area = None  # Another has taken its place: its memory may go.
            else:
                self._held[request] = slot
                message = PutShared(
                    message.stripe,
                    message.shard,
                    message.durable,
                    message.about,
                    slot,
                    payload_bytes,
                )
                payload, payload_bytes = (), 0
        try:
            buffers = self._connection.send(request, message, payload, payload_bytes)
        except RainError:
            self._let_go(request, read=True)
            raise
        call = Begun(self, request, over)
        try:
            call.parcel = self._outbox.post(buffers, len(buffers[0]) + payload_bytes)
        except NodeUnavailable as error:
            self.drop(str(error))
            raise
        self._calls[request] = call
        return call

    def _let_go(self, request: int, *, read: bool) -> None:
        """The node will not read what lies in shared memory any more, or may at any time."""
        slot = self._held.pop(request, None)
        if slot is not None:
            assert self._area is not None
            self._area.let_go(slot, read=read)

    async def _watch(self) -> None:
        """End calls at their deadline.

        All have the same one, so none that begins during a sleep ends before it: one task serves
        them all, and a call costs no timer of its own.
        """
        while True:
            now_s = trio.current_time()
            late_s = now_s - self._deadline_s
            overdue = [item for item in self._calls.items() if item[1].begun_s <= late_s]
            for request, call in overdue:
                self.abandon(request, call)
                call.error = NodeUnavailable(self._no_answer())
                call.over(call)
                self.stalled = self.stalled or self.heard_bytes == call.heard_bytes
            if self.stalled:
                raise NodeUnavailable(self._no_answer())
            oldest_s = min((call.begun_s for call in self._calls.values()), default=now_s)
            await trio.sleep_until(oldest_s + self._deadline_s)

    def _no_answer(self) -> str:
        return f"{self._stream.peer}: no answer within {self._deadline_s:g} s"

    def abandon(self, request: int, call: Begun) -> None:
        """Await a call no longer."""
        del self._calls[request]
        if call.parcel is not None:
            untouched = not call.parcel.started
            self._outbox.withdraw(call.parcel)
            if untouched:
                self._connection.recall(request)
                self._let_go(request, read=True)

    def _next_request(self) -> int:
        is_open = self._connection.open_requests
        request = self._last_request
        while True:
            request = request % MAX_REQUEST + 1
            if request not in is_open:
                self._last_request = request
                return request

    def _take(self, event: Arrived | PayloadAhead) -> None:
        if isinstance(event, PayloadAhead):
            # Memory that belongs to nobody else, so that a call may be cancelled meanwhile.
            self._connection.provide(memoryview(bytearray(event.payload_bytes)))
            return
        self._let_go(event.request, read=True)
        call = self._calls.pop(event.request, None)
        if call is None:
            return
        if isinstance(event.message, Failed):
            text = f"{self._stream.peer}: {event.message.text}"
            call.error = fault(event.message.code, text)
        else:
            call.answer = event.message
            call.payload = event.payload if event.payload is not None else _NOTHING
        call.over(call)
