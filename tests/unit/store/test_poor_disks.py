"""File systems without O_DIRECT or hole punching, and many threads at once."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from rainfs.errors import ShardMissing
from rainfs.memory import Buffer, page_buffer
from rainfs.model import KIB, MIB, PAGE_BYTES, ShardKey, StripeId
from rainfs.store.disk import SystemDisk
from rainfs.store.store import Store
from tests.simulation.disk import RecordingDisk
from tests.simulation.power import Kind


def key(stripe: int, shard: int = 0) -> ShardKey:
    return ShardKey(StripeId(stripe), shard)


class NoDirectDisk(SystemDisk):
    """Refuses O_DIRECT, as some network file systems do."""

    def open(self, path: Path, *, create: bool = False, direct: bool = False) -> int:
        if direct:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return super().open(path, create=create)


def test_without_direct_io_everything_works_through_the_page_cache(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "node", capacity_bytes=64 * MIB, disk=NoDirectDisk())
    content = os.urandom(1 * MIB)
    assert store.commit([store.write(key(1), [content], b"")], durable=True) == [None]
    assert bytes(store.read(key(1), 0, 1 * MIB) or b"") == content
    store.close()


class CountingDisk(SystemDisk):
    """Knows which writes went past the page cache; may refuse them all after opening."""

    def __init__(self, *, refuses: bool) -> None:
        self.direct_fds: set[int] = set()
        self.direct_writes = 0
        self._refuses = refuses

    def open(self, path: Path, *, create: bool = False, direct: bool = False) -> int:
        fd = super().open(path, create=create, direct=direct)
        if direct:
            self.direct_fds.add(fd)
        return fd

    def pwrite(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        if fd in self.direct_fds:
            if self._refuses:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            self.direct_writes += 1
        super().pwrite(fd, buffers, offset)


@pytest.mark.parametrize("refuses", [False, True])
def test_what_is_synced_at_once_goes_past_the_page_cache_where_it_may(
    tmp_path: Path, refuses: bool
) -> None:
    disk = CountingDisk(refuses=refuses)
    store = Store.open(tmp_path / "node", capacity_bytes=64 * MIB, disk=disk)
    content = {key(n): os.urandom((n + 1) * PAGE_BYTES) for n in range(12)}
    for number, (name, data) in enumerate(content.items()):
        durable = number % 2 == 0
        assert store.commit([store.write(name, [data], b"")], durable=durable) == [None]
    store.sync()
    assert disk.direct_writes == (0 if refuses else 6)
    # As after a kill: the journal alone has them.
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "node", copy)
    store.close()
    again = Store.open(copy, capacity_bytes=64 * MIB)
    for name, data in content.items():
        assert bytes(again.read(name, 0, len(data)) or b"") == data
    again.close()


def test_without_hole_punching_deleted_space_is_used_again(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    disk.fail(Kind.PUNCH, code=errno.EOPNOTSUPP)
    store = Store.open(tmp_path / "node", capacity_bytes=2 * MIB, disk=disk)
    for n in range(10):
        content = os.urandom(1 * MIB)
        assert store.commit([store.write(key(n), [content], b"")], durable=True) == [None]
        assert bytes(store.read(key(n), 0, 1 * MIB) or b"") == content
        store.delete([key(n)])
    assert (tmp_path / "node" / ".rainfs-store").stat().st_size < 12 * MIB
    assert not store.health().failing
    store.close()


def test_aligned_and_unaligned_memory_hold_the_same_shard(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "node", capacity_bytes=64 * MIB)
    content = os.urandom(512 * KIB)
    aligned = page_buffer(512 * KIB)
    aligned[:] = content
    shifted = memoryview(bytearray(1) + content)[1:]
    payloads: tuple[Buffer, ...] = (aligned, shifted, content)
    for number, payload in enumerate(payloads):
        assert store.commit([store.write(key(number), [payload], b"")], durable=True) == [None]
        for into in (page_buffer(512 * KIB), memoryview(bytearray(512 * KIB + 1))[1:]):
            for offset, length in ((0, 512 * KIB), (1, 300 * KIB), (PAGE_BYTES, 200 * KIB)):
                assert store.read(key(number), offset, length, into=into) is not None
                assert into[:length] == content[offset : offset + length]
    store.close()


def test_readers_among_writers_and_deleters_never_see_wrong_bytes(tmp_path: Path) -> None:
    seed = 3
    print("seed", seed)
    store = Store.open(tmp_path / "node", capacity_bytes=8 * MIB, journal_bytes=256 * KIB)
    lengths = (PAGE_BYTES, 128 * KIB)
    failures: list[BaseException] = []
    over = threading.Event()

    def content_of(name: ShardKey) -> bytes:
        return name.stripe.to_bytes(8, "big") * (lengths[name.stripe % 2] // 8)

    def write(worker: int) -> None:
        random = Random(seed * 100 + worker)
        for n in range(120):
            name = key(worker * 1000 + n, worker)
            pending = store.write(name, [content_of(name)], b"")
            assert store.commit([pending], durable=random.random() < 0.3) == [None]
            if n >= 8:
                store.delete([key(worker * 1000 + n - 8, worker)])

    def read(worker: int) -> None:
        random = Random(seed * 200 + worker)
        while not over.is_set():
            for info in store.list(None, 20):
                length = random.randrange(1, info.length)
                offset = random.randrange(info.length - length)
                nowait = random.random() < 0.5
                try:
                    data = store.read(info.key, offset, length, nowait=nowait)
                except ShardMissing:
                    continue
                expected = content_of(info.key)[offset : offset + length]
                assert data is None or data == expected

    def guard(work: object, worker: int) -> None:
        try:
            work(worker)  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=guard, args=(read, n)) for n in range(2)]
    writers = [threading.Thread(target=guard, args=(write, n)) for n in range(3)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    for thread in readers:
        thread.join()
    assert not failures, failures
    health = store.health()
    assert health.shards == 3 * 8
    assert health.used_bytes == sum(info.length for info in store.list(None, 100))
    store.close()
