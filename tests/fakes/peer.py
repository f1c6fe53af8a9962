"""The other end of a connection, in the hands of a test: says what the test wants, when it wants.

`Peer` speaks the protocol for either role over a real socket, one message at a time, and can also
send raw bytes.  `ScriptedNode` accepts connections and runs a script on each.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import trio

from rainfs.model import NodeUuid, VolumeId
from rainfs.transport import Listener, Stream, connect, listen
from rainfs.wire.connection import Arrived, Connection, PayloadAhead
from rainfs.wire.messages import Hello, Message, Role, Welcome

UUID = NodeUuid(b"scripted node...")
PATIENCE_S = 10.0
"""A test that waits longer has failed."""


class PeerGone(Exception):
    """The other side has closed the connection."""


class Peer:
    """One end of one connection."""

    def __init__(self, stream: Stream, role: Role) -> None:
        self.stream = stream
        self.connection = Connection(role)

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        view = memoryview(data)
        while view:
            view = view[self.stream.send_nowait([view]) :]
            if view:
                await self.stream.wait_writable()

    async def send(self, request: int, message: Message, payload: bytes = b"") -> None:
        """Send a message of the protocol."""
        parts = self.connection.send(request, message, [payload] if payload else [], len(payload))
        await self.send_raw(b"".join(parts))

    async def receive_raw(self) -> bytes:
        """Return some bytes; none when the other side has closed."""
        buffer = memoryview(bytearray(65536))
        with trio.fail_after(PATIENCE_S):
            while (count := self.stream.receive_nowait(buffer)) is None:
                await self.stream.wait_readable()
        return bytes(buffer[:count])

    async def receive(self) -> Arrived:
        """Return the next message.  Raises: PeerGone."""
        with trio.fail_after(PATIENCE_S):
            while not isinstance(event := self.connection.next_event(), Arrived):
                if isinstance(event, PayloadAhead):
                    self.connection.provide(memoryview(bytearray(event.payload_bytes)))
                    continue
                count = self.stream.receive_nowait(self.connection.buffer())
                if count is None:
                    await self.stream.wait_readable()
                elif count == 0:
                    raise PeerGone
                else:
                    self.connection.received(count)
        return event

    async def welcome(self, volume: VolumeId | None = None) -> Hello:
        """As a node: exchange greetings."""
        event = await self.receive()
        assert isinstance(event.message, Hello)
        await self.send(0, Welcome(UUID, volume))
        return event.message

    async def wait_closed(self) -> None:
        """Return once the other side has closed, whatever it says before."""
        while await self.receive_raw():
            pass


async def join(host: str, port: int, volume: VolumeId | None) -> Peer:
    """As a client: connect to a node and exchange greetings."""
    peer = Peer(await connect(host, port, deadline_s=PATIENCE_S), Role.CLIENT)
    await peer.send(0, Hello(volume))
    assert isinstance((await peer.receive()).message, Welcome)
    return peer


class ScriptedNode:
    """Runs `script` on each connection; `connections` counts them."""

    def __init__(self, script: Callable[[Peer], Awaitable[None]]) -> None:
        self.script = script
        self.connections = 0
        self.streams: list[Stream] = []
        self._listener: Listener = listen(("127.0.0.1", 0), socket.AF_INET)
        self.port = self._listener.address[1]
        self.url = f"rain://127.0.0.1:{self.port}"

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while (stream := await self._listener.accept()) is not None:
                self.connections += 1
                self.streams.append(stream)
                nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: Stream) -> None:
        try:
            await self.script(Peer(stream, Role.NODE))
        except PeerGone:
            pass
        finally:
            stream.close()

    def close(self) -> None:
        """Accept no more."""
        self._listener.close()
