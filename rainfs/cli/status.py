"""`rainfs status`: the volume, its space, its nodes and how exposed its data is.

It opens the metadata itself and asks the nodes directly, each for a second at most, so that it
answers as well when nothing is mounted or when a mount is stuck.
"""

from __future__ import annotations

import click
import trio

from rainfs.array.space import Room, space_of
from rainfs.care.exposure import survey
from rainfs.cli.access import ask_nodes, opened_volume
from rainfs.cli.report import (
    CapacityPart,
    StatusReport,
    StripesPart,
    VolumePart,
    node_part,
    print_json,
    print_status,
)
from rainfs.cli.volume_url import meta_url, mounts_of
from rainfs.meta.nodes import list_nodes


@click.command("status", short_help="Show space, nodes and exposure.")
@click.argument("volume", metavar="META_URL|MOUNTPOINT")
@click.option("--json", "as_json", is_flag=True, help="A stable form for programs.")
def status_command(volume: str, as_json: bool) -> None:
    """Show a volume, its space, its nodes, and how exposed its data is."""
    url = meta_url(volume)
    report = trio.run(gather, url)
    if as_json:
        print_json(report)
    else:
        print_status(report, [mount.mountpoint for mount in mounts_of(url)])


async def gather(url: str) -> StatusReport:
    """Return the status of the volume at `url`, asking metadata and nodes."""
    async with opened_volume(url) as (engine, volume):
        nodes = await list_nodes(engine)
        healths = await ask_nodes(nodes, volume.id)
        exposure = await survey(engine, healths.keys())
    rooms = [Room(h.capacity_bytes, h.used_bytes, h.free_bytes) for h in healths.values()]
    space = space_of(rooms, volume.layout.code)
    return StatusReport(
        volume=VolumePart(
            id=volume.id.hex(),
            name=volume.name,
            data=volume.layout.code.k,
            parity=volume.layout.code.m,
        ),
        capacity=CapacityPart(
            raw_bytes=space.raw_bytes,
            used_raw_bytes=space.used_raw_bytes,
            usable_bytes=space.usable_bytes,
            used_bytes=space.used_bytes,
            free_bytes=space.free_bytes,
        ),
        nodes=[node_part(node, healths.get(node.number)) for node in nodes],
        stripes=StripesPart(
            total=exposure.total,
            healthy=exposure.healthy,
            degraded=exposure.degraded,
            lost=exposure.lost,
        ),
        tasks=[],
    )
