"""The node daemon: accepts connections and serves a store to them.

Owns the listeners, the sessions and the bounds that they share.  Refuses to know what travels on a
connection.  Invariants: it listens on loopback only, and on a Unix socket for its own host; its
sessions together never hold more request memory than NODE_BUDGET_BYTES; the store outlives it.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket

import trio

from rainfs.async_store.access import AsyncStore
from rainfs.async_store.buffers import Buffers
from rainfs.errors import InputError
from rainfs.model import MIB
from rainfs.node.budget import Budget
from rainfs.node.client_memory import ClientMemory
from rainfs.node.neighbours import Neighbours
from rainfs.node.session import Patience, Session
from rainfs.store.store import Store
from rainfs.transport import Listener, Stream, listen

log = logging.getLogger("rainfs.node")

NODE_BUDGET_BYTES = 64 * MIB
MAX_CONNECTIONS = 128
MAX_PORT = 65535
GRACE_S = 10.0
"""How long a stopping node goes on answering what it was asked."""

DEFAULT_PATIENCE = Patience()


async def open_listener(host: str, port: int) -> Listener:
    """Listen on a loopback address.  Raises: InputError for any other, or one that is taken."""
    if not 0 <= port <= MAX_PORT:
        raise InputError(f"port {port} is not between 0 and {MAX_PORT}")
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"cannot listen on {host}: {error.strerror}") from error
    for *_, address in found:
        if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
            raise InputError(
                f"refusing to listen on {host}: only loopback addresses (127.0.0.1, ::1) are "
                "allowed until transport security exists"
            )
    family, _, _, _, address = found[0]
    try:
        return listen((str(address[0]), port), family)
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror}") from error


class _Daemon:
    """The sessions of one listener."""

    def __init__(self, store: AsyncStore, neighbours: Neighbours, patience: Patience) -> None:
        self._store = store
        self._neighbours = neighbours
        self._patience = patience
        self._budget = Budget(NODE_BUDGET_BYTES)
        self._buffers = Buffers()
        self._memory = ClientMemory()
        self._sessions: set[Session] = set()

    async def accept(self, listener: Listener, nursery: trio.Nursery) -> None:
        """Serve connections until the listener is closed."""
        while (stream := await listener.accept()) is not None:
            if stream.is_unix and not self._neighbours.may_enter(stream):
                log.warning("another user's process was turned away from the Unix socket")
                stream.close()
                continue
            if len(self._sessions) >= MAX_CONNECTIONS:
                log.warning("%s: refused, %d connections are open", stream.peer, MAX_CONNECTIONS)
                stream.close()
                continue
            nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: Stream) -> None:
        session = Session(
            stream,
            self._store,
            self._budget,
            self._buffers,
            self._patience,
            self._neighbours,
            self._memory,
        )
        self._sessions.add(session)
        try:
            await session.run()
        finally:
            self._sessions.discard(session)

    def stop_reading(self) -> None:
        """Let every session finish what it has been asked, and no more."""
        for session in self._sessions:
            session.stop_reading()


async def serve(
    store: Store,
    host: str,
    port: int,
    *,
    stopping: trio.Event | None = None,
    patience: Patience = DEFAULT_PATIENCE,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `store` on a loopback address; reports the bound (host, port) once it listens.

    Returns when `stopping` is set: it then accepts nothing more, and answers for at most GRACE_S
    what it has been asked.  Every put that was answered has been handed to the store; the caller
    syncs and closes that.

    Raises: InputError for an address that is not loopback or is taken.
    """
    listener = await open_listener(host, port)
    await serve_on(store, listener, stopping=stopping, patience=patience, task_status=task_status)


async def serve_on(
    store: Store,
    listener: Listener,
    *,
    stopping: trio.Event | None = None,
    patience: Patience = DEFAULT_PATIENCE,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Do what `serve` does, on a listener that is open already; closes it."""
    shared = AsyncStore(store, long_puts_inline=True)
    readers = store.open_readers()
    neighbours = Neighbours(store.uuid, readers)
    daemon = _Daemon(shared, neighbours, patience)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.accept, listener, nursery)
            if neighbours.listener is not None:
                nursery.start_soon(daemon.accept, neighbours.listener, nursery)
            task_status.started(listener.address)
            await (trio.Event() if stopping is None else stopping).wait()
            listener.close()
            neighbours.close()
            daemon.stop_reading()
            nursery.cancel_scope.deadline = trio.current_time() + GRACE_S
    finally:
        listener.close()
        neighbours.close()
        for descriptor in readers:
            os.close(descriptor)
        await shared.aclose()
