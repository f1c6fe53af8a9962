"""The recording disk forgets exactly what a power cut may take."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import apsw
import pytest

from tests.simulation.disk import RecordingDisk
from tests.simulation.power import (
    EVERYTHING,
    MIXED,
    NOTHING,
    PREFIX,
    RANDOM,
    SECTOR_BYTES,
    TORN,
    CrashState,
    Kind,
    Survival,
    sample,
)


def last(disk: RecordingDisk, survival: Survival, seed: int = 0) -> dict[str, bytes]:
    return disk.log.crash(len(disk.log.operations), survival, Random(seed)).files


def test_only_synced_bytes_of_synced_names_are_sure(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    fd = disk.open(tmp_path / "a", create=True)
    disk.pwrite(fd, [b"one", b"two"], 0)
    disk.fdatasync(fd)
    assert last(disk, NOTHING) == {}
    assert last(disk, EVERYTHING) == {"a": b"onetwo"}
    disk.sync_directory(tmp_path)
    assert last(disk, NOTHING) == {"a": b"onetwo"}
    disk.pwrite(fd, [b"TWO"], 3)
    disk.truncate(fd, 8)
    disk.punch(fd, 0, 3)
    assert last(disk, NOTHING) == {"a": b"onetwo"}
    assert last(disk, EVERYTHING) == {"a": b"\0\0\0TWO\0\0"}
    assert (tmp_path / "a").read_bytes() == b"\0\0\0TWO\0\0"
    disk.close(fd)


def test_what_was_there_before_counts_as_durable(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "old").write_bytes(b"old")
    disk = RecordingDisk(tmp_path)
    assert last(disk, NOTHING) == {"below/old": b"old"}
    disk.unlink(tmp_path / "below" / "old")
    assert last(disk, NOTHING) == {"below/old": b"old"}
    assert last(disk, EVERYTHING) == {}


def test_names_survive_in_the_order_they_were_changed(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    for name in ("a", "b"):
        fd = disk.open(tmp_path / name, create=True)
        disk.pwrite(fd, [name.encode()], 0)
        disk.fdatasync(fd)
        disk.close(fd)
    disk.rename(tmp_path / "a", tmp_path / "b")
    outcomes = {tuple(last(disk, PREFIX, seed).items()) for seed in range(60)}
    assert outcomes == {
        (),
        (("a", b"a"),),
        (("a", b"a"), ("b", b"b")),
        (("b", b"a"),),
    }


def test_unsynced_writes_survive_in_any_subset_and_torn_at_sectors(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    fd = disk.open(tmp_path / "a", create=True)
    disk.sync_directory(tmp_path)
    disk.pwrite(fd, [bytes(2 * SECTOR_BYTES)], 0)
    disk.fdatasync(fd)
    disk.pwrite(fd, [b"x" * SECTOR_BYTES], 0)
    disk.pwrite(fd, [b"y" * SECTOR_BYTES], SECTOR_BYTES)
    heads = {last(disk, RANDOM, seed)["a"][::SECTOR_BYTES] for seed in range(60)}
    assert heads == {b"\0\0", b"x\0", b"\0y", b"xy"}
    disk.pwrite(fd, [b"z" * 2 * SECTOR_BYTES], 0)
    contents = [last(disk, TORN, seed)["a"] for seed in range(200)]
    assert {content[::SECTOR_BYTES] for content in contents} >= {b"zy", b"xz", b"z\0", b"zz"}
    for content in contents:
        for at in range(0, len(content), SECTOR_BYTES):
            assert len(set(content[at : at + SECTOR_BYTES])) == 1
    disk.close(fd)


def test_a_crash_point_sees_nothing_of_the_future(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    fd = disk.open(tmp_path / "a", create=True)
    disk.sync_directory(tmp_path)
    for number in range(5):
        disk.mark(("trying", number))
        disk.pwrite(fd, [bytes([number])], number)
        disk.fdatasync(fd)
        disk.mark(("done", number))
    for point in (*disk.log.points(), *reversed(disk.log.points())):
        done = [what[1] for what in disk.log.marks(point) if what[0] == "done"]  # type: ignore[index]
        content = disk.log.crash(point, NOTHING, Random(0)).files.get("a", b"")
        assert content[: len(done)] == bytes(done)
        assert len(content) <= len(done) + 1
    disk.close(fd)


@pytest.mark.parametrize("exclusive", [False, True])
def test_sqlite_keeps_what_it_committed_in_full_mode(tmp_path: Path, exclusive: bool) -> None:
    disk = RecordingDisk(tmp_path / "live")
    database = apsw.Connection(str(disk.root / "x.db"), vfs=disk.vfs)
    if exclusive:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA wal_autocheckpoint = 5")
    database.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, b BLOB)")
    disk.sync_directory(disk.root)
    other = None if exclusive else apsw.Connection(str(disk.root / "x.db"), vfs=disk.vfs)
    start = len(disk.log.operations)
    for number in range(30):
        with database:
            database.execute("INSERT INTO t VALUES (?, randomblob(3000))", (number,))
        disk.mark(number)
        if other is not None:
            assert list(other.execute("SELECT count(*) FROM t")) == [(number + 1,)]
    if other is not None:
        other.close()
    database.close()
    disk.close_vfs()
    random = Random(1)
    for point in sample(disk.log.points()[start:], 12, random):
        promised = len(disk.log.marks(point))
        for survival in (NOTHING, EVERYTHING, RANDOM, TORN):
            directory = tmp_path / f"after-{point}-{survival.value}"
            disk.log.crash(point, survival, random).write_to(directory)
            after = apsw.Connection(str(directory / "x.db"))
            assert list(after.execute("PRAGMA integrity_check")) == [("ok",)]
            numbers = [n for (n,) in after.execute("SELECT n FROM t ORDER BY n")]
            assert numbers == list(range(len(numbers)))
            assert promised <= len(numbers) <= promised + 1
            after.close()


def test_faults_strike_files_and_databases(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    fd = disk.open(tmp_path / "a", create=True)
    disk.fail(Kind.WRITE, code=errno.ENOSPC, skip=1, times=2, suffix="a")
    disk.pwrite(fd, [b"x"], 0)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            disk.pwrite(fd, [b"y"], 0)
    disk.pwrite(fd, [b"z"], 0)
    assert (tmp_path / "a").read_bytes() == b"z"
    disk.close(fd)
    database = apsw.Connection(str(tmp_path / "x.db"), vfs=disk.vfs)
    database.execute("CREATE TABLE t (n)")
    full = disk.fail(Kind.WRITE, code=errno.ENOSPC, suffix="-journal")
    with pytest.raises(apsw.FullError):
        database.execute("INSERT INTO t VALUES (1)")
    disk.faults.remove(full)
    broken = disk.fail(Kind.SYNC)
    with pytest.raises(apsw.IOError):
        database.execute("INSERT INTO t VALUES (1)")
    disk.faults.remove(broken)
    database.execute("INSERT INTO t VALUES (1)")
    database.close()
    disk.close_vfs()


def test_machines_lose_power_each_in_its_own_way(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    for name in ("one", "two"):
        disk.make_directory(tmp_path / name)
        fd = disk.open(tmp_path / name / "file", create=True)
        disk.sync_directory(tmp_path / name)
        disk.pwrite(fd, [name.encode()], 0)
        disk.close(fd)
    point = len(disk.log.operations)
    alone = disk.log.crash(point, NOTHING, Random(0), devices=["one"]).files
    assert alone == {"one/file": b"", "two/file": b"two"}
    outcomes = {
        tuple(disk.log.crash(point, MIXED, Random(seed)).files.values()) for seed in range(60)
    }
    assert outcomes == {(b"", b""), (b"one", b""), (b"", b"two"), (b"one", b"two")}
    burnt = disk.log.crash(point, EVERYTHING, Random(0)).without(["two"])
    assert burnt == CrashState({"one/file": b"one"}, ("one",))
    assert burnt.with_devices(["two"], disk.log.crash(point, NOTHING, Random(0))) == CrashState(
        {"one/file": b"one", "two/file": b""}, ("one", "two")
    )


def test_a_file_goes_with_its_directory_whose_name_was_never_synced(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    disk.mkdir(tmp_path / "sub", 0o700)
    fd = disk.open(tmp_path / "sub" / "file", create=True)
    disk.fdatasync(fd)
    disk.close(fd)
    disk.sync_directory(tmp_path / "sub")
    assert last(disk, NOTHING) == {}
    disk.sync_directory(tmp_path)
    assert last(disk, NOTHING) == {"sub/file": b""}


def test_a_store_makes_the_directories_above_it_durable(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    disk.make_directory(tmp_path / "one" / "two" / "three")
    state = disk.log.crash(len(disk.log.operations), NOTHING, Random(0))
    assert state.directories == ("one", "one/two", "one/two/three")


def test_torn_names_survive_in_any_subset(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    for name in ("a", "b"):
        disk.close(disk.open(tmp_path / name, create=True))
    outcomes = {tuple(last(disk, TORN, seed)) for seed in range(60)}
    assert outcomes == {(), ("a",), ("b",), ("a", "b")}


def test_points_are_sampled_in_order_and_with_both_ends() -> None:
    for seed in range(50):
        found = list(sample(range(5, 40), 8, Random(seed)))
        assert len(set(found)) == 8
        assert found == sorted(found)
        assert (found[0], found[-1]) == (5, 39)
