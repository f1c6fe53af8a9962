"""The composition root: builds the object graph of a mount, and of the shorter commands.

engine -> volume -> session -> nodes -> array -> VFS -> reaper, caretaker -> mount.  Nothing else in
rainfs constructs one layer for another.  Owns the order of starting and, more important, of ending:
bytes are flushed before the session ends, and the session ends before the database closes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from rainfs.array.array import Array
from rainfs.care.caretaker import CareOptions, Caretaker
from rainfs.care.errands import Errands
from rainfs.care.exposure import Exposure, survey
from rainfs.care.reaper import Reaper
from rainfs.cli.access import opened_volume
from rainfs.cli.local_store import directory_of
from rainfs.cli.volume_url import absolute, database_of, lies_below
from rainfs.errors import InputError, RainError
from rainfs.meta.engine import Engine
from rainfs.meta.nodes import list_nodes
from rainfs.meta.sessions import Session
from rainfs.model import Node, NodeNumber, NodeState
from rainfs.mount.mounting import serve_mount
from rainfs.mount.mountpoint import prepare
from rainfs.mount.options import MountOptions
from rainfs.vfs.options import VfsOptions
from rainfs.vfs.vfs import VFS

log = logging.getLogger(__name__)

NODE_TABLE_POLL_S = 2.0
"""How often a mount looks whether the node table changed."""

SURVEY_DEADLINE_S = 5.0
"""How long a mount with missing nodes may count what is exposed before it reports itself ready."""


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What `rainfs mount` was asked for."""

    url: str
    mountpoint: str
    options: MountOptions
    log_path: str | None = None


def refuse_below_the_mount(request: MountRequest, nodes: Sequence[Node]) -> None:
    """A file that the mount itself needs must not lie below it: that deadlocks.

    Raises: InputError.
    """
    needed = {"the metadata database": str(database_of(request.url))}
    if request.log_path is not None:
        needed["the log"] = request.log_path
    for node in nodes:
        directory = directory_of(node.url)
        if directory is not None:
            needed[f"the storage of {node.name}"] = absolute(str(directory))
    for what, path in needed.items():
        if lies_below(path, request.mountpoint):
            raise InputError(f"{path}: {what} must not lie below the mount point")


def vfs_options(options: MountOptions) -> VfsOptions:
    """Return what the mount's options mean to the vfs."""
    return VfsOptions(
        dirty_bytes=options.dirty_bytes,
        deadline_s=options.timeout_s,
        noatime=options.noatime,
        read_only=options.read_only,
    )


async def run_mount(request: MountRequest, ready: Callable[[Sequence[str]], None]) -> None:
    """Mount a volume and serve it until it is unmounted and every byte is durable.

    Calls `ready` with remarks for the user once the mount answers.
    """
    async with opened_volume(request.url) as (engine, volume):
        nodes = await list_nodes(engine)
        refuse_below_the_mount(request, nodes)
        await trio.to_thread.run_sync(prepare, Path(request.mountpoint))
        session = await Session.begin(
            engine, read_only=request.options.read_only, mountpoint=request.mountpoint
        )
        async with trio.open_nursery() as nursery:
            array = Array(
                volume.id,
                nursery,
                deadline_s=request.options.timeout_s,
                cache_bytes=request.options.cache_bytes,
            )
            await array.set_nodes(nodes)
            await array.start()
            vfs = VFS(
                engine,
                volume,
                session,
                array,
                options=vfs_options(request.options),
                nursery=nursery,
            )
            await vfs.start()
            reaper = Reaper(engine, session, array)
            care = CareOptions(request.options.compact_bytes_per_s, request.options.compact_below)
            caretaker = Caretaker(engine, session, array, volume.layout, vfs.sharing, care)
            if not session.read_only:
                nursery.start_soon(reaper.run)
                nursery.start_soon(caretaker.run)
                nursery.start_soon(Errands(engine, session, array, caretaker).run)
            nursery.start_soon(_watch_nodes, engine, array, nodes)
            remarks = await exposure_remarks(engine, array)
            await serve_mount(
                vfs,
                request.mountpoint,
                request.options,
                source=request.url,
                ready=lambda: ready(remarks),
                yield_to=array.yield_to,
            )
            with trio.CancelScope(shield=True):
                caretaker.stop()
                await reaper.stop()
                await session.end()
                await array.aclose()
            nursery.cancel_scope.cancel()


async def _watch_nodes(engine: Engine, array: Array, known: Sequence[Node]) -> None:
    """Tell the array about nodes that were added or changed while the mount runs."""
    while True:
        await trio.sleep(NODE_TABLE_POLL_S)
        try:
            nodes = await list_nodes(engine)
            if list(nodes) != list(known):
                log.info("the node table changed: %d nodes", len(nodes))
                await array.set_nodes(nodes)
                known = nodes
        except RainError as error:
            log.warning("the node table could not be taken over: %s", error)


async def exposure_remarks(engine: Engine, array: Array) -> list[str]:
    """Return what a user must hear at mount time: which nodes are missing and what that exposes."""
    states: Mapping[NodeNumber, NodeState] = {s.node.number: s.state for s in array.health()}
    present = {n for n, state in states.items() if state in {NodeState.UP, NodeState.DRAINING}}
    if len(present) == len(states):
        return []
    missing = [s.node.name for s in array.health() if s.node.number not in present]
    remarks = [
        f"{len(present)} of {len(states)} nodes answer; missing: {', '.join(sorted(missing))}"
    ]
    found: Exposure | None = None
    with trio.move_on_after(SURVEY_DEADLINE_S):
        found = await survey(engine, present)
    if found is None:
        remarks.append("too many stripes to count what that exposes now; see `rainfs status`")
    elif found.total:
        remarks.append(
            f"stripes: {found.healthy} healthy, {found.degraded} degraded, "
            f"{found.lost} unreadable until nodes return"
        )
    return remarks
