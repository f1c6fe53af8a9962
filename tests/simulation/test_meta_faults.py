"""Disks that fail below the metadata database: errors are told, nothing is lost or half done."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio

from rainfs.errors import MetadataError, NoSpace
from rainfs.meta.engine import Reader, Transaction
from rainfs.meta.sqlite import SqliteEngine
from tests.simulation.disk import RecordingDisk
from tests.simulation.power import Kind

WAKE_PAGES = 20
PATIENCE_S = 20


async def put(engine: SqliteEngine, key: bytes, value: bytes) -> None:
    async def body(transaction: Transaction) -> None:
        transaction.put(key, value)
        transaction.put(key + b"'", value)

    await engine.run(body)


async def rows_of(engine: SqliteEngine) -> dict[bytes, bytes]:
    async def body(reader: Reader) -> dict[bytes, bytes]:
        return dict(await reader.scan(b"", b"\xff", limit=10_000))

    return await engine.read(body)


def open_on(disk: RecordingDisk) -> SqliteEngine:
    return SqliteEngine(
        disk.root / "kv.db", create=True, vfs=disk.vfs, files=disk, wake_pages=WAKE_PAGES
    )


@pytest.mark.parametrize(("code", "error"), [(errno.ENOSPC, NoSpace), (errno.EIO, MetadataError)])
async def test_a_commit_that_cannot_be_written_is_told_and_leaves_nothing(
    tmp_path: Path, code: int, error: type[Exception]
) -> None:
    disk = RecordingDisk(tmp_path)
    engine = open_on(disk)
    await put(engine, b"a", b"1")
    fault = disk.fail(Kind.WRITE, code=code, suffix="-wal")
    with pytest.raises(error):
        await put(engine, b"b", b"2")
    assert await rows_of(engine) == {b"a": b"1", b"a'": b"1"}
    disk.faults.remove(fault)
    await put(engine, b"c", b"3")
    await engine.durable()
    assert set(await rows_of(engine)) == {b"a", b"a'", b"c", b"c'"}
    await engine.aclose()
    disk.close_vfs()


async def test_a_full_disk_below_the_database_only_lets_the_log_grow(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    engine = open_on(disk)
    fault = disk.fail(Kind.WRITE, code=errno.ENOSPC, suffix="kv.db")
    for number in range(200):
        await put(engine, b"%03d" % number, b"x" * 2_000)
        await engine.durable()
    disk.faults.remove(fault)
    for number in range(200, 300):
        await put(engine, b"%03d" % number, b"x" * 2_000)
    await engine.durable()
    await engine.aclose()
    again = open_on(disk)
    assert len(await rows_of(again)) == 600
    await again.aclose()
    disk.close_vfs()


async def test_a_checkpoint_whose_sync_failed_ends_every_later_promise(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    engine = open_on(disk)
    disk.fail(Kind.SYNC, suffix="kv.db")

    async def work() -> None:
        while True:
            for number in range(500):
                await put(engine, b"%d" % number, b"x" * 2_000)
                await engine.durable()

    with trio.fail_after(PATIENCE_S), pytest.raises(MetadataError):
        await work()
    disk.faults.clear()
    with pytest.raises(MetadataError):
        await engine.durable()
    engine.close()
    disk.close_vfs()
