"""What a store promises to whoever puts, reads, lists and deletes shards."""

from __future__ import annotations

import errno
import gc
import os
import threading
from pathlib import Path
from random import Random

import pytest

from rainfs.checksum import crc32c_pages
from rainfs.errors import (
    InputError,
    NodeFailing,
    NodeFull,
    NodeUnavailable,
    ShardConflict,
    ShardMissing,
)
from rainfs.memory import page_buffer
from rainfs.model import (
    KIB,
    MAX_ABOUT_BYTES,
    MAX_SHARD_BYTES,
    MIB,
    PAGE_BYTES,
    ShardKey,
    StripeId,
    VolumeId,
)
from rainfs.store.index import Index
from rainfs.store.opening import INDEX_NAME, STORAGE_NAME
from rainfs.store.rows import Row, pack_key, pack_row
from rainfs.store.store import INLINE_BYTES, Store
from tests.simulation.disk import RecordingDisk
from tests.simulation.power import Kind


def key(stripe: int, shard: int = 0) -> ShardKey:
    return ShardKey(StripeId(stripe), shard)


def put(store: Store, name: ShardKey, content: bytes, *, durable: bool = True) -> None:
    assert store.commit([store.write(name, [content], b"about")], durable=durable) == [None]


def read(store: Store, name: ShardKey, offset: int, length: int) -> bytes:
    data = store.read(name, offset, length)
    assert data is not None
    return bytes(data)


LENGTHS = (PAGE_BYTES, INLINE_BYTES, INLINE_BYTES + PAGE_BYTES, 1 * MIB, MAX_SHARD_BYTES)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("reopened", [False, True])
def test_any_range_of_any_shard_reads_back(directory: Path, length: int, reopened: bool) -> None:
    random = Random(length)
    content = random.randbytes(length)
    store = Store.open(directory, capacity_bytes=64 * MIB)
    put(store, key(1), content)
    if reopened:
        store.close()
        store = Store.open(directory, capacity_bytes=None)
    ranges = [(0, length), (0, 0), (length, 0), (length - 1, 1), (1, length - 2)]
    ranges += [(at := random.randrange(length), random.randrange(length - at)) for _ in range(20)]
    for offset, count in ranges:
        assert read(store, key(1), offset, count) == content[offset : offset + count]
        into = page_buffer(length)
        data = store.read(key(1), offset, count, into=into)
        assert data is not None
        assert bytes(into[:count]) == bytes(data) == content[offset : offset + count]
    for offset, count in ((0, length + 1), (length + 1, 0), (-1, 1), (0, -1)):
        with pytest.raises(InputError):
            store.read(key(1), offset, count)
    store.close()


def test_payload_may_come_in_pieces_of_any_length(store: Store) -> None:
    random = Random(5)
    for number, total in enumerate((2 * PAGE_BYTES, 1 * MIB)):
        content = random.randbytes(total)
        cuts = sorted(random.sample(range(1, total), 20))
        pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, total], strict=True)]
        assert store.commit([store.write(key(number), pieces, b"")], durable=True) == [None]
        assert read(store, key(number), 0, total) == content


def test_impossible_lengths_are_refused(store: Store) -> None:
    for content in (b"", b"x", bytes(PAGE_BYTES + 1), bytes(MAX_SHARD_BYTES + PAGE_BYTES)):
        with pytest.raises(InputError):
            store.write(key(1), [content], b"")
    with pytest.raises(InputError):
        store.write(key(1), [bytes(PAGE_BYTES)], bytes(MAX_ABOUT_BYTES + 1))
    assert store.health().used_bytes == 0


def test_the_longest_description_is_kept(store: Store) -> None:
    about = os.urandom(MAX_ABOUT_BYTES)
    pending = [store.write(key(n), [bytes(PAGE_BYTES)], about) for n in range(20)]
    assert store.commit(pending, durable=True) == [None] * 20
    assert all(store.stat(key(n)).about == about for n in range(20))


def test_a_shard_is_invisible_until_it_is_committed(store: Store) -> None:
    pending = store.write(key(1), [bytes(PAGE_BYTES)], b"")
    with pytest.raises(ShardMissing):
        store.read(key(1), 0, 1)
    with pytest.raises(ShardMissing):
        store.stat(key(1))
    assert store.list(None, 10) == []
    assert store.commit([pending], durable=False) == [None]
    assert read(store, key(1), 0, 1) == b"\0"


def test_durability_is_reported_as_it_is(store: Store) -> None:
    put(store, key(1), bytes(PAGE_BYTES), durable=False)
    assert not store.stat(key(1)).durable
    assert [info.durable for info in store.list(None, 10)] == [False]
    store.sync()
    assert store.stat(key(1)).durable
    put(store, key(2), bytes(PAGE_BYTES), durable=False)
    put(store, key(3), bytes(PAGE_BYTES), durable=True)
    assert [info.durable for info in store.list(None, 10)] == [True, True, True]


def test_a_durable_put_of_what_is_there_makes_it_durable(store: Store) -> None:
    put(store, key(1), bytes(PAGE_BYTES), durable=False)
    put(store, key(1), bytes(PAGE_BYTES), durable=True)
    assert store.stat(key(1)).durable


@pytest.mark.parametrize("length", [PAGE_BYTES, 256 * KIB])
def test_the_same_content_again_succeeds_and_other_content_conflicts(
    store: Store, length: int
) -> None:
    put(store, key(1), b"a" * length)
    put(store, key(1), b"a" * length)
    for other in (b"b" * length, b"a" * (length + PAGE_BYTES)):
        (result,) = store.commit([store.write(key(1), [other], b"")], durable=True)
        assert isinstance(result, ShardConflict)
    assert read(store, key(1), 0, length) == b"a" * length
    assert store.health().used_bytes == length
    assert store.health().shards == 1


def test_one_commit_settles_each_shard_for_itself(store: Store) -> None:
    put(store, key(1), b"a" * PAGE_BYTES)
    contents = [(1, b"b"), (2, b"c"), (2, b"c"), (2, b"d"), (1, b"a")]
    pending = [store.write(key(n), [c * PAGE_BYTES], b"") for n, c in contents]
    results = store.commit(pending, durable=True)
    assert [type(result) for result in results] == [
        ShardConflict,
        type(None),
        type(None),
        ShardConflict,
        type(None),
    ]
    health = store.health()
    assert (health.shards, health.used_bytes) == (2, 2 * PAGE_BYTES)


def test_concurrent_writers_of_one_key_agree(store: Store) -> None:
    contents = [bytes([n % 3]) * 128 * KIB for n in range(12)]
    results: list[object] = [None] * len(contents)

    def writer(number: int) -> None:
        pending = store.write(key(1), [contents[number]], b"")
        results[number] = store.commit([pending], durable=True)[0]

    threads = [threading.Thread(target=writer, args=(n,)) for n in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = read(store, key(1), 0, 128 * KIB)
    for content, result in zip(contents, results, strict=True):
        assert (result is None) == (content == stored)
        assert result is None or isinstance(result, ShardConflict)
    assert store.health().used_bytes == 128 * KIB


def test_a_pending_shard_that_is_dropped_gives_its_space_back(store: Store) -> None:
    pending = store.write(key(1), [bytes(128 * KIB)], b"")
    assert store.health().used_bytes == 128 * KIB
    del pending
    gc.collect()
    assert store.health().used_bytes == 0
    other = store.write(key(1), [bytes(128 * KIB)], b"")
    other.discard()
    other.discard()
    assert store.health().used_bytes == 0


def test_a_put_that_met_a_deletion_says_try_again(store: Store) -> None:
    put(store, key(1), bytes(PAGE_BYTES))
    pending = store.write(key(1), [bytes(PAGE_BYTES)], b"")
    store.delete([key(1)])
    (result,) = store.commit([pending], durable=True)
    assert isinstance(result, NodeUnavailable)


def test_deleted_space_is_given_back_to_the_disk_and_used_again(
    store: Store, directory: Path
) -> None:
    for n in range(16):
        put(store, key(n), os.urandom(1 * MIB))
    path = directory / STORAGE_NAME
    before = path.stat().st_blocks * 512
    length = path.stat().st_size
    store.delete([key(n) for n in range(16)] + [key(99)])
    assert path.stat().st_blocks * 512 <= before - 16 * MIB
    assert store.health().used_bytes == store.health().shards == 0
    for n in range(16):
        with pytest.raises(ShardMissing):
            store.stat(key(n))
        put(store, key(n), os.urandom(1 * MIB))
    assert path.stat().st_size == length


def test_a_full_store_refuses_and_takes_again_after_a_deletion(directory: Path) -> None:
    store = Store.open(directory, capacity_bytes=256 * KIB)
    for n in range(64):
        put(store, key(n), bytes(PAGE_BYTES))
    assert store.health().free_bytes == 0
    with pytest.raises(NodeFull):
        store.write(key(64), [bytes(PAGE_BYTES)], b"")
    store.delete([key(7), key(9)])
    put(store, key(64), b"x" * 2 * PAGE_BYTES)
    assert read(store, key(64), 0, 2 * PAGE_BYTES) == b"x" * 2 * PAGE_BYTES
    store.close()


def test_a_full_disk_below_refuses_puts_and_still_deletes(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    store = Store.open(tmp_path / "node", capacity_bytes=64 * MIB, disk=disk)
    for n in range(50):
        put(store, key(n), bytes([n]) * PAGE_BYTES)
    disk.room_bytes = 0
    store._space.disk_was_full()
    assert store.health().free_bytes == 0
    with pytest.raises(NodeFull):
        store.write(key(100), [bytes(PAGE_BYTES)], b"")
    fault = disk.fail(Kind.WRITE, code=errno.ENOSPC)
    assert [type(r) for r in store.commit([], durable=True)] == []
    disk.faults.remove(fault)
    store.delete([key(n) for n in range(25)])
    disk.room_bytes = None
    put(store, key(100), bytes(PAGE_BYTES))
    assert store.health().shards == 26
    assert all(read(store, key(n), 0, 1) == bytes([n]) for n in range(25, 50))
    store.close()


def test_a_long_life_keeps_every_shard_across_laps_and_openings(directory: Path) -> None:
    seed = 11
    print("seed", seed)
    random = Random(seed)
    contents: dict[ShardKey, bytes] = {}
    stripe = 0
    for _ in range(4):
        store = Store.open(directory, capacity_bytes=64 * MIB, journal_bytes=128 * KIB)
        for _ in range(120):
            stripe += 1
            name = key(stripe, random.randrange(6))
            contents[name] = random.randbytes(PAGE_BYTES * random.choice((1, 2, 20)))
            put(store, name, contents[name], durable=random.random() < 0.1)
            if random.random() < 0.3:
                gone = random.choice(sorted(contents))
                store.delete([gone])
                del contents[gone]
        listed = store.list(None, 10_000)
        assert [(i.key, i.length) for i in listed] == [
            (name, len(contents[name])) for name in sorted(contents)
        ]
        for name, content in contents.items():
            assert read(store, name, 0, len(content)) == content
        assert store.health().used_bytes == sum(map(len, contents.values()))
        store.close()


def test_listing_pages_through_everything_in_order(store: Store) -> None:
    names = sorted(key(s, n) for s in (1, 2, 300, 1 << 40, (1 << 63) + 1) for n in range(6))
    for name in Random(1).sample(names, len(names)):
        put(store, name, bytes(PAGE_BYTES), durable=False)
    assert store.list(None, 0) == []
    for limit in (1, 4, 7, 1000):
        found: list[ShardKey] = []
        while page := store.list(found[-1] if found else None, limit):
            assert len(page) <= limit
            found += [info.key for info in page]
        assert found == names
    assert store.list(names[-1], 5) == []


def test_listing_sees_changes_laid_over_the_index(directory: Path) -> None:
    store = Store.open(directory, capacity_bytes=64 * MIB)
    for n in range(0, 60, 2):
        put(store, key(n), bytes(PAGE_BYTES))
    store.close()
    store = Store.open(directory, capacity_bytes=None)
    store.delete([key(n) for n in range(0, 60, 4)])
    for n in range(1, 60, 6):
        put(store, key(n), bytes(2 * PAGE_BYTES))
    expected = sorted({*range(0, 60, 2), *range(1, 60, 6)} - set(range(0, 60, 4)))
    for limit in (1, 3, 16, 100):
        found: list[ShardKey] = []
        while page := store.list(found[-1] if found else None, limit):
            found += [info.key for info in page]
        assert found == [key(n) for n in expected]
    assert store.health().shards == len(expected)
    store.close()


def test_a_read_that_must_not_wait_never_gives_wrong_bytes(directory: Path) -> None:
    store = Store.open(directory, capacity_bytes=64 * MIB)
    content = os.urandom(1 * MIB)
    put(store, key(1), content)
    put(store, key(2), content[:PAGE_BYTES])
    ready = store.read(key(2), 0, PAGE_BYTES, nowait=True)
    assert ready is not None
    assert bytes(ready) == content[:PAGE_BYTES]
    assert read(store, key(1), 0, 8 * KIB) == content[: 8 * KIB]
    found = store.read(key(1), 0, 8 * KIB, nowait=True)
    assert found is None or bytes(found) == content[: 8 * KIB]
    with pytest.raises(ShardMissing):
        store.read(key(3), 0, 1, nowait=True)
    store.close()


def test_a_sync_that_failed_drops_what_it_was_to_cover(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    store = Store.open(tmp_path / "node", capacity_bytes=64 * MIB, disk=disk)
    put(store, key(1), b"a" * PAGE_BYTES)
    put(store, key(2), b"b" * PAGE_BYTES, durable=False)
    pending = store.write(key(3), [b"c" * PAGE_BYTES], b"")
    disk.fail(Kind.SYNC, times=1)
    (result,) = store.commit([pending], durable=True)
    assert isinstance(result, NodeFailing)
    health = store.health()
    assert health.failing
    assert (health.shards, health.free_bytes) == (1, 0)
    assert read(store, key(1), 0, PAGE_BYTES) == b"a" * PAGE_BYTES
    for lost in (2, 3):
        with pytest.raises(ShardMissing):
            store.read(key(lost), 0, 1)
    for attempt in (
        lambda: store.sync(),
        lambda: store.delete([key(1)]),
        lambda: store.write(key(4), [bytes(PAGE_BYTES)], b""),
        lambda: store.claim(VolumeId(b"v" * 16)),
    ):
        with pytest.raises(NodeFailing):
            attempt()
    store.close()


def test_a_disk_that_cannot_be_read_is_said_to_fail(tmp_path: Path) -> None:
    disk = RecordingDisk(tmp_path)
    store = Store.open(tmp_path / "node", capacity_bytes=64 * MIB, disk=disk)
    put(store, key(1), os.urandom(128 * KIB))
    disk.fail(Kind.READ, times=1)
    with pytest.raises(NodeFailing):
        store.read(key(1), 0, PAGE_BYTES)
    assert store.health().failing
    assert len(read(store, key(1), 0, PAGE_BYTES)) == PAGE_BYTES
    store.close()


def test_a_closed_store_refuses_and_closes_twice(directory: Path) -> None:
    store = Store.open(directory, capacity_bytes=64 * MIB)
    store.close()
    store.close()
    with pytest.raises(NodeFailing):
        store.write(key(1), [bytes(PAGE_BYTES)], b"")


def test_a_hundred_thousand_shards_open_without_a_row_in_memory(directory: Path) -> None:
    store = Store.open(directory, capacity_bytes=1 << 40)
    put(store, key(1 << 50), b"z" * PAGE_BYTES)
    uuid = store.uuid
    store.close()
    index = Index.open(directory / INDEX_NAME, vfs=None)
    rows = []
    for n in range(100_000):
        row = Row((1 << 30) + n * 2 * PAGE_BYTES, PAGE_BYTES, crc32c_pages(bytes(PAGE_BYTES)), b"")
        rows.append((pack_key(key(n)), pack_row(pack_key(key(n)), row)))
    index.apply(uuid, index.identity()[1], rows, [])
    index.close()
    store = Store.open(directory, capacity_bytes=None)
    assert store.health().shards == 100_001
    assert store.health().used_bytes == 100_001 * PAGE_BYTES
    assert not store._catalog._cache
    assert read(store, key(77_777), 0, PAGE_BYTES) == bytes(PAGE_BYTES)
    assert read(store, key(1 << 50), 0, 1) == b"z"
    store.close()
