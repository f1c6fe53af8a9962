"""The network boundary: streams over trio, and the queue of frames that leave on one.

Owns sockets, their options and readiness: TCP, and between processes of one host Unix sockets in
the abstract namespace, which can carry descriptors.  Refuses to know messages.  Whatever the
operating system reports is a NodeUnavailable here.  A descriptor that was received belongs to
whoever asked for it, is closed on exec, and comes at no other time.  Calls named `x_nowait` do what
is possible at once and never suspend, which saves a turn of the scheduler where bytes or room are
there already; `x_inline` waits without one.  A TLS stream will be a second class with the methods
of `Stream`.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from rainfs.errors import NodeUnavailable
from rainfs.memory import Buffer
from rainfs.model import MIB

MAX_BUFFERS_PER_SEND = 64
"""Well below the kernel's IOV_MAX of 1024."""

LISTEN_BACKLOG = 128
ACCEPT_PAUSE_S = 0.1
"""How long accepting rests when the process has no file descriptors left."""

KEEPALIVE_IDLE_S = 30
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 3

MAX_DESCRIPTORS = 4
"""As many as one message may bring; the kernel closes what comes beyond."""

UNIX_SEND_BUFFER_BYTES = 4 * MIB
"""The kernel does not tune those by itself.  It cuts this where the system allows less."""

_SO_SNDBUFFORCE: Final = 32

_CREDENTIALS: Final = struct.Struct("iII")
"""struct ucred: process, user, group."""
_DESCRIPTOR: Final = struct.Struct("i")

_WOULD_BLOCK: Final = (BlockingIOError, InterruptedError)
_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


class Stream:
    """One connection; one task may receive and one may send at a time."""

    __slots__ = ("_closed", "_poll", "_socket", "peer")

    def __init__(self, sock: socket.socket, peer: str) -> None:
        sock.setblocking(False)
        if sock.family == socket.AF_UNIX:
            _set_unix_options(sock)
        else:
            _set_tcp_options(sock)
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._closed = False
        self.peer = peer

    def receive_nowait(self, into: memoryview) -> int | None:
        """Receive what is there; 0 says the peer has closed, None that nothing is there yet."""
        try:
            return self._socket.recv_into(into)
        except _WOULD_BLOCK:
            return None
        except OSError as error:
            raise self._lost(error) from error

    def send_nowait(self, buffers: Sequence[Buffer]) -> int:
        """Send as much of the first MAX_BUFFERS_PER_SEND `buffers` as there is room for."""
        try:
            if len(buffers) > MAX_BUFFERS_PER_SEND:
                buffers = buffers[:MAX_BUFFERS_PER_SEND]
            return self._socket.sendmsg(buffers)
        except _WOULD_BLOCK:
            return 0
        except OSError as error:
            raise self._lost(error) from error

    def send_descriptors(self, buffers: Sequence[Buffer], descriptors: Sequence[int]) -> int:
        """Send as `send_nowait` does, copies of `descriptors` with the first byte.

        Raises: NodeUnavailable also where nothing can be sent at once.
        """
        packed = b"".join(map(_DESCRIPTOR.pack, descriptors))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)]
        try:
            return self._socket.sendmsg(buffers, rights)
        except OSError as error:
            raise self._lost(error) from error

    def receive_descriptors(self, into: memoryview, descriptors: list[int]) -> int | None:
        """Receive as `receive_nowait` does; add the descriptors that came along, which are new."""
        room = socket.CMSG_SPACE(MAX_DESCRIPTORS * _DESCRIPTOR.size)
        try:
            count, found, _, _ = self._socket.recvmsg_into([into], room, socket.MSG_CMSG_CLOEXEC)
        except _WOULD_BLOCK:
            return None
        except OSError as error:
            raise self._lost(error) from error
        for level, kind, data in found:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(data) // _DESCRIPTOR.size * _DESCRIPTOR.size
                descriptors += [number for (number,) in _DESCRIPTOR.iter_unpack(data[:whole])]
        return count

    @property
    def is_unix(self) -> bool:
        """Whether the peer is a process of this host, by a way that can carry descriptors."""
        return self._socket.family == socket.AF_UNIX

    @property
    def peer_user(self) -> int:
        """User id of the process at the other end of a Unix socket.  Raises: NodeUnavailable."""
        try:
            found = self._socket.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
        except OSError as error:
            raise self._lost(error) from error
        _, user, _ = _CREDENTIALS.unpack(found)
        return int(user)

    @property
    def addresses(self) -> tuple[str, str]:
        """Our own address and the peer's, as this end sees them.  Raises: NodeUnavailable."""
        try:
            return address_text(self._socket.getsockname()), address_text(
                self._socket.getpeername()
            )
        except OSError as error:
            raise self._lost(error) from error

    def wait_readable_inline(self, most_ms: int) -> bool:
        """Whether there is something to receive within `most_ms`; the event loop stands still."""
        return not self._closed and bool(self._poll.poll(most_ms))

    @property
    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    async def wait_readable(self) -> None:
        """Return once there is something to receive."""
        await self._ready(trio.lowlevel.wait_readable)

    async def wait_writable(self) -> None:
        """Return once there is room to send."""
        await self._ready(trio.lowlevel.wait_writable)

    async def _ready(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        if self._closed:
            raise NodeUnavailable(f"{self.peer}: connection closed")
        try:
            await wait(self._socket)
        except (trio.ClosedResourceError, OSError) as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """Close; whoever waits gets NodeUnavailable.  Idempotent."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def _lost(self, error: Exception) -> NodeUnavailable:
        if self._closed or isinstance(error, trio.ClosedResourceError):
            return NodeUnavailable(f"{self.peer}: connection closed")
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return NodeUnavailable(f"{self.peer}: connection lost: {reason}")


def _set_tcp_options(sock: socket.socket) -> None:
    # Buffers are left to the kernel's autotuning: fixing SO_SNDBUF or SO_RCVBUF turns it off
    # and was slower for shards of 1 MiB.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def _set_unix_options(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, UNIX_SEND_BUFFER_BYTES)
    except OSError:
        # Beyond the system's own limit only for root.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_SEND_BUFFER_BYTES)


def address_text(address: object) -> str:
    """Return a socket's address for people and for comparison; nothing for a Unix socket's."""
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else ""


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT, as `address_text` has it, lies on this host's loopback interface."""
    host = address.rpartition(":")[0].partition("%")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def connect(host: str, port: int, *, deadline_s: float) -> Stream:
    """Connect to a node.  Raises: NodeUnavailable when refused or not done within `deadline_s`."""
    peer = f"{host}:{port}"
    with trio.move_on_after(deadline_s):
        try:
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise NodeUnavailable(f"{peer}: {error.strerror}") from error
        refusal: OSError | None = None
        for family, kind, protocol, _, address in found:
            sock = socket.socket(family, kind, protocol)
            try:
                await _connect(sock, address)
                return Stream(sock, peer)
            except OSError as error:
                sock.close()
                refusal = error
            except BaseException:
                sock.close()
                raise
        raise NodeUnavailable(f"{peer}: {refusal.strerror if refusal else 'no address'}")
    raise NodeUnavailable(f"{peer}: no connection within {deadline_s:g} s")


async def _connect(sock: socket.socket, address: tuple[object, ...]) -> None:
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code == errno.EINPROGRESS:
        await trio.lowlevel.wait_writable(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def connect_unix(name: bytes, peer: str) -> Stream:
    """Connect to `name` in the abstract namespace, at once.  Raises: NodeUnavailable."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(b"\0" + name)
        return Stream(sock, peer)
    except OSError as error:
        sock.close()
        raise NodeUnavailable(f"{peer}: {error.strerror}") from error


class Listener:
    """A socket that accepts connections."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._closed = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of a TCP listener."""
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    async def accept(self) -> Stream | None:
        """Return the next connection, or None once the listener is closed."""
        while not self._closed:
            try:
                sock, peer = self._socket.accept()
                return Stream(sock, address_text(peer) or "a neighbour")
            except _WOULD_BLOCK:
                with contextlib.suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_readable(self._socket)
            except OSError as error:
                # Anything else is the fault of one connection, which was gone before its turn.
                pause = error.errno in _OUT_OF_RESOURCES
                await trio.sleep(ACCEPT_PAUSE_S if pause else 0)
        return None

    def close(self) -> None:
        """Stop accepting.  Idempotent."""
        if not self._closed:
            self._closed = True
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


def listen(address: tuple[str, int], family: socket.AddressFamily) -> Listener:
    """Listen on a numeric address.  Raises: OSError as the system has it."""
    return _listen(address, family)


def listen_unix(name: bytes) -> Listener:
    """Listen on `name` in the abstract namespace.  Raises: OSError as the system has it."""
    return _listen(b"\0" + name, socket.AF_UNIX)


def _listen(address: tuple[str, int] | bytes, family: socket.AddressFamily) -> Listener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(LISTEN_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return Listener(sock)


class Parcel:
    """Buffers of one frame on their way out; `on_gone` is called once nothing refers to them."""

    __slots__ = ("buffers", "on_gone", "started")

    def __init__(self, buffers: Sequence[Buffer], on_gone: Callable[[], None] | None) -> None:
        self.buffers = [view for buffer in buffers if (view := memoryview(buffer).cast("B")).nbytes]
        self.started = False
        self.on_gone = on_gone

    def advance(self, nbytes: int) -> int:
        """Forget the first `nbytes`, which have left; return how many of them were not its own."""
        buffers = self.buffers
        self.started = self.started or nbytes > 0
        done = 0
        while done < len(buffers) and nbytes >= len(buffers[done]):
            nbytes -= len(buffers[done])
            done += 1
        del buffers[:done]
        if buffers and nbytes:
            buffers[0] = buffers[0][nbytes:]
            nbytes = 0
        if not buffers:
            self.gone()
        return nbytes

    def gone(self) -> None:
        """Let go of the buffers and say so."""
        self.buffers.clear()
        if self.on_gone is not None:
            self.on_gone()
            self.on_gone = None


class Outbox:
    """What leaves on a stream, in order; payload is neither joined nor copied (but see `withdraw`).

    `post` sends at once when nothing waits and there is room; a task in `run` sends the rest.
    """

    __slots__ = ("_parcels", "_stall_s", "_stream", "_wake")

    def __init__(self, stream: Stream, *, stall_s: float) -> None:
        self._stream = stream
        self._stall_s = stall_s
        self._parcels: deque[Parcel] = deque()
        self._wake = trio.Event()

    @property
    def empty(self) -> bool:
        """Whether everything has left."""
        return not self._parcels

    def post(
        self,
        buffers: Sequence[Buffer],
        nbytes: int,
        on_gone: Callable[[], None] | None = None,
    ) -> Parcel | None:
        """Send `buffers`, `nbytes` together, after what is waiting.

        They must not change until they have left; returns None when they have.  `on_gone` is called
        exactly once: when they have left, or when the outbox is closed.
        Raises: NodeUnavailable when the connection is lost.
        """
        sent = 0
        if not self._parcels:
            try:
                sent = self._stream.send_nowait(buffers)
            except NodeUnavailable:
                if on_gone is not None:
                    on_gone()
                raise
            if sent == nbytes:
                if on_gone is not None:
                    on_gone()
                return None
        parcel = Parcel(buffers, on_gone)
        parcel.advance(sent)
        self._parcels.append(parcel)
        self._wake.set()
        return parcel

    def withdraw(self, parcel: Parcel) -> None:
        """Take a parcel back: afterwards nothing refers to its buffers.

        One that has begun to leave must leave whole, or the peer loses the frames behind it: the
        rest of it is copied.
        """
        if parcel.started:
            parcel.buffers[:] = [memoryview(bytes(buffer)) for buffer in parcel.buffers]
        elif parcel.buffers:
            self._parcels.remove(parcel)

    async def run(self) -> None:
        """Send what `post` left over, for ever.

        Raises: NodeUnavailable when the connection is lost or the peer takes nothing for `stall_s`.
        """
        while True:
            while not self._parcels:
                self._wake = trio.Event()
                await self._wake.wait()
            with trio.move_on_after(self._stall_s) as patience:
                await self._stream.wait_writable()
            if patience.cancelled_caught:
                raise NodeUnavailable(f"{self._stream.peer}: takes nothing for {self._stall_s:g} s")
            self._flush()

    def _flush(self) -> None:
        buffers: list[Buffer] = []
        for parcel in self._parcels:
            buffers += parcel.buffers
            if len(buffers) >= MAX_BUFFERS_PER_SEND:
                break
        left = self._stream.send_nowait(buffers)
        while self._parcels:
            parcel = self._parcels[0]
            left = parcel.advance(left)
            if parcel.buffers:
                return
            self._parcels.popleft()

    def close(self) -> None:
        """Let go of everything that has not left; the stream must not be used any more."""
        while self._parcels:
            self._parcels.popleft().gone()
