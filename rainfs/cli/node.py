"""`rainfs node add | list`: the nodes of a volume."""

from __future__ import annotations

import click
import trio

from rainfs.cli.access import ask_node, ask_nodes, opened_backend, opened_volume
from rainfs.cli.report import NodePart, console, node_part, print_json, print_nodes
from rainfs.cli.volume_url import meta_url
from rainfs.errors import ForeignVolume, InputError
from rainfs.meta.nodes import add_node, list_nodes
from rainfs.model import Node


@click.command("add")
@click.argument("volume", metavar="META_URL|MOUNTPOINT")
@click.argument("backend_url", metavar="BACKEND_URL")
def add_command(volume: str, backend_url: str) -> None:
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


@click.command("list")
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
