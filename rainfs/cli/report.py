"""What `status` and `node list` say, as values: the stable JSON interface, and as tables.

Owns the field names of the JSON; they only ever grow.  Refuses to know how anything was found out.
"""

from __future__ import annotations

import sys

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rainfs.cli.sizes import format_size
from rainfs.model import Node, NodeHealth, NodeState


class VolumePart(msgspec.Struct, frozen=True):
    """Which volume, and how its files are coded."""

    id: str
    name: str
    data: int
    parity: int


class CapacityPart(msgspec.Struct, frozen=True):
    """Raw bytes are of the nodes' storage files, usable ones are bytes of files."""

    raw_bytes: int
    used_raw_bytes: int
    usable_bytes: int
    used_bytes: int
    free_bytes: int


class NodePart(msgspec.Struct, frozen=True):
    """One node; of a node that does not answer the sizes are 0."""

    id: str
    name: str
    url: str
    state: str
    capacity_bytes: int
    used_bytes: int
    shards: int
    labels: dict[str, str]


class StripesPart(msgspec.Struct, frozen=True):
    """How exposed the data is: see `rainfs.care.exposure`."""

    total: int
    healthy: int
    degraded: int
    lost: int


class StatusReport(msgspec.Struct, frozen=True):
    """The whole of `status --json`."""

    volume: VolumePart
    capacity: CapacityPart
    nodes: list[NodePart]
    stripes: StripesPart
    tasks: list[str]


OFF_TERMINAL_COLUMNS = 200

_STATE_STYLE = {"up": "green", "suspect": "yellow", "down": "red", "draining": "cyan"}


def node_state(node: Node, health: NodeHealth | None) -> NodeState:
    """Return the state of a node that was asked just now; None says that it did not answer."""
    if health is None:
        return NodeState.DOWN
    if health.failing:
        return NodeState.SUSPECT
    return NodeState.DRAINING if node.draining else NodeState.UP


def node_part(node: Node, health: NodeHealth | None) -> NodePart:
    """Describe a node by its row in the metadata and its own report."""
    return NodePart(
        id=node.uuid.hex(),
        name=node.name,
        url=node.url,
        state=node_state(node, health).value,
        capacity_bytes=health.capacity_bytes if health else 0,
        used_bytes=health.used_bytes if health else 0,
        shards=health.shards if health else 0,
        labels=dict(health.labels if health else node.labels),
    )


def print_json(value: object) -> None:
    """Write `value` as indented JSON."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.buffer.flush()


def console() -> Console:
    """Return where tables go; off a terminal, lines are not cut to a terminal's width."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else OFF_TERMINAL_COLUMNS)


def print_nodes(out: Console, nodes: list[NodePart]) -> None:
    """Write the table of nodes."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("node", "state", "url", "labels"):
        table.add_column(heading)
    for heading in ("used", "capacity", "full", "shards"):
        table.add_column(heading, justify="right")
    for node in nodes:
        known = node.capacity_bytes > 0
        table.add_row(
            escape(node.name),
            f"[{_STATE_STYLE[node.state]}]{node.state}[/]",
            escape(node.url),
            escape(" ".join(f"{key}={value}" for key, value in sorted(node.labels.items()))),
            format_size(node.used_bytes) if known else "-",
            format_size(node.capacity_bytes) if known else "-",
            f"{100 * node.used_bytes / node.capacity_bytes:.0f} %" if known else "-",
            f"{node.shards:,}" if known else "-",
        )
    out.print(table)


def print_status(report: StatusReport, mountpoints: list[str]) -> None:
    """Write the whole status for people."""
    out = console()
    volume, capacity, stripes = report.volume, report.capacity, report.stripes
    where = f"mounted on {', '.join(mountpoints)}" if mountpoints else "not mounted"
    out.print(f"[bold]{escape(volume.name)}[/]  {volume.data}+{volume.parity}, {escape(where)}")
    out.print(
        f"files: {format_size(capacity.used_bytes)} of {format_size(capacity.usable_bytes)} used, "
        f"{format_size(capacity.free_bytes)} free   raw: {format_size(capacity.used_raw_bytes)} "
        f"of {format_size(capacity.raw_bytes)}"
    )
    style = "red" if stripes.lost else "yellow" if stripes.degraded else "green"
    out.print(
        f"stripes: [{style}]{stripes.healthy:,} healthy, {stripes.degraded:,} degraded, "
        f"{stripes.lost:,} lost[/]"
    )
    out.print()
    print_nodes(out, report.nodes)
