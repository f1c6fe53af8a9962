"""The recount finds every kind of disagreement."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rainfs.errors import MetadataForeign
from rainfs.meta import keys
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.records import ATTRS, EXTENTS, STATES, ExtentRecord
from rainfs.meta.stripes import count_stripes, scan_stripes, tombstones
from rainfs.model import ROOT_INODE, NodeNumber, Placement, StripeView
from tests.model.recount import Miscount, Recount, recount
from tests.unit.meta.rig import Rig, open_rig, view_of

Damage = Callable[[MemoryEngine, int, int], None]


def change_live_bytes(engine: MemoryEngine, inode: int, stripe: int) -> None:
    state = STATES.decode(engine.rows[keys.state_key(stripe)])
    wrong = type(state)(state.nodes, state.live_bytes + 1, state.born_bytes)
    engine.rows[keys.state_key(stripe)] = STATES.encode(wrong)


def drop_state(engine: MemoryEngine, inode: int, stripe: int) -> None:
    del engine.rows[keys.state_key(stripe)]


def drop_inode(engine: MemoryEngine, inode: int, stripe: int) -> None:
    del engine.rows[keys.inode_key(inode)]


def drop_extent(engine: MemoryEngine, inode: int, stripe: int) -> None:
    del engine.rows[keys.extent_key(inode, 0)]


def add_overlap(engine: MemoryEngine, inode: int, stripe: int) -> None:
    engine.rows[keys.extent_key(inode, 50)] = EXTENTS.encode(ExtentRecord(100, stripe, 0, 0))


def cut_size(engine: MemoryEngine, inode: int, stripe: int) -> None:
    raw = engine.rows[keys.inode_key(inode)]
    attr = ATTRS.decode(raw)
    fields = [getattr(attr, name) for name in attr.__struct_fields__]
    fields[5] = 10
    engine.rows[keys.inode_key(inode)] = ATTRS.encode(type(attr)(*fields))


async def damaged(rig: Rig, damage: Damage) -> tuple[Recount, int, int]:
    file = await rig.make(b"file")
    stripe = await rig.write((file.inode, 0, 100))
    assert (await recount(rig.engine)).sound
    assert isinstance(rig.engine, MemoryEngine)
    damage(rig.engine, file.inode, stripe)
    result = await recount(rig.engine)
    assert not result.sound
    return result, file.inode, stripe


async def test_each_damage_is_named() -> None:
    async with open_rig() as rig:
        result, _, stripe = await damaged(rig, change_live_bytes)
        assert result.live_bytes == {stripe: Miscount(101, 100)}
    async with open_rig() as rig:
        result, _, stripe = await damaged(rig, drop_state)
        assert result.live_bytes == {stripe: Miscount(None, 100)}
    async with open_rig() as rig:
        result, inode, _ = await damaged(rig, drop_inode)
        assert result.allocated == {inode: Miscount(None, 100)}
    async with open_rig() as rig:
        result, inode, stripe = await damaged(rig, drop_extent)
        assert result.allocated == {inode: Miscount(100, 0)}
        assert result.live_bytes == {stripe: Miscount(100, 0)}
    async with open_rig() as rig:
        result, inode, _ = await damaged(rig, add_overlap)
        assert result.overlaps == [(inode, 50)]
    async with open_rig() as rig:
        result, inode, _ = await damaged(rig, cut_size)
        assert result.beyond_end == [(inode, 100)]


async def test_work_on_damaged_rows_is_refused_and_changes_nothing() -> None:
    async with open_rig() as rig:
        _, inode, _ = await damaged(rig, drop_state)
        assert isinstance(rig.engine, MemoryEngine)
        before = dict(rig.engine.rows)
        with pytest.raises(MetadataForeign):
            await rig.write((inode, 0, 100))
        with pytest.raises(MetadataForeign):
            await rig.names.unlink(ROOT_INODE, b"file", now_ns=1, held=lambda _: False)
        assert dict(rig.engine.rows) == before


async def test_stripes_and_tombstones_are_enumerated_in_pages_by_id() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"file")
        stripes = [await rig.write((file.inode, 100 * index, 100)) for index in range(5)]
        seen = []
        after = None
        while rows := await scan_stripes(rig.engine, after, 2):
            seen += [row.id for row in rows]
            after = rows[-1].id
        assert seen == stripes
        await rig.extents.truncate(file.inode, 0, now_ns=1)
        first = await tombstones(rig.engine, 2)
        assert [stripe for stripe, _ in first] == stripes[:2]
        rest = await tombstones(rig.engine, 10, after=stripes[1])
        assert [stripe for stripe, _ in rest] == stripes[2:]


async def test_a_stripe_with_a_shard_nowhere_counts_as_degraded() -> None:
    async with open_rig() as rig:
        file = await rig.make(b"file")
        await rig.write((file.inode, 0, 100), size=200)
        view = view_of(rig.session.next_stripe(), [(file.inode, 100, 100)])
        nowhere = Placement((NodeNumber(1), NodeNumber(0), NodeNumber(2)))
        await rig.extents.commit([StripeView(view.id, view.stripe, nowhere)])
        counts = await count_stripes(rig.engine)
        assert (counts.total, counts.degraded) == (2, 1)
