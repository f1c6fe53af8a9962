"""The embedded engine: what it refuses to open, durability, checkpoints, locks."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
import trio
import trio.lowlevel

from rainfs.errors import (
    InputError,
    MetadataAbsent,
    MetadataError,
    MetadataForeign,
    MetadataVersion,
    TransactionConflict,
)
from rainfs.meta import sqlite as sqlite_module
from rainfs.meta.engine import Reader, Transaction
from rainfs.meta.open import open_engine, sqlite_path
from rainfs.meta.sqlite import SqliteEngine
from rainfs.meta.wal_sync import SystemFiles


async def put(engine: SqliteEngine, key: bytes, value: bytes = b"v") -> None:
    async def body(transaction: Transaction) -> None:
        transaction.put(key, value)

    await engine.run(body)


async def get(engine: SqliteEngine, key: bytes) -> bytes | None:
    async def body(reader: Reader) -> bytes | None:
        return await reader.get(key)

    return await engine.read(body)


def modes_below(directory: Path) -> set[int]:
    return {path.stat().st_mode & 0o7777 for path in directory.iterdir()}


class CountingFiles(SystemFiles):
    def __init__(self) -> None:
        self.syncs = 0
        self.during: Callable[[], None] = lambda: None

    def fdatasync(self, descriptor: int) -> None:
        self.syncs += 1
        self.during()
        super().fdatasync(descriptor)


def test_an_absent_database_is_reported_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(MetadataAbsent):
        open_engine(f"sqlite://{tmp_path}/none.db")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError):
        open_engine(f"sqlite://{tmp_path}/no/such/place.db", create=True)
    with pytest.raises(InputError):
        open_engine(f"sqlite://{tmp_path}", create=True)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite://relative.db", "sqlite:///dir/", "etcd://x"])
def test_a_bad_url_is_an_input_error(url: str) -> None:
    with pytest.raises(InputError):
        open_engine(url)


async def test_a_url_names_its_file_and_the_engine_says_it_back(tmp_path: Path) -> None:
    path = tmp_path / "with space %.db"
    engine = SqliteEngine(path, create=True)
    assert sqlite_path(engine.url) == path
    await engine.aclose()


def test_a_text_file_is_foreign_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    content = b"these are notes, not a database\n" * 200
    path.write_bytes(content)
    for create in (False, True):
        with pytest.raises(MetadataForeign):
            SqliteEngine(path, create=create)
    assert path.read_bytes() == content


def test_another_programs_database_is_foreign_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t(x)")
        other.execute("INSERT INTO t VALUES (1)")
    other.close()
    content = path.read_bytes()
    for create in (False, True):
        with pytest.raises(MetadataForeign):
            SqliteEngine(path, create=create)
    assert path.read_bytes() == content


async def test_an_empty_file_is_foreign_unless_a_database_is_to_be_made(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    with pytest.raises(MetadataForeign):
        SqliteEngine(path)
    engine = SqliteEngine(path, create=True)
    await put(engine, b"k")
    await engine.aclose()


async def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    await SqliteEngine(path, create=True).aclose()
    other = apsw.Connection(str(path))
    other.pragma("user_version", sqlite_module.SCHEMA_VERSION + 1)
    other.close()
    with pytest.raises(MetadataVersion):
        SqliteEngine(path)


async def test_a_corrupt_database_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    engine = SqliteEngine(path, create=True)
    for number in range(100):
        await put(engine, b"key%d" % number, b"x" * 500)
    await engine.aclose()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(MetadataForeign):
        SqliteEngine(path)


def test_an_old_sqlite_library_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(MetadataError, match=r"3\.51\.3"):
        SqliteEngine(tmp_path / "kv.db", create=True)


async def test_files_are_private(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "kv.db", create=True)
    await put(engine, b"k")
    lock = engine.lock_session()
    assert modes_below(tmp_path) == {0o600}
    assert lock is not None
    lock.release()
    await engine.aclose()


async def test_closing_leaves_everything_in_the_database_file(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    engine = SqliteEngine(path, create=True)
    await put(engine, b"k", b"value")
    await engine.aclose()
    assert os.listdir(tmp_path) == ["kv.db"]
    engine = SqliteEngine(path)
    assert await get(engine, b"k") == b"value"
    await engine.aclose()


async def test_durable_syncs_once_for_callers_that_wait_together(tmp_path: Path) -> None:
    files = CountingFiles()
    engine = SqliteEngine(tmp_path / "kv.db", create=True, files=files)

    async def work(number: int) -> None:
        await put(engine, b"%d" % number)
        await engine.durable()

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(work, number)
    assert 1 <= files.syncs <= 3
    before = files.syncs
    await engine.durable()
    assert files.syncs == before
    await engine.aclose()


async def test_a_commit_made_during_a_sync_is_not_taken_for_durable(tmp_path: Path) -> None:
    files = CountingFiles()
    engine = SqliteEngine(tmp_path / "kv.db", create=True, files=files)
    await put(engine, b"1")
    files.during = lambda: trio.from_thread.run(put, engine, b"2")
    await engine.durable()
    files.during = lambda: None
    before = files.syncs
    await engine.durable()
    assert files.syncs == before + 1
    await engine.aclose()


async def test_a_failed_sync_is_final(tmp_path: Path) -> None:
    files = CountingFiles()
    engine = SqliteEngine(tmp_path / "kv.db", create=True, files=files)
    await put(engine, b"1")

    def fail() -> None:
        raise OSError(5, "Input/output error")

    files.during = fail
    with pytest.raises(MetadataError, match="Input/output error"):
        await engine.durable()
    files.during = lambda: None
    with pytest.raises(MetadataError):
        await engine.durable()
    await put(engine, b"2")
    with pytest.raises(MetadataError):
        await engine.durable()
    with pytest.raises(MetadataError):
        await engine.aclose()
    await engine.aclose()


async def test_a_removed_log_is_not_taken_for_durable(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "kv.db", create=True)
    await put(engine, b"1")
    os.unlink(tmp_path / "kv.db-wal")
    with pytest.raises(MetadataError, match="removed or replaced"):
        await engine.durable()
    engine.close()


async def test_a_busy_database_is_waited_for_without_blocking_other_tasks(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    engine = SqliteEngine(path, create=True)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    turns = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, engine, b"k", b"late")
        for _ in range(20):
            await trio.sleep(0.001)
            assert await get(engine, b"k") is None
            turns += 1
        other.execute("COMMIT")
    assert turns == 20
    assert await get(engine, b"k") == b"late"
    other.close()
    await engine.aclose()


async def test_a_database_busy_for_too_long_is_a_conflict(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "kv.db"
    engine = SqliteEngine(path, create=True)
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TransactionConflict):
        await put(engine, b"k")
    other.close()
    engine.close()


async def test_a_body_that_suspends_is_a_bug_and_rolls_back(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "kv.db", create=True)

    async def body(transaction: Transaction) -> None:
        transaction.put(b"k", b"v")
        await trio.lowlevel.checkpoint()

    with pytest.raises(RuntimeError, match="awaited something"):
        await engine.run(body)
    assert await get(engine, b"k") is None

    async def nested(transaction: Transaction) -> None:
        await put(engine, b"k")

    with pytest.raises(RuntimeError, match="inside another"):
        await engine.run(nested)
    await put(engine, b"k")
    await engine.aclose()


async def test_checkpoints_bound_the_log_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    wake_pages = 50
    engine = SqliteEngine(path, create=True, wake_pages=wake_pages)
    for number in range(3_000):
        await put(engine, b"%d" % number, b"x" * 100)
        if number % 100 == 0:
            await engine.durable()
    log_pages = (tmp_path / "kv.db-wal").stat().st_size // 4096
    assert log_pages < 3_000
    other = SqliteEngine(path)
    for number in range(3_000):
        assert await get(other, b"%d" % number) == b"x" * 100
    await other.aclose()
    await engine.aclose()


async def test_durable_owes_the_commits_of_other_processes_too(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    writer = SqliteEngine(path, create=True)
    await put(writer, b"before")
    files = CountingFiles()
    reader = SqliteEngine(path, files=files)
    assert await get(reader, b"before") == b"v"
    await reader.durable()
    assert files.syncs == 1, "what was read may have been committed and not synced"
    await reader.durable()
    assert files.syncs == 1, "nothing new to sync"
    await put(writer, b"after")
    assert await get(reader, b"after") == b"v"
    await reader.durable()
    assert files.syncs == 2
    await reader.aclose()
    await writer.aclose()


async def test_a_log_made_in_advance_holds_commits_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "kv.db"
    engine = SqliteEngine(path, create=True, wake_pages=100)
    await put(engine, b"before")
    lock = engine.lock_session()
    assert lock is not None
    length = (tmp_path / "kv.db-wal").stat().st_size
    assert length >= 100 * 4096
    await put(engine, b"after")
    await engine.durable()
    assert (tmp_path / "kv.db-wal").stat().st_size == length, "a commit needs no new blocks"
    after_a_crash = tmp_path / "copy"
    after_a_crash.mkdir()
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}", after_a_crash / f"kv.db{suffix}")
    again = SqliteEngine(after_a_crash / "kv.db")
    assert await get(again, b"before") == await get(again, b"after") == b"v"
    await again.aclose()
    lock.release()
    await engine.aclose()
