"""`rainfs format`: makes a volume out of storage nodes and a metadata database.

Everything is checked before anything is changed.  Then the database is written, then the nodes are
claimed one by one; should that fail half-way, the same command run again claims the rest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import click
import trio

from rainfs.cli.access import ask_node, opened_backend
from rainfs.cli.volume_url import database_of, meta_url
from rainfs.errors import AlreadyFormatted, ForeignVolume, InputError, RainError
from rainfs.meta.engine import Engine
from rainfs.meta.nodes import list_nodes
from rainfs.meta.open import open_engine
from rainfs.meta.volume import Volume, format_volume, open_volume
from rainfs.model import (
    DEFAULT_BLOCK_BYTES,
    MAX_SHARD_BYTES,
    MIB,
    Code,
    Compression,
    Layout,
    LayoutId,
    Node,
    NodeHealth,
    NodeNumber,
    VolumeId,
    mirror,
    reed_solomon,
)

DEFAULT_CODE = reed_solomon(4, 2)
MAX_SHARD_BYTES_BY_DEFAULT = 1 * MIB
MAX_STRIPE_BYTES_BY_DEFAULT = MAX_SHARD_BYTES
"""A stripe must fit one data shard when only m + 1 nodes are left: wide codes get short shards."""


@dataclass(frozen=True, slots=True)
class FormatRequest:
    """What to make, checked as far as it can be without asking a node."""

    url: str
    name: str
    code: Code
    compression: Compression
    backend_urls: tuple[str, ...]


@click.command("format", short_help="Make a volume out of nodes.")
@click.argument("meta", metavar="META_URL")
@click.argument("backend_urls", metavar="BACKEND_URL...", nargs=-1, required=True)
@click.option("--name", required=True, help="Name of the volume.")
@click.option("--data", type=int, metavar="K", help="Data shards in a stripe.")
@click.option("--parity", type=int, metavar="M", help="Parity shards: losses that are survived.")
@click.option("--mirror", "copies", type=int, metavar="N", help="Keep N equal copies instead.")
@click.option("--compression", type=click.Choice(["lz4", "none"]), default="lz4", show_default=True)
def format_command(
    meta: str,
    backend_urls: tuple[str, ...],
    name: str,
    data: int | None,
    parity: int | None,
    copies: int | None,
    compression: str,
) -> None:
    """Make a volume: its metadata at META_URL, its files striped over the nodes.

    A META_URL is sqlite:///absolute/path, a BACKEND_URL is rain://host:port or file:///directory.
    """
    if (data is None) != (parity is None):
        raise click.UsageError("--data and --parity go together")
    if data is not None and copies is not None:
        raise click.UsageError("--mirror replaces --data and --parity")
    request = FormatRequest(
        url=meta_url(meta),
        name=name,
        code=choose_code(len(backend_urls), data, parity, copies),
        compression=Compression.LZ4 if compression == "lz4" else Compression.NONE,
        backend_urls=backend_urls,
    )
    volume = trio.run(make_volume, request)
    click.echo(
        f"volume {volume.name} made: {volume.layout.code} over {len(backend_urls)} nodes, "
        f"metadata at {request.url}"
    )


def choose_code(nodes: int, data: int | None, parity: int | None, copies: int | None) -> Code:
    """Return the code asked for, or 4+2 where the nodes suffice.  Raises: InputError."""
    if copies is not None:
        code = mirror(copies)
    elif data is not None and parity is not None:
        code = reed_solomon(data, parity)
    else:
        code = DEFAULT_CODE
        if nodes < code.n:
            raise InputError(
                f"{nodes} nodes are too few for the default {code}; say --data K --parity M "
                f"with K + M at most {nodes}, or --mirror N with N at most {nodes}"
            )
    if nodes < code.n:
        raise InputError(f"code {code} needs {code.n} nodes, {nodes} given")
    return code


def layout_for(code: Code, compression: Compression) -> Layout:
    """Return the layout of a new volume."""
    share = min(MAX_SHARD_BYTES_BY_DEFAULT, MAX_STRIPE_BYTES_BY_DEFAULT // code.k)
    shard_bytes = 1 << (share.bit_length() - 1)
    return Layout(
        id=LayoutId(1),
        code=code,
        compression=compression,
        shard_bytes=shard_bytes,
        block_bytes=min(DEFAULT_BLOCK_BYTES, shard_bytes),
    )


async def make_volume(request: FormatRequest) -> Volume:
    """Check everything, write the metadata, claim the nodes.  Raises: RainError."""
    if len(set(request.backend_urls)) < len(request.backend_urls):
        raise InputError("the same backend URL is given twice")
    healths = await _ask_all(request.backend_urls)
    layout = layout_for(request.code, request.compression)
    volume = await _unfinished(request, layout, healths)
    if volume is None:
        for url, health in zip(request.backend_urls, healths, strict=True):
            if health.volume is not None:
                raise ForeignVolume(f"{url}: belongs to a volume already")
        volume = await _write_metadata(request, layout, healths)
    for url in request.backend_urls:
        await _claim(url, volume.id)
    return volume


async def _ask_all(urls: Sequence[str]) -> list[NodeHealth]:
    healths: dict[str, NodeHealth] = {}

    async def ask(url: str) -> None:
        healths[url] = await ask_node(url, None)

    async with trio.open_nursery() as nursery:
        for url in urls:
            nursery.start_soon(ask, url)
    seen: dict[bytes, str] = {}
    for url in urls:
        other = seen.setdefault(healths[url].uuid, url)
        if other != url:
            raise InputError(f"{url} and {other} are the same node")
    return [healths[url] for url in urls]


async def _unfinished(
    request: FormatRequest, layout: Layout, healths: Sequence[NodeHealth]
) -> Volume | None:
    """Return the volume of an earlier, interrupted run of this very command, if there is one.

    Raises: AlreadyFormatted if the database holds any other volume.
    """
    path = database_of(request.url)
    if not path.exists():
        return None
    engine = open_engine(request.url)
    try:
        volume = await open_volume(engine)
        nodes = await list_nodes(engine)
    finally:
        await engine.aclose()
    same = (
        volume.name == request.name
        and volume.layout == layout
        and {node.uuid for node in nodes} == {health.uuid for health in healths}
        and all(health.volume in (None, volume.id) for health in healths)
        and any(health.volume is None for health in healths)
    )
    if not same:
        raise AlreadyFormatted(f"{path}: holds the volume {volume.name} already")
    return volume


async def _write_metadata(
    request: FormatRequest, layout: Layout, healths: Sequence[NodeHealth]
) -> Volume:
    path = database_of(request.url)
    if not path.parent.is_dir():
        path.parent.mkdir(mode=0o700)
    nodes = [
        Node(
            number=NodeNumber(number),
            uuid=health.uuid,
            name=health.name,
            url=url,
            labels=dict(health.labels),
        )
        for number, (url, health) in enumerate(
            zip(request.backend_urls, healths, strict=True), start=1
        )
    ]
    engine: Engine = open_engine(request.url, create=True)
    try:
        volume = await format_volume(
            engine,
            name=request.name,
            layout=layout,
            nodes=nodes,
            owner=(os.geteuid(), os.getegid()),
        )
        await engine.durable()
    finally:
        await engine.aclose()
    return volume


async def _claim(url: str, volume: VolumeId) -> None:
    try:
        async with opened_backend(url, None) as backend:
            await backend.claim(volume)
    except RainError as error:
        raise type(error)(f"{url}: {error}; run the same command again to finish") from error
