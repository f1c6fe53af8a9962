"""A node as a process: opens the store, serves it, stops cleanly on a signal.

Owns the order of starting and stopping.  Refuses to parse: the command line hands it values.
Invariant: when `run_node` returns, everything that clients were told is done is on stable storage.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import trio

from rainfs.errors import InputError
from rainfs.memory import keep_freed_memory
from rainfs.model import NodeUuid
from rainfs.node.daemon import MAX_PORT, open_listener, serve_on
from rainfs.store.store import Store

log = logging.getLogger("rainfs.node")


def parse_listen(listen: str) -> tuple[str, int]:
    """Split HOST:PORT (or [HOST]:PORT).  Raises: InputError."""
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
        raise InputError(f"{listen!r} is not HOST:PORT")
    return host, int(port)


async def run_node(
    directory: Path,
    listen: str,
    *,
    capacity_bytes: int | None,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
    ready: Callable[[NodeUuid, str, int], None] = lambda uuid, host, port: None,
) -> None:
    """Serve the storage directory until SIGTERM or SIGINT; `ready` hears of uuid, host and port.

    Raises: InputError for an unusable address, StoreInUse, StoreDamaged, StoreTooSmall, NodeFailing
    when the last synchronisation failed.
    """
    host, port = parse_listen(listen)
    keep_freed_memory()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        store = await trio.to_thread.run_sync(
            lambda: Store.open(directory, capacity_bytes=capacity_bytes, name=name, labels=labels)
        )
        try:
            listener = await open_listener(host, port)
            stopping = trio.Event()

            async def stop_on_signal() -> None:
                async for number in signals:
                    log.info("stopping on %s", signal.Signals(number).name)
                    stopping.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop_on_signal)
                ready(store.uuid, *listener.address)
                await serve_on(store, listener, stopping=stopping)
                nursery.cancel_scope.cancel()
            await trio.to_thread.run_sync(store.sync)
        finally:
            store.close()
