"""Commits that ran ahead: taken over where nothing came between, and only there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from rainfs.errors import InputError
from rainfs.meta import grouping
from rainfs.meta.engine import Reader, SessionLock, Transaction
from rainfs.meta.extents import FileUpdate
from rainfs.meta.rows import write_rows
from rainfs.meta.sqlite import SqliteEngine
from tests.model.recount import recount
from tests.unit.meta.rig import open_rig, view_of

PATIENCE_S = 20.0


@asynccontextmanager
async def holder(path: Path) -> AsyncIterator[tuple[SqliteEngine, SessionLock]]:
    engine = SqliteEngine(path / "kv.db", create=True)
    lock = engine.lock_session()
    assert lock is not None
    yield engine, lock
    await engine.aclose()


def putting(key: bytes, value: bytes = b"v"):  # type: ignore[no-untyped-def]
    async def body(transaction: Transaction) -> bytes | None:
        before = await transaction.get(key)
        transaction.put(key, value)
        return before

    return body


async def rows_of(engine: SqliteEngine) -> dict[bytes, bytes]:
    async def body(reader: Reader) -> dict[bytes, bytes]:
        return dict(await reader.scan(b"", b"\xff", limit=1_000))

    return await engine.read(body)


async def until_written(engine: SqliteEngine) -> None:
    with trio.fail_after(PATIENCE_S):
        while engine._grouping.group is not None:  # noqa: ASYNC110 (nothing tells)
            await trio.sleep(grouping.GROUP_S / 5)


async def test_a_rehearsal_shows_nothing_until_it_is_committed(tmp_path: Path) -> None:
    async with holder(tmp_path) as (engine, _):
        await engine.run(putting(b"a", b"old"))
        rehearsal = engine.rehearse(putting(b"a", b"new"))
        assert rehearsal is not None
        assert rehearsal.result == b"old"
        assert await rows_of(engine) == {b"a": b"old"}
        assert rehearsal.commit()
        assert await rows_of(engine) == {b"a": b"new"}
        await engine.durable()
        other = SqliteEngine(tmp_path / "kv.db")
        assert await rows_of(other) == {b"a": b"new"}
        await other.aclose()


@pytest.mark.parametrize("between", ["commit", "rehearsed", "durable", "release", "close"])
async def test_what_came_between_has_the_body_run_again(tmp_path: Path, between: str) -> None:
    async with holder(tmp_path) as (engine, lock):
        await engine.run(putting(b"a", b"old"))
        rehearsal = engine.rehearse(putting(b"b"))
        assert rehearsal is not None
        match between:
            case "commit":
                await engine.run(putting(b"c"))
            case "rehearsed":
                other = engine.rehearse(putting(b"c"))
                assert other is not None
                assert other.commit()
            case "durable":
                await engine.durable()
            case "release":
                lock.release()
            case "close":
                await engine.aclose()
        assert not rehearsal.commit()
        if between != "close":
            assert b"b" not in await rows_of(engine)
            await engine.run(putting(b"b"))
            assert b"b" in await rows_of(engine)


async def test_a_rehearsal_ends_with_its_group_though_the_next_is_as_young(tmp_path: Path) -> None:
    async with holder(tmp_path) as (engine, _):
        rehearsal = engine.rehearse(putting(b"a"))
        assert rehearsal is not None
        assert rehearsal.result is None
        await until_written(engine)
        other = SqliteEngine(tmp_path / "kv.db")
        await other.run(putting(b"a", b"theirs"))
        await trio.sleep(2 * grouping.UNGROUPED_S)
        again = engine.rehearse(putting(b"b"))
        assert again is not None
        assert not rehearsal.commit()
        assert again.commit()
        assert await rows_of(engine) == {b"a": b"theirs", b"b": b"v"}
        await other.aclose()


async def test_a_rehearsal_counts_once(tmp_path: Path) -> None:
    async with holder(tmp_path) as (engine, _):
        rehearsal = engine.rehearse(putting(b"a"))
        assert rehearsal is not None
        assert rehearsal.commit()
        assert not rehearsal.commit()


async def test_a_rehearsal_that_is_dropped_locks_nobody_out(tmp_path: Path) -> None:
    async with holder(tmp_path) as (engine, _):
        assert engine.rehearse(putting(b"a")) is not None
        other = SqliteEngine(tmp_path / "kv.db")
        await until_written(engine)
        await other.run(putting(b"b"))
        assert await rows_of(engine) == {b"b": b"v"}
        await other.aclose()


async def test_without_the_session_lock_nothing_is_rehearsed(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "kv.db", create=True)
    other = SqliteEngine(tmp_path / "kv.db")
    assert engine.rehearse(putting(b"a")) is None
    await other.run(putting(b"b"))
    await other.aclose()
    await engine.aclose()
    assert engine.rehearse(putting(b"a")) is None


async def test_a_database_in_use_is_not_waited_for(tmp_path: Path) -> None:
    async with holder(tmp_path) as (engine, _):
        other = SqliteEngine(tmp_path / "kv.db")
        other._execute("BEGIN IMMEDIATE")
        assert engine.rehearse(putting(b"a")) is None
        other._execute("ROLLBACK")
        assert engine.rehearse(putting(b"a")) is not None
        await other.aclose()


async def test_a_body_that_fails_leaves_the_telling_to_the_commit(tmp_path: Path) -> None:
    async def refuse(transaction: Transaction) -> None:
        transaction.put(b"a", b"x")
        raise InputError("no")

    async with holder(tmp_path) as (engine, _):
        await engine.run(putting(b"a", b"old"))
        assert engine.rehearse(refuse) is None
        with pytest.raises(InputError):
            await engine.run(refuse)
        assert await rows_of(engine) == {b"a": b"old"}


async def test_a_group_that_could_not_be_written_takes_no_rehearsal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with holder(tmp_path) as (engine, _):
        await engine.run(putting(b"a"))
        rehearsal = engine.rehearse(putting(b"b"))
        assert rehearsal is not None

        def full(*_: object) -> None:
            engine._execute("SELECT nonsense")

        monkeypatch.setattr(grouping, "write_rows", full)
        with pytest.raises(Exception, match="nonsense"):
            await engine.durable()
        assert not rehearsal.commit()
        assert engine.rehearse(putting(b"b")) is None
        monkeypatch.setattr(grouping, "write_rows", write_rows)
        await engine.durable()
        assert await rows_of(engine) == {b"a": b"v"}


async def test_a_rehearsed_commit_of_stripes_writes_the_same_rows(tmp_path: Path) -> None:
    """Each second commit is rehearsed, each fourth of those in vain; a model says what is there."""
    engine = SqliteEngine(tmp_path / "kv.db", create=True)
    async with open_rig(engine) as rig:
        attr = await rig.make(b"f")
        plain = await rig.make(b"g")
        await engine.durable()
        await trio.sleep(2 * grouping.UNGROUPED_S)
        taken = 0
        for number in range(32):
            offset = number % 5 * 3_000
            block = (attr.inode, offset, 4_096)
            stripe = rig.session.next_stripe()
            view = view_of(stripe, [block])
            update = FileUpdate(attr.inode, offset + 4_096, rig.tick(), rig.now_ns)
            rehearsed = rig.extents.rehearse([view], [update]) if number % 2 else None
            if number % 8 == 7:
                update = FileUpdate(attr.inode, offset + 4_096, rig.tick(), rig.now_ns)
            if rehearsed is not None:
                taken += rehearsed.is_of([view], [update])
            await rig.extents.commit([view], [update], rehearsed)
            rig.session.settle(stripe)
            assert (await rig.names.getattr(attr.inode)).mtime_ns == update.mtime_ns
            await rig.write((plain.inode, offset, 4_096))
            for inode in (attr.inode, plain.inode):
                found = await rig.extents.find(inode, 0, 1 << 20, limit=100)
                assert (
                    sum(extent.length for extent in found)
                    == (await rig.names.getattr(inode)).allocated
                )
        assert taken >= 8
        ours = await rig.extents.find(attr.inode, 0, 1 << 20, limit=100)
        theirs = await rig.extents.find(plain.inode, 0, 1 << 20, limit=100)
        assert [(e.offset, e.length) for e in ours] == [(e.offset, e.length) for e in theirs]
        assert (await rig.names.getattr(attr.inode)).size == (
            await rig.names.getattr(plain.inode)
        ).size
        assert (await recount(engine)).sound
