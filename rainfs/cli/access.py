"""How the short commands reach a volume: its metadata, and its nodes without an array.

Owns the opening and closing of both for the length of one command, and the short deadline of a
question to a node.  Refuses to know mounts: nothing here imports FUSE.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from rainfs.array.backend import Backend
from rainfs.array.backends.registry import open_backend
from rainfs.cli.local_store import directory_of, peek
from rainfs.errors import NodeUnavailable, RainError, StorageError, StoreInUse
from rainfs.meta.engine import Engine
from rainfs.meta.open import open_engine
from rainfs.meta.volume import Volume, open_volume
from rainfs.model import Node, NodeHealth, NodeNumber, VolumeId

log = logging.getLogger(__name__)

PROBE_DEADLINE_S = 1.0
"""How long a command that asks a node directly waits for it."""


@asynccontextmanager
async def opened_engine(url: str) -> AsyncIterator[Engine]:
    """Open the metadata database at `url` for one command.  Raises: MetadataError."""
    engine = open_engine(url)
    try:
        yield engine
    finally:
        with trio.CancelScope(shield=True):
            await engine.aclose()


@asynccontextmanager
async def opened_volume(url: str) -> AsyncIterator[tuple[Engine, Volume]]:
    """Open the volume whose metadata is at `url`.  Raises: MetadataError."""
    async with opened_engine(url) as engine:
        yield engine, await open_volume(engine)


@asynccontextmanager
async def opened_backend(url: str, volume: VolumeId | None) -> AsyncIterator[Backend]:
    """Open one node for one command, with the short deadline of a probe."""
    failure: RainError | None = None
    async with trio.open_nursery() as nursery:
        try:
            backend = open_backend(url, volume, deadline_s=PROBE_DEADLINE_S, nursery=nursery)
            try:
                yield backend
            finally:
                with trio.CancelScope(shield=True):
                    await backend.aclose()
        except RainError as error:
            # Raised below, outside the nursery, which would wrap it in a group.
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def ask_node(url: str, volume: VolumeId | None) -> NodeHealth:
    """Return a node's own report.  Raises: StorageError naming it, InputError for a bad URL."""
    try:
        with trio.move_on_after(PROBE_DEADLINE_S):
            async with opened_backend(url, volume) as backend:
                return await backend.health()
    except StoreInUse:
        directory = directory_of(url)
        if directory is None:
            raise
        return await trio.to_thread.run_sync(peek, directory)
    except StorageError as error:
        reason = str(error).removeprefix(url.partition("://")[2]).removeprefix(url).strip(": ")
        raise type(error)(f"{url}: {reason}") from error
    raise NodeUnavailable(f"{url}: no answer within {PROBE_DEADLINE_S:g} s")


async def ask_nodes(nodes: Sequence[Node], volume: VolumeId) -> dict[NodeNumber, NodeHealth]:
    """Ask all nodes at once; those that do not answer, or are another node, are left out."""
    answers: dict[NodeNumber, NodeHealth] = {}

    async def ask(node: Node) -> None:
        try:
            health = await ask_node(node.url, volume)
        except StorageError as error:
            log.debug("%s: %s", node.name, error)
            return
        if health.uuid == node.uuid:
            answers[node.number] = health

    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(ask, node)
    return answers
