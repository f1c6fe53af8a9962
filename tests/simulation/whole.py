"""A whole volume, metadata and nodes, on one recording disk: what a power cut of the lab sees.

`Lab` is the volume below one root: `node-1` ... `node-N` and `rain.db`, the vfs on top and no
kernel.  It runs on a `RecordingDisk` while the workload is recorded, and on plain files when a
crash state is reopened.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import trio

from rainfs.array.array import Array
from rainfs.array.backend import Backend
from rainfs.array.backends.file import FileBackend
from rainfs.care.compaction import Compactor
from rainfs.care.garbage import Collector
from rainfs.care.pace import Nobody
from rainfs.care.reaper import Reaper
from rainfs.meta.engine import Engine
from rainfs.meta.nodes import list_nodes
from rainfs.meta.sessions import Session
from rainfs.meta.sqlite import SqliteEngine
from rainfs.meta.volume import Volume, format_volume, open_volume
from rainfs.meta.wal_sync import SYSTEM_FILES, SyncFiles
from rainfs.model import (
    KIB,
    MIB,
    Compression,
    Layout,
    LayoutId,
    Node,
    NodeNumber,
    VolumeId,
    reed_solomon,
)
from rainfs.store.disk import SYSTEM_DISK, Disk
from rainfs.store.store import Store
from rainfs.vfs.options import Caller, VfsOptions
from rainfs.vfs.vfs import VFS
from tests.simulation.disk import RecordingDisk
from tests.simulation.inline_backend import InlineBackend

NODES = 4


def layout(k: int, m: int) -> Layout:
    """A layout so small that a few kilobytes fill a stripe."""
    return Layout(
        id=LayoutId(1),
        code=reed_solomon(k, m),
        compression=Compression.NONE,
        block_bytes=8 * KIB,
        shard_bytes=16 * KIB,
        small_bytes=4 * KIB,
    )


JOURNAL_BYTES = 128 * KIB
NODE_BYTES = 8 * MIB
WAKE_PAGES = 40
"""Checkpoints of the metadata come often, so that crashes meet them."""

DEADLINE_S = 600.0
"""No node is ever slow here; a busy machine must not look like one that is."""

ROOT = Caller(0, 0, 0)


class Lab:
    """One volume, mounted without a kernel."""

    def __init__(
        self,
        engine: SqliteEngine,
        volume: Volume,
        session: Session,
        array: Array,
        vfs: VFS,
        reaper: Reaper,
        compactor: Compactor,
    ) -> None:
        self.engine = engine
        self.volume = volume
        self.session = session
        self.array = array
        self.vfs = vfs
        self.reaper = reaper
        self.compactor = compactor

    @property
    def gathers(self) -> bool:
        """Whether there are commits that wait to be written with others."""
        return self.engine._grouping.group is not None

    def write_commits(self) -> None:
        """Write what was gathered, which is otherwise a matter of milliseconds."""
        self.engine._grouping.write()

    async def numbers(self) -> list[NodeNumber]:
        """Return the members of the volume."""
        return [node.number for node in await list_nodes(self.engine)]

    async def collect_garbage(self) -> int:
        """Run what `rainfs gc` runs; returns how many shards it deleted."""
        nodes = {
            node.number: backend
            for node in await list_nodes(self.engine)
            if (backend := self.array.backend(node.number)) is not None
        }
        collected = await Collector(self.engine, nodes, ended_epoch=0).run()
        return collected.shards_deleted


def _engine(root: Path, disk: RecordingDisk | None, *, create: bool) -> SqliteEngine:
    files: SyncFiles = SYSTEM_FILES if disk is None else disk
    return SqliteEngine(
        root / "rain.db",
        create=create,
        vfs=None if disk is None else disk.vfs,
        files=files,
        wake_pages=WAKE_PAGES,
    )


async def make_volume(
    root: Path, disk: RecordingDisk, *, k: int = 2, m: int = 1, count: int = NODES
) -> None:
    """Format a volume of `count` small nodes below `root`."""
    nodes = []
    volume = VolumeId(b"crash-simulation")
    for index in range(1, count + 1):
        store = Store.open(
            root / f"node-{index}",
            capacity_bytes=NODE_BYTES,
            disk=disk,
            journal_bytes=JOURNAL_BYTES,
        )
        nodes.append(
            Node(
                NodeNumber(index),
                store.uuid,
                f"node-{index}",
                f"file:///node-{index}",
                {"host": f"node-{index}"},
            )
        )
        store.close()
    engine = _engine(root, disk, create=True)
    made = await format_volume(engine, name="lab", layout=layout(k, m), nodes=nodes)
    await engine.durable()
    await engine.aclose()
    volume = made.id
    for index in range(1, count + 1):
        store = Store.open(root / f"node-{index}", capacity_bytes=None, disk=disk)
        store.claim(volume)
        store.close()


@asynccontextmanager
async def open_lab(
    root: Path,
    disk: RecordingDisk | None,
    random: Random,
    *,
    flush: bool = True,
    threads: bool = False,
    inspect: Callable[[Engine], Awaitable[None]] | None = None,
) -> AsyncIterator[Lab]:
    """Mount the volume below `root`.  Without `flush` it is left as a crash would leave it.

    With `threads` the nodes are real `file:///` backends, threads and group commit included.
    `inspect` sees the metadata before anything is mounted.
    """
    engine = _engine(root, disk, create=False)
    below: Disk = SYSTEM_DISK if disk is None else disk

    def open_backend(
        url: str, volume: VolumeId | None, *, deadline_s: float, nursery: trio.Nursery
    ) -> Backend:
        directory = root / url.removeprefix("file:///")
        if threads:
            return FileBackend(
                url, directory, None, volume, deadline_s=deadline_s, random=random, disk=below
            )
        return InlineBackend(url, directory, below, None if disk is None else random)

    try:
        volume = await open_volume(engine)
        if inspect is not None:
            await inspect(engine)
        session = await Session.begin(engine, read_only=False, mountpoint="/lab")
        async with trio.open_nursery() as nursery:
            array = Array(
                volume.id,
                nursery,
                deadline_s=DEADLINE_S,
                random=random,
                open_backend=open_backend,
            )
            await array.set_nodes(await list_nodes(engine))
            await array.start()
            # Ages never come due: the workload decides what is flushed when.
            options = VfsOptions(flush_age_s=1e6, deadline_s=DEADLINE_S)
            vfs = VFS(engine, volume, session, array, options=options, nursery=nursery)
            await vfs.start()
            reaper = Reaper(engine, session, array)
            compactor = Compactor(engine, session, array, Nobody())
            try:
                yield Lab(engine, volume, session, array, vfs, reaper, compactor)
                if flush:
                    await vfs.close()
                    await session.end()
            finally:
                with trio.CancelScope(shield=True):
                    await array.aclose()
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await engine.aclose()
