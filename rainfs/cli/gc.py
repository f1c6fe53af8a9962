"""`rainfs gc`: compacts what is mostly dead, then deletes what no file needs.

Owns who does it.  Without a mount this process holds the session while it compacts.  Beside one it
asks the mount to, through the metadata, since there is one writer a volume; the mount also sweeps
the stores that only it can open.  Shards and tombstones of all other nodes are swept from here.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import click
import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rainfs.array.array import Array
from rainfs.array.backends.registry import open_backend
from rainfs.care.caretaker import CareOptions, Caretaker
from rainfs.care.garbage import Collected, Collector
from rainfs.care.pace import Nobody
from rainfs.cli.access import opened_backend, opened_volume
from rainfs.cli.local_store import directory_of
from rainfs.cli.sizes import format_size
from rainfs.cli.volume_url import meta_url
from rainfs.errors import (
    ArrayError,
    NodeUnavailable,
    StorageError,
    StoreInUse,
    VolumeBusy,
)
from rainfs.meta import requests
from rainfs.meta.engine import Engine
from rainfs.meta.extents import Extents
from rainfs.meta.nodes import list_nodes
from rainfs.meta.records import CareAnswer, CareRequest
from rainfs.meta.sessions import Session, list_sessions
from rainfs.meta.volume import Volume
from rainfs.model import Node, NodeNumber

NODE_DEADLINE_S = 10.0
ANSWER_TIMEOUT_S = 30.0
"""How long a mount may take to begin with what it is asked for."""

POLL_S = 0.2


@dataclass(slots=True)
class _Outcome:
    """What was done, here and by the mount."""

    files: int = 0
    stripes: int = 0
    copied_bytes: int = 0
    ended_epoch: int = 0
    """Every session up to it is known to have ended."""
    swept: Collected = field(default_factory=Collected)
    by_mount: tuple[NodeNumber, ...] = ()
    """Nodes whose stores only the mount can open."""
    troubles: list[str] = field(default_factory=list)


@click.command("gc", short_help="Compact, and delete what no file needs.")
@click.argument("volume", metavar="META_URL|MOUNTPOINT")
def gc_command(volume: str) -> None:
    """Compact, then delete what no file needs, on the nodes and in the metadata.

    Safe beside a mount, which then does the compacting.  While nothing is mounted, nothing can be
    mounted read-write until gc has compacted.
    """
    done = trio.run(_collect, meta_url(volume))
    swept = done.swept
    click.echo(f"compacted {format_size(done.copied_bytes)} into {done.stripes:,} stripes")
    click.echo(
        f"looked at {swept.shards_seen:,} shards; deleted {swept.shards_deleted:,} "
        f"({format_size(swept.bytes_deleted)} of them owned by no stripe), "
        f"{swept.stripes_buried:,} dead stripes and {done.files:,} unlinked files"
    )
    if done.troubles:
        raise NodeUnavailable("; ".join(done.troubles))


async def _collect(url: str) -> _Outcome:
    async with opened_volume(url) as (engine, volume):
        nodes = await list_nodes(engine)
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        ) as progress:
            bar = _Bar(progress)
            try:
                session = await Session.begin(engine, read_only=False, mountpoint="(rainfs gc)")
            except VolumeBusy as error:
                done = await _ask_the_mount(engine, volume, nodes, bar, str(error))
            else:
                done = await _compact_here(engine, volume, session, nodes, bar)
            swept = await _sweep(engine, volume, nodes, done, bar)
    swept.shards_seen += done.swept.shards_seen
    swept.shards_deleted += done.swept.shards_deleted
    swept.bytes_deleted += done.swept.bytes_deleted
    done.swept = swept
    if swept.unreachable:
        names = {node.number: node.name for node in nodes}
        missed = ", ".join(f"{names[number]} ({why})" for number, why in swept.unreachable.items())
        done.troubles.append(f"not all nodes could be swept: {missed}")
    return done


class _Bar:
    """The one bar on the terminal: what happens now, and how far it is."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task("starting", total=None)

    def show(self, stage: str, done: int, total: int) -> None:
        """Show a stage; a total of 0 is not known."""
        self._progress.update(self._task, description=stage, completed=done, total=total or None)


async def _compact_here(
    engine: Engine, volume: Volume, session: Session, nodes: Sequence[Node], bar: _Bar
) -> _Outcome:
    """Free unlinked files of ended sessions and compact, with the session that we hold."""
    done = _Outcome(ended_epoch=session.epoch)
    try:
        extents = Extents(engine, session)
        while orphans := await extents.orphans():
            for inode in orphans:
                await extents.reap(inode)
            done.files += len(orphans)
        async with trio.open_nursery() as nursery:
            array = Array(volume.id, nursery, deadline_s=NODE_DEADLINE_S)
            try:
                await array.set_nodes(nodes)
                await array.start()
                caretaker = Caretaker(
                    engine, session, array, volume.layout, Nobody(), CareOptions()
                )
                rewritten = await caretaker.at_once(bar.show)
                done.stripes, done.copied_bytes = rewritten.stripes, rewritten.copied_bytes
            except ArrayError as error:
                done.troubles.append(f"compaction stopped: {error}")
            finally:
                with trio.CancelScope(shield=True):
                    await array.aclose()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await session.end()
    return done


async def _ask_the_mount(
    engine: Engine, volume: Volume, nodes: Sequence[Node], bar: _Bar, busy: str
) -> _Outcome:
    """Have the process with the session compact, and sweep the stores that it has open."""
    done = _Outcome(by_mount=await _open_elsewhere(nodes, volume))
    epoch = next((row.epoch for row in await list_sessions(engine) if row.alive), None)
    request = CareRequest(time.time_ns(), done.by_mount)
    if epoch is None or not await requests.ask(engine, epoch, request):
        done.troubles.append(f"nothing was compacted: {busy}, and is no more")
        return done
    try:
        said = await _await_answer(engine, epoch, request, bar)
    finally:
        with trio.CancelScope(shield=True):
            await requests.take_back(engine, epoch, request)
    if said is None:
        done.troubles.append(f"nothing was compacted: {busy}, and that process does not answer")
    elif not said.finished:
        done.troubles.append("compaction stopped: the mount ended")
    elif said.error:
        done.troubles.append(f"compaction stopped: {said.error}")
    if said is not None:
        done.stripes, done.copied_bytes = said.stripes_rewritten, said.bytes_rewritten
        done.swept = Collected(said.shards_seen, said.shards_deleted, said.bytes_deleted)
    elif done.by_mount:
        done.troubles.append("the stores that are open there were not swept")
    return done


async def _open_elsewhere(nodes: Sequence[Node], volume: Volume) -> tuple[NodeNumber, ...]:
    """Return the nodes whose store another process has open."""
    found: list[NodeNumber] = []
    for node in nodes:
        if directory_of(node.url) is None:
            continue
        try:
            async with opened_backend(node.url, volume.id) as backend:
                await backend.health()
        except StoreInUse:
            found.append(node.number)
        except StorageError:
            continue  # The sweep will meet the same error, and report it.
    return tuple(found)


async def _await_answer(
    engine: Engine, epoch: int, request: CareRequest, bar: _Bar
) -> CareAnswer | None:
    """Follow the mount's progress to its end; None if it never begins."""
    said: CareAnswer | None = None
    give_up_s = trio.current_time() + ANSWER_TIMEOUT_S
    while said is None or not said.finished:
        alive = any(row.alive and row.epoch == epoch for row in await list_sessions(engine))
        said = await requests.answered(engine, epoch, request) or said
        if said is not None:
            bar.show(said.stage, said.done, said.total)
        if not alive or (said is None and trio.current_time() >= give_up_s):
            break
        await trio.sleep(POLL_S)
    return said


async def _sweep(
    engine: Engine, volume: Volume, nodes: Sequence[Node], done: _Outcome, bar: _Bar
) -> Collected:
    """Bury tombstones; delete shards that no stripe owns from the nodes that the mount left us."""
    async with trio.open_nursery() as nursery:
        backends = {
            node.number: open_backend(
                node.url, volume.id, deadline_s=NODE_DEADLINE_S, nursery=nursery
            )
            for node in nodes
        }
        try:
            collector = Collector(
                engine,
                backends,
                ended_epoch=done.ended_epoch,
                sweep=[number for number in backends if number not in done.by_mount],
                progress=lambda seen, expected: bar.show("shards", seen, expected),
            )
            swept = await collector.run()
        finally:
            with trio.CancelScope(shield=True):
                for backend in backends.values():
                    await backend.aclose()
        nursery.cancel_scope.cancel()
    return swept
