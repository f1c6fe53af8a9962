"""Sessions, the ids they hand out, and what survives a power cut."""

from __future__ import annotations

import pytest
import trio

from rainfs.errors import MetadataForeign, ReadOnly, SessionLost, VolumeBusy
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.sessions import INODE_RANGE, Session, list_sessions
from rainfs.meta.volume import format_volume
from rainfs.model import epoch_of, stripe_id
from tests.unit.meta.rig import LAYOUT


async def formatted(**switches: bool) -> MemoryEngine:
    engine = MemoryEngine(**switches)  # type: ignore[arg-type]
    await format_volume(engine, name="test", layout=LAYOUT, nodes=[])
    return engine


async def begin(engine: MemoryEngine, *, read_only: bool = False) -> Session:
    return await Session.begin(engine, read_only=read_only, mountpoint="/mnt/test")


async def test_epochs_rise_and_rows_come_and_go() -> None:
    engine = await formatted()
    first = await begin(engine)
    (row,) = await list_sessions(engine)
    assert (row.epoch, row.alive, row.mountpoint) == (first.epoch, True, "/mnt/test")
    await first.end()
    await first.end()
    assert await list_sessions(engine) == []
    second = await begin(engine)
    assert second.epoch > first.epoch


async def test_a_second_writer_is_refused_and_told_who_the_first_is() -> None:
    engine = await formatted()
    first = await begin(engine)
    with pytest.raises(VolumeBusy, match="/mnt/test"):
        await begin(engine)
    await first.end()
    await begin(engine)


async def test_readers_come_beside_a_writer_and_leave_no_trace() -> None:
    engine = await formatted()
    before = dict(engine.rows)
    reader = await begin(engine, read_only=True)
    assert dict(engine.rows) == before
    writer = await begin(engine)
    another = await begin(engine, read_only=True)
    for call in (reader.next_stripe, another.next_stripe):
        with pytest.raises(ReadOnly):
            call()
    with pytest.raises(ReadOnly):
        await reader.next_inode()
    await reader.end()
    await another.publish()
    assert [row.epoch for row in await list_sessions(engine)] == [writer.epoch]


async def test_a_dead_session_is_seen_as_dead_and_replaced() -> None:
    engine = await formatted()
    first = await begin(engine)
    engine.locked = False
    (row,) = await list_sessions(engine)
    assert not row.alive
    second = await begin(engine)
    assert [row.epoch for row in await list_sessions(engine)] == [second.epoch]
    with pytest.raises(SessionLost):
        await first.next_inode()


async def test_an_unformatted_engine_gives_no_session_and_stays_unlocked() -> None:
    engine = MemoryEngine()
    for read_only in (True, False):
        with pytest.raises(MetadataForeign):
            await begin(engine, read_only=read_only)
    assert not engine.session_locked()


async def test_low_water_waits_for_the_oldest_unsettled_stripe() -> None:
    engine = await formatted()
    session = await begin(engine)
    assert session.low_water == stripe_id(session.epoch, 0)
    stripes = [session.next_stripe() for _ in range(4)]
    assert len(set(stripes)) == 4
    assert {epoch_of(stripe) for stripe in stripes} == {session.epoch}
    session.settle(stripes[1])
    session.settle(stripes[3])
    assert session.low_water == stripes[0]
    session.settle(stripes[0])
    assert session.low_water == stripes[2]
    await session.publish()
    (row,) = await list_sessions(engine)
    assert row.low_water == stripes[2]
    session.settle(stripes[2])
    assert session.low_water == stripes[3] + 1
    await session.publish()
    await session.publish()
    (row,) = await list_sessions(engine)
    assert row.low_water == stripes[3] + 1


async def test_publishing_after_the_end_of_the_session_is_refused() -> None:
    engine = await formatted()
    first = await begin(engine)
    engine.locked = False
    await begin(engine)
    first.settle(first.next_stripe())
    with pytest.raises(SessionLost):
        await first.publish()


async def test_ids_are_never_used_again_after_a_power_cut() -> None:
    engine = await formatted()
    used_inodes: set[int] = set()
    used_stripes: set[int] = set()
    for turn in range(4):
        session = await begin(engine)
        for _ in range(INODE_RANGE * turn // 2 + 3):
            inode = await session.next_inode()
            assert inode not in used_inodes
            used_inodes.add(inode)
        stripe = session.next_stripe()
        assert stripe not in used_stripes
        used_stripes.add(stripe)
        engine.power_cut()


async def test_concurrent_callers_get_distinct_inodes() -> None:
    engine = await formatted(interleave=True)
    session = await begin(engine)
    seen: list[int] = []

    async def take() -> None:
        for _ in range(INODE_RANGE // 3):
            seen.append(await session.next_inode())

    async with trio.open_nursery() as nursery:
        for _ in range(7):
            nursery.start_soon(take)
    assert len(set(seen)) == len(seen)
