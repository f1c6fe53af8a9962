"""Formatting and opening volumes, and their table of nodes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from rainfs.errors import (
    AlreadyFormatted,
    InputError,
    MetadataForeign,
    MetadataVersion,
)
from rainfs.meta import keys
from rainfs.meta.engine import Transaction
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.nodes import add_node, change_node, list_nodes
from rainfs.meta.records import ATTRS, FORMAT_VERSION, FORMATS, MAGIC, Format
from rainfs.meta.sqlite import SqliteEngine
from rainfs.meta.volume import format_volume, load_layout, open_volume
from rainfs.model import ROOT_INODE, LayoutId, Node, NodeNumber, NodeUuid
from tests.unit.meta.rig import LAYOUT, open_rig


def node(number: int, **fields: str) -> Node:
    return Node(
        NodeNumber(number),
        NodeUuid(fields.get("uuid", f"{number:016}").encode()),
        fields.get("name", f"node-{number}"),
        fields.get("url", f"rain://host:{number}"),
        {"rack": "r1"},
    )


async def put(engine: MemoryEngine, key: bytes, value: bytes) -> None:
    async def body(transaction: Transaction) -> None:
        transaction.put(key, value)

    await engine.run(body)


async def test_a_formatted_volume_opens_again_elsewhere(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "kv.db", create=True)
    made = await format_volume(engine, name="rain", layout=LAYOUT, nodes=[node(1), node(2)])
    await engine.aclose()
    engine = SqliteEngine(tmp_path / "kv.db")
    assert await open_volume(engine) == made
    assert (made.name, made.layout.code, made.layout.id) == ("rain", LAYOUT.code, 1)
    assert await list_nodes(engine) == [node(1), node(2)]
    await engine.aclose()


async def test_the_root_belongs_to_whom_the_volume_is_made_for() -> None:
    engine = MemoryEngine()
    await format_volume(engine, name="rain", layout=LAYOUT, nodes=[], owner=(1000, 2000))
    raw = await engine.read(lambda reader: reader.get(keys.inode_key(ROOT_INODE)))
    assert raw is not None
    root = ATTRS.decode(raw)
    assert (root.mode, root.uid, root.gid) == (stat.S_IFDIR | 0o755, 1000, 2000)


async def test_a_new_volume_has_an_empty_root() -> None:
    async with open_rig() as rig:
        root = await rig.names.getattr(ROOT_INODE)
        assert (root.mode, root.uid, root.gid, root.nlink) == (stat.S_IFDIR | 0o755, 0, 0, 2)
        assert root.parent == ROOT_INODE
        assert await rig.names.readdir(ROOT_INODE, 0, 10) == []
        layout = await rig.engine.read(lambda reader: load_layout(reader, root.layout))
        assert layout == rig.volume.layout


async def test_a_volume_is_not_formatted_twice() -> None:
    engine = MemoryEngine()
    await format_volume(engine, name="rain", layout=LAYOUT, nodes=[])
    before = dict(engine.rows)
    with pytest.raises(AlreadyFormatted):
        await format_volume(engine, name="other", layout=LAYOUT, nodes=[])
    assert dict(engine.rows) == before


async def test_formats_that_are_not_ours_are_refused() -> None:
    engine = MemoryEngine()
    with pytest.raises(MetadataForeign):
        await open_volume(engine)
    for record, error in (
        (FORMATS.encode(Format(MAGIC, FORMAT_VERSION + 1)), MetadataVersion),
        (FORMATS.encode(Format(b"other", FORMAT_VERSION)), MetadataForeign),
        (b"\xff\xff", MetadataForeign),
    ):
        await put(engine, keys.FORMAT, record)
        with pytest.raises(error):
            await open_volume(engine)
        with pytest.raises(error):
            await format_volume(engine, name="rain", layout=LAYOUT, nodes=[])


async def test_records_without_a_volume_are_foreign() -> None:
    engine = MemoryEngine()
    await put(engine, b"X", b"something")
    with pytest.raises(MetadataForeign):
        await format_volume(engine, name="rain", layout=LAYOUT, nodes=[])


async def test_a_missing_volume_or_layout_row_is_damage() -> None:
    for key in (keys.VOLUME, keys.layout_key(LayoutId(1))):
        engine = MemoryEngine()
        await format_volume(engine, name="rain", layout=LAYOUT, nodes=[])
        del engine.rows[key]
        with pytest.raises(MetadataForeign):
            await open_volume(engine)


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb"])
async def test_bad_volume_names_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        await format_volume(MemoryEngine(), name=name, layout=LAYOUT, nodes=[])


@pytest.mark.parametrize(
    "other",
    [
        node(1, uuid="u", name="n", url="x"),
        node(2, uuid=f"{1:016}"),
        node(2, name="node-1"),
        node(2, url="rain://host:1"),
        node(0),
    ],
)
async def test_nodes_must_differ(other: Node) -> None:
    with pytest.raises(InputError):
        await format_volume(MemoryEngine(), name="v", layout=LAYOUT, nodes=[node(1), other])


async def test_nodes_are_added_and_changed() -> None:
    engine = MemoryEngine()
    await format_volume(engine, name="rain", layout=LAYOUT, nodes=[node(1), node(4)])
    added = await add_node(engine, NodeUuid(b"u" * 16), "new", "rain://h:9", {"site": "a"})
    assert added.number == 5
    with pytest.raises(InputError):
        await add_node(engine, NodeUuid(b"v" * 16), "new", "rain://h:10", {})
    changed = await change_node(engine, added.number, url="rain://h:11", draining=True)
    assert (changed.url, changed.draining, changed.name) == ("rain://h:11", True, "new")
    with pytest.raises(InputError):
        await change_node(engine, added.number, name="node-1")
    with pytest.raises(InputError):
        await change_node(engine, NodeNumber(77), name="x")
    assert await list_nodes(engine) == [node(1), node(4), changed]
