"""Commits that the holder of the session lock gathers: who sees them when, what can go wrong."""

from __future__ import annotations

import errno
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import apsw
import pytest
import trio
from trio.testing import MockClock

from rainfs.errors import MetadataError, NoSpace
from rainfs.meta import grouping
from rainfs.meta.engine import Engine, Reader, SessionLock, Transaction
from rainfs.meta.memory import MemoryEngine
from rainfs.meta.sqlite import SqliteEngine
from tests.simulation.disk import RecordingDisk
from tests.simulation.power import Kind

PATIENCE_S = 20.0


async def put(engine: Engine, key: bytes, value: bytes | None = b"v") -> None:
    async def body(transaction: Transaction) -> None:
        if value is None:
            transaction.delete(key)
        else:
            transaction.put(key, value)

    await engine.run(body)


async def rows_of(engine: Engine) -> dict[bytes, bytes]:
    async def body(reader: Reader) -> dict[bytes, bytes]:
        return dict(await reader.scan(b"", b"\xff", limit=10_000))

    return await engine.read(body)


@asynccontextmanager
async def holder(path: Path) -> AsyncIterator[tuple[SqliteEngine, SessionLock]]:
    """An engine that holds the session lock, past the moment in which commits stand alone."""
    engine = SqliteEngine(path / "kv.db", create=True)
    lock = engine.lock_session()
    assert lock is not None
    yield engine, lock
    await engine.aclose()


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (nothing tells when a group is written)
            await trio.sleep(grouping.GROUP_S / 5)


async def until_written(engine: SqliteEngine) -> None:
    await until(lambda: engine._grouping.group is None)


async def test_others_see_a_group_whole_and_soon(tmp_path: Path) -> None:
    async with holder(tmp_path) as (engine, _):
        other = SqliteEngine(tmp_path / "kv.db")
        for number in range(100):
            await put(engine, b"%03d" % number)
            assert len(await rows_of(engine)) == number + 1
        assert await rows_of(other) == {}, "the commits of a moment are written together"
        await until_written(engine)
        assert await rows_of(other) == await rows_of(engine)
        assert len(await rows_of(other)) == 100
        await other.aclose()


@pytest.mark.parametrize("way", ["durable", "release", "aclose"])
async def test_a_group_is_written_before_anybody_relies_on_it(tmp_path: Path, way: str) -> None:
    async with holder(tmp_path) as (engine, lock):
        await put(engine, b"k")
        if way == "durable":
            await engine.durable()
        elif way == "release":
            lock.release()
        else:
            await engine.aclose()
        other = SqliteEngine(tmp_path / "kv.db")
        assert await rows_of(other) == {b"k": b"v"}
        await other.aclose()


async def test_commits_stand_alone_without_the_lock(tmp_path: Path) -> None:
    async with holder(tmp_path) as (engine, lock):
        lock.release()
        other = SqliteEngine(tmp_path / "kv.db")
        for number in range(20):
            await put(engine, b"%d" % number)
            assert len(await rows_of(other)) == number + 1
        await other.aclose()


async def test_a_death_loses_the_end_of_the_order_and_nothing_before_it(tmp_path: Path) -> None:
    async with holder(tmp_path) as (engine, _):
        for number in range(400):
            await put(engine, b"n", b"%d" % number)
            await put(engine, b"%d" % number)
            if number % 40 == 20:
                await trio.sleep(grouping.GROUP_S)
        after = tmp_path / "after"
        after.mkdir()
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{engine.path}{suffix}", after / f"kv.db{suffix}")
        left = SqliteEngine(after / "kv.db")
        rows = await rows_of(left)
        last = int(rows.pop(b"n"))
        assert last >= 300
        # The commit of the number itself may have been the first of the next group.
        assert set(rows) in ({b"%d" % number for number in range(last + extra)} for extra in (0, 1))
        await left.aclose()


async def test_random_transactions_are_those_of_an_engine_in_memory(tmp_path: Path) -> None:
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}")
    random = Random(seed)
    model = MemoryEngine()

    def key() -> bytes:
        return bytes([65 + random.randrange(3), random.randrange(40)])

    async with holder(tmp_path) as (engine, _):
        for number in range(600):
            writes = [(key(), b"%d" % number) for _ in range(random.randrange(6))]
            deletes = [key() for _ in range(random.randrange(4))]
            low, high = sorted((key(), key()))
            limit, reverse = random.randrange(1, 30), random.random() < 0.5
            wanted = key()
            fails = random.random() < 0.1

            async def body(
                transaction: Transaction,
                writes: list[tuple[bytes, bytes]] = writes,
                deletes: list[bytes] = deletes,
                wanted: bytes = wanted,
                bounds: tuple[bytes, bytes, int, bool] = (low, high, limit, reverse),
                fails: bool = fails,
            ) -> object:
                start, stop, limit, reverse = bounds
                before = await transaction.scan(start, stop, limit=limit, reverse=reverse)
                for name, value in writes:
                    transaction.put(name, value)
                for name in deletes:
                    transaction.delete(name)
                if fails:
                    raise KeyError("stop")
                after = await transaction.scan(start, stop, limit=limit, reverse=reverse)
                return before, after, await transaction.get(wanted)

            if fails:
                for each in (engine, model):
                    with pytest.raises(KeyError):
                        await each.run(body)
            else:
                assert await engine.run(body) == await model.run(body)
            if random.random() < 0.05:
                await engine.durable()
            if random.random() < 0.02:
                await trio.sleep(grouping.GROUP_S)
        assert await rows_of(engine) == await rows_of(model)
        await engine.durable()
        assert await rows_of(engine) == await rows_of(model)


async def test_the_database_is_unlocked_for_a_moment_after_each_group(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with holder(tmp_path) as (engine, _):
        other = apsw.Connection(str(engine.path))
        write = "REPLACE INTO kv VALUES('theirs', ?)"
        await put(engine, b"grouped")
        with pytest.raises(apsw.BusyError):
            other.execute(write, (b"",))
        await engine.durable()
        for number in range(3):
            await put(engine, b"alone", b"%d" % number)
            other.execute(write, (b"%d" % number,))
        mock_clock.jump(grouping.UNGROUPED_S * 2)
        await put(engine, b"grouped")
        with pytest.raises(apsw.BusyError):
            other.execute(write, (b"",))
        other.close()


async def test_another_process_gets_its_turn_beside_a_busy_mount(tmp_path: Path) -> None:
    async with holder(tmp_path) as (engine, _):
        other = SqliteEngine(tmp_path / "kv.db")
        busy = trio.CancelScope()

        async def work() -> None:
            with busy:
                while True:
                    await put(engine, b"mine", b"x")
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            with trio.fail_after(PATIENCE_S):
                for number in range(5):
                    await put(other, b"theirs", b"%d" % number)
            busy.cancel()
        assert (await rows_of(engine))[b"theirs"] == b"4"
        await other.aclose()


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, NoSpace), (errno.EIO, MetadataError)])
async def test_a_group_that_cannot_be_written_is_kept_and_commits_are_refused(
    tmp_path: Path, code: int, error: type[Exception]
) -> None:
    disk = RecordingDisk(tmp_path)
    engine = SqliteEngine(disk.root / "kv.db", create=True, vfs=disk.vfs, files=disk)
    lock = engine.lock_session()
    assert lock is not None
    await put(engine, b"a")
    await engine.durable()
    await trio.sleep(grouping.UNGROUPED_S * 2)
    await put(engine, b"b")
    assert engine._grouping.group is not None
    fault = disk.fail(Kind.WRITE, code=code, suffix="-wal")
    with pytest.raises(error):
        await engine.durable()
    with pytest.raises(error):
        await put(engine, b"c")
    assert await rows_of(engine) == {b"a": b"v", b"b": b"v"}, "what was promised is still seen"
    disk.faults.remove(fault)
    await put(engine, b"d")
    await engine.durable()
    await engine.aclose()
    again = SqliteEngine(disk.root / "kv.db", vfs=disk.vfs, files=disk)
    assert set(await rows_of(again)) == {b"a", b"b", b"d"}
    await again.aclose()
    disk.close_vfs()


async def test_a_kept_group_is_written_once_there_is_room_though_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "RETRY_S", grouping.GROUP_S)
    disk = RecordingDisk(tmp_path)
    engine = SqliteEngine(disk.root / "kv.db", create=True, vfs=disk.vfs, files=disk)
    assert engine.lock_session() is not None
    await put(engine, b"a")
    fault = disk.fail(Kind.WRITE, code=errno.ENOSPC, suffix="-wal")
    await until(lambda: engine._grouping._failed)
    disk.faults.remove(fault)
    await until_written(engine)
    assert await rows_of(engine) == {b"a": b"v"}
    await engine.aclose()
    disk.close_vfs()


async def test_a_group_that_lost_its_lock_to_a_writer_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with holder(tmp_path) as (engine, _):
        await put(engine, b"k", b"mine")
        other = apsw.Connection(str(engine.path))

        def fail(cursor: apsw.Cursor, rows: object) -> None:
            cursor.execute("ROLLBACK")
            other.execute("INSERT INTO kv VALUES(?,?)", (b"k", b"theirs"))
            raise apsw.FullError("no room")

        monkeypatch.setattr(grouping, "write_rows", fail)
        with pytest.raises(NoSpace):
            await engine.durable()
        monkeypatch.undo()
        for _ in range(2):
            with pytest.raises(MetadataError, match="lost"):
                await engine.durable()
            with pytest.raises(MetadataError, match="lost"):
                await put(engine, b"k2")
        with pytest.raises(MetadataError, match="lost"):
            await engine.aclose()
        assert other.execute("SELECT v FROM kv WHERE k=?", (b"k",)).get == b"theirs"
        other.close()
