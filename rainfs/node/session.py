"""One client's connection at the node.

Owns the way from a request to its answer: requests are handled concurrently and answered as each
finishes.  Refuses to know other connections.  Invariants: a request is read only once its memory
has been lent by the connection's budget and the node's, except for what the connection's own buffer
holds and is answered on the spot; it gives that back when its answer has left, or when the
connection is gone and the store has let go; what the store has written without a thread is settled
before the session waits for anything; whatever the client sends or does not
send ends at most this connection.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from rainfs import __version__
from rainfs.async_store.access import AsyncStore
from rainfs.async_store.buffers import Buffers, Lease
from rainfs.async_store.read_pace import INLINE_READ_BYTES
from rainfs.errors import (
    ForeignVolume,
    InputError,
    NodeFailing,
    NodeUnavailable,
    RainError,
    RemoteProtocolError,
)
from rainfs.memory import Buffer
from rainfs.model import KIB, MIB, ShardKey, VolumeId
from rainfs.node.budget import Budget
from rainfs.node.client_memory import ClientMemory
from rainfs.node.neighbours import Neighbours
from rainfs.transport import MAX_DESCRIPTORS, Outbox, Stream
from rainfs.wire import messages as wire
from rainfs.wire.connection import Arrived, Connection, Event, PayloadAhead
from rainfs.wire.faults import fault_code, fault_text
from rainfs.wire.framing import PREAMBLE
from rainfs.wire.state import State

log = logging.getLogger("rainfs.node")

_DONE = wire.Done()

CONNECTION_BUDGET_BYTES = 24 * MIB
REQUEST_COST_BYTES = 64 * KIB
"""What a request costs besides its payload; it bounds how many one connection has open."""

MAX_TURNS_WITHOUT_REST = 16
"""Receives and requests in a row before other connections get their turn."""

LONG_PUT_TURNS = 4
"""A long put, which may be written on the spot, takes as long as so many other requests."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a connection may keep the node waiting."""

    greeting_s: float = 10.0
    stall_s: float = 10.0
    """Inside a frame, or with an answer that is not taken: without a single byte."""
    frame_s: float = 60.0
    """For a whole frame."""


class Hold:
    """The memory that a request holds, and what it was lent for it."""

    __slots__ = ("_budgets", "_cost_bytes", "lease")

    def __init__(self, budgets: Sequence[Budget], cost_bytes: int, lease: Lease | None) -> None:
        self._budgets = budgets
        self._cost_bytes = cost_bytes
        self.lease = lease

    def release(self) -> None:
        """Give all of it back.  Idempotent."""
        if self.lease is not None:
            self.lease.release()
        budgets, self._budgets = self._budgets, ()
        for budget in budgets:
            budget.give(self._cost_bytes)


class Session:
    """Serves one connection; make it, then `run` it."""

    def __init__(
        self,
        stream: Stream,
        store: AsyncStore,
        budget: Budget,
        buffers: Buffers,
        patience: Patience,
        neighbours: Neighbours,
        client_memory: ClientMemory,
    ) -> None:
        self._stream = stream
        self._neighbours = neighbours
        self._brought: list[int] = []
        """Descriptors that came with the greeting."""
        self._client_memory = client_memory
        self._memory: memoryview | None = None
        """What the client has brought for the payload of its puts."""
        self._store = store
        self._buffers = buffers
        self._patience = patience
        self._own_budget = Budget(CONNECTION_BUDGET_BYTES)
        self._budgets = (self._own_budget, budget)
        self._connection = Connection(wire.Role.NODE)
        self._outbox = Outbox(stream, stall_s=patience.stall_s)
        self._volume: VolumeId | None = None
        self._reading = trio.CancelScope()
        self._whole = trio.CancelScope()
        self._gone = False
        self._frame_wait_s = 0.0
        self._may_have_more = True

    def stop_reading(self) -> None:
        """Take no further request; `run` returns when what was asked has been answered."""
        self._reading.cancel()

    async def run(self) -> None:
        """Serve until the client leaves, breaks the protocol or stalls.  Raises no Exception."""
        try:
            with self._whole:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._outbox.run)
                    with self._reading:
                        await self._receive(nursery)
                        self._whole.cancel()
                    await self._own_budget.wait_idle()
                    self._whole.cancel()
        except* RemoteProtocolError as group:
            log.warning("%s: %s; connection closed", self._stream.peer, group.exceptions[0])
        except* NodeUnavailable as group:
            log.info("%s", group.exceptions[0])
        except* Exception:
            log.exception("%s: connection closed", self._stream.peer)
        finally:
            self._gone = True
            self._store.settle()
            self._outbox.close()
            self._stream.close()
            if self._memory is not None:
                self._client_memory.give_back(self._memory)
                self._memory = None
            for descriptor in self._brought:
                os.close(descriptor)

    # --- Receiving. -----------------------------------------------------------------------------

    async def _receive(self, nursery: trio.Nursery) -> None:
        with trio.move_on_after(self._patience.greeting_s) as greeting:
            if not await self._greet():
                return
        if greeting.cancelled_caught:
            raise RemoteProtocolError("no greeting in time")
        turns = 0
        while (event := await self._next_event()) is not None:
            turns += 1
            if turns >= MAX_TURNS_WITHOUT_REST:
                turns = 0
                self._store.settle()
                await trio.lowlevel.checkpoint()
            if self._put_now(event):
                continue
            hold = await self._hold(event)
            try:
                if isinstance(event, PayloadAhead):
                    assert hold.lease is not None
                    self._connection.provide(hold.lease.view)
                    event = await self._next_event()
            except BaseException:
                hold.release()
                raise
            if event is None:
                hold.release()
                return
            assert isinstance(event, Arrived)
            self._handle(event, hold, nursery)
            if hold.lease is not None or isinstance(event.message, wire.PutShared):
                turns += LONG_PUT_TURNS - 1

    async def _greet(self) -> bool:
        """Exchange greetings; return whether the client may go on."""
        try:
            event = await self._next_event()
        except RemoteProtocolError:
            # From our preamble a client of another version learns what it has met.
            self._stream.send_nowait([PREAMBLE])
            raise
        if event is None:
            return False
        hello = event.message
        assert isinstance(hello, wire.Hello)
        self._volume = hello.volume
        self._welcome(hello)
        return True

    def _welcome(self, hello: wire.Hello) -> None:
        """Answer the greeting; a neighbour of the store's volume gets the descriptors it wants."""
        name, ours, theirs = self._neighbours.offer(self._stream)
        descriptors: tuple[int, ...] = ()
        if self._stream.is_unix and hello.descriptors and hello.volume == self._store.volume:
            descriptors = self._neighbours.descriptors
        if hello.volume == self._store.volume:
            self._memory = self._client_memory.take(self._brought, hello.memory_bytes)
        welcome = wire.Welcome(
            self._store.uuid,
            self._store.volume,
            __version__,
            unix_name=name,
            node_address=ours,
            client_address=theirs,
            descriptors=len(descriptors),
            memory=self._memory is not None,
        )
        buffers = self._connection.send(0, welcome)
        if descriptors:
            # The first bytes of a connection find room.
            sent = self._stream.send_descriptors(buffers, descriptors)
            if sent < len(buffers[0]):
                raise NodeUnavailable(f"{self._stream.peer}: takes no greeting")
        else:
            self._outbox.post(buffers, len(buffers[0]))

    async def _next_event(self) -> Event | None:
        """Return the next event, or None when the client has left."""
        connection = self._connection
        receives = 0
        while (event := connection.next_event()) is None:
            received = None
            while received is None:
                if not self._may_have_more and not self._store.unsettled:
                    await self._wait_for_bytes()
                space = connection.buffer()
                received = self._receive_into(space)
                if received is None:
                    # Nothing joins what was written: it is committed by itself.
                    self._store.settle()
                # What did not fill the space was all there was: wait before trying again.
                self._may_have_more = received == len(space)
            if received == 0:
                return None
            connection.received(received)
            receives += 1
            if receives % MAX_TURNS_WITHOUT_REST == 0:
                self._store.settle()
                await trio.lowlevel.checkpoint()
        if isinstance(event, Arrived):
            self._frame_wait_s = 0.0
        return event

    def _receive_into(self, space: memoryview) -> int | None:
        if self._connection.state is State.NEW and self._stream.is_unix:
            received = self._stream.receive_descriptors(space, self._brought)
            if len(self._brought) > MAX_DESCRIPTORS:
                raise RemoteProtocolError("a greeting with too many descriptors")
            return received
        return self._stream.receive_nowait(space)

    async def _wait_for_bytes(self) -> None:
        """Wait for as long as it takes between frames, and within bounds inside one."""
        if self._connection.between_frames:
            await self._stream.wait_readable()
            return
        begun_s = trio.current_time()
        with trio.move_on_after(self._patience.stall_s) as stall:
            await self._stream.wait_readable()
        self._frame_wait_s += trio.current_time() - begun_s
        if stall.cancelled_caught or self._frame_wait_s > self._patience.frame_s:
            raise RemoteProtocolError("a message does not end")

    async def _hold(self, event: Event) -> Hold:
        """Wait until the memory that a request needs, for itself or its answer, is there."""
        message = event.message
        leased_bytes = event.payload_bytes if isinstance(event, PayloadAhead) else 0
        cost_bytes = REQUEST_COST_BYTES
        if isinstance(message, wire.Get):
            if message.length > INLINE_READ_BYTES:
                leased_bytes = message.length
        elif isinstance(message, wire.Put | wire.PutShared):
            cost_bytes += len(message.about)
        elif isinstance(message, wire.Stat):
            cost_bytes = wire.MAX_ABOUT_HEADER_BYTES
        elif isinstance(message, wire.List | wire.Delete):
            cost_bytes = wire.MAX_LISTING_HEADER_BYTES
        elif isinstance(message, wire.Locate):
            cost_bytes = wire.MAX_LOCATED_HEADER_BYTES
        if leased_bytes:
            cost_bytes += self._buffers.held_bytes(leased_bytes)
        own, shared = self._budgets
        if not own.take_nowait(cost_bytes):
            self._store.settle()
            await own.take(cost_bytes)
        if not shared.take_nowait(cost_bytes):
            self._store.settle()
            try:
                await shared.take(cost_bytes)
            except BaseException:
                own.give(cost_bytes)
                raise
        lease = self._buffers.lease(leased_bytes) if leased_bytes else None
        return Hold(self._budgets, cost_bytes, lease)

    # --- Requests. ------------------------------------------------------------------------------

    def _handle(self, event: Arrived, hold: Hold, nursery: trio.Nursery) -> None:
        request, message = event.request, event.message
        if not isinstance(message, wire.Health | wire.Claim) and (
            self._volume is None or self._volume != self._store.volume
        ):
            foreign = ForeignVolume("the store belongs to another volume, or to none yet")
            self._answer(request, _failed(foreign), hold)
        elif isinstance(message, wire.Get):
            self._get(request, message, hold)
        elif isinstance(message, wire.Put):
            self._put(request, message, event.payload, hold)
        elif isinstance(message, wire.PutShared):
            self._put_shared(request, message, hold)
        else:
            nursery.start_soon(self._perform, request, message, hold)

    def _put_now(self, event: Event) -> bool:
        """Store and answer a small put on the spot, if it may be.

        It then borrows no memory: what was received of it is in the connection's own, and the
        answer joins no queue.
        """
        message, payload = event.message, event.payload if type(event) is Arrived else None
        if type(message) is not wire.Put or payload is None or not message.durable:
            return False
        if self._volume is None or self._volume != self._store.volume or not self._outbox.empty:
            return False
        answer: wire.Message = _DONE
        try:
            if not self._store.put_now(message.key, payload, message.about):
                return False
        except RainError as error:
            answer = _failed(error)
        buffers = self._connection.send(event.request, answer)
        try:
            self._outbox.post(buffers, len(buffers[0]))
        except NodeUnavailable as error:
            log.info("%s", error)
            self._whole.cancel()
        return True

    def _get(self, request: int, message: wire.Get, hold: Hold) -> None:
        def got(outcome: memoryview | Exception) -> None:
            if isinstance(outcome, Exception):
                self._answer(request, _failed(outcome), hold)
            else:
                self._answer(request, wire.Data(), hold, [outcome], message.length)

        key, offset, length = message.key, message.offset, message.length
        try:
            found = self._store.get_nowait(key, offset, length)
        except Exception as error:
            got(error)
            return
        if found is not None:
            got(found)
        else:
            into = hold.lease.view if hold.lease is not None else None
            self._store.begin_get(key, offset, length, into, got)

    def _put_shared(self, request: int, message: wire.PutShared, hold: Hold) -> None:
        memory, stop = self._memory, message.offset + message.length
        if memory is None or stop > len(memory):
            outside = InputError(f"bytes {message.offset} to {stop} of no memory that was brought")
            self._answer(request, _failed(outside), hold)
        else:
            self._put(request, message, memory[message.offset : stop], hold)

    def _put(
        self,
        request: int,
        message: wire.Put | wire.PutShared,
        payload: memoryview | None,
        hold: Hold,
    ) -> None:
        if not payload:
            self._answer(request, _failed(InputError("a shard of no bytes")), hold)
            return

        def done(error: RainError | None) -> None:
            self._answer(request, wire.Done() if error is None else _failed(error), hold)

        self._store.begin_put(
            message.key,
            (payload,),
            payload.nbytes,
            message.about,
            durable=message.durable,
            done=done,
        )

    async def _perform(self, request: int, message: wire.Message, hold: Hold) -> None:
        try:
            answer = await self._outcome(message)
        except Exception as error:
            answer = _failed(error)
        except BaseException:
            hold.release()
            raise
        self._answer(request, answer, hold)

    async def _outcome(self, message: wire.Message) -> wire.Message:
        store = self._store
        match message:
            case wire.Delete():
                await store.delete([ShardKey(*key) for key in message.keys])
            case wire.List():
                after = None if message.after is None else ShardKey(*message.after)
                return wire.Listing.of(await store.list(after, message.limit))
            case wire.Locate():
                rows = await store.locate(ShardKey(message.stripe, message.shard), message.limit)
                return wire.Located([(*key, row.offset, row.length, row.crcs) for key, row in rows])
            case wire.Stat():
                info = await store.stat(message.key)
                return wire.Described(info.length, info.durable, info.about)
            case wire.Sync():
                await store.sync()
            case wire.Health():
                return wire.Report.of(await store.health())
            case wire.Claim():
                await store.claim(message.volume)
                self._volume = message.volume
            case _:
                raise NodeFailing(f"{message.kind.name} is not served")
        return wire.Done()

    # --- Answers. -------------------------------------------------------------------------------

    def _answer(
        self,
        request: int,
        message: wire.Message,
        hold: Hold,
        payload: Sequence[Buffer] = (),
        payload_bytes: int = 0,
    ) -> None:
        """Answer, and let go of the request's memory when the answer has left."""
        if self._gone or self._connection.state is State.CLOSED:
            # The client has left, or has broken the protocol and is about to be closed.
            hold.release()
            return
        try:
            buffers = self._connection.send(request, message, payload, payload_bytes)
        except RainError:
            hold.release()
            raise
        try:
            self._outbox.post(buffers, len(buffers[0]) + payload_bytes, hold.release)
        except NodeUnavailable as error:
            log.info("%s", error)
            self._whole.cancel()


def _failed(error: Exception) -> wire.Failed:
    if not isinstance(error, RainError):
        log.error("internal error", exc_info=error)
        error = NodeFailing("internal error at the node")
    return wire.Failed(fault_code(error), fault_text(error))
