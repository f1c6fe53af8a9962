"""Making and opening a volume inside an engine.

Owns the format record, the volume's row and its first layout.  Invariant: nothing but the format
record is decoded before its version is known to be ours.
"""

from __future__ import annotations

import secrets
import stat
import time
from collections.abc import Sequence

import msgspec

from rainfs.errors import AlreadyFormatted, InputError, MetadataForeign, MetadataVersion
from rainfs.meta import keys
from rainfs.meta.engine import Engine, Reader, Transaction
from rainfs.meta.nodes import check_distinct
from rainfs.meta.records import (
    ATTRS,
    COUNTERS,
    FORMAT_VERSION,
    FORMATS,
    LAYOUTS,
    MAGIC,
    NODES,
    VOLUMES,
    Format,
    VolumeRecord,
)
from rainfs.model import ROOT_INODE, Attr, InodeNumber, Layout, LayoutId, Node, VolumeId

DEFAULT_LAYOUT = LayoutId(1)
MAX_VOLUME_NAME_CHARS = 64
NAME_SECRET_BYTES = 16
VOLUME_ID_BYTES = 16
ROOT_MODE = stat.S_IFDIR | 0o755


class Volume(msgspec.Struct, frozen=True):
    """What the rest of rainfs needs to know of a volume."""

    id: VolumeId
    name: str
    layout: Layout
    created_ns: int
    name_secret: bytes
    """Key of the hash that turns names into directory slots; of use to `meta` only."""


async def format_volume(
    engine: Engine,
    *,
    name: str,
    layout: Layout,
    nodes: Sequence[Node],
    owner: tuple[int, int] = (0, 0),
    now_ns: int | None = None,
) -> Volume:
    """Make an empty volume whose root directory (0755) belongs to `owner`; durable on return.

    Raises: AlreadyFormatted, InputError for a bad name or nodes that are not distinct,
    MetadataVersion, MetadataForeign.
    """
    if not 1 <= len(name) <= MAX_VOLUME_NAME_CHARS or not name.isprintable():
        raise InputError(
            f"volume name {name!r}: want 1 to {MAX_VOLUME_NAME_CHARS} printable characters"
        )
    check_distinct(nodes)
    layout = msgspec.structs.replace(layout, id=layout.id or DEFAULT_LAYOUT)
    volume = Volume(
        id=VolumeId(secrets.token_bytes(VOLUME_ID_BYTES)),
        name=name,
        layout=layout,
        created_ns=time.time_ns() if now_ns is None else now_ns,
        name_secret=secrets.token_bytes(NAME_SECRET_BYTES),
    )

    async def body(transaction: Transaction) -> None:
        if await transaction.get(keys.FORMAT) is not None:
            await check_format(transaction)
            raise AlreadyFormatted(f"{engine.url} already holds a volume")
        if await transaction.scan(b"\0", b"\xff", limit=1):
            raise MetadataForeign(f"{engine.url} holds records but no rainfs volume")
        _write(transaction, volume, nodes, owner)

    await engine.run(body)
    await engine.durable()
    return volume


def _write(
    transaction: Transaction, volume: Volume, nodes: Sequence[Node], owner: tuple[int, int]
) -> None:
    layout, now_ns = volume.layout, volume.created_ns
    transaction.put(keys.FORMAT, FORMATS.encode(Format(MAGIC, FORMAT_VERSION)))
    record = VolumeRecord(volume.id, volume.name, layout.id, now_ns, volume.name_secret)
    transaction.put(keys.VOLUME, VOLUMES.encode(record))
    transaction.put(keys.layout_key(layout.id), LAYOUTS.encode(layout))
    for node in nodes:
        transaction.put(keys.node_key(node.number), NODES.encode(node))
    highest = max((node.number for node in nodes), default=0)
    transaction.put(keys.NEXT_NODE, COUNTERS.encode(highest + 1))
    transaction.put(keys.NEXT_EPOCH, COUNTERS.encode(1))
    transaction.put(keys.NEXT_INODE, COUNTERS.encode(ROOT_INODE + 1))
    root = Attr(
        inode=ROOT_INODE,
        mode=ROOT_MODE,
        uid=owner[0],
        gid=owner[1],
        nlink=2,
        size=0,
        rdev=0,
        atime_ns=now_ns,
        mtime_ns=now_ns,
        ctime_ns=now_ns,
        layout=layout.id,
        parent=InodeNumber(ROOT_INODE),
    )
    transaction.put(keys.inode_key(ROOT_INODE), ATTRS.encode(root))


async def check_format(reader: Reader) -> None:
    """Raises: MetadataForeign if there is no volume, MetadataVersion if it is not of our format."""
    raw = await reader.get(keys.FORMAT)
    if raw is None:
        raise MetadataForeign("the metadata database holds no rainfs volume")
    found = FORMATS.decode(raw)
    if found.magic != MAGIC:
        raise MetadataForeign("the metadata database holds something other than a rainfs volume")
    if found.version != FORMAT_VERSION:
        raise MetadataVersion(
            f"the volume has metadata format {found.version}; this rainfs knows {FORMAT_VERSION}"
        )


async def load_volume(reader: Reader) -> Volume:
    """Return the volume inside a transaction.  Raises: MetadataForeign, MetadataVersion."""
    await check_format(reader)
    raw = await reader.get(keys.VOLUME)
    if raw is None:
        raise MetadataForeign("metadata is damaged: no volume record")
    record = VOLUMES.decode(raw)
    return Volume(
        id=record.id,
        name=record.name,
        layout=await load_layout(reader, record.layout),
        created_ns=record.created_ns,
        name_secret=record.name_secret,
    )


async def load_layout(reader: Reader, layout: LayoutId) -> Layout:
    """Return a layout row.  Raises: MetadataForeign if it is not there."""
    raw = await reader.get(keys.layout_key(layout))
    if raw is None:
        raise MetadataForeign(f"metadata is damaged: no layout {layout}")
    return LAYOUTS.decode(raw)


async def open_volume(engine: Engine) -> Volume:
    """Return the volume that the engine holds.  Raises: MetadataForeign, MetadataVersion."""
    return await engine.read(load_volume)
