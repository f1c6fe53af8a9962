"""`rainfs node serve | add | list`: storage nodes, their daemon and their place in a volume."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import click
import trio

from rainfs.cli.compose import ask_node, ask_nodes, opened_backend, opened_volume
from rainfs.cli.daemon import ReadyPipe
from rainfs.cli.report import NodePart, console, node_part, print_json, print_nodes
from rainfs.cli.sizes import SIZE
from rainfs.cli.volume_url import meta_url
from rainfs.errors import ForeignVolume, InputError
from rainfs.meta.nodes import add_node, list_nodes
from rainfs.model import Node, NodeUuid
from rainfs.node.run import run_node

PID_FILE_NAME = "node.pid"
"""In the storage directory: the process that serves it, or served it last."""


@click.group("node")
def node_group() -> None:
    """Storage nodes: serve one, add one to a volume, list a volume's."""


def parse_labels(pairs: tuple[str, ...]) -> dict[str, str]:
    """Return the labels of `k=v` options.  Raises: InputError."""
    labels: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise InputError(f"label {pair!r}: write it as key=value")
        labels[key] = value
    return labels


@node_group.command("serve")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--listen", metavar="HOST:PORT", required=True, help="Loopback only, for now.")
@click.option("--capacity", type=SIZE, metavar="SIZE", help="Space to lend, such as 100G.")
@click.option("--name", help="Name of the node; remembered.")
@click.option("--label", "labels", multiple=True, metavar="K=V", help="Repeatable; remembered.")
@click.option("--ready-fd", type=int, hidden=True)
def serve(
    directory: Path,
    listen: str,
    capacity: int | None,
    name: str | None,
    labels: tuple[str, ...],
    ready_fd: int | None,
) -> None:
    """Lend the space in DIR to a volume, until SIGTERM.

    The capacity is needed the first time; afterwards the recorded one holds until another is given.
    """
    pipe = ReadyPipe(ready_fd)
    with pipe.reporting():

        def up(uuid: NodeUuid, host: str, port: int) -> None:
            (directory / PID_FILE_NAME).write_text(f"{os.getpid()}\n")
            pipe.ready()
            click.echo(f"serving {directory} on rain://{host}:{port}", err=True)

        trio.run(
            partial(
                run_node,
                directory.absolute(),
                listen,
                capacity_bytes=capacity,
                name=name,
                labels=parse_labels(labels) or None,
                ready=up,
            )
        )


@node_group.command("add")
@click.argument("volume", metavar="META_URL|MOUNTPOINT")
@click.argument("backend_url", metavar="BACKEND_URL")
def add(volume: str, backend_url: str) -> None:
    """Add the node at BACKEND_URL to a volume; a running mount notices within seconds."""
    node = trio.run(_add, meta_url(volume), backend_url)
    click.echo(f"added {node.name} ({node.url}) as node {node.number}")


async def _add(url: str, backend_url: str) -> Node:
    async with opened_volume(url) as (engine, volume):
        health = await ask_node(backend_url, None)
        for known in await list_nodes(engine):
            if known.uuid == health.uuid:
                raise InputError(f"{backend_url}: is {known.name} of this volume already")
        if health.volume not in (None, volume.id):
            raise ForeignVolume(f"{backend_url}: belongs to another volume")
        async with opened_backend(backend_url, None) as backend:
            await backend.claim(volume.id)
        return await add_node(engine, health.uuid, health.name, backend_url, dict(health.labels))


@node_group.command("list")
@click.argument("volume", metavar="META_URL|MOUNTPOINT")
@click.option("--json", "as_json", is_flag=True, help="A stable form for programs.")
def list_command(volume: str, as_json: bool) -> None:
    """List a volume's nodes and what they say of themselves."""
    nodes = trio.run(_list, meta_url(volume))
    if as_json:
        print_json(nodes)
    else:
        print_nodes(console(), nodes)


async def _list(url: str) -> list[NodePart]:
    async with opened_volume(url) as (engine, volume):
        nodes = await list_nodes(engine)
        answers = await ask_nodes(nodes, volume.id)
    return [node_part(node, answers.get(node.number)) for node in nodes]
