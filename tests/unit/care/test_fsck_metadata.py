"""Every kind of damage to the metadata is found, repaired, and nothing else is touched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rainfs.care.fsck import check, repair
from rainfs.errors import MetadataForeign, VolumeBusy
from rainfs.meta import checking_rows, keys
from rainfs.meta.checking_findings import Findings, Kind
from rainfs.meta.checking_scratch import Scratch
from rainfs.meta.records import EXTENTS, STRIPES
from rainfs.meta.sessions import Session
from rainfs.model import StripeId
from tests.unit.care.fsck_damage import (
    BEFORE,
    CASES,
    IGNORED,
    JUNK,
    Case,
    delete,
    edit_extent,
    entry_key,
    extent_key,
    junk,
)
from tests.unit.care.fsck_world import populated


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
async def test_damage_is_found_repaired_and_nothing_else_touched(case: Case) -> None:
    world = await populated()
    before = world.copy()
    BEFORE[id(world)] = before
    assert (await check(world.engine)).findings == []
    case.damage(world)
    damaged = world.copy()
    found = await check(world.engine)
    assert set(found.all_findings.counts) == case.kinds, found.findings
    assert world.copy() == damaged, "a check wrote something"
    done = await repair(world.engine)
    assert done.after.clean, done.after.findings
    assert done.settled > 0
    again = await check(world.engine)
    assert again.clean, again.findings
    after = world.copy()
    allowed = IGNORED | case.changed(world)
    touched = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
    assert touched <= allowed, sorted(touched - allowed)


@pytest.mark.parametrize("row", ["gone", "unreadable"])
async def test_extents_of_a_lost_stripe_are_kept_and_reported(row: str) -> None:
    world = await populated()
    key = keys.stripe_key(world.stripes["first"])
    if row == "gone":
        delete(world, key)
    else:
        junk(world, key)
    damaged = world.copy()
    found = await check(world.engine)
    assert set(found.all_findings.counts) == {Kind.STRIPE_LOST}
    done = await repair(world.engine)
    assert set(done.after.all_findings.counts) == {Kind.STRIPE_LOST}
    assert done.after.all_findings.lost == 1
    assert {k: v for k, v in world.copy().items() if k not in IGNORED} == {
        k: v for k, v in damaged.items() if k not in IGNORED
    }


async def test_an_unreadable_row_of_a_node_is_left_for_a_backup() -> None:
    world = await populated()
    key = keys.node_key(2)  # type: ignore[arg-type]
    junk(world, key)
    found = await check(world.engine)
    assert set(found.all_findings.counts) == {Kind.NODE_ROW}
    done = await repair(world.engine)
    assert set(done.after.all_findings.counts) == {Kind.NODE_ROW}
    assert world.rows[key] == JUNK


async def test_a_volume_without_its_own_records_is_refused() -> None:
    for key in (keys.FORMAT, keys.VOLUME, keys.layout_key(1)):  # type: ignore[arg-type]
        world = await populated()
        junk(world, key)
        with pytest.raises(MetadataForeign):
            await check(world.engine)


async def test_a_check_beside_a_mount_is_clean_and_a_repair_is_refused() -> None:
    world = await populated(end_session=False)
    before = world.copy()
    assert (await check(world.engine)).clean
    with pytest.raises(VolumeBusy):
        await repair(world.engine)
    assert world.copy() == before


async def test_a_repair_of_a_sound_volume_writes_nothing() -> None:
    world = await populated()
    before = world.copy()
    done = await repair(world.engine)
    assert done.before.clean
    assert done.settled == 0
    assert world.copy() == before


async def test_what_has_no_name_is_found_in_lost_and_found_with_all_below_it() -> None:
    world = await populated()
    delete(world, entry_key(world, "/", b"dir"))
    delete(world, entry_key(world, "/", b"plain"))
    await repair(world.engine)
    found = (await world.names())[b"lost+found"]
    inside = await world.names(found)
    dir_inode, plain = world.inodes["/dir"], world.inodes["/plain"]
    assert inside == {b"#%d" % dir_inode: dir_inode, b"#%d" % plain: plain}
    assert set(await world.names(dir_inode)) == {b"sub", b"other"}
    # A second loss goes to the same place.
    delete(world, entry_key(world, "/", b"empty"))
    await repair(world.engine)
    assert b"#%d" % world.inodes["/empty"] in await world.names(found)


async def test_a_session_begins_after_every_repair_of_counters() -> None:
    world = await populated()
    delete(world, keys.NEXT_EPOCH)
    await repair(world.engine)
    session = await Session.begin(world.engine, read_only=False, mountpoint="")
    assert session.next_stripe() > max(
        StripeId(keys.number_of(key)) for key in world.rows if key[:1] in b"SPT"
    )
    await session.end()


async def test_the_block_table_decides_where_an_extent_points() -> None:
    world = await populated()
    before = world.copy()
    table = STRIPES.decode(before[keys.stripe_key(world.stripes["first"])]).blocks
    wanted = next(i for i, b in enumerate(table) if b.inode == world.inodes["/linked"])
    edit_extent(world, "/linked", 0, block=(wanted + 1) % len(table))
    await repair(world.engine)
    found = EXTENTS.decode(world.rows[extent_key(world, "/linked", 0)])
    assert found.block == wanted


def test_every_table_of_the_schema_is_known() -> None:
    page = (Path(checking_rows.__file__).parent / "SCHEMA.md").read_text()
    letters = {letter.encode() for letter in re.findall(r"^\| `([A-Z])", page, re.MULTILINE)}
    rows = checking_rows.RowPass(Scratch(), Findings(), lambda name: 3)
    assert letters == set(rows.tables)
