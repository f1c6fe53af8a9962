"""The log's pages are in memory before they are written."""

from __future__ import annotations

from pathlib import Path
from random import Random

from rainfs.meta.sqlite import SqliteEngine
from rainfs.meta.wal_sync import FETCH_BYTES, SystemFiles, WalSync
from tests.unit.meta.test_sqlite import put


class FetchingFiles(SystemFiles):
    def __init__(self) -> None:
        self.fetched: list[tuple[int, int]] = []

    def will_write(self, descriptor: int, offset: int, length: int) -> None:
        self.fetched.append((offset, offset + length))
        super().will_write(descriptor, offset, length)

    def covers(self, start: int, stop: int) -> bool:
        """Whether all of the range has been fetched at some time."""
        for low, high in sorted(self.fetched):
            if low <= start < high:
                start = high
        return start >= stop


async def test_what_follows_the_logs_end_has_been_fetched(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"")
    random = Random(17)
    for _ in range(50):
        files = FetchingFiles()
        sync = WalSync(log, files)
        at = 0
        for _ in range(200):
            sync.log_has(at)
            assert files.covers(at, at + FETCH_BYTES // 2)
            before = len(files.fetched)
            sync.log_has(at)
            assert len(files.fetched) == before, "known already"
            at = 0 if random.random() < 0.02 else at + random.randrange(2 * FETCH_BYTES)
        sync.close()


async def test_small_commits_fetch_a_part_of_the_log_at_a_time(tmp_path: Path) -> None:
    files = FetchingFiles()
    engine = SqliteEngine(tmp_path / "kv.db", create=True, files=files)
    for number in range(200):
        await put(engine, b"%04d" % number)
    assert 2 <= len(files.fetched) < 50
    for (_, stop), (start, _) in zip(files.fetched, files.fetched[1:], strict=False):
        assert start == stop
    await engine.aclose()
