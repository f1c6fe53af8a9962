"""One end of a connection as a state machine: bytes in, events out, messages in, buffers out.

Owns the order of messages, the set of open requests, and where the next received bytes belong.
Refuses to know sockets, clocks and tasks.  Invariants: nothing is allocated for a length that was
not checked; a payload is never joined with anything, neither sent nor received; after a
ProtocolError the connection is CLOSED and every further call raises.

Receiving, as the I/O shell does it:

    while (event := connection.next_event()) is None:
        connection.received(socket.recv_into(connection.buffer()))
    if isinstance(event, PayloadAhead):
        connection.provide(memory of event.payload_bytes)      # then go on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rainfs.errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from rainfs.memory import Buffer
from rainfs.model import KIB
from rainfs.wire.framing import (
    FRAME_BYTES,
    MAX_REQUEST,
    PREAMBLE,
    PREAMBLE_BYTES,
    Frame,
    check_preamble,
    pack_frame,
    unpack_frame,
)
from rainfs.wire.messages import (
    MAX_SMALL_HEADER_BYTES,
    Get,
    Kind,
    Message,
    Role,
    decode,
    encode,
)
from rainfs.wire.state import ANSWERS, REQUESTS, SENDER, TRANSITIONS, State

RECEIVE_BUFFER_BYTES = 64 * KIB
"""What is read ahead of parsing; longer headers and all payloads get memory of their own."""


@dataclass(slots=True)
class PayloadAhead:
    """A payload follows: call `provide` with memory for it before anything else.

    One that has been received whole already comes at once, with its message.
    """

    request: int
    message: Message
    payload_bytes: int


@dataclass(slots=True)
class Arrived:
    """A whole message; `payload` is memory of its own, or what was provided for it, or None."""

    request: int
    message: Message
    payload: memoryview | None


Event = PayloadAhead | Arrived


class Connection:
    """The protocol state of one end."""

    __slots__ = (
        "_begin",
        "_end",
        "_filled",
        "_frame",
        "_greeted",
        "_header",
        "_message",
        "_open",
        "_payload",
        "_receive",
        "_role",
        "_sent_preamble",
        "_state",
    )

    def __init__(self, role: Role) -> None:
        self._role = role
        self._state = State.NEW
        self._sent_preamble = False
        self._greeted = False
        self._receive = memoryview(bytearray(RECEIVE_BUFFER_BYTES))
        self._begin = self._end = 0
        self._frame: Frame | None = None
        self._header: memoryview | None = None
        self._message: Message | None = None
        self._payload: memoryview | None = None
        self._filled = 0
        self._open: dict[int, Message] = {}

    @property
    def state(self) -> State:
        """Where the connection is."""
        return self._state

    @property
    def open_requests(self) -> Mapping[int, Message]:
        """Requests that have not been answered."""
        return self._open

    @property
    def between_frames(self) -> bool:
        """Whether nothing has been received of a message that is not whole."""
        return self._frame is None and self._begin == self._end

    # --- Sending. -------------------------------------------------------------------------------

    def send(
        self, request: int, message: Message, payload: Sequence[Buffer] = (), payload_bytes: int = 0
    ) -> list[Buffer]:
        """Return the buffers that carry `message` to the peer, in order; `payload` is among them.

        Raises: LocalProtocolError when the protocol forbids it; the connection stays as it was.
        """
        kind = message.kind
        if SENDER[kind] is not self._role or kind not in TRANSITIONS[self._state]:
            raise LocalProtocolError(
                f"the {self._role.value} may not send {kind.name} when {self._state.name}"
            )
        if payload_bytes > message.max_payload_bytes:
            raise LocalProtocolError(f"a payload of {payload_bytes} bytes in a {kind.name}")
        header = encode(message)
        if kind in REQUESTS:
            if request in self._open or not 0 < request <= MAX_REQUEST:
                raise LocalProtocolError(f"request {request} is open or impossible")
            self._open[request] = message
        elif self._state is State.OPEN:
            self._close_request(request, kind, payload_bytes, LocalProtocolError)
        self._state = TRANSITIONS[self._state][kind]
        head = pack_frame(kind, request, len(header), payload_bytes) + header
        if not self._sent_preamble:
            self._sent_preamble = True
            head = PREAMBLE + head
        return [head, *payload]

    def recall(self, request: int) -> None:
        """Forget a request of which nothing has left; no answer to it may come."""
        del self._open[request]

    def _close_request(
        self, request: int, kind: Kind, payload_bytes: int, error: type[ProtocolError]
    ) -> None:
        asked = self._open.get(request)
        if asked is None:
            raise error(f"{kind.name} answers request {request}, which is not open")
        if kind not in ANSWERS[asked.kind]:
            raise error(f"{kind.name} answers a {asked.kind.name}")
        if kind is Kind.DATA and isinstance(asked, Get) and payload_bytes != asked.length:
            raise error(f"{payload_bytes} bytes answer a request for {asked.length}")
        del self._open[request]

    # --- Receiving. -----------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """Return the memory that the next received bytes belong to; never empty."""
        target = self._payload if self._payload is not None else self._header
        if target is not None and self._filled < len(target):
            return target[self._filled :]
        if self._begin == self._end:
            self._begin = self._end = 0
        elif self._begin and self._end == len(self._receive):
            # What is left is at most a frame and a short header: longer ones have own memory.
            left = bytes(self._receive[self._begin : self._end])
            self._receive[: len(left)] = left
            self._begin, self._end = 0, len(left)
        return self._receive[self._end :]

    def received(self, nbytes: int) -> None:
        """Say that `nbytes` >= 1 were put into what `buffer` returned."""
        target = self._payload if self._payload is not None else self._header
        if target is not None and self._filled < len(target):
            self._filled += nbytes
        else:
            self._end += nbytes

    def next_event(self) -> Event | None:
        """Return what has happened, or None when more bytes are needed.

        Raises: RemoteProtocolError when the peer broke the protocol; the connection is CLOSED then.
        """
        if self._state is State.CLOSED:
            raise LocalProtocolError("the connection is closed")
        try:
            return self._next_event()
        except RemoteProtocolError:
            self._state = State.CLOSED
            raise

    def _next_event(self) -> Event | None:
        if not self._greeted and not self._read_preamble():
            return None
        if self._frame is None:
            if self._end - self._begin < FRAME_BYTES:
                return None
            self._frame = unpack_frame(self._receive, self._begin)
            self._begin += FRAME_BYTES
            self._check_order(self._frame)
        frame = self._frame
        if self._message is None:
            header = self._read_header(frame.header_bytes)
            if header is None:
                return None
            self._message = decode(frame.kind, header)
            self._header = None
            self._accept(frame, self._message)
            if frame.payload_bytes:
                stop = self._begin + frame.payload_bytes
                if self._end < stop:
                    return PayloadAhead(frame.request, self._message, frame.payload_bytes)
                self._payload = memoryview(bytearray(self._receive[self._begin : stop]))
                self._filled = frame.payload_bytes
                self._begin = stop
        message = self._message
        if frame.payload_bytes:
            if self._payload is None:
                raise LocalProtocolError("no memory was provided for the payload")
            if self._filled < frame.payload_bytes:
                return None
        payload = self._payload
        self._frame = self._message = self._payload = None
        return Arrived(frame.request, message, payload)

    def provide(self, memory: memoryview) -> None:
        """Receive the payload that `PayloadAhead` announced into `memory`, of just its length."""
        frame = self._frame
        if frame is None or self._message is None or self._payload is not None:
            raise LocalProtocolError("no payload is ahead")
        if memory.nbytes != frame.payload_bytes:
            raise LocalProtocolError(f"{memory.nbytes} bytes for {frame.payload_bytes}")
        self._payload = memory
        self._filled = self._take(memory)

    def _take(self, target: memoryview) -> int:
        """Move what was read ahead into `target`; return how many bytes those were."""
        ready = min(len(target), self._end - self._begin)
        target[:ready] = self._receive[self._begin : self._begin + ready]
        self._begin += ready
        return ready

    def _read_preamble(self) -> bool:
        check_preamble(self._receive[self._begin : self._end])
        if self._end - self._begin < PREAMBLE_BYTES:
            return False
        self._begin += PREAMBLE_BYTES
        self._greeted = True
        return True

    def _read_header(self, header_bytes: int) -> memoryview | None:
        """Return the header once it is whole; a long one is received into memory of its own."""
        if self._header is None:
            if self._end - self._begin >= header_bytes:
                header = self._receive[self._begin : self._begin + header_bytes]
                self._begin += header_bytes
                return header
            if header_bytes <= MAX_SMALL_HEADER_BYTES:
                return None
            self._header = memoryview(bytearray(header_bytes))
            self._filled = self._take(self._header)
        return self._header if self._filled == header_bytes else None

    def _check_order(self, frame: Frame) -> None:
        """Refuse a frame that may not come now, before any of its lengths is believed."""
        kind = frame.kind
        if SENDER[kind] is self._role or kind not in TRANSITIONS[self._state]:
            raise RemoteProtocolError(f"{kind.name} may not come when {self._state.name}")
        if kind in REQUESTS:
            if frame.request in self._open or frame.request == 0:
                raise RemoteProtocolError(f"request {frame.request} is open or impossible")
        elif self._state is State.OPEN:
            self._close_request(frame.request, kind, frame.payload_bytes, RemoteProtocolError)

    def _accept(self, frame: Frame, message: Message) -> None:
        if frame.kind in REQUESTS:
            self._open[frame.request] = message
        self._state = TRANSITIONS[self._state][frame.kind]
