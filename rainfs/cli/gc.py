"""`rainfs gc`: deletes what no file needs, on nodes and in metadata.  Safe beside a mount."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

import click
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rainfs.array.backends.registry import open_backend
from rainfs.care.garbage import Collected, Collector
from rainfs.cli.access import opened_volume
from rainfs.cli.sizes import format_size
from rainfs.cli.volume_url import meta_url
from rainfs.errors import NodeUnavailable, VolumeBusy
from rainfs.meta.engine import Engine
from rainfs.meta.extents import Extents
from rainfs.meta.nodes import list_nodes
from rainfs.meta.sessions import Session

NODE_DEADLINE_S = 10.0


@click.command("gc", short_help="Delete what no file needs.")
@click.argument("volume", metavar="META_URL|MOUNTPOINT")
def gc_command(volume: str) -> None:
    """Delete what no file needs, on the nodes and in the metadata; safe beside a mount."""
    done, files, names = trio.run(_collect, meta_url(volume))
    click.echo(
        f"looked at {done.shards_seen:,} shards; deleted {done.shards_deleted:,} "
        f"({format_size(done.bytes_deleted)} of them owned by no stripe), "
        f"{done.stripes_buried:,} dead stripes and {files:,} unlinked files"
    )
    if done.unreachable:
        missed = ", ".join(f"{names[number]} ({why})" for number, why in done.unreachable.items())
        raise NodeUnavailable(f"not all nodes could be swept: {missed}")


async def _collect(url: str) -> tuple[Collected, int, dict[int, str]]:
    async with opened_volume(url) as (engine, volume), AsyncExitStack() as stack:
        files, ended_epoch = await _reap_orphans(engine)
        nodes = await list_nodes(engine)
        nursery = await stack.enter_async_context(trio.open_nursery())
        backends = {}
        for node in nodes:
            backend = open_backend(node.url, volume.id, deadline_s=NODE_DEADLINE_S, nursery=nursery)
            stack.push_async_callback(backend.aclose)
            backends[node.number] = backend
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        ) as bar:
            task = bar.add_task("shards", total=None)
            collector = Collector(
                engine,
                backends,
                ended_epoch=ended_epoch,
                progress=lambda seen, expected: bar.update(task, completed=seen, total=expected),
            )
            done = await collector.run()
        for backend in backends.values():
            await backend.aclose()
        nursery.cancel_scope.cancel()
    return done, files, {node.number: node.name for node in nodes}


async def _reap_orphans(engine: Engine) -> tuple[int, int]:
    """Free unlinked files whose session ended; a living mount does that by itself.

    Returns their number, and an epoch up to which every session is known to have ended.
    """
    try:
        session = await Session.begin(engine, read_only=False, mountpoint="(rainfs gc)")
    except VolumeBusy:
        return 0, 0
    try:
        extents = Extents(engine, session)
        freed = 0
        while orphans := await extents.orphans():
            for inode in orphans:
                await extents.reap(inode)
            freed += len(orphans)
    finally:
        await session.end()
    return freed, session.epoch
